"""How weights lie on the devices of a candidate, and what their gradients take of links: see `docs/plan.md`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from itertools import permutations
from math import ceil, log2, prod
from typing import Any

from compiler.cost.memory.footprint import footprint
from compiler.cost.price.calibration import of_cluster
from compiler.graph import ITEMSIZE, Dim
from compiler.memory.tiers import FIRST, HOST, move_rate
from compiler.model import Job
from compiler.ops.index import Take
from compiler.walk import walk
from compiler.zero_preserving import why_not
from dsl.data import dataclass
from parc.certifying.counting import StatedSpace


@dataclass(frozen=True, slots=True)
class Lie:
    """Of a candidate. axes: (kind, devices, from one to the next) of those along which data is split; inner: devices of
    inner axes; heads: axes of positions may split heads, and what heads are made with; alike: whether replicas have the
    same of all weights, for they split no table."""

    stages: int
    axes: tuple[tuple[str, int, int], ...]
    inner: int
    heads: bool
    alike: bool = True

    @property
    def replicas(self) -> int:
        """Devices along the axis of data."""
        return prod(n for kind, n, _ in self.axes if kind == "data")


def lie_of(space: StatedSpace, mesh: Mapping[str, int], first: str, heads: bool, alike: bool = True) -> Lie:
    """first: the kind of the outermost axis, where it is not the usual one."""
    order = [name for name, _, _ in space.axes if name in mesh]
    if first == "data":
        order.sort(key=lambda a: space.kind(a) != "data")
    apart = {axis: prod(mesh[a] for a in order[at + 1 :]) for at, axis in enumerate(order)}
    found = [(space.kind(a), mesh[a], apart[a]) for a in reversed(order) if space.kind(a) not in ("stages", "inner")]
    return Lie(space.of_kind(mesh, "stages"), tuple(found), space.of_kind(mesh, "inner"), heads, alike)


def weight_kinds(
    job: Job, labels: Sequence[str], splits: Mapping[str, Sequence[str]], read: Collection[str]
) -> list[dict[str, Any]]:
    """Trained weights, those alike together. splits: dims by what splits them; read: weights, by name, that the
    backward pass reads."""
    mixed = {d for kind in ("inner", "experts", "positions") for d in splits[kind]}
    found: list[dict[str, Any]] = []
    of_states = {u.weight: u.states for u in job.updates}
    taken = [node.inputs[0].type.dims for node, _ in walk(job.model.graph) if isinstance(node.op, Take)]
    for w in (w for w in job.model.weights if w.trained):
        dims = {d.name: d.size for d in w.value.type.dims}
        kind: dict[str, Any] = {
            "own": [[size, name in mixed] for name, size in dims.items() if name not in w.loops],
            "loop": next((labels.index(label) + 1 for label in w.loops if label in labels), 0),
            **{k: not {*dims}.isdisjoint(splits[k]) for k in ("experts", "positions", "heads")},
            "tables": not {*dims}.isdisjoint(splits["rows"]) or _by_row(job, {*dims}, w.name, taken),
        }
        kind["again"] = kind["loop"] > 0 and w.name in read
        known = next((f for f in found if all(f[k] == v for k, v in kind.items())), None)
        if known is None:
            known = {**kind, "elements": 0, "stored": 0, "moments": 0}
            found.append(known)
        known["elements"] += 0 if kind["tables"] else prod(dims.values())
        known["stored"] += w.value.type.bytes
        known["moments"] += sum(s.value.type.bytes for s in of_states.get(w.name, ()))
    return found


def _by_row(job: Job, dims: Collection[str], name: str, taken: Sequence[Sequence[Dim]]) -> bool:
    """Whether its gradient may be a list: rows of something like it are taken, and its update needs no others."""
    if not any(all(d.name in dims for d in table) for table in taken):
        return False
    (update,) = (u for u in job.updates if u.weight == name)
    return not all(why_not(update, dim) for dim in dims)


def copies(lie: Lie, weight: Mapping[str, Any]) -> list[tuple[int, int]]:
    """The axes along which all devices have the same of a weight, if nothing is sharded."""
    if weight["tables"]:
        return []
    cut = {"experts"} if weight["experts"] else set()
    if weight["positions"] or (lie.heads and weight["heads"]):
        cut.add("positions")
    return [(n, apart) for kind, n, apart in lie.axes if kind not in cut]


def divides(lie: Lie, weight: Mapping[str, Any], devices: int) -> bool:
    """Whether some dim of it surely divides among all devices of a stage."""
    each = devices // lie.stages
    return any(size % each == 0 or (not mixed and size % (each // lie.inner) == 0) for size, mixed in weight["own"])


@cache
def least_sent(axes: tuple[tuple[int, int], ...], domains: tuple[int, ...]) -> tuple[float, ...]:
    """Per level, what a device sends at least over its link of a byte that all along the axes have and add up: one axis
    after the other, in the order that is best for that level, or all in one message."""
    if not axes:
        return (0.0,) * len(domains)
    reached = [_reached(n, apart, domains) for n, apart in axes]
    together = [prod(counts) for counts in zip(*reached, strict=True)]
    found: list[list[float]] = []
    for order in [[together], *(list(p) for p in permutations(reached))]:
        sent, size = [0.0] * len(domains), 1.0
        for counts in order:
            for level, n in enumerate(counts):
                sent[level] += size - size / n
                size /= n
        found.append(sent)
    return tuple(min(level) for level in zip(*found, strict=True))


def _reached(members: int, apart: int, domains: Sequence[int]) -> list[int]:
    """How many a device reaches within a domain of the first level, how many such within one of the next."""
    found: list[int] = []
    for i, domain in enumerate(domains):
        inside = min(members, ceil(domain / apart)) if apart < domain else 1
        if i == len(domains) - 1:
            inside = members
        found.append(max(1, ceil(inside / prod(found))))
    return found


def cluster_numbers(job: Job) -> dict[str, Any]:
    """What bounds ask of a cluster and its software."""
    cluster = job.cluster
    assert cluster is not None
    cal, keeps = of_cluster(cluster), footprint(cluster.device, cluster.stack)
    compute, master = ITEMSIZE[job.precision.compute], ITEMSIZE[job.precision.master]
    copy, gradient, stored = float(master), float(master), 0
    if compute < master:
        stored = master
        copy = keeps.copy if compute == 2 else float(compute)
        if compute == 2:
            gradient = keeps.gradient_f16 if job.precision.compute == "f16" else keeps.gradient
    counts = [level.count for level in cluster.levels]
    written = cluster.device.bandwidth * cal.vector
    return {
        "links": [v.bandwidth * (cal.inner if i == 0 else cal.outer) for i, v in enumerate(cluster.levels)],
        "domains": [prod(counts[: i + 1]) for i in range(len(counts))],
        "hidden": max(cal.hidden, cal.hidden_gather),
        "wire": min(cal.wire, master),
        "gradient_wire": min(cal.gradient_wire, master),
        "memory": cluster.device.memory,
        "context": keeps.context,
        "copy": copy,
        "gradient": gradient,
        "stored": stored,
        "reserve": keeps.reserve,
        "host": move_rate(cluster.tiers, HOST, FIRST) if HOST in cluster.tiers else 0.0,
        "waits": cal.blocking_sends > 0,
        "added": 2 * master * (1 + cal.jitter * log2(ceil(cluster.devices / counts[0]))) / written,
    }
