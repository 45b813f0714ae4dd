"""What a model asks for whatever its strategy: the numbers of which lower bounds are made."""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from dataclasses import replace
from math import log2, prod

from compiler.cost.kernels.program import features
from compiler.cost.kernels.work import Part, Product, Vector, WorkLoop
from compiler.cost.memory.footprint import footprint
from compiler.cost.memory.systems import Systems
from compiler.cost.price.calibration import Calibration, of_cluster
from compiler.cost.price.machine import Machine, machine
from compiler.driver import compile_job
from compiler.graph import ITEMSIZE
from compiler.memory.tiers import FIRST, HOST, move_rate
from compiler.model import Cluster, Job
from compiler.ops.repeat import Repeat
from compiler.origin import within
from compiler.program import FunctionPhase, Program
from compiler.strategy import SERIAL
from compiler.walk import walk
from dsl.data import dataclass
from parc.planning.dims import Splittable
from parc.planning.implementing import HandWritten
from parc.planning.least_kernels import LeastSides, firm, least_sides, vector_launches
from parc.planning.listed import listed
from parc.planning.recomputes import Again
from parc.planning.spread import WeightGroup
from parc.planning.unwritten import unwritten


@dataclass(frozen=True, slots=True)
class ModelWork:
    """Of a step of the whole batch, on one device.

    passes: per choice of what is computed again, and then the same of each of what may be written by hand (of that the
        products alone that are not touched by it), seconds of the products and element-wise kernels of all forward and
        backward passes, if nothing were rounded up to tiles and all ran at the device's best share; loop: of it what
        each iteration takes, where all stages are cut from one loop (else 0)
    launches: per choice, seconds of a micro-batch that its kernels take besides their work, as many as there are of
        them at least; host: in which the host dispatches them
    update: seconds of the optimizer; written: of these, in which it writes weights, which other devices may be sent
        (`unwritten`; what kernels write of gradients is in no number); fixed: seconds of a step that no split makes
        shorter
    activations: bytes besides weights and states that the serial program needs for the whole batch; for guesses alone
    weights: all that are trained, those alike together
    sent: bytes of the whole batch that go from each iteration of a single loop to the next, forward and backward
    least: the smallest sides of products
    """

    passes: tuple[float, ...]
    loop: tuple[float, ...]
    launches: tuple[float, ...]
    host: tuple[float, ...]
    update: float
    written: float
    fixed: float
    activations: tuple[int, ...]
    weights: tuple[WeightGroup, ...]
    sent: tuple[float, float] = (0.0, 0.0)
    least: LeastSides = LeastSides(0, 0)


@dataclass(frozen=True, slots=True)
class ClusterWork:
    """What of a cluster and its software bounds speak of. links: per level bytes/s that a device's link reaches at
    best; domains: devices of one domain of each level; host: bytes/s between a device and its host's memory, or 0;
    waits: whether a stage waits until what it sends has gone; added: seconds in which an element of a gradient is added
    to those of micro-batches before."""

    links: tuple[float, ...]
    domains: tuple[int, ...]
    hidden: float
    wire: float
    gradient_wire: float
    memory: float
    context: float
    copy: float
    gradient: float
    stored: int
    reserve: float
    host: float = 0.0
    waits: bool = False
    added: float = 0.0


