"""What `parc plan` found, as what a page shows (`planned`): of strategies, and of numbers that a file left open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from compiler.driver import Compiled, compile_job
from compiler.memory.occupancy import occupancy
from compiler.model import Job
from dsl.diagnostics import ParcError
from parc.estimate import estimate
from parc.machine import require_drawn
from parc.planning.answer import FoundPlan
from parc.planning.certificate import unsearched
from parc.planning.compared import ComparedPlans
from parc.planning.filled_answer import FilledPlan
from parc.planning.found import PricedPlan
from parc.planning.reasons import choices_of, why
from parc.planning.recomputes import told
from parc.planning.refining import told_around
from parc.planning.written import lines_of, strategy_of
from parc.price import Price
from parc.report.compared import ComparedStep
from parc.report.planned import PlanPage, PlanPoint, chosen, planned
from parc.units import amount, seconds

DAY = 86400.0


def plan_page(found: FoundPlan | FilledPlan | ComparedPlans, tokens: float | None = None, command: str = "") -> str:
    """The page. tokens: that are to be trained, so that days are told; command: the line that made it."""
    if isinstance(found, ComparedPlans):
        of = found.found
        page = _of_filled(of, tokens, command) if isinstance(of, FilledPlan) else _of_found(of, tokens, command)
        return planned(replace(page, cases=found.table(tokens), whole=found.told))
    if isinstance(found, FilledPlan):
        return planned(_of_filled(found, tokens, command))
    return planned(_of_found(found, tokens, command))


def _of_found(found: FoundPlan, tokens: float | None, command: str) -> PlanPage:
    of, space, job = found.planned.found, found.planned.space, found.planned.job
    best, counts = of.fitting[0], of.counts

    def point(plan: PricedPlan) -> PlanPoint:
        text = "\n".join(lines_of(space, plan.candidate))
        loses = why(best, plan) if plan is not best else ""
        choices = {role.name: "1" for role in space.roles} | dict(choices_of(space, plan.candidate))
        return PlanPoint(*_price(plan.price), tuple(choices.items()), text, loses, _days(plan.price, tokens))

    points = [point(plan) for plan in of.fitting]
    by_point = {id(p): plan for p, plan in zip(points, of.fitting, strict=True)}
    refused = sum(counts.refused.values())
    codes = f" ({', '.join(sorted(counts.refused))})" if counts.refused else ""
    outcomes = [
        ("cannot be, by number, or are the same to the cluster", counts.numbers),
        ("do not fit, by lower bounds", counts.too_large),
        ("are no better, by lower bounds", counts.not_better),
        (f"refused{codes}", refused),
        ("priced, and do not fit", counts.unfit),
        ("priced, and fit", counts.fitting),
        ("not looked at in time", counts.left),
    ]
    without = space.without
    axes = [f"{r.name} ({r.kind}{f' {r.dim}' if r.dim else ''})" for r in space.roles]
    choices = [rules for rules in space.recomputes if without.again(rules, space.split.paths)]
    again = [told(rules) if rules else "nothing" for rules in choices]
    facts = [("without", ", ".join(without.names))] if without.names else []
    facts += [("axes", ", ".join(axes)), ("computed again", "; ".join(again))]
    if by_hand := [of.words for of in space.implementations if without.by_hand(of)]:
        facts.append(("written by hand", "; ".join(by_hand)))
    if tried := len(found.certificate["around"]):
        facts.append(("around the best", told_around(found.planned, found.refined, tried)))
    if found.own is not None:
        own = found.own.price
        facts.append((f"the file's own, {found.own.name}", f"{seconds(own.seconds)}, {amount(own.needed)}"))
    if (here := found.planned.here) is not None:
        facts.append(("all on the devices", here.words))
    facts.append(("not searched", ", ".join(unsearched(space))))
    verdict = _verdict(found.planned.minimise, of.least, of.gap, counts.left)
    page = _page(found, job, points, outcomes, verdict, facts, command)

    def compiled(p: PlanPoint) -> Compiled:
        return compile_job(space.job_of(job, strategy_of(space, by_point[id(p)].candidate)))

    return replace(page, sides=_sides(page, compiled))


def _of_filled(found: FilledPlan, tokens: float | None, command: str) -> PlanPage:
    of, best = found.filled, found.best[0]
    points = []
    for values in of.fitting:
        named = tuple((h.name, f"{n:,}") for h, n in values.values)
        text = "\n".join(f"{name} = {n}" for name, n in named)
        slower = values.price.seconds - best.price.seconds
        loses = f"{seconds(slower)} slower" if slower > 0 else "needs more" if values is not best else ""
        points.append(PlanPoint(*_price(values.price), named, text, loses, _days(values.price, tokens)))
    refused, codes = sum(of.refused.values()), f" ({', '.join(sorted(of.refused))})" if of.refused else ""
    outcomes = [
        ("are not as many devices", of.numbers),
        ("say the same as others", of.same),
        (f"refused{codes}", refused),
        ("do not fit", of.unfit),
        ("are no better, by lower bounds", of.not_better),
        ("priced, and fit", len(of.fitting)),
        ("not looked at in time", of.left),
    ]
    verdict = _verdict(found.minimise, of.least, found.gap, of.left)
    facts = [("left open", ", ".join(f"{h.name} ({len(h.values)} values)" for h in found.holes))]
    return _page(found, found.job, points, outcomes, verdict, facts, command)


def _page(
    found: FoundPlan | FilledPlan,
    job: Job,
    points: Sequence[PlanPoint],
    outcomes: Sequence[tuple[str, int]],
    verdict: str,
    facts: Sequence[tuple[str, str]],
    command: str,
) -> PlanPage:
    """What both kinds of plans show alike. outcomes: what became of so many, of which nothing is said where there are
    none."""
    return PlanPage(
        job.name,
        _told(job),
        points,
        len(found.best),
        _capacity(job),
        [(what, n) for what, n in outcomes if n],
        verdict,
        facts,
        _text(found.text, found.strategy),
        command=command,
    )


def _price(of: Price) -> tuple[float, int]:
    return of.seconds, of.needed


def _days(of: Price, tokens: float | None) -> float | None:
    return tokens / of.tokens * of.seconds / DAY if tokens and of.tokens else None


def _capacity(job: Job) -> float:
    assert job.cluster is not None
    return float(job.cluster.device.memory)


def _told(job: Job) -> str:
    assert job.cluster is not None
    return f"{job.model.name} on {job.cluster.devices:,} {job.cluster.device.name} of {job.cluster.name}"


def _verdict(minimise: str, least: float | None, gap: float, left: int) -> str:
    if least is None:
        return f"Proved: no strategy of the space {'needs' if minimise == 'memory' else 'takes'} less."
    bound = amount(least) if minimise == "memory" else seconds(least)
    return f"Not proved: {left:,} were not looked at in time; none is below {bound}: at most {gap:.1%} better."


def _text(text: str, strategy: str) -> str:
    """The strategy's source text."""
    from dsl import ast
    from dsl.parser import parse

    items = [i for i in parse(text, "planned.par").items if isinstance(i, ast.Strategy) and i.name.id == strategy]
    return text[items[0].span.start : items[0].span.end] if items else ""


def _sides(page: PlanPage, compiled: Callable[[PlanPoint], Compiled]) -> Sequence[ComparedStep]:
    """The steps that are worth a look, as whole estimates, but for those that are too long to be drawn."""
    front, best, listed = page.front, page.best, page.listed
    found = []
    for p in chosen([*best, *(x for x in page.points if x not in best)], front):
        of = compiled(p)
        try:
            require_drawn(of)
        except ParcError:  # too many actions for a picture: what was found is told all the same
            continue
        e = estimate(of)
        name = f"plan {listed.index(p) + 1}" if p in listed else seconds(p.seconds)
        found.append(ComparedStep(name, e, occupancy(of.program, e.systems.memory), p.text))
    return found
