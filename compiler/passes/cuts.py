"""Loops that are cut into stages: which, and how many iterations each stage has."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from compiler.graph import Value
from compiler.ops.repeat import Repeat
from compiler.passes.place.place import Placed
from compiler.strategy import PipelineRule
from dsl.data import dataclass
from dsl.diagnostics import Diagnostic, ParcError


@dataclass(frozen=True, slots=True)
class CutLoop:
    """The loop `label` of `total` iterations, cut into `counts` of consecutive ones, one per virtual stage."""

    label: str
    total: int
    counts: tuple[int, ...]

    @property
    def firsts(self) -> tuple[int, ...]:
        return tuple(accumulate(self.counts[:-1], initial=0))


def cut_loops(placed: Placed, rules: Sequence[PipelineRule], stages: int) -> tuple[CutLoop, ...]:
    """All loops that are cut, the one with trained weights first. Several must not need each other's results, and the
    update is cut along one: E0552."""
    trained = {label for w in placed.training.model.trained for label in w.loops}
    order = sorted(rules, key=lambda r: r.label not in trained)
    if len(order) > 1 and order[1].label in trained:
        message = f"`{order[0].label}` and `{order[1].label}` are both cut and both trained"
        help = "cut one of them, or freeze the other (`frozen …`)"
        raise ParcError(Diagnostic("E0552", message, order[1].span, help=help))
    labels = {r.label: r for r in rules}
    after: dict[Value, str] = {}  # what is made of a loop that is cut -> the loop
    for node in placed.forward.nodes if len(rules) > 1 else ():
        behind = next((after[v] for v in node.inputs if v in after), None)
        label = node.op.label if isinstance(node.op, Repeat) and node.op.label in labels else None
        if label is not None and behind is not None:
            message = f"`{label}` needs what `{behind}` makes, which is there behind the last stage only"
            help = "cut one of them: loops that are cut together begin in the first stage and end in the last"
            raise ParcError(Diagnostic("E0552", message, labels[label].span, help=help))
        if label or behind:
            after.update(dict.fromkeys(node.outputs, label or behind or ""))
    return tuple(_cut(placed, rule, stages) for rule in order)


def _cut(placed: Placed, rule: PipelineRule, stages: int) -> CutLoop:
    label = rule.label
    loop = next((n.op for n in placed.forward.nodes if isinstance(n.op, Repeat) and n.op.label == label), None)
    if loop is None:
        raise ParcError(Diagnostic("E0553", f"there is no loop {rule.label} at the top of the model to cut", rule.span))
    total = loop.count
    assert total >= stages, (total, stages)  # the evaluator has seen to it
    if rule.cuts is not None:
        edges = (0, *rule.cuts, total)
        counts = tuple(b - a for a, b in pairwise(edges))
        assert len(counts) == stages and min(counts) >= 1, counts  # the evaluator has seen to it
        return CutLoop(label, total, counts)
    base, extra = divmod(total, stages)
    inner = list(range(1, stages - 1)) + [0, stages - 1]  # the ends have the embedding and the head to do as well
    more = set(inner[:extra])
    return CutLoop(label, total, tuple(base + (s in more) for s in range(stages)))
