"""What a certificate says of how long loops last with messages beside them, found again: each entry is a strategy of
its own, which is compiled as a whole, and whose loops are played alone, for each number of turns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import product

from compiler.cost.kernels.program import features
from compiler.cost.kernels.work import Collective, Part, Product, Work, WorkLoop, WorkNode
from compiler.cost.price.calibration import of_cluster
from compiler.cost.price.machine import machine
from compiler.cost.price.pricer import ABSENT, PICOSECONDS, Priced, Pricer
from compiler.cost.time.step import play
from compiler.cost.time.tasks import tasks
from compiler.driver import compile_job
from compiler.model import Job
from compiler.ops.repeat import Repeat
from compiler.program import Axis, FunctionPhase
from dsl.data import dataclass
from dsl.diagnostics import ParcError
from parc.certifying.counting import StatedSpace, sizes_of, tables_of
from parc.certifying.layers import Build, LayerRules
from parc.certifying.stated import StatedPart, Unfounded

PASSES = (FunctionPhase.FORWARD, FunctionPhase.BACKWARD, FunctionPhase.WEIGHTS)
FIELDS = (
    "inside",
    "recompute",
    "along",
    "heads",
    "tables",
    "by",
    "rows",
    "replicas",
    "zero",
    "first",
    "stages",
    "split",
    "products",
)


@dataclass(frozen=True, slots=True)
class PacedKey:
    """What a pace is of. inside: axes that split layers; rules: along, heads, tables, by; first: the kind of the
    outermost axis, where there are two; split: zero-bubble schedules; products: with messages alone."""

    inside: tuple[tuple[str, int], ...]
    again: int
    rules: LayerRules
    rows: int
    replicas: int
    zero: int
    first: str
    stages: int
    split: bool
    products: bool


Turns = Mapping[int, tuple[float, float]]
"""By how many iterations there are, seconds forward and backward."""


def stated_paces(stated: StatedPart, space: StatedSpace, build: Build) -> dict[PacedKey, Turns]:
    """All entries, each held to its strategy."""
    found: dict[PacedKey, Turns] = {}
    for entry in stated["paces"].each():
        key = stated_key(entry, space, entry["first"].text(), entry["stages"].whole(1), entry["products"].truth())
        if key in found:
            raise Unfounded(f"{entry.path} stands there twice", entry.path)
        if extra := sorted(entry.items().keys() - {*FIELDS, "turns"}):
            raise Unfounded(f"{entry.path} has `{extra[0]}`, which no bound asks for", entry.path)
        turns = {}
        try:
            made = built(entry, key, space, build)
            played = _Played(made, space, key)
        except ParcError as error:
            raise Unfounded(f"{entry.path} cannot be: {error}", entry.path) from None
        for row in entry["turns"].each():
            n, *seconds = row.each()
            if n.whole(1) in turns:
                raise Unfounded(f"{row.path} is of as many iterations as one before", row.path)
            turns[n.whole(1)] = times = played.seconds(n.whole(1))
            if len(seconds) != 2 or n.whole(1) > space.layers:
                raise Unfounded(f"{row.path} is not a number of iterations, and two of seconds", row.path)
            for one, is_so in zip(seconds, times, strict=True):
                one.be(is_so)
        found[key] = turns
    return found


def stated_key(entry: StatedPart, space: StatedSpace, first: str, stages: int, products: bool = False) -> PacedKey:
    """What an entry is of."""
    inside = sizes_of(entry)
    replicas = entry["replicas"].whole(1)
    data = {n: replicas for n, kind, _ in space.axes if kind == "data" and replicas > 1}
    tables = tables_of(entry["tables"], space, inside | data)
    return PacedKey(
        tuple(inside.items()),
        entry["recompute"].whole(),
        (entry["along"].text(), entry["heads"].truth(), tables, entry["by"].whole()),
        entry["rows"].whole(1),
        replicas,
        entry["zero"].whole(2),
        first,
        stages,
        entry["split"].truth(),
        products,
    )


def built(entry: StatedPart, key: PacedKey, space: StatedSpace, build: Build) -> Job:
    """The job with the entry's own strategy. Raises Unfounded for what is none of the space's kinds, ParcError for what
    cannot be lowered."""
    mesh, m = _mesh(entry, key, space)
    rules = {"zero": key.zero, "recompute": key.again, "along": key.rules[0], "heads": key.rules[1], "chunks": 1}
    schedule = "zero_bubble" if key.split else ""
    return build(mesh, m, {**rules, "schedule": schedule, "rows": key.rules[2], "by": key.rules[3], "offload": ()})


def _mesh(entry: StatedPart, key: PacedKey, space: StatedSpace) -> tuple[dict[str, int], int]:
    """Of the entry's own strategy, and its micro-batches. Raises Unfounded for what is none of the space's kinds."""
    inside, names = dict(key.inside), [name for name, _, _ in space.axes]
    of_kind = {kind: [n for n in names if space.kind(n) == kind] for kind in ("stages", "data")}
    rows = key.rows * space.of_kind(inside, "experts")  # of a replica
    mesh = {**inside}
    if key.replicas > 1:
        mesh |= dict.fromkeys(of_kind["data"][:1], key.replicas)
    if key.split:
        mesh |= dict.fromkeys(of_kind["stages"][:1], 2)
    mesh = {n: mesh[n] for n in names if n in mesh}
    both = key.replicas > 1 and key.stages > 1
    if (
        list(inside) != [n for n in names if n in inside]
        or any(space.kind(n) in of_kind for n in inside)
        or len(space.labels) != 1
        or key.zero > 3
        or key.first not in (("stages", "data") if both else ("",))
        or (key.replicas > 1 and not of_kind["data"])
        or (key.stages > 1 and not of_kind["stages"])
        or (key.split and key.stages < 2)
        or space.batch % (rows * key.replicas)
        or not space.divides(mesh, space.batch // (rows * key.replicas))
    ):
        raise Unfounded(f"{entry.path} is no strategy of the space's kinds", entry.path)
    _, can = space.choices(mesh)
    legal = key.again < len(space.recomputes) and key.zero in can["zero"]
    along, heads, _, by = key.rules
    if not legal or along not in can["along"] or (heads, by) not in can["inside"]:
        raise Unfounded(f"{entry.path} is no strategy of the space's kinds", entry.path)
    return mesh, space.batch // (rows * key.replicas)


class _Products(Pricer):
    """Of which nothing but products and messages takes time."""

    def price(self, work: Work, update: bool = False) -> Priced:
        found = super().price(work, update)
        if found is ABSENT or isinstance(work, (Product, Collective)):
            return found
        return replace(found, ps=0, also=())


class _Played:
    """The loops of a strategy, on links as they are with all stages."""

    def __init__(self, job: Job, space: StatedSpace, key: PacedKey) -> None:
        assert job.cluster is not None
        program = compile_job(job).program
        found, self.loops = features(program), dict[FunctionPhase, list[WorkNode]]()
        for function in program.classes[0].functions:
            if function.phase not in PASSES:
                continue
            cut = {
                n.outputs[0].name
                for n in function.body.nodes
                if isinstance(n.op, Repeat) and n.op.label in space.labels
            }
            nodes = found.parts[0][function.key].nodes
            self.loops[function.phase] = [n for n in nodes if n.name in cut and isinstance(n.work, WorkLoop)]
        if any(len(nodes) > 1 for nodes in self.loops.values()):
            raise Unfounded("a pass with two loops has no pace", "paces")
        axes = [a for a in program.axes if a.kind == "mesh"]
        if key.stages > 1:
            stages = Axis(next(n for n, kind, _ in space.axes if kind == "stages"), key.stages, "mesh")
            axes = [*axes[:1], stages, *axes[1:]] if key.first == "data" else [stages, *axes]
        timed = [a for a in program.axes if a.kind == "time"]
        on = machine(replace(program, axes=(*timed, *axes)), job.cluster)
        cal = replace(of_cluster(job.cluster), slowdown=0.0)
        self.pricer = _Products(on, replace(cal, host=0.0)) if key.products else Pricer(on, cal)

    def seconds(self, n: int) -> tuple[float, float]:
        """Forward, and backward, of so many iterations."""
        times = {phase: sum(self._alone(node, n) for node in nodes) for phase, nodes in self.loops.items()}
        forward = times.pop(FunctionPhase.FORWARD, 0)
        return forward / PICOSECONDS, sum(times.values()) / PICOSECONDS

    def _alone(self, node: WorkNode, n: int) -> int:
        assert isinstance(node.work, WorkLoop)
        part = Part((replace(node, deps=(), work=WorkLoop(n, node.work.body)),))
        return sum(play(segment, self.pricer.streams).duration for segment in tasks(part, self.pricer))


def pace_of(
    paces: Mapping[PacedKey, Turns],
    space: StatedSpace,
    mesh: Mapping[str, int],
    m: int,
    first: str,
    zero: int,
    again: int,
    schedule: str,
    rules: LayerRules,
    sizes: Collection[int],
) -> tuple[float, float, float] | None:
    """Of a candidate: an iteration forward, backward, and in both together, of chunks of such sizes; None if that is
    not known. Each takes as long at least where weights are sent once; both together, what products and messages take
    where nothing is computed again and passes are in one."""
    replicas, stages = space.of_kind(mesh, "data"), space.of_kind(mesh, "stages")
    inside = tuple((n, size) for n, size in mesh.items() if space.kind(n) not in ("stages", "data"))
    rows = space.batch // (m * replicas * space.of_kind(mesh, "experts"))
    own = again, schedule == "zero_bubble"
    each, both = [0.0, 0.0], 0.0
    for (of, split), sent in product(dict.fromkeys(((0, False), own)), range(2, zero + 1)):
        others = (of, split) != own
        turns = paces.get(PacedKey(inside, of, rules, rows, replicas, sent, first, stages, split, others))
        if turns is None or not {*sizes} <= turns.keys():
            continue
        passes = [min(turns[n][i] / n for n in sizes) for i in (0, 1)]
        both = max(both, sum(passes))
        if not others:
            each = [max(pair) for pair in zip(each, passes, strict=True)]
    return (each[0], each[1], both) if both else None