def model_work(
    job: Job,
    split: Splittable,
    recomputes: tuple[Again, ...],
    implementations: Sequence[HandWritten] = (),
) -> ModelWork:
    """Compile the serial program once per choice of recomputation, and add up what its kernels take at least."""
    assert job.cluster is not None
    cal = of_cluster(job.cluster)
    passes, loop, launched, host, activations = [], [], [], [], []
    outside: list[list[tuple[float, float]]] = [[] for _ in implementations]
    update, written, read, sent, sides = 0.0, 0.0, set[str](), (0.0, 0.0), LeastSides(0, 0)
    servers = -(-job.cluster.devices // job.cluster.levels[0].count)
    late = 1 + cal.jitter * log2(servers)
    for rules in recomputes:
        serial = replace(SERIAL, recomputes=rules, microbatch_dim=split.batch or None)
        compiled = compile_job(replace(job, strategy=serial))
        of = machine(compiled.program, job.cluster)
        found = features(compiled.program)
        if not read:
            read, sent = {v.name for v in compiled.training.backward.inputs}, _sent(compiled.program, split)
            sides = least_sides(compiled.program, split.batch)
        total, others = _NOTHING, [_NOTHING] * len(implementations)
        free, rate = unwritten(compiled.program, {label for label, _ in split.loops}, job.precision), _rate(of, cal)
        touched = _touched(compiled.program, implementations)
        for key, part in found.parts[0].items():
            if key[0] is FunctionPhase.UPDATE:
                update = _kernels(part, of, cal).seconds
            else:
                total = total.plus(_kernels(part, of, cal))
                others = [o.plus(_products(part, of, cal, by)) for o, by in zip(others, touched, strict=True)]
        each = late / split.layers if len(split.loops) == 1 else 0.0
        written = free.weights / rate
        passes.append(max(0.0, total.seconds - free.gradients / rate) * late)
        loop.append(max(0.0, total.inside - free.looped / rate) * each)
        for found_of, other in zip(outside, others, strict=True):
            found_of.append((other.seconds * late, other.inside * each))
        launched.append(total.number * cal.launch * late)
        host.append(total.number * cal.host)
        fullest = Systems(compiled, found).fullest
        activations.append(fullest.turning)
    more = [one for of_choice in outside for one in of_choice]
    return ModelWork(
        (*passes, *(one for one, _ in more)),
        (*loop, *(one for _, one in more)),
        (*launched, *[0.0] * len(more)),
        (*host, *[0.0] * len(more)),
        update,
        min(update, written),
        cal.fixed,
        tuple(activations),
        weight_groups(job, split, read),
        sent,
        sides,
    )


def _sent(program: Program, split: Splittable) -> tuple[float, float]:
    """What a single loop of the serial program carries from one iteration to the next, of samples, in each pass."""
    found = []
    labels = {label for label, _ in split.loops}
    (cls,) = program.classes
    for phase in (FunctionPhase.FORWARD, FunctionPhase.BACKWARD):
        nodes = (n for f in cls.functions if f.phase is phase for n in f.body.nodes)
        loops = [(n, n.op) for n in nodes if isinstance(n.op, Repeat) and n.op.label in labels]
        carried = [v.type for n, op in loops for v in n.inputs[: op.carries] if v.type.has(split.batch)]
        found.append(float(sum(t.bytes for t in carried)) if len(loops) == 1 and len(labels) == 1 else 0.0)
    return found[0], found[1]


def weight_groups(job: Job, split: Splittable, read: Container[str]) -> tuple[WeightGroup, ...]:
    """The trained weights, those alike together. read: names of those that the backward pass reads."""
    labels, rows = {label: i for i, (label, _) in enumerate(split.loops, 1)}, {*split.rows}
    taken = {*split.inner, *split.experts, *split.positions}
    states, lists = dict[str, int](), listed(job)
    for u in job.updates:
        states[u.weight] = sum(s.value.type.bytes for s in u.states)
    found: dict[tuple[object, ...], WeightGroup] = {}
    for w in job.model.trained:
        type, names = w.value.type, {*w.value.type.names}
        loop = next((labels[label] for label in w.loops if label in labels), 0)
        tables = bool(names & rows) or w.name in lists
        own = tuple((d.size, d.name in taken) for d in type.dims if d.name not in w.loops)
        experts, positions, heads = (bool(names & {*dims}) for dims in (split.experts, split.positions, split.heads))
        one = WeightGroup(
            0 if tables else prod(type.shape),
            type.bytes,
            states.get(w.name, 0),
            own,
            loop,
            loop > 0 and w.name in read,
            experts,
            positions,
            heads,
            tables,
        )
        key = (own, loop, one.again, one.experts, one.positions, one.heads, tables)
        if key in found:
            before = found[key]
            one = replace(
                one,
                elements=one.elements + before.elements,
                stored=one.stored + before.stored,
                moments=one.moments + before.moments,
            )
        found[key] = one
    return tuple(found.values())


@dataclass(frozen=True, slots=True)
class _Kernels:
    """Seconds of work, those of them in loops, and kernels, of which there are so many at least."""

    seconds: float = 0.0
    inside: float = 0.0
    number: float = 0.0

    def plus(self, other: _Kernels, times: int = 1, looped: bool = False) -> _Kernels:
        return _Kernels(
            self.seconds + times * other.seconds,
            self.inside + times * (other.seconds if looped else other.inside),
            self.number + times * other.number,
        )


_NOTHING = _Kernels()


def _kernels(part: Part, of: Machine, cal: Calibration) -> _Kernels:
    found = _NOTHING
    there = firm(part)
    for i, node in enumerate(part.nodes):
        if node.again:
            continue
        if isinstance(node.work, WorkLoop):
            found = found.plus(_kernels(node.work.body, of, cal), node.work.count, True)
        elif isinstance(node.work, Product):
            found = found.plus(_Kernels(_product(node.work, of, cal), 0.0, 1.0))
        elif isinstance(node.work, Vector):
            found = found.plus(_Kernels(_vector(node.work, of, cal), 0.0, vector_launches(node.work, i in there, cal)))
    return found


def _touched(program: Program, implementations: Sequence[HandWritten]) -> list[set[str]]:
    """Of each: the values that scopes which it computes make, or need, or that are made of what they make."""
    (cls,) = program.classes
    found: list[set[str]] = [set() for _ in implementations]
    for function in cls.functions:
        for node, _ in walk(function.body):
            paths = {v.origin.path for v in (*node.inputs, *node.outputs)}
            for names, by in zip(found, implementations, strict=True):
                if any(within(path, scope) for path in paths for scope in by.scopes):
                    names.update(v.name for v in node.outputs)
    return found


def _products(part: Part, of: Machine, cal: Calibration, without: Collection[str]) -> _Kernels:
    """Those of products alone, but of these values."""
    found = _NOTHING
    for node in part.nodes:
        if isinstance(node.work, WorkLoop) and not node.again:
            found = found.plus(_products(node.work.body, of, cal, without), node.work.count, True)
        elif isinstance(node.work, Product) and not node.again and node.name not in without:
            found = found.plus(_Kernels(_product(node.work, of, cal)))
    return found


def _product(work: Product, of: Machine, cal: Calibration) -> float:
    """Its arithmetic at the best share of the peak that any piece of it reaches."""
    share = cal.product
    flops = work.flops
    if work.core and cal.fused_attention > 0:
        share *= cal.core
        flops *= work.kept
    else:
        share *= work.k / (work.k + cal.ramp) * (1.0 if work.core else max(1.0, cal.narrow))
    return flops / (of.peak(work.dtype) * share)


def _vector(work: Vector, of: Machine, cal: Calibration) -> float:
    """The bytes that it moves as one kernel, or as the software does it."""
    if work.core and cal.fused_attention > 0:
        return 0.0
    moved = min(work.bytes, work.loose + (work.bytes - work.loose) * cal.fusion)
    return moved / _rate(of, cal)


def _rate(of: Machine, cal: Calibration) -> float:
    """Bytes/s of element-wise kernels."""
    return of.device.bandwidth * cal.vector


def cluster_work(job: Job) -> ClusterWork:
    """The numbers of the job's cluster."""
    cluster = job.cluster
    assert cluster is not None
    cal, of = of_cluster(cluster), footprint(cluster.device, cluster.stack)
    stored, narrow = ITEMSIZE[job.precision.master], ITEMSIZE[job.precision.compute]
    mixed = narrow < stored
    each = of.gradient_f16 if job.precision.compute == "f16" else of.gradient
    late = 1 + cal.jitter * log2(-(-cluster.devices // cluster.levels[0].count))
    links = [level.bandwidth * (cal.outer if i else cal.inner) for i, level in enumerate(cluster.levels)]
    return ClusterWork(
        tuple(links),
        _domains(cluster),
        max(cal.hidden, cal.hidden_gather),
        min(cal.wire, stored),
        min(cal.gradient_wire, stored),
        cluster.device.memory,
        of.context,
        (of.copy if narrow == 2 else narrow) if mixed else stored,
        (each if narrow == 2 else stored) if mixed else stored,
        stored if mixed else 0,
        of.reserve,
        move_rate(cluster.tiers, HOST, FIRST) if HOST in cluster.tiers else 0.0,
        cal.blocking_sends > 0,
        2 * ITEMSIZE[job.precision.master] * late / (cluster.device.bandwidth * cal.vector),
    )


def _domains(cluster: Cluster) -> tuple[int, ...]:
    return tuple(prod(level.count for level in cluster.levels[: i + 1]) for i in range(len(cluster.levels)))
