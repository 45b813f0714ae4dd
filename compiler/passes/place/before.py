"""What was chosen in placings before: of other strategies of one job, which ask for many of the same choices.

All that `choose` looks at, apart from sizes of axes, makes a key; what it asks of sizes is kept with what it chose.
Where another strategy's answers are the same, so is the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from compiler.graph import Node
from compiler.ops.base import Loop
from compiler.passes.place.questions import Held, Question

if TYPE_CHECKING:
    from compiler.passes.place.region import GraphPlacer, LoopAxes
    from compiler.passes.place.rules import Wish

    Wishes = dict[str, dict[str, Wish]]

Key = tuple[object, ...]

KEPT = 20_000
"""Nodes, texts and choices that are remembered; then it begins anew."""


class ChosenBefore:
    """Choices by what was looked at, each with the questions that it hangs on. Whoever has this is told of no reasons.

    nodes: kept, for they are found by their identity; texts: of what is long, numbers.
    """

    def __init__(self) -> None:
        self.questions: dict[tuple[Callable[..., Any], tuple[Hashable, ...]], Question] = {}
        self.nodes: dict[int, tuple[Node, int, tuple[Loop, ...]]] = {}
        self.texts: dict[Hashable, int] = {}
        self.loops: dict[int, tuple[Loop, ...]] = {}
        self.plans: dict[Key, list[tuple[dict[Question, Any], LoopAxes]]] = {}

    def begin(self) -> None:
        """Make room, before a placing."""
        if max(len(self.questions), len(self.nodes), len(self.texts), len(self.plans)) > KEPT:
            self.__init__()  # type: ignore[misc]

    def number(self, text: Hashable) -> int:
        """The same for the same text."""
        return self.texts.setdefault(text, len(self.texts))

    def question(self, of: Callable[..., Any], about: tuple[Hashable, ...]) -> Question:
        """The same for the same question."""
        found = self.questions.get((of, about))
        if found is None:
            found = self.questions[of, about] = Question(of, about)
        return found

    def node(self, node: Node) -> tuple[int, tuple[Loop, ...]]:
        """What a node does to tensors of which types, as a number; and its loops."""
        known = self.nodes.get(id(node))
        if known is None:
            inputs, outputs = tuple([v.type for v in node.inputs]), tuple([v.type for v in node.outputs])
            kind = self.number((node.op, inputs, outputs))
            if kind not in self.loops:
                self.loops[kind] = node.op.loops(inputs, outputs)
            known = self.nodes[id(node)] = node, kind, self.loops[kind]
        return known[1:]

    def key(self, region: GraphPlacer, node: Node, kind: int, held: list[list[Held]], wishes: Wishes) -> Key:
        """All that a choice hangs on but the sizes of axes. Bytes follow from layouts, where they count."""
        shared, out = region.shared, node.outputs[0].name
        there = tuple([tuple(of) for of in held])
        fixed: tuple[object, ...] = ()
        mark = shared.gradients.get(out)
        weights = tuple([region.weights.get(v.name) for v in node.inputs]) if region.weights else ()
        if mark is not None or any(weights):
            fixed = weights, mark and tuple(mark.dims.items())
        sums: tuple[object, ...] = ()
        if any([of and all([layout.pending for layout, _ in of]) for of in held]):
            names = [v.name for v in node.inputs]
            data, zeros, whole = shared.of_data, region.zeros, region.sums
            sums = tuple([(n in data, n in zeros, n in whole) for n in names])
        said = region.rules.said(wishes, self)
        return kind, region.kind, there, said, out in shared.head, fixed, sums

    def found(self, region: GraphPlacer, key: Key) -> LoopAxes | None:
        """What was chosen, if the sizes of axes answer what was asked."""
        rules = region.rules
        assert rules.questions is not None
        for asked, plan in self.plans.get(key, ()):
            if all([rules.answer(question) == known for question, known in asked.items()]):
                rules.questions.update(asked)
                return plan
        return None
