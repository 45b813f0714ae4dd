"""The update of AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019), read off a chain."""

from __future__ import annotations

from compiler.graph import Graph, Value
from compiler.regions.reading import Reading, close, pairs
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class AdamW:
    """With g' = factor g: m' = beta1 m + (1 - beta1) g', v' = beta2 v + (1 - beta2) g'²,
    w' = w - rate (m' / first / (sqrt(v' / second) + eps) + decay w).

    The fields of operands are their numbers, None where there is none; rate: a number of an operand, or a float.
    results: the numbers of w', m' and v'.
    """

    w: int
    g: int
    m: int
    v: int
    factor: int | None
    first: int | None
    second: int | None
    rate: int | float
    beta1: float
    beta2: float
    eps: float
    decay: float
    results: tuple[int, int, int]


def adamw(body: Graph) -> AdamW | None:
    """What a chain is, if it is that."""
    if len(body.outputs) != 3:
        return None
    of, at = Reading.of(body.nodes), {v: i for i, v in enumerate(body.inputs)}
    for w_new in body.outputs:
        found = _Update(of, at).of(w_new)
        if found is not None and {found.w_new, found.m_new, found.v_new} == set(body.outputs):
            results = [body.outputs.index(v) for v in (found.w_new, found.m_new, found.v_new)]
            return found.told(results[0], results[1], results[2])
    return None


class _Update:
    """Reads the update of a weight from its end."""

    w_new: Value
    m_new: Value
    v_new: Value

    def __init__(self, of: Reading, at: dict[Value, int]) -> None:
        self.reading, self.at = of, at
        self.numbers: dict[str, int | None] = {}
        self.literals: dict[str, float] = {}

    def of(self, end: Value) -> _Update | None:
        """This, once all is read; None if it is another update."""
        self.w_new = end
        operands = self.reading.map(end, "sub", None, None)
        if operands is None or not self._operand("w", operands[0]):
            return None
        w, step = operands
        scaled = self.reading.map(step, "mul")
        if scaled is not None and len(scaled) == 1:
            self.numbers["rate"], self.literals["rate"] = None, self.reading.literal(step)
            return self if self._direction(scaled[0], w) else None
        for rate, whole in pairs(self.reading, step, "mul"):
            if not rate.type.dims and self._operand("rate", rate) and self._direction(whole, w):
                return self
        return None

    def _operand(self, name: str, v: Value) -> bool:
        self.numbers[name] = self.at.get(v)
        return v in self.at

    def _direction(self, whole: Value, w: Value) -> bool:
        self.literals["decay"] = 0.0
        for ratio, decay in pairs(self.reading, whole, "add"):
            scaled = self.reading.map(decay, "mul")
            if scaled == (w,):
                self.literals["decay"] = self.reading.literal(decay)
                return self._ratio(ratio)
        return self._ratio(whole)

    def _ratio(self, ratio: Value) -> bool:
        parts = self.reading.map(ratio, "div", None, None)
        if parts is None or not self._root(parts[1]):
            return False
        self.m_new = self._corrected("first", parts[0])
        return self._means()

    def _root(self, v: Value) -> bool:
        raised = self.reading.map(v, "add")
        root = self.reading.map(raised[0], "sqrt") if raised is not None and len(raised) == 1 else None
        if root is None:
            return False
        self.literals["eps"] = self.reading.literal(v)
        self.v_new = self._corrected("second", root[0])
        return True

    def _corrected(self, name: str, v: Value) -> Value:
        """What is divided by a scalar operand, if it is."""
        divided = self.reading.map(v, "div", None, None)
        self.numbers[name] = None
        if divided is not None and not divided[1].type.dims and self._operand(name, divided[1]):
            return divided[0]
        return v

    def _means(self) -> bool:
        """m' = beta1 m + (1 - beta1) g', and v' = v + (1 - beta2) (g'² - v)."""
        for a, b in pairs(self.reading, self.m_new, "add"):
            m, g = self.reading.map(a, "mul"), self.reading.map(b, "mul")
            if m is None or g is None or len(m) != 1 or len(g) != 1 or not self._operand("m", m[0]):
                continue
            self.literals["beta1"] = self.reading.literal(a)
            if close(self.reading.literal(a) + self.reading.literal(b), 1.0) and self._second(g[0]):
                return self._gradient(g[0])
        return False

    def _second(self, g: Value) -> bool:
        for v, more in pairs(self.reading, self.v_new, "add"):
            less = self.reading.map(more, "mul")
            parts = self.reading.map(less[0], "sub", None, None) if less is not None and len(less) == 1 else None
            if parts is None or parts[1] is not v or not self._operand("v", v):
                continue
            square = self.reading.map(parts[0], "pow", None, 2.0) or self.reading.map(parts[0], "mul", None, None)
            self.literals["beta2"] = 1.0 - self.reading.literal(more)
            return square in ((g,), (g, g))
        return False

    def _gradient(self, g: Value) -> bool:
        self.numbers["factor"] = None
        for x, factor in pairs(self.reading, g, "mul"):
            if not factor.type.dims and self._operand("factor", factor):
                return self._operand("g", x)
        return self._operand("g", g)

    def told(self, w: int, m: int, v: int) -> AdamW:
        """What was read."""
        n, x = self.numbers, self.literals
        of_w, of_g, of_m, of_v = n["w"], n["g"], n["m"], n["v"]
        rate = x["rate"] if n["rate"] is None else n["rate"]
        assert of_w is not None and of_g is not None and of_m is not None and of_v is not None
        given = of_w, of_g, of_m, of_v, n["factor"], n["first"], n["second"], rate
        return AdamW(*given, x["beta1"], x["beta2"], x["eps"], x["decay"], (w, m, v))
