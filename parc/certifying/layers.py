"""What a certificate says of layers, found again: each entry is a strategy of its own, which is compiled as a whole.

Which candidates it holds for, and why, stands in `docs/plan.md`: those whose layers are split and computed as its own
are, for rows that divide its own; those that compute more again; and those of more devices that do the same together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil, log2, prod
from typing import Any

from compiler.cost.kernels.program import features
from compiler.cost.kernels.work import Collective, Meet, Part, Post, Vector, Wait, WorkLoop
from compiler.cost.memory.systems import Systems
from compiler.cost.price.calibration import of_cluster
from compiler.cost.price.machine import machine
from compiler.cost.price.pricer import COMPUTE, PICOSECONDS, Pricer
from compiler.driver import compile_job
from compiler.graph import Graph
from compiler.memory.held import Buffer
from compiler.memory.tiers import FIRST
from compiler.model import Job
from compiler.ops.effects import Load, Save
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.program import DeviceClass, FunctionPhase
from dsl.data import dataclass
from dsl.diagnostics import ParcError
from parc.certifying.by_hand import positions
from parc.certifying.counting import StatedSpace, sizes_of, tables_of
from parc.certifying.rows import SampleDims
from parc.certifying.sides import single
from parc.certifying.stated import StatedPart, Unfounded

NUMBERS = ("forward", "backward", "rest", "tail", "saved")
"""What fewer rows take less of."""

TIMES = NUMBERS[:4]
"""Of these, seconds: of the rows of an entry, and as far as they hold of others (`fewer`)."""

REDONE = ("backward", "rest", "tail")
"""What is known of more that is computed again: of the loops in both passes, of the rest, of that behind them."""

LayerRules = tuple[str, bool, tuple[str, ...], int]
"""along, heads, tables, by: rows of tables that data splits."""

DATA_LIKE = ("data", "experts", "positions")
Build = Callable[[Mapping[str, int], int, Mapping[str, Any]], Job]
"""The job with the strategy of a mesh, micro-batches and rules. Raises ParcError for what cannot be written by hand."""


@dataclass(frozen=True, slots=True)
class StatedLayer:
    """An entry that was found to be right. rows: of the batch on a device; rules: along, heads, tables, by;
    numbers: seconds, bytes; fewer: what of these holds of all others, for products that take longer hide more;
    products: seconds of products and messages alone, of what `REDONE` names; kept: bytes of each of several loops."""

    inside: Mapping[str, int]
    again: int
    rules: LayerRules
    rows: int
    numbers: Mapping[str, float]
    fewer: Mapping[str, float]
    products: Mapping[str, float]
    kept: Sequence[float] = ()


def stated_layers(stated: StatedPart, space: StatedSpace, build: Build) -> list[StatedLayer]:
    """All entries, each held to its strategy."""
    found = []
    seen = set()
    for entry in stated["layers"].each():
        inside = sizes_of(entry)
        names = [name for name, _, _ in space.axes]
        if list(inside) != [n for n in names if n in inside] or any(
            space.kind(n) in ("stages", "data") for n in inside
        ):
            raise Unfounded(f"{entry.path}.inside are no axes that split layers, in their order", entry.path)
        rows, replicas = entry["rows"].whole(1), entry["replicas"].whole(1)
        again = entry["recompute"].whole()
        along, heads = entry["along"].text(), entry["heads"].truth()
        by = entry["by"].whole()
        data = [n for n in names if space.kind(n) == "data"]
        if replicas > 1 and not data:
            raise Unfounded(f"{entry.path}.replicas is {replicas}, but no axis splits data", entry.path)
        mesh = {data[0]: replicas, **inside} if replicas > 1 else inside
        shares = rows * replicas * space.of_kind(mesh, "experts")
        _, can = space.choices(mesh)
        legal = again < len(space.recomputes) and along in can["along"] and (heads, by) in can["inside"]
        if space.batch % shares or not space.divides(mesh, space.batch // shares) or not legal:
            raise Unfounded(f"{entry.path} is no strategy of the space's kinds", entry.path)
        tables = tables_of(entry["tables"], space, mesh)
        key = (tuple(inside.items()), again, along, heads, tables, by, rows, replicas)
        if key in seen:
            raise Unfounded(f"{entry.path} stands there twice", entry.path)
        seen.add(key)
        zero = 2 if any(space.kind(n) in DATA_LIKE for n in mesh) else 0
        rules = {"zero": zero, "recompute": again, "schedule": "", "chunks": 1, "along": along, "heads": heads}
        try:
            made = build(mesh, space.batch // shares, {**rules, "rows": tables, "by": by, "offload": ()})
            numbers, fewer, products, kept = _measure(made, space)
        except ParcError as error:
            raise Unfounded(f"{entry.path} cannot be: {error}", entry.path) from None
        for name in NUMBERS:
            entry[name].be(numbers[name])
        entry["fewer"].be([fewer[name] for name in TIMES])
        entry["products"].be([products[name] for name in REDONE])
        entry["kept"].be(kept)
        if extra := sorted(entry.items().keys() - {*FIELDS, *NUMBERS}):
            raise Unfounded(f"{entry.path} has `{extra[0]}`, which no bound asks for", entry.path)
        found.append(StatedLayer(inside, again, (along, heads, tables, by), rows, numbers, fewer, products, kept))
    return found


FIELDS = ("inside", "recompute", "along", "heads", "tables", "by", "rows", "replicas", "fewer", "products", "kept")


def _measure(job: Job, space: StatedSpace) -> tuple[dict[str, float], dict[str, float], dict[str, float], list[float]]:
    """Numbers, what of them holds of fewer rows, what of that where more is computed again; and what loops keep."""
    cluster = job.cluster
    assert cluster is not None
    compiled = compile_job(job)
    program, cal = compiled.program, of_cluster(cluster)
    (cls,) = program.classes
    found = features(program)
    pricer = Pricer(machine(program, cluster), cal)
    late = 1.0 + cal.jitter * log2(ceil(cluster.devices / cluster.levels[0].count))
    share = max(cal.ring, cal.overlap), max(cal.ring, cal.exchange)  # that products may hide of a message beside them
    longer = Pricer(pricer.machine, replace(cal, overlap=share[0], exchange=share[1]))

    samples = SampleDims(program, job.strategy.microbatch_dim or "")
    unit = min(pricer.machine.vector_peaks.values(), default=0.0)

    def busy(body: Graph, part: Part, hide: bool, only: set[int], firm: bool = False) -> float:
        begun, besides = samples.count(body, part)
        bodies = {n.outputs[0].name: n.op.body for n in body.nodes if isinstance(n.op, Repeat)}
        left_out = (Wait, Post, Meet, Vector) if firm else (Wait, Post, Meet)
        total, whole = 0, 0.0
        for i in only:
            node = part.nodes[i]
            work = node.work
            if isinstance(work, WorkLoop):
                whole += work.count * busy(bodies[node.name], work.body, hide, {*range(len(work.body.nodes))}, firm)
            elif isinstance(work, left_out) or (node.again and cal.reentrant <= 0):
                continue
            elif node.name in begun:
                one = pricer.price(work)
                if hide and cal.ring > 0 and isinstance(work, Collective) and work.beside:
                    one = longer.price(replace(work, beside=()))
                if one.stream == COMPUTE:
                    total += one.ps if late == 1.0 else round(one.ps * late)
                elif one.blocking and isinstance(work, Collective) and work.role == "activations":
                    total += one.ps
        more = besides.bytes / (cluster.device.bandwidth * cal.vector) + besides.steps * (1 - cal.fusion) * cal.launch
        more += besides.elements / unit if unit else 0.0
        return whole + (total if firm else max(0.0, total - more * late * PICOSECONDS))

    redone = dict.fromkeys(REDONE, 0.0)
    totals = {(name, hide): 0.0 for name in TIMES for hide in (False, True)}
    for function in cls.functions:
        if function.phase not in (FunctionPhase.FORWARD, FunctionPhase.BACKWARD):
            continue
        part = found.parts[0][function.key]
        cut = {
            n.outputs[0].name for n in function.body.nodes if isinstance(n.op, Repeat) and n.op.label in space.labels
        }
        loops = {i for i, node in enumerate(part.nodes) if node.name in cut}
        others = {*range(len(part.nodes))} - loops
        ahead = function.phase is FunctionPhase.FORWARD
        for hide in (False, True):
            totals["forward" if ahead else "backward", hide] += busy(function.body, part, hide, loops)
            totals["rest", hide] += busy(function.body, part, hide, others)
            if len(space.labels) == 1 and loops:
                totals["tail", hide] += busy(function.body, part, hide, others & _last(part, loops, ahead))
        tail = others & _last(part, loops, ahead) if len(space.labels) == 1 and loops else set()
        for name, which in zip(REDONE, (loops, others, tail), strict=True):
            redone[name] += busy(function.body, part, True, which, True)
    numbers, fewer = ({name: totals[name, hide] / PICOSECONDS for name in TIMES} for hide in (False, True))
    memory = Systems(compiled, found).memory(cls)
    memory.effect(FunctionPhase.FORWARD, 0, set())
    (replay,) = memory.replays.values()
    dims = {s.name: {*s.type.names} for s in cls.states}
    kept = {name: b for name, b in replay.saved.items() if samples.kept_for_samples(name)}
    there = {n: b for n, b in kept.items() if b.memory == FIRST and b.role == Role.SAVED and not b.static}
    looped = {id(b): b.bytes for name, b in there.items() if dims[name] & {*space.labels}}
    products = {name: ps / PICOSECONDS for name, ps in redone.items()}
    numbers["saved"] = float(sum(looped.values()))
    return numbers, fewer, products, _kept(cls, space.labels, there) if len(space.labels) > 1 else []


def _kept(cls: DeviceClass, labels: Sequence[str], there: Mapping[str, Buffer]) -> list[float]:
    """Bytes of what each loop hands to its own backward pass: an output of it that is saved, and loaded to be an input
    of the loop with its label. What two of them have counts for the first."""
    ahead, back = (
        [n for f in cls.functions if f.phase is phase for n in f.body.nodes]
        for phase in (FunctionPhase.FORWARD, FunctionPhase.BACKWARD)
    )
    saves = {n.op.name: n.inputs[0] for n in ahead if isinstance(n.op, Save)}
    loads = {n.outputs[0].name: n.op.name for n in back if isinstance(n.op, Load)}
    counted, found = set[int](), []
    for label in labels:
        outputs = {v.name for n in ahead if isinstance(n.op, Repeat) and n.op.label == label for v in n.outputs}
        wanted = {loads.get(v.name) for n in back if isinstance(n.op, Repeat) and n.op.label == label for v in n.inputs}
        own = {id(b): b.bytes for name, b in there.items() if name in wanted and saves[name].name in outputs}
        found.append(float(sum(size for b, size in own.items() if b not in counted)))
        counted |= own.keys()
    return found


def _last(part: Part, loops: set[int], ahead: bool) -> set[int]:
    """Nodes that are where a loop's last iteration is: behind it in the forward pass, before it in the backward pass,
    with all that follows from that and not from the loop."""
    follows = _closure(part, loops)
    if ahead:
        return follows
    needs: set[int] = set()
    for i in loops:
        stack = [*part.nodes[i].deps]
        while stack:
            at = stack.pop()
            if at not in needs and at not in follows:
                needs.add(at)
                stack += part.nodes[at].deps
    return _closure(part, needs) - follows


def _closure(part: Part, of: set[int]) -> set[int]:
    """These nodes and all that wait for them, through others."""
    found = set(of)
    for i, node in enumerate(part.nodes):
        if found & {*node.deps}:
            found.add(i)
    return found


class LayerTable:
    """Which entries hold for a candidate."""

    def __init__(self, space: StatedSpace, layers: list[StatedLayer]) -> None:
        self.space, self.layers = space, layers
        self.known: dict[Any, list[dict[str, float]]] = {}

    def numbers(self, mesh: Mapping[str, int], m: int, again: int, rules: LayerRules) -> list[dict[str, float]]:
        """Of all entries that hold, in proportion: seconds of a micro-batch's passes, and bytes that it leaves."""
        space = self.space
        inside = {n: size for n, size in mesh.items() if space.kind(n) not in ("stages", "data")}
        whole = space.batch // (m * space.of_kind(mesh, "data"))  # rows of all devices that share a layer
        key = (tuple(inside.items()), whole, again, rules)
        if key not in self.known:
            alone = single(space, inside, whole // space.of_kind(mesh, "experts"), rules)
            own = (w for w in self.layers if not alone or self._its_own(w, inside, whole))
            of = (self._number(w, inside, whole, again, rules) for w in own)
            self.known[key] = [w for w in of if w is not None]
        return self.known[key]

    def _its_own(self, of: StatedLayer, inside: Mapping[str, int], whole: int) -> bool:
        return of.inside == inside and of.rows * self.space.of_kind(inside, "experts") == whole

    def _number(
        self,
        of: StatedLayer,
        inside: Mapping[str, int],
        whole: int,
        again: int,
        rules: LayerRules,
    ) -> dict[str, float] | None:
        space = self.space
        its = of.rows * space.of_kind(of.inside, "experts")
        same = of.inside == inside
        if of.again not in (0, again) or (of.again and not same):
            return None
        if any(inside.get(n, 1) % size for n, size in of.inside.items()):
            return None
        kinds = {space.kind(n) for n in of.inside}
        split, by = "positions" in kinds, rules[3]
        if of.rules != (rules[0] if "inner" in kinds else "", rules[1] and split, rules[2], by if split else 0):
            return None
        if by and positions(space, of.inside) != positions(space, inside):
            return None  # how much is computed hangs on how many share it
        if its % whole:
            return None
        its_own = same and of.again == again and its == whole
        found = {name: t * whole / its for name, t in (of.numbers if its_own else {**of.numbers, **of.fewer}).items()}
        if of.again != again:  # which pass does it, what else kernels do and what is left for the other is not known
            found |= {name: t * whole / its for name, t in of.products.items()} | {"forward": 0.0, "saved": 0.0}
        elif same:
            found |= {f"kept {loop}": size * whole / its for loop, size in enumerate(of.kept)}
        else:
            found |= {"forward": 0.0, "backward": found["forward"] + found["backward"], "saved": 0.0}
        if not same:
            found["backward"] *= prod(of.inside.values()) / prod(inside.values())
            found |= {"rest": 0.0, "tail": 0.0}
        return found
