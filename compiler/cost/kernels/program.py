"""What a program asks of a machine, apart from what the machine makes of it: sizes of products, bytes, messages.

`features(program)` is computed once per program. Prices (`price`) need nothing else, so that one compiled job can
be priced again and again with other parameters: that is what fitting does. Rolled loops stay rolled.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod

from compiler.cost.kernels.again import ORDER, LeftOut, left_out_flops
from compiler.cost.kernels.flops import program_flops
from compiler.cost.kernels.templates import LiftedFunction, WorkTemplates
from compiler.cost.kernels.work import Part
from compiler.graph import ITEMSIZE, Graph, Names
from compiler.ops.contract import Contract
from compiler.ops.effects import Input
from compiler.passes.copying import expanded
from compiler.program import DeviceClass, FunctionKey, FunctionPhase, Program, on_updates
from compiler.regions.marks import Regions, regions_of
from compiler.walk import graph_values, walk
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Features:
    """`parts[class][function]` of a program, and what it computes.

    flops: of the products that all devices compute: those that recompute makes again, that several devices compute
           alike, of borders and padding, too; again: of those that recompute leaves out, and some systems do not
    dtype: of most products; compute: of the narrowest
    regions: what of it systems compute as one
    inside: per class and function, names of values that systems' kernels do not write to memory, and of those that
            fused attention does not
    """

    parts: tuple[dict[FunctionKey, Part], ...]
    samples: int
    tokens: int
    dtype: str
    flops: float
    again: float
    compute: str
    inside: tuple[dict[FunctionKey, tuple[frozenset[str], frozenset[str]]], ...]
    regions: Regions


def features(program: Program, templates: WorkTemplates | None = None) -> Features:
    """All that prices depend on. Linear in the length of the program's text. templates: of programs before it, whose
    functions it may have with other sizes of axes."""
    program = on_updates(program, _expanded if templates is None else templates.expanded(_expanded))
    compute, regions = compute_type(program), regions_of(program)
    parts: list[dict[FunctionKey, Part]] = []
    inside: list[dict[FunctionKey, tuple[frozenset[str], frozenset[str]]]] = []
    for c in program.classes:
        inside.append({})
        made: dict[FunctionKey, Part] = {}
        chunks: dict[int, LeftOut] = {}
        for f in sorted(c.functions, key=lambda f: ORDER.index(f.phase) if f.phase in ORDER else -1):
            whole = partial(chunks.setdefault(f.chunk, LeftOut()).loop, f.phase)
            here = partial(_is_here, program, c, f.chunk)
            lifted = LiftedFunction(program, c.states, regions, f, ITEMSIZE[compute], whole, here)
            made[f.key], *within = lifted.lift() if templates is None else templates.work(lifted)
            inside[-1][f.key] = within[0], within[1]
        parts.append({f.key: made[f.key] for f in c.functions})
    by_dtype = program_flops(program)
    samples, tokens = _sizes(program)
    again = 0.0
    for c, of in zip(program.classes, parts):
        members = len(c.groups) * (program.devices // program.groups)
        again += sum(left_out_flops(of[f.key], members * program.runs(f)) for f in c.functions)
    dtype = max(by_dtype, key=lambda d: by_dtype[d], default="f32")
    return Features(
        tuple(parts), samples, tokens, dtype, sum(by_dtype.values()), again, compute, tuple(inside), regions
    )


def _is_here(program: Program, cls: DeviceClass, chunk: int, source: int) -> bool:
    """Whether the stage `source` stages away from a chunk of a class is on the same devices."""
    homes, group = program.homes, cls.groups[0]
    return homes.group(homes.stage(group, chunk) + source) == group


def _expanded(cls: DeviceClass, body: Graph) -> Graph:
    """An update with what it calls in its place: messages of all weights go together, whatever calls them."""
    return replace(body, nodes=tuple(expanded(body.nodes, Names(v.name for v in graph_values(body)))))


def compute_type(program: Program) -> str:
    """The type of computation: the narrowest of what products give."""
    found: set[str] = set()
    functions = (f for c in program.classes for f in c.functions if f.phase is not FunctionPhase.UPDATE)
    for instr, _ in (pair for f in functions for pair in walk(f.body)):
        if isinstance(instr.op, Contract) and instr.outputs[0].type.is_float:
            found.add(instr.outputs[0].type.dtype)
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
