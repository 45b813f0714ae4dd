"""Why a tensor has its layout, and what is communicated for it: `parc explain FILE TENSOR`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from compiler.graph import Graph, Value
from compiler.layout import Layout
from compiler.ops.repeat import Repeat
from compiler.passes.place.place import Placed
from compiler.text.printer import show_type
from dsl.diagnostics import did_you_mean, fail
from dsl.source import Span


@dataclass(frozen=True, slots=True)
class Why:
    """Along one axis: the dims of the computation that it splits (none: not split) and the reason."""

    axis: str
    dims: tuple[str, ...]
    reason: str
    candidates: tuple[tuple[str, float], ...] = ()
    """(dim, bytes moved if that one were split)"""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of layout: what does it, the result's name and type, for which reader, bytes that one device sends."""

    kind: str
    result: str
    type: str
    reader: str
    bytes: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that is known of one tensor of the placed training graph. `storage`: where it lives between steps."""

    name: str
    type: str
    span: Span
    why: tuple[Why, ...]
    changes: tuple[Change, ...]
    storage: str | None = None


def explain_tensor(placed: Placed, name: str) -> Explanation:
    """Raises ParcError if there is no such tensor."""
    values = {v.name: v for graph in (placed.forward, placed.backward, placed.update) for v in _values(graph)}
    if name not in values:
        inside = sorted(v for v in values if v.endswith(f".{name}"))
        help = f"there is `{inside[0]}`" if inside else did_you_mean(name, values)
        raise fail("E0101", f"there is no tensor `{name}`", help=help)
    value = values[name]

    def shown(v: Value, layout: Layout) -> str:
        return show_type(v.type, layout, placed.sizes)

    whys = [Why(c.axis, c.loop, c.reason, c.candidates) for c in placed.choices if c.value == name]
    changes = [
        Change(_kind(m.source, m.target), m.result, shown(value, m.target), m.reader, m.bytes)
        for m in placed.moves
        if m.value == name
    ]
    home = placed.weights.get(name) or placed.states.get(name)
    layout = placed.layouts[name]
    storage = shown(value, home) if home is not None and home != layout else None
    return Explanation(name, shown(value, layout), value.span, tuple(whys), tuple(changes), storage)


def _values(graph: Graph) -> Iterator[Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs
        if isinstance(node.op, Repeat):
            yield from _values(node.op.body)


def _kind(source: Layout, target: Layout) -> str:
    """The collectives that get from one layout to the other, in words."""
    reduced = {a for a, _ in source.pending} - {a for a, _ in target.pending}
    before, after = _places(source), _places(target)
    kinds = []
    scattered = sorted(reduced & after.keys())
    if scattered:
        kinds.append(f"reduce-scatter over {', '.join(scattered)}")
    if reduced - after.keys():
        kinds.append(f"all-reduce over {', '.join(sorted(reduced - after.keys()))}")
    gathered = sorted(before.keys() - after.keys())
    if gathered:
        kinds.append(f"all-gather over {', '.join(gathered)}")
    moved = sorted(a for a in before.keys() & after.keys() if before[a] != after[a])
    if moved:
        kinds.append(f"all-to-all over {', '.join(moved)}")
    taken = sorted(after.keys() - before.keys() - reduced)
    if taken:
        kinds.append(f"each its own part over {', '.join(taken)}")
    if source.halo != target.halo:
        kinds.append("exchange of borders")
    return ", then ".join(kinds) or "nothing"


def _places(layout: Layout) -> Mapping[str, int]:
    return {axis: i for i, axes in enumerate(layout.dims) for axis in axes}
