"""A fused chain (`runtime.numpy.fused.Fused`) as a C function.

The axes of its space are walked in two parts: outer ones, which nothing that the chain itself reads is reduced over, by
plain loops around everything; inner ones by nests, one behind the other, each with the instructions of one domain. What
a nest makes for a later one is kept in a result's memory or in scratch memory, a few rows that stay in the cache.

Arrays are in one piece, their axes in the order in which the space is walked, without those of size 1. Sums along the
last axis have partial sums, `LANES` of them: as fast as vectors are, and the same bits whatever vectors there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

from compiler.graph import Node
from compiler.ops.contract import Contract
from compiler.ops.elementwise import Cast, Map
from compiler.ops.reduce import Reduce
from dsl.data import dataclass
from runtime.native.expressions import C_TYPES, Unsupported, cast, mapped
from runtime.numpy.fused import Fused, is_view, reduced_axes
from runtime.numpy.summed import inner

LANES = 16
"""As many numbers as the widest vectors have; four times as many where there are bytes, of which they have more."""

MOST_INNER = 1 << 16
"""Elements of the inner axes at most: what is kept between nests is to stay in the cache."""

BYTES = {"f64": 8, "f32": 4, "i32": 4, "u32": 4, "b8": 1}
_LOWEST = {"f64": "-INFINITY", "f32": "-INFINITY", "i32": "INT32_MIN", "u32": "0"}


@dataclass(frozen=True, slots=True)
class Emitted:
    """`text`: the function, called `NAME`, of pointers to operands, results, and scratch memory of so many bytes."""

    text: str
    scratch: int


def emitted(op: Fused, alike: Mapping[str, frozenset[int]] | None = None) -> Emitted:
    """The chain as C; raises Unsupported. alike: axes of the space along which operands repeat what they have once."""
    return _Emitter(op, alike or {}).function()


@dataclass(eq=False)
class _Step:
    """An instruction: the axes that it walks, those that it reduces over, and whether it adds up over outer ones."""

    node: Node
    name: str
    operands: tuple[str, ...]
    domain: tuple[int, ...]
    reduced: frozenset[int]
    added: bool
    stage: int = 0


class _Emitter:
    def __init__(self, op: Fused, alike: Mapping[str, frozenset[int]]) -> None:
        self.op, self.alike = op, alike
        self.alias: dict[str, str] = {}
        for n in op.instrs:
            if is_view(n, op.locals):
                self.alias[n.outputs[0].name] = self.root(n.inputs[0].name)
        self.sizes, self.masks, self.steps = self._axes()
        self.outer = self._outer()
        self.number = {name: i for i, name in enumerate(dict.fromkeys(self.masks))}
        self.made = {s.name: s for s in self.steps}
        self.lines: list[str] = []
        self.scratch: dict[str, int] = {}
        self.bytes = 0
        self._stages()

    def root(self, name: str) -> str:
        return self.alias.get(name, name)

    # --- what is walked

    def _axes(self) -> tuple[list[int], dict[str, frozenset[int]], list[_Step]]:
        """Sizes of the axes, the axes of each value, and the steps: axes that are walked alike are one."""
        space, locals = self.op.space, self.op.locals
        masks = {}
        for name, value in locals.items():
            found = space.mask(value)
            assert found is not None
            masks[name] = frozenset(i for i, has in enumerate(found) if has) - self.alike.get(name, frozenset())
        steps = []
        for node in self.op.instrs:
            if is_view(node, locals):
                continue
            name, operands = node.outputs[0].name, tuple(v.name for v in node.inputs)
            reduced = frozenset(reduced_axes(node, locals, space))
            domain = reduced.union(masks[name], *(masks[o] for o in operands))
            added = bool(reduced & space.outer)
            steps.append(_Step(node, name, tuple(map(self.root, operands)), tuple(domain), reduced, added))
        walked = [i for i, n in enumerate(space.shape) if n > 1]
        seen = [*masks.values(), *(s.reduced for s in steps), *(frozenset(s.domain) for s in steps)]
        groups: list[list[int]] = []
        for i in walked:
            if groups and all((i in m) == (groups[-1][-1] in m) for m in seen):
                groups[-1].append(i)
            else:
                groups.append([i])
        number = {i: k for k, group in enumerate(groups) for i in group}
        for s in steps:
            s.domain = tuple(sorted({number[i] for i in s.domain if i in number}))
            s.reduced = frozenset(number[i] for i in s.reduced if i in number)
        sizes = [prod(space.shape[i] for i in group) for group in groups]
        return sizes, {n: frozenset(number[i] for i in m) for n, m in masks.items()}, steps

    def _outer(self) -> int:
        """How many axes are walked around everything."""
        last = len(self.sizes) - 1
        own = [min(s.reduced) for s in self.steps if s.reduced and not s.added]
        outer = max(0, min([last, *own]))
        while outer and any(not set(range(outer)) <= set(s.domain) for s in self.steps):
            outer -= 1
        if prod(self.sizes[outer:]) > MOST_INNER and any(s.reduced and not s.added for s in self.steps):
            raise Unsupported("too much to keep")
        return outer

    def _stages(self) -> None:
        for s in self.steps:
            for o in s.operands:
                made = self.made.get(o)
                if made is not None:
                    same = not made.reduced and self._inner(made) == self._inner(s)
                    s.stage = max(s.stage, made.stage + (not same))

    def _inner(self, s: _Step) -> tuple[int, ...]:
        return tuple(a for a in s.domain if a >= self.outer)

    # --- names

    def type(self, name: str) -> str:
        dtype = self.op.locals[name].type.dtype
        if dtype not in C_TYPES:
            raise Unsupported(dtype)
        return C_TYPES[dtype]

    def index(self, mask: frozenset[int]) -> str:
        """Of a value with these axes, at the place where the loops are."""
        terms, stride = [], 1
        for a in sorted(mask, reverse=True):
            terms.append(f"i{a} * {stride}L" if stride != 1 else f"i{a}")
            stride *= self.sizes[a]
        return " + ".join(reversed(terms)) or "0"

    def kept(self, name: str) -> str:
        """The element of a value that is in memory: an operand, a result, or in scratch memory."""
        mask = self.masks[name]
        if name in self.op.inputs:
            return f"x{self.op.inputs.index(name)}[{self.index(mask)}]"
        if name in self.op.outputs:
            return f"o{self.op.outputs.index(name)}[{self.index(mask)}]"
        mask = frozenset(a for a in mask if a >= self.outer)
        if name not in self.scratch:
            self.scratch[name] = self.bytes
            self.bytes += -(-prod(self.sizes[a] for a in mask) * BYTES[self.type(name)] // 64) * 64
        return f"t{self.number[name]}[{self.index(mask)}]"

    def alone(self, name: str) -> bool:
        """Whether the value is one number where the nests stand, in a variable."""
        return name in self.made and not any(a >= self.outer for a in self.masks[name])

    def read(self, name: str, nest: Sequence[_Step]) -> str:
        """The variable with the value: of this nest, of a row, or loaded where the nest begins."""
        made = self.made.get(name)
        if made is not None and ((made in nest and not made.reduced) or self.alone(name)):
            return f"v{self.number[name]}"
        return f"a{self.number[name]}" if self._inner(nest[0]) else self.kept(name)

    def loads(self, nest: Sequence[_Step]) -> Iterator[str]:
        """What the nest reads from memory, whatever is made of it: loads under a condition do not go into vectors."""
        for name in dict.fromkeys(o for s in nest for o in s.operands):
            if self.read(name, nest).startswith("a"):
                yield f"{self.type(name)} a{self.number[name]} = {self.kept(name)};"

    def needed_later(self, s: _Step) -> bool:
        """Whether another nest reads what the step makes."""
        return any(
            s.name in other.operands and (other.stage != s.stage or self._inner(other) != self._inner(s))
            for other in self.steps
        )

    # --- text

    def function(self) -> Emitted:
        body = self.lines
        for a in range(self.outer):
            body.append(f"for (long i{a} = 0; i{a} < {self.sizes[a]}; i{a}++) {{")
        nests: dict[tuple[int, tuple[int, ...]], list[_Step]] = {}
        for s in self.steps:
            nests.setdefault((s.stage, self._inner(s)), []).append(s)
        for (_, axes), steps in sorted(nests.items()):
            self.nest(axes, steps)
        body += ["}"] * self.outer
        # Compilers believe `restrict` of parameters.
        given = [f"const {self.type(n)} *restrict x{i}" for i, n in enumerate(self.op.inputs)]
        given += [f"{self.type(n)} *restrict o{i}" for i, n in enumerate(self.op.outputs)]
        passed = [f"p[{i}]" for i in range(len(given))]
        given += [f"{self.type(name)} *restrict t{self.number[name]}" for name in self.scratch]
        passed += [f"(void *)((char *)p[{len(passed)}] + {at})" for at in self.scratch.values()]
        head = []
        for i, name in enumerate(self.op.outputs):
            if self.made[name].added:
                head.append(f"memset(o{i}, 0, {self.size(name) * BYTES[self.type(name)]}L);")
                if self.op.locals[name].type.dtype == "bf16":
                    body.append(f"for (long i = 0; i < {self.size(name)}; i++) o{i}[i] = bf16_f32(o{i}[i]);")
        inside = [f"static __attribute__((noinline)) void NAME_({', '.join(given)}) {{", *head, *body, "}"]
        outside = ["void NAME(void *const *p) {", f"NAME_({', '.join(passed)});", "}"]
        return Emitted("\n".join([*inside, *outside]), self.bytes)

    def size(self, name: str) -> int:
        return prod(self.sizes[a] for a in self.masks[name])

    def nest(self, axes: Sequence[int], steps: Sequence[_Step]) -> None:
        """Loops over inner axes with these steps inside."""
        if not axes:
            for s in steps:
                self.lines += self.statements(s, steps, "")
            return
        last, put = axes[-1], self.lines.append
        whole, row = list[_Step](), list[_Step]()  # reductions in lanes: over all of the nest, or over the last axis
        for s in steps:
            kept = [a for a in axes if a not in s.reduced]
            if s.reduced and last in s.reduced:
                if s.added or kept:
                    if not s.added and s.reduced != {last}:
                        raise Unsupported("a reduction over axes that are not neighbours")
                    row.append(s)
                else:
                    whole.append(s)
            elif s.reduced and not s.added:
                self.cleared(s, kept)
        lanes = self.lanes_of(steps)
        for s in whole:
            put(self.lanes(s, lanes))
        put("{" if not whole else "")
        for a in axes[:-1]:
            put(f"for (long i{a} = 0; i{a} < {self.sizes[a]}; i{a}++) {{")
        for s in row:
            put(self.lanes(s, lanes))
        body = [*self.loads(steps), *(line for s in steps for line in self.statements(s, steps, "l"))]
        n = self.sizes[last]
        if whole or row:
            if n >= lanes:
                put(f"for (long j = 0; j < {n // lanes * lanes}; j += {lanes}) for (int l = 0; l < {lanes}; l++) {{")
                self.lines += [f"long i{last} = j + l;", *body, "}"]
            if n % lanes:
                put(f"for (int l = 0; l < {n % lanes}; l++) {{")
                self.lines += [f"long i{last} = {n // lanes * lanes} + l;", *body, "}"]
        else:
            put(f"for (long i{last} = 0; i{last} < {n}; i{last}++) {{")
            self.lines += [*body, "}"]
        for s in row:
            self.lines += self.reduced_lanes(s, lanes)
        self.lines += ["}"] * (len(axes) - 1)
        put("}" if not whole else "")
        for s in whole:
            self.lines += self.reduced_lanes(s, lanes)

    def lanes_of(self, nest: Sequence[_Step]) -> int:
        """How many partial sums there are."""
        names = {n for s in nest for n in (s.name, *s.operands)}
        return 4 * LANES if any(self.type(n) == "b8" for n in names) else LANES

    def lanes(self, s: _Step, lanes: int) -> str:
        kind, number = self.type(s.name), self.number[s.name]
        start = _LOWEST[kind] if self.fn(s) == "max" else "0"
        return f"{kind} s{number}[{lanes}]; for (int l = 0; l < {lanes}; l++) s{number}[l] = {start};"

    def reduced_lanes(self, s: _Step, lanes: int) -> Iterator[str]:
        number, half = self.number[s.name], lanes // 2
        joined = self.combined(s, f"s{number}[l]", f"s{number}[l + w]")
        yield f"for (int w = {half}; w; w >>= 1) for (int l = 0; l < w; l++) s{number}[l] = {joined};"
        yield from self.result(s, f"s{number}[0]")

    def result(self, s: _Step, total: str) -> Iterator[str]:
        """Put what a reduction comes to where it is read."""
        if s.added:
            yield f"{self.kept(s.name)} += {total};"
            return
        if self.op.locals[s.name].type.dtype == "bf16":
            total = f"bf16_f32({total})"
        if self.alone(s.name):
            yield f"{self.type(s.name)} v{self.number[s.name]} = {total};"
            if s.name in self.op.outputs:
                yield f"{self.kept(s.name)} = v{self.number[s.name]};"
        else:
            yield f"{self.kept(s.name)} = {total};"

    def cleared(self, s: _Step, kept: Sequence[int]) -> None:
        """Begin a reduction that is kept as an array."""
        if self.op.locals[s.name].type.dtype == "bf16":
            raise Unsupported("16 bits that are added up in place")
        start = _LOWEST[self.type(s.name)] if self.fn(s) == "max" else "0"
        for a in kept:
            self.lines.append(f"for (long i{a} = 0; i{a} < {self.sizes[a]}; i{a}++)")
        self.lines.append(f"{self.kept(s.name)} = {start};")

    def statements(self, s: _Step, nest: Sequence[_Step], lane: str) -> Iterator[str]:
        """What a step does at one place."""
        if s.reduced:
            yield from self.gathered(s, nest, lane)
            return
        variable, kind = f"v{self.number[s.name]}", self.type(s.name)
        value = self.value(s, [self.read(o, nest) for o in s.operands])
        if self.op.locals[s.name].type.dtype == "bf16":
            value = f"bf16_f32({value})"
        yield f"{kind} {variable} = {value};"
        if s.name in self.op.outputs or (self.needed_later(s) and not self.alone(s.name)):
            yield f"{self.kept(s.name)} = {variable};"

    def gathered(self, s: _Step, nest: Sequence[_Step], lane: str) -> Iterator[str]:
        term = " * ".join(self.read(o, nest) for o in s.operands)
        inside = self._inner(s)
        if inside and inside[-1] in s.reduced:
            place = f"s{self.number[s.name]}[{lane}]"
        elif not inside and not s.added:
            yield from self.result(s, term)
            return
        else:
            place = self.kept(s.name)
        yield f"{place} = {self.combined(s, place, term)};"

    def fn(self, s: _Step) -> str:
        op = inner(s.node.op)
        return op.fn if isinstance(op, Reduce) else "sum"

    def combined(self, s: _Step, x: str, y: str) -> str:
        kind = self.type(s.name)
        if kind == "b8":
            raise Unsupported("a reduction of bools")
        return f"max_{kind}({x}, {y})" if self.fn(s) == "max" else f"{x} + {y}"

    def value(self, s: _Step, operands: list[str]) -> str:
        """What a step that reduces nothing makes of its operands."""
        op = inner(s.node.op)
        if isinstance(op, Cast):
            return cast(op, self.op.locals[s.node.inputs[0].name].type.dtype, operands[0])
        if isinstance(op, Contract | Reduce):
            return " * ".join(operands)
        if not isinstance(op, Map):
            raise Unsupported(type(op).__name__)
        return mapped(op, [self.op.locals[v.name] for v in s.node.inputs], operands)
