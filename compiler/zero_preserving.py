"""Which optimizers leave the rows of a table alone whose gradient is zero: derived from their text, by dataflow.

With a gradient of zeros each value is followed as an elementwise function of what comes in: a constant, or what came in
itself. `w - lr * g / (sqrt(s) + eps)` is `w`, for `0 / x` is 0 where x is above 0; that follows from the signs of
values for any gradient, states among them: those that begin at 0 or above and never fall below. `0 * x` is 0 where x is
a number: no quotient by what may be 0, no root of what may be below. Weights, states and what depends on the step alone
(the learning rate) are taken to be numbers.

And which treat every row by itself: no value of a row depends on another row.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence

from compiler.graph import Graph, Node, Value
from compiler.model import State, WeightUpdate
from compiler.ops.contract import Contract
from compiler.ops.create import Full
from compiler.ops.elementwise import Broadcast, Cast, Map, StopGradient, Transpose
from compiler.ops.functions import FUNCTIONS, Literal
from compiler.ops.reduce import Reduce
from dsl.data import dataclass

ROWWISE = (Map, Cast, Full, Broadcast, Transpose, StopGradient, Reduce, Contract)
"""Ops that a row's update may be made of."""

UNKNOWN, NOT_NEGATIVE, POSITIVE = 0, 1, 2


def why_not(update: WeightUpdate, dim: str) -> str | None:
    """Why rows along `dim` without a gradient have to be updated, too; None if they need not be."""
    if update.beside:
        return "its loop is cut, and its optimizer looks at all iterations"
    graph = update.graph
    weight, *states = graph.outputs
    own = graph.inputs[3 : 3 + len(states)]
    before = [graph.inputs[1], *own]
    names = ["the weight", *(f"the state `{v.name.rpartition('.')[2]}`" for v in own)]
    if not all(v.type.has(dim) for v in before):
        return f"its optimizer keeps a state that has no `{dim}`"
    mixing = next((n for n in graph.nodes if not _by_row(n, dim)), None)
    if mixing is not None:
        return f"its optimizer makes {mixing.outputs[0].name.rpartition('.')[2]} of several rows, or not row by row"
    signs = _signs(graph, update.states)
    facts = _Facts(graph, signs, before, update.touched)
    for old, new, name in zip(before, (weight, *states), names, strict=True):
        if facts.of[new].same is not old:
            return f"its optimizer changes {name} where the gradient is zero"
    return None


def _by_row(node: Node, dim: str) -> bool:
    if not isinstance(node.op, ROWWISE):
        return False
    loops = node.op.loops([v.type for v in node.inputs], [v.type for v in node.outputs])
    return all(loop.kind == "pass" and not loop.placed for loop in loops if dim in loop.names)


# --- signs, whatever the gradient is -------------------------------------------------------------------------------


def _signs(graph: Graph, states: Sequence[State]) -> Mapping[Value, int]:
    """What is never negative: states among it that begin so and stay so if they, and others of that kind, are so."""
    own = graph.inputs[3 : 3 + len(states)]
    held = {v for v, s in zip(own, states, strict=True) if _begins_right(s)}
    while True:
        found = _signs_if(graph, held)
        left = {v for v, new in zip(own, graph.outputs[1:], strict=True) if v in held and not found[new]}
        if not left:
            return found
        held -= left


def _begins_right(state: State) -> bool:
    init = state.init
    return init.kind in ("zeros", "ones") or (init.kind in ("constant", "uniform") and min(init.args, default=-1) >= 0)


def _signs_if(graph: Graph, held: Collection[Value]) -> dict[Value, int]:
    found = {v: NOT_NEGATIVE if v in held else UNKNOWN for v in graph.inputs}
    found[graph.inputs[0]] = POSITIVE  # the number of the step
    for node in graph.nodes:
        sign = _sign(node, [found[v] for v in node.inputs])
        found.update((v, sign) for v in node.outputs)
    return found


def _of_number(x: float) -> int:
    return POSITIVE if x > 0 else NOT_NEGATIVE if x == 0 else UNKNOWN


def _sign(node: Node, given: Sequence[int]) -> int:
    op = node.op
    if isinstance(op, Full):
        return _of_number(op.value)
    if isinstance(op, Map):
        rest = iter(given)
        signs = [next(rest) if s is None else _of_number(s) for s in op.slots]
        return _sign_of_map(op, signs, node.inputs)
    if isinstance(op, Contract):
        return NOT_NEGATIVE if node.inputs[0] is node.inputs[1] else min(NOT_NEGATIVE, *given)
    return given[0] if len(given) == 1 else UNKNOWN


def _sign_of_map(op: Map, signs: Sequence[int], operands: Sequence[Value]) -> int:
    both = min(signs) if signs else UNKNOWN
    match op.fn:
        case "add":
            return max(signs) if both else UNKNOWN
        case "mul" if len(operands) == 2 and operands[0] is operands[1]:
            return NOT_NEGATIVE
        case "mul" | "div" | "minimum":
            return both
        case "maximum":
            return max(signs)
        case "where":
            return min(signs[1:])
        case "pow" if isinstance(op.slots[1], (int, float)) and op.slots[1] % 2 == 0:
            return NOT_NEGATIVE
        case "exp":
            return POSITIVE
        case "sqrt":  # else it may be no number
            return signs[0]
        case "abs" | "relu":
            return NOT_NEGATIVE
    return UNKNOWN


