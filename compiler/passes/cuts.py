"""What is cut into stages: loops, and which iterations each stage has; scopes in a row, each on one stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise

from compiler.graph import Graph
from compiler.ops.repeat import Repeat
from compiler.passes.place.place import Placed
from compiler.passes.places import not_needed
from compiler.strategy import PipelineRule, PlaceRule
from compiler.walk import bodies
from dsl.data import dataclass
from dsl.diagnostics import Diagnostic, ParcError


@dataclass(frozen=True, slots=True)
class CutLoop:
    """The loop `label` of `total` iterations, cut into `counts` of consecutive ones, one per virtual stage.

    What it carries enters at the stage `begin` and leaves at `end`. These may be stages without iterations: the first
    and the last of all, which have what stands before and behind the loop.
    """

    label: str
    total: int
    counts: tuple[int, ...]
    begin: int
    end: int

    @property
    def firsts(self) -> tuple[int, ...]:
        return tuple(accumulate(self.counts[:-1], initial=0))

    @property
    def stages(self) -> frozenset[int]:
        """The stages that have iterations of it."""
        return frozenset(s for s, count in enumerate(self.counts) if count)

    def moved(self, stages: int, to: Sequence[int]) -> CutLoop:
        """The same among more stages. to: which of them its own are."""
        counts = dict(zip(to, self.counts, strict=True))
        counted = tuple(counts.get(s, 0) for s in range(stages))
        return CutLoop(self.label, self.total, counted, to[self.begin], to[self.end])

    def way(self, forward: bool) -> range:
        """The stages through which goes what it carries, in that order."""
        return range(self.begin, self.end + 1) if forward else range(self.end, self.begin - 1, -1)


def cut_parts(
    placed: Placed, rules: Sequence[PipelineRule], stages: int
) -> tuple[tuple[CutLoop, ...], tuple[PlaceRule, ...]]:
    """The loops that are cut, those with trained weights first; and where the scopes in their rows are.

    What an evaluation leaves out of a row has its stages all the same: the others lie where they do in training.
    """
    cuts: list[CutLoop] = []
    scopes: list[PlaceRule] = []
    there = [n.op for g in placed.ahead for n in g.nodes if isinstance(n.op, Repeat)]
    loops, top = {op.label: op.count for op in there}, {op.label: set(_labels(op.body)) for op in there}
    model = {n.op.label: n.op.count for n in placed.training.job.model.graph.nodes if isinstance(n.op, Repeat)}
    for rule in rules:
        wrong = next((part for part in rule.parts if any(part in body for body in top.values())), None)
        if wrong is not None:
            message = f"there is no loop {wrong} at the top of the model to cut"
            around = next(label for label, body in top.items() if wrong in body)
            help = f"cut the loop around it: `pipeline {around} on {rule.axis}`"
            raise ParcError(Diagnostic("E0553", message, rule.span, help=help))
        gone = next((part for part in rule.parts if part in model and part not in loops), None)
        if gone is not None and placed.training.trains:
            raise ParcError(not_needed(f"the loop `{gone}`", rule.span))
        for part, counts in divided(rule, model | loops, stages).items():
            mine = [s for s, n in enumerate(counts) if n]
            if part in model and part not in loops:
                continue
            if part in loops:
                begin = 0 if part == rule.parts[0] else mine[0]
                end = stages - 1 if part == rule.parts[-1] else mine[-1]
                cuts.append(CutLoop(part, loops[part], counts, begin, end))
            else:
                scopes.append(PlaceRule(part, rule.axis, mine[0], rule.span))
    return tuple(trained_first(placed, cuts)), tuple(scopes)


def trained_first(placed: Placed, cuts: Sequence[CutLoop]) -> list[CutLoop]:
    """Loops with trained weights, then the others."""
    trained = {label for w in placed.training.model.trained for label in w.loops}
    return sorted(cuts, key=lambda c: c.label not in trained)


def divided(rule: PipelineRule, loops: Mapping[str, int], stages: int) -> dict[str, tuple[int, ...]]:
    """Of each part of a row, how many iterations each stage has; a scope is one. loops: label -> count."""
    edges = _edges(rule, rule.length(loops), stages)
    found: dict[str, tuple[int, ...]] = {}
    at = 0
    for part in rule.parts:
        end = at + loops.get(part, 1)
        found[part] = tuple(max(0, min(b, end) - max(a, at)) for a, b in pairwise(edges))
        at = end
    return found


def _labels(body: Graph) -> Iterator[str]:
    """Of the loops in a loop."""
    return (n.op.label for g in bodies(body) for n in g.nodes if isinstance(n.op, Repeat))


def _edges(rule: PipelineRule, total: int, stages: int) -> tuple[int, ...]:
    """Where each stage begins in the row of what is cut, and the end of the last."""
    if rule.cuts is not None:
        assert len(rule.cuts) == stages - 1, rule  # the evaluator has seen to it
        return (0, *rule.cuts, total)
    assert total >= stages, (total, stages)  # likewise
    base, extra = divmod(total, stages)
    inner = list(range(1, stages - 1)) + [0, stages - 1]  # the ends have the embedding and the head to do as well
    more = set(inner[:extra])
    return tuple(accumulate((base + (s in more) for s in range(stages)), initial=0))
