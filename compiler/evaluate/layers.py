"""Rules for some iterations of a loop, `in block[0..4]`: the loop is cut where one of them begins or ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field

from compiler.evaluate import static
from compiler.evaluate.expressions import evaluate
from compiler.evaluate.index import ModelIndex
from compiler.evaluate.scope import Scope
from compiler.model import LoopPiece
from compiler.ops.repeat import Repeat
from compiler.origin import within
from dsl import ast
from dsl.data import dataclass
from dsl.diagnostics import fail, plural
from dsl.source import NOWHERE, Span


@dataclass(slots=True)
class LoopCuts:
    """Where rules begin and end in a loop, and a place that says so. apart: each iteration stands by itself."""

    span: Span
    edges: set[int] = field(default_factory=set)
    apart: bool = False


@dataclass(frozen=True, slots=True)
class ScopeRange:
    """A path of the model as it is written; in it, iterations low … high-1 of the loop at the path `loop` ("": all)."""

    path: str
    loop: str = ""
    low: int = 0
    high: int = 0
    span: Span = NOWHERE

    def common(self, other: ScopeRange, span: Span) -> ScopeRange:
        """What two ranges of one loop share. Raises E0441 where that is nothing."""
        low, high = max(self.low, other.low), min(self.high, other.high)
        if low >= high:
            message = (
                f"none of the iterations {self.low}..{self.high} of `{self.loop}` is among {other.low}..{other.high}"
            )
            raise fail("E0441", message, span, notes=[("the tactic is narrowed to those here", other.span)])
        return ScopeRange(self.path, self.loop, low, high, span)

    def paths(self, pieces: Sequence[LoopPiece]) -> tuple[str, ...]:
        """The paths in the pieces of the loop that are meant; the path itself, where its loop is not cut."""
        own = [p for p in pieces if within(self.path, p.of_path)]
        if self.loop:
            own = [p for p in own if self.low <= p.first and p.first + p.count <= self.high]
        return tuple(p.path + self.path[len(p.of_path) :] for p in own) or (self.path,)


def bounds_of(path: ast.Path, text: str, scope: Scope, index: ModelIndex) -> ScopeRange | None:
    """The iterations that a path speaks of; None if it names no numbers. text: the path, with what is around it.

    Raises ParcError: E0440 for numbers behind what is no loop that can be cut, E0441 for iterations that there are not.
    """
    numbered = [(i, b) for i, b in enumerate(path.bounds) if b is not None]
    if not numbered:
        return None
    at, bound = numbered[0]
    names = text.split(".")
    loop = ".".join(names[: len(names) - (len(path.parts) - 1 - at)])
    if len(numbered) > 1:
        raise fail("E0440", "one loop of a path has numbers", numbered[1][1].span, help="those of the outer one")
    count = _count(loop, path.parts[at], index)
    if isinstance(bound, ast.Range):
        low, high = (static.integer(evaluate(e, scope), "an iteration", e.span) for e in (bound.low, bound.high))
    else:
        low = static.integer(evaluate(bound, scope), "an iteration", bound.span)
        high = low + 1
    if not 0 <= low < high <= count:
        told = f"{low}..{high}" if isinstance(bound, ast.Range) else str(low)
        message = f"`{loop}` has {plural(count, 'iteration')}, not {told}"
        help = f"they are counted from 0, and the last of a range is not in it: `{loop}[0..{count}]` has all"
        raise fail("E0441", message, bound.span, help=help)
    return ScopeRange(text, loop, low, high, path.span)


def _count(loop: str, name: ast.Name, index: ModelIndex) -> int:
    """How many iterations the loop at this path has."""
    whole = next((p for p in index.model.pieces if p.of_path == loop), None)
    if whole is not None:
        return whole.total
    top = {n.op.body.name: n.op for n in index.model.graph.nodes if isinstance(n.op, Repeat)}
    if loop in top and not top[loop].scan:
        return top[loop].count
    known = [f"`{path}[…]`" for path, op in top.items() if not op.scan]
    help = f"numbers stand behind {' or '.join(known)}" if known else "the model has no `repeat` at its top"
    label = index.paths_of_loops.get(loop)
    if label in index.scans:
        message = f"`{loop}` is a `scan`: all positions have the same layout"
    elif label is not None:
        message = f"`{loop}` stands in another loop, whose iterations are all alike"
    else:
        message = f"`{loop}` is no loop, whose iterations have numbers"
    raise fail("E0440", message, name.span, help=help)


def edges_of(cuts: Mapping[str, LoopCuts], index: ModelIndex) -> dict[str, tuple[tuple[int, ...], bool]]:
    """By loop: where its pieces begin, and where the last ends; whether each iteration is to stand by itself."""
    counts = {n.op.body.name: n.op.count for n in index.model.graph.nodes if isinstance(n.op, Repeat)}
    return {loop: (tuple(sorted({0, counts[loop], *cut.edges})), cut.apart) for loop, cut in cuts.items()}
