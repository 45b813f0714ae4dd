"""What a program asks of a machine, apart from what the machine makes of it: sizes of products, bytes, messages.

`features(program)` is computed once per program. Prices (`price`) need nothing else, so that one compiled job can
be priced again and again with other parameters: that is what fitting does. Rolled loops stay rolled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from math import prod

from compiler.cluster import INTEGER
from compiler.cost.kernels.again import ORDER, LeftOut, left_out_flops
from compiler.cost.kernels.flops import program_flops
from compiler.cost.kernels.templates import LiftedFunction, WorkTemplates, product_types
from compiler.cost.kernels.work import Part
from compiler.graph import ITEMSIZE, Graph, Names
from compiler.ops.effects import Input
from compiler.passes.copying import expanded
from compiler.program import DeviceClass, FunctionKey, FunctionPhase, Program
from compiler.regions.marks import Regions, regions_of
from compiler.walk import graph_values
from dsl.data import dataclass


@dataclass(frozen=True, eq=False)
class Features:
    """`parts[class][function]` of a program, and what it computes.

    compute: the narrowest type of products
    regions: what of it systems compute as one
    inside: per class and function, names of values that systems' kernels do not write to memory, and of those that
            fused attention does not
    """

    program: Program
    parts: tuple[dict[FunctionKey, Part], ...]
    samples: int
    tokens: int
    compute: str
    inside: tuple[dict[FunctionKey, tuple[frozenset[str], frozenset[str]]], ...]
    regions: Regions

    @cached_property
    def _by_dtype(self) -> dict[str, float]:
        return program_flops(self.program)

    @property
    def dtype(self) -> str:
        """Of most products."""
        by_dtype = self._by_dtype
        found = max(by_dtype, key=lambda d: by_dtype[d], default="f32")
        return INTEGER if found == "int32" else found  # 32 bits are what they are added up in

    @property
    def flops(self) -> float:
        """Of the products that all devices compute: those that recompute makes again, that several devices compute
        alike, of borders and padding, too."""
        return sum(self._by_dtype.values())

    @cached_property
    def again(self) -> float:
        """FLOPs of those that recompute leaves out, and some systems do not."""
        program, found = self.program, 0.0
        for c, of in zip(program.classes, self.parts):
            members = len(c.groups) * (program.devices // program.groups)
            found += sum(left_out_flops(of[f.key], members * program.runs(f)) for f in c.functions)
        return found


def features(program: Program, templates: WorkTemplates | None = None) -> Features:
    """All that prices depend on. Linear in the length of the program's text. templates: of programs before it, whose
    functions it may have with other sizes of axes."""
    known, whole = templates or WorkTemplates(), dict[int, Graph]()
    compute, regions = compute_type(program, known.types), regions_of(program, known.regions)
    parts: list[dict[FunctionKey, Part]] = []
    inside: list[dict[FunctionKey, tuple[frozenset[str], frozenset[str]]]] = []
    for c in program.classes:
        inside.append({})
        made: dict[FunctionKey, Part] = {}
        chunks: dict[int, LeftOut] = {}
        for f in sorted(c.functions, key=lambda f: ORDER.index(f.phase) if f.phase in ORDER else -1):
            left, here = chunks.setdefault(f.chunk, LeftOut()), partial(_is_here, program, c, f.phase.at(f.chunk))
            expand = partial(_once, whole, c)
            lifted = LiftedFunction(program, c.states, known.regions, f, ITEMSIZE[compute], left, here, expand)
            made[f.key], *within = lifted.lift() if templates is None else templates.work(lifted)
            inside[-1][f.key] = within[0], within[1]
        parts.append({f.key: made[f.key] for f in c.functions})
    return Features(program, tuple(parts), *_sizes(program), compute, tuple(inside), regions)


def with_updates(known: Features, program: Program, templates: WorkTemplates) -> Features:
    """Of a program, where what was known is of the same with updates that did nothing."""
    parts, inside, whole = [], [], dict[int, Graph]()
    for c, made, within in zip(program.classes, known.parts, known.inside, strict=True):
        mine, its = dict(made), dict(within)
        for f in c.functions:
            if f.phase is FunctionPhase.UPDATE:
                here, expand = partial(_is_here, program, c, 0), partial(_once, whole, c)
                of = program, c.states, templates.regions, f, ITEMSIZE[known.compute], LeftOut(), here, expand
                mine[f.key], *values = templates.work(LiftedFunction(*of))
                its[f.key] = values[0], values[1]
        parts.append(mine)
        inside.append(its)
    return replace(known, program=program, parts=tuple(parts), inside=tuple(inside))


def _is_here(program: Program, cls: DeviceClass, chunk: int, source: int) -> bool:
    """Whether the stage `source` stages away from a chunk of a class is on the same devices."""
    homes, group = program.homes, cls.groups[0]
    return homes.group(homes.stage(group, chunk) + source) == group


def _once(known: dict[int, Graph], cls: DeviceClass, body: Graph) -> Graph:
    """Classes may share an update."""
    found = known.get(id(body))
    if found is None:
        found = known[id(body)] = _expanded(cls, body)
    return found


def _expanded(cls: DeviceClass, body: Graph) -> Graph:
    """An update with what it calls in its place: messages of all weights go together, whatever calls them."""
    return replace(body, nodes=tuple(expanded(body.nodes, Names(v.name for v in graph_values(body)))))


def compute_type(program: Program, read: Callable[[Graph], frozenset[str]] = product_types) -> str:
    """The type of computation: the narrowest of what products give. read: `product_types`, from somebody who knows what
    it gave before."""
    functions = {id(f): f for c in program.classes for f in c.functions if f.phase is not FunctionPhase.UPDATE}
    found = frozenset[str]().union(*[read(f.body) for f in functions.values()])
    return min(sorted(found), key=lambda dtype: ITEMSIZE[dtype], default="f32")


def _sizes(program: Program) -> tuple[int, int]:
    """Samples and tokens of a step: the leading dim, and all elements, of the first data input of whole numbers.

    Without an input of whole numbers with two dims (images, tables) a sample counts as one token.
    """
    if not program.inputs:
        return 0, 0
    samples = next((i.type.dims[0].size for i in program.inputs if i.type.dims), 1)
    read = {i.op.name for c in program.classes for f in c.functions for i in f.body.nodes if isinstance(i.op, Input)}
    for found in program.inputs:
        if found.type.dtype == "int32" and len(found.type.dims) == 2 and found.name in read:
            return samples, prod(found.type.shape)
    return samples, samples
