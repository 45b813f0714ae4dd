"""A graph under construction: the model's, or the body of a repeat, which imports what it uses from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.graph import Builder, Dim, Names, Type, Value
from compiler.ops.create import Iota
from compiler.origin import Origin, last
from dsl.source import NOWHERE, Span

if TYPE_CHECKING:
    from compiler.evaluate.states import StateVar


class Frame:
    """One graph and its builder. `label` and `count` are those of the loop whose body this is (None, 1: no loop).

    scan: it is one over positions, which share weights: those are of the frame around it (`home`).
    """

    def __init__(
        self, names: Names, path: str, parent: Frame | None = None, label: str = "", count: int = 1, scan: bool = False
    ) -> None:
        self.builder = Builder(names, path)
        self.path = path
        self.parent = parent
        self.label = label
        self.count = count
        self.scan = scan
        self.own: set[Value] = set()
        self.imports: dict[Value, Value] = {}  # outer value -> parameter: invariants
        self.carried: dict[Value, tuple[str, Value]] = {}  # a loop's parameters: the variable, its value before
        self.stacks: list[tuple[Value, Value]] = []  # (stack in the parent, slice): weights, the index
        self.results: list[tuple[StateVar, Value]] = []  # what an iteration leaves in its part of a state
        self._index: Value | None = None
        self._step: Value | None = None

    @property
    def loop(self) -> Dim:
        return Dim(self.label, self.count)

    @property
    def loops(self) -> tuple[Frame, ...]:
        """The enclosing loops, outermost first, this one included."""
        return (*self.parent.loops, self) if self.parent else ()

    @property
    def outermost(self) -> Frame:
        """The model's own frame."""
        return self.parent.outermost if self.parent else self

    @property
    def home(self) -> Frame:
        """The innermost frame that has weights of its own: this one, but for scans."""
        return self.parent.home if self.scan and self.parent else self

    def param(self, name: str, type: Type, span: Span = NOWHERE) -> Value:
        """An input of this graph."""
        path = self.builder.names.fresh(f"{self.path}.{name}" if self.path else name)
        value = Value(path, type, span, Origin(path))
        self.own.add(value)
        return value

    def local(self, value: Value) -> Value:
        """The value as this graph sees it: its own, or a parameter that stands for an outer one."""
        if value in self.own:
            return value
        if value not in self.imports:
            if self.parent is None:
                raise AssertionError(f"{value} is of another graph")
            self.imports[value] = self.param(last(value.origin.path), value.type, value.span)
        return self.imports[value]

    def slice_of(self, stack: Value, name: str) -> Value:
        """The parameter that is one iteration's part of `stack`, a value of the parent graph."""
        part = self.param(name, Type(stack.type.dtype, stack.type.dims[1:]), stack.span)
        self.stacks.append((stack, part))
        return part

    def index(self) -> Value:
        """This loop's index: an int32 scalar, fed from an iota."""
        if self._index is None:
            assert self.parent is not None
            builder = self.parent.builder
            stack = builder.add(Iota(self.loop), name=f"{self.label}_index")
            self.parent.own.add(stack)
            self._index = self.slice_of(stack, "index")
        return self._index

    def step(self) -> Value:
        """The number of the step, an int32 scalar: an input of the outermost graph."""
        if self.parent is not None:
            return self.parent.step()
        if self._step is None:
            path = self.builder.names.fresh("step")
            self._step = Value(path, Type("int32"), NOWHERE, Origin(path))
            self.own.add(self._step)
        return self._step

    @property
    def used_step(self) -> Value | None:
        return self._step
