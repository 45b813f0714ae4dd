"""What lasts from step to step beside weights, and how a weight is renewed: alone, or with the other parts of one that
a strategy has cut."""

from __future__ import annotations

from compiler.graph import Graph, Value
from compiler.origin import Role
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Init:
    """How a state begins: kind `zeros | ones | constant | normal | uniform | bits` (random, of those of the number)."""

    kind: str
    args: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(map(repr, self.args))})" if self.args else self.kind


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """A tensor that lives across steps besides the weights: role `optimizer` (of weight `of`), `counter` or `state`.
    loops: its leading dims that come from `repeat`s, of a model's state. within: its integers stay in [low, high).
    pool: the dim of the lines in which pages lie, of one that has these."""

    value: Value
    init: Init
    role: Role
    of: str | None = None
    loops: tuple[str, ...] = ()
    within: tuple[int, int] | None = None
    pool: str | None = None

    @property
    def name(self) -> str:
        return self.value.name


@dataclass(frozen=True, slots=True, eq=False)
class WeightUpdate:
    """One weight's optimizer. Weights of one kind have the same graph, with states of their own in the place of its.

    graph.inputs = step (an f64 scalar, from 1), weight, gradient, states… (and, where it asks for them, which rows the
    step has taken: `touched`); outputs = new weight, new states.
    beside: where the optimizer looks at all iterations of a loop that is cut: the loop's parts of the weight in their
    order, this among them. All have the one graph, which takes weight, gradient and states of each, and gives the new
    ones of each.
    """

    weight: str
    states: tuple[State, ...]
    graph: Graph
    beside: tuple[str, ...] = ()

    @property
    def weights(self) -> tuple[str, ...]:
        """All that the graph renews."""
        return self.beside or (self.weight,)

    @property
    def gradients(self) -> tuple[Value, ...]:
        """What stands for the gradients of these, in their order."""
        each = 2 + len(self.states)
        return tuple(self.graph.inputs[2 + i * each] for i in range(len(self.weights)))

    @property
    def renewed(self) -> tuple[Value, ...]:
        """What stands for that of which the outputs are the new ones."""
        each, inputs = 2 + len(self.states), self.graph.inputs
        firsts = range(1, 1 + each * len(self.weights), each)
        return tuple(v for i in firsts for v in (inputs[i], *inputs[i + 2 : i + each]))

    @property
    def touched(self) -> Value | None:
        """What stands for the rows that the step has taken."""
        return next(iter(self.graph.inputs[1 + len(self.weights) * (2 + len(self.states)) :]), None)
