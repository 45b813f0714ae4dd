"""How large the values of a step are in a training system, as shares of what they are in our program.

- Element-wise runs are kernels, whose inner values never reach memory; nor do the scores of a fused attention.
- Between kernels activations have the compute type; statistics of norms and softmax stay inside.
- A weight is cast once (the copy that is kept), a gradient added to its buffer by what computes it.
- What hangs on logits takes so many bytes in all as the system's loss does (`Footprint.loss`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import field

from compiler.graph import Graph, Node, Value
from compiler.ops.effects import Read
from compiler.ops.elementwise import Cast
from compiler.ops.repeat import Repeat
from compiler.regions.sunk import sunk_values
from dsl.data import dataclass

OURS = 8.0
"""Bytes per logit that our own cross entropy holds at its peak: two values in f32."""

WIDE, BYTES = "f32", 4
"""In which our programs have some values that systems have in the compute type."""

FLAT = 2
"""Dims up to which a wide value is taken for a statistic (one number per position), which systems keep wide, too."""


@dataclass(slots=True)
class FunctionSizes:
    """Of one function. nothing: values that stay in kernels; added: accumulators of gradients that have a buffer all
    the time; itemsize: of the compute type; logits: values of the loss that are as large as they, and `loss` the share
    of ours that these take.

    shares: name of a value -> by which its bytes differ from the program's. passing: values that are added to gradients
    as soon as they are there (those of loops are let go with their iteration anyway).
    """

    nothing: Collection[str]
    added: Collection[str]
    itemsize: int
    logits: Collection[Value]
    loss: float
    shares: dict[str, float] = field(default_factory=dict)
    passing: set[str] = field(default_factory=set)

    def body(
        self, body: Graph, weights: Collection[str] = (), results: Collection[int] = (), inside: bool = False
    ) -> None:
        """weights: parameters that are weights, or pieces of them; results: those that are only added to gradients;
        inside: of a loop."""
        known = set(weights)
        sunk = sunk_values(body, set(results), self.added)
        if not inside:
            self.passing |= sunk
        for instr in body.nodes:
            op = instr.op
            if isinstance(op, Repeat):
                self._loop(instr, op, known, sunk)
                continue
            of_weights = bool(instr.inputs) and all(v.name in known for v in instr.inputs)
            if isinstance(op, Read) or (of_weights and len(instr.inputs) == 1):
                known.update(v.name for v in instr.outputs)
            copy = isinstance(op, Cast) and (of_weights or instr.outputs[0].name in sunk)
            for var in instr.outputs:
                share = 0.0 if copy or var.name in self.nothing else self._share(var)
                if share != 1.0:
                    self.shares[var.name] = share

    def _loop(self, instr: Node, op: Repeat, known: Collection[str], sunk: Collection[str]) -> None:
        """Stacks of results are as large as the results; those of gradients are not made: one layer after the other is
        added to the buffers."""
        given = [p.name for v, p in zip(instr.inputs, op.body.inputs) if v.name in known]
        gone = [i for i, v in enumerate(instr.outputs) if i >= op.carries and v.name in sunk]
        self.body(op.body, given, gone, inside=True)
        for i, (var, result) in enumerate(zip(instr.outputs, op.body.outputs)):
            share = 0.0 if i in gone else self.shares.get(result.name, 1.0)
            if share != 1.0:
                self.shares[var.name] = share

    def _share(self, var: Value) -> float:
        if var.type.dtype != WIDE:
            return 1.0
        if var in self.logits:
            return self.loss
        return self.itemsize / BYTES if self.itemsize < BYTES and len(var.type.dims) > FLAT else 1.0
