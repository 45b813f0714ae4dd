"""Why a plan loses against the best, in a line; and the front of time against memory."""

from __future__ import annotations

from collections.abc import Sequence

from parc.planning.found import PricedPlan
from parc.planning.recomputes import told
from parc.planning.space import PlanChoice, PlanSpace
from parc.units import amount, seconds


def front(plans: Sequence[PricedPlan]) -> list[PricedPlan]:
    """Of the plans those than which none is both as fast and as small: the fastest first."""
    found: list[PricedPlan] = []
    for plan in sorted(plans, key=lambda p: (p.price.seconds, p.price.needed)):
        if not found or plan.price.needed < found[-1].price.needed:
            found.append(plan)
    return found


OUTERMOST = "outermost"
"""The choice that only strategies with several axes have."""


def differs(space: PlanSpace, best: PlanChoice, other: PlanChoice) -> str:
    """What another candidate has that the best has not: `tp 4, zero 3`."""
    found = []
    here, there = dict(choices_of(space, best)), dict(choices_of(space, other))
    for name in dict.fromkeys((*there, *here)):
        if name == OUTERMOST and name not in there:
            continue  # it has one axis at most, which is told
        if here.get(name, "1") != there.get(name, "1"):
            found.append(f"{name} {there.get(name, '1')}")
    return ", ".join(found)


def choices_of(space: PlanSpace, of: PlanChoice) -> list[tuple[str, str]]:
    """What is chosen, by name, for people."""
    rules = of.rules
    found = [(role.name, str(size)) for role, size in of.mesh.axes]
    if len(of.axes) > 1:
        found.append((OUTERMOST, of.axes[0][0].name))
    found.append(("micro-batches", f"{of.mesh.microbatches:,}"))
    found.append(("zero", str(rules.zero)))
    found.append(("recompute", told(space.recomputes[rules.recompute])))
    found.append(("schedule", f"{rules.schedule or 'none'}{f' of {rules.chunks} chunks' if rules.chunks > 1 else ''}"))
    found.append(("inner axis splits besides", rules.along or "nothing"))
    by_hand = space.implementations[rules.by - 1] if rules.by else None
    words = f"{by_hand.function}{', zig-zag' if by_hand.zigzag else ''}" if by_hand else ""
    found.append(("positions", words or ("heads inside" if rules.heads else "gathered")))
    found.append(
        ("tables", f"{', '.join(rules.rows)} split on the data axis" if rules.rows else "whole on the data axis")
    )
    found.append(("with the hosts", ", ".join(rules.offload) or "nothing"))
    return found


def why(best: PricedPlan, other: PricedPlan) -> str:
    """Why it is not the best, by figures."""
    slower = other.price.seconds / best.price.seconds - 1
    more = other.price.needed - best.price.needed
    size = f"{amount(abs(more))} {'more' if more > 0 else 'less'}" if more else "as much"
    if slower > 0:
        return f"{seconds(other.price.seconds - best.price.seconds)} slower ({slower:+.2%}), needs {size}"
    return f"as fast, needs {size}" if slower == 0 else f"{-slower:.2%} faster, needs {size}"
