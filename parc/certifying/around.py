"""What a certificate has around the best of its space: each is read from its statements, has to be the plan that it
says, changed as it says, and is priced again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from compiler.evaluate import evaluate_file
from compiler.evaluate.index import index_model
from compiler.model import Job
from compiler.ops.repeat import Repeat
from compiler.strategy import MeshAxis, PlaceRule, RecomputeRule, Strategy
from dsl.data import dataclass
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc.certifying.stated import StatedPart, Unfounded
from parc.certifying.words import one_strategy, plain, statements
from parc.price import Price, price

MOST = 64
"""That are tried around the best at most."""


@dataclass(frozen=True, slots=True)
class AroundBest:
    """What the best of all that was tried around the best takes."""

    value: float
    seconds: float
    needed: int


def hold_around(
    stated: StatedPart,
    source: Source,
    job: Job,
    minimise: str,
    base: Callable[[StatedPart, StatedPart], Strategy],
    params: Mapping[str, str] | None = None,
) -> AroundBest | None:
    """Price again what was tried around the best. base: the strategy of the space that a row speaks of, on the devices
    of one place where it has places (`apart`); params: values of the file's parameters. The best of them, or None where
    none fits. Raises Unfounded."""
    best: AroundBest | None = None
    for row in stated["around"].distinct(MOST):
        cuts = tuple(cut.whole(1) for cut in row["cuts"].each())
        again = tuple(number.whole() for number in row["again"].each())
        places = row["places"]
        wanted = _changed(base(row, places), cuts, again, places, job, row)
        found = _priced(row, source, params, job, wanted)
        if found is None:
            continue
        row["code"].be("")
        row["needed"].be(found.needed)
        row["seconds"].be(found.seconds if found.fits else None)
        value = found.seconds if minimise == "step" else float(found.needed)
        if found.fits and (best is None or value < best.value):
            best = AroundBest(value, found.seconds, found.needed)
    return best


def _priced(
    row: StatedPart, source: Source, params: Mapping[str, str] | None, job: Job, wanted: Strategy
) -> Price | None:
    """The price of the row's statements, which have to be the strategy; None where that is refused, as the row says.
    Raises Unfounded, also for what cannot be read: of statements that are no strategy no code says anything."""
    path = row["strategy"].path
    name = "around"
    while name in source.text:
        name += "_"
    strategy = "\n".join([f"strategy {name} for {job.model.name} {{", *statements(row), "}", ""])
    text = f"{source.text}\n{strategy}"
    try:
        one_strategy(strategy, path)
        made = evaluate_file(Source(source.name, text, source.path), params, job.name, name).job
    except ParcError as error:
        first = next(iter(error.diagnostics)).message
        raise Unfounded(f"{path} is no strategy of the model: {first}", path) from None
    dims = index_model(made.model).dims
    if plain(made.strategy, dims) != plain(wanted, dims):
        raise Unfounded(f"{path} is another strategy than the one that it is said to be", path)
    try:
        return price(made)
    except ParcError as error:
        row["code"].be(next((d.code for d in error.diagnostics if d.severity == "error"), ""))
        row["needed"].be(None)
        row["seconds"].be(None)
        return None


def apart(mesh: Mapping[str, int], places: StatedPart) -> tuple[dict[str, int], int]:
    """Of a mesh what each place has, and how many micro-batches there are: an axis has the places as a factor."""
    along, number = places["along"].text(), len(places["groups"].each())
    if number < 2 or mesh.get(along, 1) % number:
        raise Unfounded(f"{places.path}.along has no such number of places", places.path)
    found = {axis: n // number if axis == along else n for axis, n in mesh.items()}
    return {axis: n for axis, n in found.items() if n > 1}, places["microbatches"].whole(1)


def _placed(of: Strategy, places: StatedPart) -> Strategy:
    """With scopes at places of an axis of their own."""
    axis = "at"
    while axis in {a.name for a in of.mesh}:
        axis += "_"
    groups = [[scope.text() for scope in group.distinct(MOST)] for group in places["groups"].each()]
    rules = tuple(PlaceRule(scope, axis, at) for at, group in enumerate(groups) for scope in group)
    return replace(of, mesh=(MeshAxis(axis, len(groups)), *of.mesh), places=rules)


def _changed(
    of: Strategy, cuts: tuple[int, ...], again: tuple[int, ...], places: StatedPart, job: Job, row: StatedPart
) -> Strategy:
    """A strategy with other cuts, with its branches on places, or with fewer layers that are computed again: by rules
    for the first iterations of a loop, which is two then, or by none for it."""
    if of.implementations or not (cuts or again or not places.none):
        raise Unfounded(f"{row.path} is nothing that is tried around the best", row.path)
    if not places.none:
        if cuts or again or of.pipelines:
            raise Unfounded(f"{row.path} has places besides another change, or stages", row.path)
        return _placed(of, places)
    if cuts and len(of.pipelines) != 1:
        raise Unfounded(f"{row.path}.cuts are of no pipeline", row.path)
    pipelines = tuple(replace(p, cuts=cuts or None) for p in of.pipelines)
    if not again:
        return replace(of, pipelines=pipelines)
    loops = [n.op for n in job.model.graph.nodes if isinstance(n.op, Repeat) and not n.op.scan]
    counts = [loop.count for loop in loops]
    some = len(again) == len(loops) and any(again) and again != tuple(counts)
    if not some or not of.recomputes or any(n > count for n, count in zip(again, counts, strict=True)):
        raise Unfounded(f"{row.path}.again is no number of layers that are computed again", row.path)
    kept: list[RecomputeRule] = []
    for rule in of.recomputes:
        at = next((i for i, loop in enumerate(loops) if _in(str(rule.scope), loop.body.name)), None)
        if at is None:
            raise Unfounded(f"{row.path}.again is of what is in no layer", row.path)
        if again[at]:
            kept.append(_first(rule, loops[at], again[at], row))
    parts = {loop.label: _two(loop, n) for loop, n in zip(loops, again, strict=True)}
    pipelines = tuple(replace(p, parts=tuple(n for part in p.parts for n in parts[part])) for p in pipelines)
    return replace(of, pipelines=pipelines, recomputes=tuple(kept))


def _in(name: str, scope: str) -> bool:
    return name == scope or name.startswith(f"{scope}.")


def _first(rule: RecomputeRule, loop: Repeat, again: int, row: StatedPart) -> RecomputeRule:
    """A rule of a loop's layers, for so many of the first alone."""
    path = loop.body.name
    if again == loop.count:
        return rule
    if not all(_in(name, path) for name in rule.keep):
        raise Unfounded(f"{row.path}.again is of what is in no layer", row.path)
    scope, *keep = (f"{path}_0_{again}{name[len(path) :]}" for name in (str(rule.scope), *rule.keep))
    return replace(rule, scope=scope, keep=tuple(keep))


def _two(loop: Repeat, again: int) -> tuple[str, ...]:
    """What a loop of which only so many layers are computed again is: two loops."""
    whole = again in (0, loop.count)
    return (loop.label,) if whole else (f"{loop.label}_0_{again}", f"{loop.label}_{again}_{loop.count}")