# --- what is a number, whatever the gradient is --------------------------------------------------------------------

_ALWAYS = (
    "add",
    "sub",
    "mul",
    "neg",
    "abs",
    "sign",
    "floor",
    "round",
    "relu",
    "maximum",
    "minimum",
    "where",
    "tanh",
    "sigmoid",
) + ("erf", "erfc", "sin", "cos", "exp", "not", "and", "or", "lt", "le", "gt", "ge", "eq", "ne")
"""Functions whose result is a number for all numbers (too large ones aside)."""


def _numbers(graph: Graph, signs: Mapping[Value, int]) -> set[Value]:
    """The values whose elements are numbers, neither infinite nor nan."""
    found = set(graph.inputs)
    of_step = {graph.inputs[0]}
    for node in graph.nodes:
        if all(v in of_step for v in node.inputs):
            of_step.update(node.outputs)
            found.update(node.outputs)
        elif all(v in found for v in node.inputs) and _is_number(node, signs):
            found.update(node.outputs)
    return found


def _is_number(node: Node, signs: Mapping[Value, int]) -> bool:
    op = node.op
    if not isinstance(op, Map):
        return True
    rest = iter(node.inputs)
    given = [signs[next(rest)] if s is None else _of_number(s) for s in op.slots]
    match op.fn:
        case "div":
            return given[1] == POSITIVE or (op.slots[1] is not None and op.slots[1] != 0)
        case "sqrt":
            return given[0] >= NOT_NEGATIVE
        case "rsqrt" | "log":
            return given[0] == POSITIVE
        case "log1p":
            return given[0] >= NOT_NEGATIVE
        case "pow":
            power = op.slots[1]
            return given[0] == POSITIVE or (power is not None and power > 0 and power == int(power))
    return op.fn in _ALWAYS


# --- values, where the gradient is zero ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Fact:
    """number: the value of all elements; same: it is this value itself."""

    number: float | None = None
    same: Value | None = None


_NOTHING = _Fact()

_COMPARED = {fn: getattr(operator, fn) for fn in ("eq", "ne", "lt", "le", "gt", "ge")}


class _Facts:
    """What is known of each value where the gradient is zero."""

    def __init__(
        self, graph: Graph, signs: Mapping[Value, int], before: Collection[Value], touched: Value | None
    ) -> None:
        self.signs, self.numbers = signs, _numbers(graph, signs)
        self.of: dict[Value, _Fact] = {v: _Fact(same=v) if v in before else _NOTHING for v in graph.inputs}
        self.of[graph.inputs[2]] = _Fact(number=0.0)
        if touched is not None:
            self.of[touched] = _Fact(number=0.0)  # nothing has taken the row
        for node in graph.nodes:
            self.of.update((v, self._fact(node)) for v in node.outputs)

    def _fact(self, node: Node) -> _Fact:
        op, given = node.op, [self.of[v] for v in node.inputs]
        if isinstance(op, Full):
            return _Fact(number=op.value)
        if isinstance(op, Map):
            return self._of_map(op, node.inputs)
        if isinstance(op, (Reduce, Contract)):
            fine = all(v in self.numbers for v in node.inputs)
            return _Fact(number=0.0) if fine and any(f.number == 0 for f in given) else _NOTHING
        if isinstance(op, Cast) and node.inputs[0].type.dtype != op.dtype:
            return _Fact(number=given[0].number)
        if isinstance(op, Broadcast) and node.inputs[0].type.dims != op.dims:
            return _Fact(number=given[0].number)
        return given[0] if len(given) == 1 else _NOTHING

    def _of_map(self, op: Map, operands: Sequence[Value]) -> _Fact:
        rest = iter(operands)
        slots: list[Value | Literal] = [next(rest) if s is None else s for s in op.slots]
        facts = [self.of[s] if isinstance(s, Value) else _Fact(number=s) for s in slots]
        numbers = [f.number for f in facts]
        a, b = (*facts, _NOTHING)[:2]
        match op.fn:
            case "add" if a.number == 0:
                return b
            case "add" | "sub" if b.number == 0:
                return a
            case "mul" if 0 in numbers and all(v in self.numbers for v in operands):
                return _Fact(number=0.0)
            case "mul" | "div" if b.number == 1:
                return a
            case "mul" if a.number == 1:
                return b
            case "div" if a.number == 0 and b.number is not None and b.number != 0:
                return _Fact(number=0.0)
            case "div" if a.number == 0 and isinstance(slots[1], Value) and self.signs[slots[1]] == POSITIVE:
                return _Fact(number=0.0)
            case "pow" if a.number == 0 and b.number is not None and b.number > 0:
                return _Fact(number=0.0)
            case "maximum":
                for x, other, at in ((a, b, slots[1]), (b, a, slots[0])):
                    if x.number is not None and x.number <= 0 and isinstance(at, Value) and self.signs[at]:
                        return other
            case "where":
                condition, yes, no = facts
                if condition.number is not None:
                    return yes if condition.number else no
                return yes if yes == no else _NOTHING
        function: Callable[..., float] | None = _COMPARED.get(op.fn) or FUNCTIONS[op.fn].value
        if function is not None and all(n is not None for n in numbers):
            try:
                return _Fact(number=float(function(*numbers)))
            except (ArithmeticError, ValueError):
                return _NOTHING
        return _NOTHING
