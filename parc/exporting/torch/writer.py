"""What emitters ask while a function is written: names of variables, local types, views, helpers of the file."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import field

from compiler.graph import Node, Type, Value
from compiler.layout import TIME, has_gaps, local_type
from compiler.ops.base import ByOp, Op
from compiler.program import DeviceClass, Program
from dsl.data import dataclass
from parc.exporting.torch.library import FUNCTIONS

Emitter = Callable[[Op, Node, "Writer"], str]
"""The expression of a node's results (of several: of a tuple)."""

EMIT: ByOp[Callable[..., str]] = ByOp()
"""How each op is written; `@emit(Op)` above an emitter enters it."""

emit = EMIT.of

DTYPES = {
    **{"f64": "torch.float64", "f32": "torch.float32", "bf16": "torch.bfloat16", "f16": "torch.float16"},
    **{"int32": "torch.int32", "uint32": "torch.int64", "bool": "torch.bool"},
}
"""uint32 lies in int64, where its operations are exact."""

RESERVED = frozenset(
    (
        *(
            "i",
            "given",
            "state",
            "saved",
            "torch",
            "math",
            "functools",
            "functional",
            "dist",
            "funcol",
            "dict",
            "float",
            "range",
        ),
        *("reversed", "slice", "DEVICE", "GROUP", "all_gather_single", "reduce_scatter_single", *FUNCTIONS),
    )
)
"""Names that variables of functions do not have."""


@dataclass(slots=True)
class Identifiers:
    """Names of variables: a value's own, as far as Python allows."""

    taken: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=lambda: set(RESERVED))

    def of(self, name: str) -> str:
        """The variable of a value."""
        if name not in self.taken:
            self.taken[name] = self.fresh(name)
        return self.taken[name]

    def fresh(self, name: str) -> str:
        """A variable that there is not yet, called nearly so."""
        stem = re.sub(r"\W", "_", name, flags=re.ASCII).lstrip("_") or "v"
        stem = f"v{stem}" if stem[0].isdigit() else stem
        stem = f"{stem}_" if keyword.iskeyword(stem) else stem
        found, i = stem, 2
        while found in self.used:
            found, i = f"{stem}_{i}", i + 1
        self.used.add(found)
        return found


@dataclass(slots=True)
class Writer:
    """Of one function of a class.

    helpers: names of the library's functions that the file needs. derived: PyTorch differentiates the forward pass, by
    the weights' buffers `trained`. space: before names of functions of the class; functions, called: names of those
    that others call, by identity of their graphs. inputs: values that are inputs, and which. lists: values that are
    lists of tensors, one per iteration of a loop.
    """

    program: Program
    cls: DeviceClass
    chunk: int
    helpers: dict[str, None]
    derived: bool = False
    space: str = ""
    functions: Identifiers = field(default_factory=Identifiers)
    called: dict[int, str] = field(default_factory=dict)
    trained: Collection[str] = ()
    names: Identifiers = field(default_factory=Identifiers)
    inputs: dict[str, str] = field(default_factory=dict)
    lists: set[str] = field(default_factory=set)
    lines: list[str] = field(default_factory=list)

    def within(self, value: Value, size: int) -> bool:
        """Whether a value is an input whose numbers lie in 0 to size, as it is declared."""
        found = next((i for i in self.program.inputs if i.name == self.inputs.get(value.name)), None)
        return (
            found is not None
            and found.low is not None
            and found.high is not None
            and 0 <= found.low < found.high <= size
        )

    def local(self, value: Value) -> Type:
        """The type of a device's own piece."""
        return local_type(value.type, value.layout, self.program.sizes)

    def shape(self, value: Value) -> str:
        """The shape of the piece, as Python writes it."""
        return tuple_of(map(str, self.local(value).shape))

    def axes(self, value: Value, dim: int) -> tuple[str, ...]:
        """The axes that split a dim."""
        return value.layout.dims[dim]

    def use(self, helper: str) -> str:
        """A function of the file's own library."""
        self.helpers[helper] = None
        return helper

    def ref(self, value: Value) -> str:
        """The variable of a value; one that is kept as a list is stacked."""
        name = self.names.of(value.name)
        return f"torch.stack({name})" if value.name in self.lists else name

    def offset(self, value: Value, dim: int) -> str:
        """The logical position at which the piece begins along a dim; "" for 0."""
        axes = self.axes(value, dim)
        if not axes:
            return ""
        if has_gaps(value.type.dims[dim], axes, self.program.sizes):
            return f"{self.use('span')}({value.type.shape[dim]}, {self.place(axes)})[0]"
        return f"{self.local(value).shape[dim]} * {self.use('piece')}({self.place(axes)})"

    def place(self, axes: Sequence[str]) -> str:
        """What tells the number of a piece that axes make: the axes, and the micro-batch where that is one of them."""
        return (quoted(axes) if axes else "()") + ", i" * (TIME in axes)

    def aligned(self, value: Value, names: Sequence[str]) -> str:
        """A view that broadcasts against a tensor of dims `names`."""
        own, text = value.type.names, self.ref(value)
        order = [n for n in names if n in own]
        if list(own) != order:
            text += f".permute({', '.join(str(own.index(n)) for n in order)})"
        if not order:
            return text
        pick = [":" if n in own else "None" for n in names[names.index(order[0]) :]]
        while pick and pick[-1] == ":":
            pick.pop()
        return f"{text}[{', '.join(pick)}]" if pick else text


def tuple_of(items: Iterable[str]) -> str:
    """Items as a tuple in Python."""
    found = list(items)
    return f"({found[0]},)" if len(found) == 1 else f"({', '.join(found)})"


def quoted(names: Sequence[str]) -> str:
    """Names as a tuple of strings."""
    return tuple_of([string(n) for n in names])


def string(text: str) -> str:
    """A string in double quotes."""
    escaped = text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return f'"{escaped}"'


def prose(text: str) -> str:
    """What stands in a docstring: it cannot end there, whatever names it has. They can be printed (E0673)."""
    return text.replace("\\", "\\\\").replace('"', '\\"')


def number(value: float | int | bool) -> str:
    """A literal; what Python cannot write as one is made by `float`."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return f'float("{value}")'
    return repr(value)
