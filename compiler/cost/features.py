"""What a program asks of a machine, apart from what the machine makes of it: sizes of products, bytes, messages.

`features(program)` is computed once per program. Prices (`durations`) need nothing else, so that one compiled job can
be priced again and again with other parameters: that is what fitting does. Rolled loops stay rolled.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import prod

from compiler.cost.lift import Lifter
from compiler.cost.work import Loop, Part, Product
from compiler.graph import ITEMSIZE, Type
from compiler.liveness import walk
from compiler.ops.contract import Contract
from compiler.ops.effects import Input
from compiler.program import Body, DeviceClass, LocalRepeat, Program

AGAIN = re.compile(r"(\.again(_\d+)?)+$")
"""The end of the names of what recompute makes again (`compiler.passes.residuals.AGAIN`)."""


@dataclass(frozen=True, slots=True)
class Features:
    """`parts[class][function]` of a program, and the counts that make up utilisation.

    flops_model:    of the products that the model needs, each once: neither what recompute makes again, nor what
                    several devices compute alike, nor borders and padding
    flops_hardware: of the products that all devices compute
    """

    parts: tuple[dict[tuple[str, int], Part], ...]
    samples: int
    tokens: int
    dtype: str
    flops_model: float
    flops_hardware: float


def features(program: Program) -> Features:
    """All that prices depend on. Linear in the length of the program's text."""
    itemsize = _itemsize(program)
    parts = tuple(_parts(program, c, itemsize) for c in program.classes)
    forward = (f.body for c in program.classes for f in c.functions if f.name == "F")
    made = {v.name for body in forward for instr, *_ in walk(body) for v in instr.outputs}
    needed = hardware = 0.0
    by_dtype: dict[str, float] = {}
    for c, found in zip(program.classes, parts):
        members = len(c.groups) * (program.devices // program.groups) * program.microbatches
        for f in c.functions:
            if f.name == "U":
                continue
            hardware += products(found[f.name, f.chunk], by_dtype) * members
            needed += len(c.groups) * _whole_products(f.body, set() if f.name == "F" else made)
    samples, tokens = _sizes(program)
    dtype = max(by_dtype, key=lambda d: by_dtype[d], default="f32")
    return Features(parts, samples, tokens, dtype, needed, hardware)


def _parts(program: Program, cls: DeviceClass, itemsize: int) -> dict[tuple[str, int], Part]:
    """The work of a class's functions."""
    states = {s.name: s for s in cls.states}
    filled: dict[str, Fraction] = {}
    return {
        (f.name, f.chunk): Lifter(program, states, f.name == "U", itemsize, filled).part(f.body) for f in cls.functions
    }


def products(part: Part, by_dtype: dict[str, float] | None = None, times: int = 1) -> float:
    """FLOPs of all products of a part, loops included; added up by data type as well."""
    total = 0.0
    for node in part.nodes:
        if isinstance(node.work, Loop):
            total += products(node.work.body, by_dtype, times * node.work.count)
        elif isinstance(node.work, Product):
            total += node.work.flops * times
            if by_dtype is not None:
                by_dtype[node.work.dtype] = by_dtype.get(node.work.dtype, 0.0) + node.work.flops * times
    return total


def _whole_products(body: Body, made: Collection[str], outer: Mapping[str, Type] | None = None) -> float:
    """FLOPs of the products of a function for the whole batch, by whole types: whoever computes which part of them.

    Not of those that make a value again that the forward pass has `made`.
    """
    known = {**(outer or {}), **{p.name: p.type for p in body.params}}
    total = 0.0
    for instr in body.instrs:
        known.update((v.name, v.type) for v in instr.outputs)
        if isinstance(instr.op, LocalRepeat):
            total += instr.op.count * _whole_products(instr.op.body, made, known)
        elif isinstance(instr.op, Contract) and AGAIN.sub("", instr.outputs[0].name) not in made:
            left, right = (known[name] for name in instr.inputs)
            work = Product.of(left, right, instr.outputs[0].type)
            total += work.flops if work else 0.0
    return total


def _itemsize(program: Program) -> int:
    """Bytes of an element of the compute type: of what products give."""
    found: set[int] = set()

    def look(body: Body) -> None:
        for instr in body.instrs:
            if isinstance(instr.op, LocalRepeat):
                look(instr.op.body)
            elif isinstance(instr.op, Contract) and instr.outputs[0].type.is_float:
                found.add(ITEMSIZE[instr.outputs[0].type.dtype])

    for c in program.classes:
        for f in c.functions:
            if f.name != "U":
                look(f.body)
    return min(found, default=4)


def _sizes(program: Program) -> tuple[int, int]:
    """Samples and tokens of a step: the leading dim, and all elements, of the first data input of whole numbers.

    Without an input of whole numbers with two dims (images, tables) a sample counts as one token.
    """
    if not program.inputs:
        return 0, 0
    samples = next((i.type.dims[0].size for i in program.inputs if i.type.dims), 1)
    read = {i.op.name for c in program.classes for f in c.functions for i in f.body.instrs if isinstance(i.op, Input)}
    for found in program.inputs:
        if found.type.dtype == "int32" and len(found.type.dims) == 2 and found.name in read:
            return samples, prod(found.type.shape)
    return samples, samples
