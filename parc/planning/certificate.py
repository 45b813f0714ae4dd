"""What a plan can be held to: the space, the numbers of its bounds, what was priced, what became of all else.

`parc check FILE --certificate` reads it, and takes nothing of it on trust (`parc/certifying`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from dsl.printable import printable
from parc.planning.found import PricedPlan, Tried
from parc.planning.guess import SplitLayer
from parc.planning.implementing import HandWritten
from parc.planning.layer_work import LayerWork, LoopRoom
from parc.planning.offloads import NOTHING
from parc.planning.paces import PaceKey, ProgramKey
from parc.planning.planning import Planned
from parc.planning.reasons import why
from parc.planning.refining import PlanChange, RefinedPlan, plain_lines
from parc.planning.space import SCHEDULES, ZERO, PlanChoice, PlanSpace
from parc.planning.written import lines_of

FORMAT = 18


def unsearched(space: PlanSpace) -> list[str]:
    """What strategies may have and none of the space has: nothing is said of such."""
    by_hand = "other implementations" if space.implementations else "implementations"
    away = ["offload"] if space.offloads == NOTHING else ["all on the devices", "offload of rows"]
    found = ["cuts by hand", "places for branches", *away, by_hand, "other batch sizes"]
    return [*found, "rules for parts of a model"]


def certificate(planned: Planned, keep: int, around: Sequence[RefinedPlan] = ()) -> dict[str, Any]:
    """Plain values: seconds, bytes, numbers of candidates. keep: so many of the best are told in full; around: what was
    tried around them."""
    space, bounds, found = planned.space, planned.bounds, planned.found
    split = space.split
    tried = [tried_json(space, t) for t in found.tried]
    return {
        "format": FORMAT,
        "job": planned.job.name,
        "devices": space.devices,
        "minimise": planned.minimise,
        "space": {
            "batch": {"dim": split.batch, "size": space.batch, "whole": space.whole},
            "axes": [{"name": r.name, "kind": r.kind, "dim": r.dim} for r in space.every_role],
            "splits": {
                "inner": list(split.inner),
                "experts": list(split.experts),
                "heads": list(split.heads),
                "rows": list(split.rows),
                "positions": list(split.positions),
            },
            "sizes": {d: split.sizes[d] for d in sorted(split.sizes)},
            "loops": [list(loop) for loop in split.loops],
            "recompute": [[{"scope": r.scope, "keep": list(r.keep)} for r in again] for again in space.recomputes],
            "schedules": [list(s) for s in SCHEDULES] if split.loops else [],
            "zero": list(ZERO),
            "offload": [list(away) for away in space.offloads],
            "implementations": [by_hand_json(of) for of in space.implementations],
            "total": space.total,
            "without": unsearched(space),
            "left_out": list(space.without.names),
        },
        "work": asdict(bounds.model),
        "cluster": asdict(bounds.cluster),
        "layers": [layer_json(kind, of) for kind, works in found.layers.items() for of in works],
        "paces": [pace_json(key, turns) for key, turns in found.paces.items() if turns],
        "rooms": [room_json(key, room) for key, room in found.rooms.items() if room is not None],
        "counts": {
            "discarded_by_number": found.counts.numbers,
            "too_large": found.counts.too_large,
            "not_better": found.counts.not_better,
            "refused": dict(sorted(found.counts.refused.items())),
            "unfit": found.counts.unfit,
            "fitting": found.counts.fitting,
            "left": found.counts.left,
        },
        "tried": tried,
        "best": [
            {**plan_json(planned, p), "why": why(found.fitting[0], p) if n else ""}
            for n, p in enumerate(found.fitting[:keep])
        ],
        "around": [refined_json(planned, of) for of in around],
        "least": found.least,
        "gap": found.gap,
        "proved": found.least is None,
        "seconds": found.seconds,
    }


def tried_json(space: PlanSpace, of: Tried) -> dict[str, Any]:
    """What was priced. between: what was found out by it for others of its kind."""
    between = None if of.between is None else asdict(of.between)
    return {
        **candidate_json(space, of.candidate),
        "needed": of.needed,
        "seconds": of.seconds,
        "code": of.code,
        "between": between,
    }


def by_hand_json(of: HandWritten) -> dict[str, Any]:
    """A function that takes the place of scopes."""
    return {"function": of.function, "scopes": list(of.scopes), "zigzag": of.zigzag}


def layer_json(kind: SplitLayer, of: LayerWork) -> dict[str, Any]:
    """What layers of a kind take of a device, and the strategy by which that was found."""
    return {
        **_kind_json(kind),
        **{k: v for k, v in asdict(of).items() if k != "added"},
        "fewer": list(of.fewer),
        "products": list(of.products),
        "kept": list(of.kept),
    }


def pace_json(key: PaceKey, turns: Mapping[int, tuple[float, float]]) -> dict[str, Any]:
    """How long so many iterations of the loop last, forward and backward, with the messages beside them."""
    numbers = {k: getattr(key, k) for k in ("rows", "replicas", "zero", "first", "stages", "split", "products")}
    return {**_kind_json(key.layer), **numbers, "turns": [[n, *seconds] for n, seconds in sorted(turns.items())]}


def room_json(key: ProgramKey, room: LoopRoom) -> dict[str, Any]:
    """What an iteration of the loop needs besides what the loop keeps, in bytes."""
    numbers = {k: getattr(key, k) for k in ("rows", "replicas", "zero", "split")}
    return {**_kind_json(key.layer), **numbers, **asdict(room)}


def _kind_json(kind: SplitLayer) -> dict[str, Any]:
    inside = [[printable(name), size] for name, size in kind.inside]
    return {
        "inside": inside,
        **{k: getattr(kind, k) for k in ("recompute", "along", "heads", "by")},
        "tables": list(kind.tables),
    }


def plan_json(planned: Planned, plan: PricedPlan) -> dict[str, Any]:
    """A plan that fits, its price and its bound."""
    price = {"step_seconds": plan.price.seconds, "needed_bytes": plan.price.needed}
    lines = lines_of(planned.space, plan.candidate)
    return {**candidate_json(planned.space, plan.candidate), **price, "bound": plan.bound, "strategy": lines}


def refined_json(planned: Planned, of: RefinedPlan) -> dict[str, Any]:
    """What was tried around a plan, and its price, as of all that is tried."""
    found = of.price
    return {
        **candidate_json(planned.space, of.base.candidate),
        **change_json(of.by),
        "needed": None if found is None else found.needed,
        "seconds": found.seconds if found is not None and found.fits else None,
        "code": of.code,
        "strategy": plain_lines(planned, of),
    }


def change_json(by: PlanChange) -> dict[str, Any]:
    """What is changed of a plan."""
    placed = by.placed
    groups = None if placed is None else [list(group) for group in placed.groups]
    at = None if placed is None else {"groups": groups, "along": placed.along, "microbatches": placed.microbatches}
    return {"cuts": list(by.cuts), "again": list(by.again), "places": at}


def candidate_json(space: PlanSpace, of: PlanChoice) -> dict[str, Any]:
    """A candidate's choices: axes major to minor."""
    rules = of.rules
    return {
        "mesh": [[printable(role.name), size] for role, size in of.axes],
        "microbatches": of.mesh.microbatches,
        "zero": rules.zero,
        "recompute": rules.recompute,
        "schedule": rules.schedule,
        "chunks": rules.chunks,
        "along": rules.along,
        "heads": rules.heads,
        "rows": list(rules.rows),
        "by": rules.by,
        "offload": list(rules.offload),
    }
