"""Memory of the systems whose published steps are compared: what they keep that our programs have not, and the reverse.

`memory` says what our own program needs, to the byte. Training systems differ from it in known ways, which are here:

- Element-wise runs are kernels, whose inner values never reach memory; nor do the scores of a fused attention.
- Between kernels of a layer activations have the compute type; statistics of norms and softmax stay inside.
- Weights are kept in the compute type beside the master copy (`copy`), unless shards of them are gathered for each
  layer, and then one layer is gathered ahead. Their gradients have a buffer of their own all the time (`gradient`),
  unless they are sharded as they come. Split optimizer states include the master copy, and, in some systems, gradients
  in f32 (`partition`).
- A cross entropy needs `loss` bytes per logit at its peak. Megatron: the logits, a copy in f32, and their exponentials
  (vocab_parallel_cross_entropy). PyTorch: logits, log_softmax, and the gradients of that and of its input; compiled
  (TorchTitan since 2025): logits in 16 bits, their gradient in f32.
- The optimizer is fused: it needs no room of its own.
- An allocator reserves more than it gives out (`reserve`), and the driver, libraries and message buffers more than that
  (`context`).

Sources: V. Korthikanti and others, "Reducing Activation Recomputation in Large Transformer Models" (2022), for what
layers keep; S. Rajbhandari and others, "ZeRO" (2020), and DeepSpeed's stage_1_and_2.py for states; Megatron-LM's
distributed_optimizer.md (6 + 12/d bytes per parameter); Y. Zhao and others, "PyTorch FSDP" (2023).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from compiler.cost import stacks
from compiler.cost.drafts import sunk_values
from compiler.cost.lift import Lifter
from compiler.cost.memory import memory_use
from compiler.cost.replay import FIRST, STATIC
from compiler.graph import ITEMSIZE, Dim, Type
from compiler.layout import Layout, local_type
from compiler.model import Device, Strategy
from compiler.ops.comm import AllGather
from compiler.ops.effects import Read
from compiler.program import Body, DeviceClass, Function, Instr, LocalRepeat, Program, StateDecl, Var

if TYPE_CHECKING:
    from compiler.driver import Compiled

OURS = 8.0
"""Bytes per logit that our own cross entropy holds at its peak: two values in f32."""

MEGATRON, PYTORCH = 10.0, 14.0
"""Bytes per logit that a loss holds at its peak: in 16 bits, and two or three values in f32."""

MASTER = 4
"""Bytes of a weight's master copy."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes per parameter; `loss` per logit (0: not stated); `reserve`: share of what is allocated; `context` in bytes.

    The defaults are for systems of which nothing is known: mixed precision as in Megatron, which keeps gradients in f32
    whatever the type of weights. Where weights are sharded the system is one like PyTorch's FSDP.
    """

    copy: float = 2.0
    gradient: float = 4.0
    partition: float = 0.0
    loss: float = 0.0
    reserve: float = 0.08
    context: float = 2e9

    def logits(self, strategy: Strategy) -> float:
        """Bytes per logit at the peak of the loss: as stated, else of PyTorch's loss or Megatron's."""
        sharded = any("weights" in rule.classes for rule in strategy.shards)
        return self.loss or (PYTORCH if sharded else MEGATRON)


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes of the fullest device: allocated at the peak, reserved for that, and in use as a driver shows it."""

    allocated: float
    reserved: float
    driver: float
    states: float  # part of `allocated`: weights, gradients, optimizer
    activations: float  # all the rest of it


def footprint(device: Device, stack: str = "") -> Footprint:
    """`footprint STACK NAME VALUE` of a device, for the stack or for one that it is like; else the default holds."""
    return Footprint(**stacks.stated(device, "footprint", stack))


def held(compiled: Compiled, fused: bool) -> Held:
    """The memory of a training system with the cluster's software. fused: whether attention is one kernel."""
    program, job = compiled.program, compiled.job
    of = footprint(job.cluster.device, job.cluster.stack) if job.cluster else Footprint()
    systems, gathers = as_system(program, fused, of.logits(job.strategy))
    peaks = memory_use(systems)
    most = (0.0, 0.0)
    for cls in program.classes:
        states = _states(cls, job.strategy, program, of, gathers)
        for group in cls.groups:
            rest = {r: n for r, n in peaks[group][FIRST].roles.items() if r not in STATIC}
            if not gathers:
                rest.pop("gradient", None)
            most = max(most, (states, float(sum(rest.values()))), key=sum)
    allocated = sum(most)
    reserved = allocated * (1 + of.reserve)
    return Held(allocated, reserved, reserved + of.context, *most)


def _states(cls: DeviceClass, strategy: Strategy, program: Program, of: Footprint, gathers: bool) -> float:
    """Weights, their gradients where these have a buffer all the time, and the optimizer's states. What is split is
    split evenly: systems cut one long buffer, whatever the sizes of tensors."""
    axes = {c: {r.axis for r in strategy.shards if c in r.classes} for c in ("weights", "gradients", "optimizer")}
    split = {c: prod(program.sizes.get(a, 1) for a in names) for c, names in axes.items()}
    shards = set().union(*axes.values())
    whole = {"weight": 0.0, "optimizer": 0.0}
    count = 0.0
    for s in cls.states:
        if s.role in whole and s.memory == FIRST:
            whole[s.role] += _bytes_without(s, shards, program)
            # Experts are split over axes that shard optimizers: each device has a copy of its own only.
            count += _bytes_without(s, axes["weights"], program) / MASTER if s.role == "weight" else 0.0
    if not whole["optimizer"]:
        return whole["weight"] / split["weights"]
    total = (whole["optimizer"] + whole["weight"] + of.partition * whole["weight"] / MASTER * (not gathers)) / split[
        "optimizer"
    ]
    if not gathers:
        total += of.copy * count / split["weights"] + of.gradient * count / split["gradients"]
    return total


def _bytes_without(state: StateDecl, axes: set[str], program: Program) -> float:
    """Of a state that is not split over these axes."""
    layout = Layout(tuple(tuple(a for a in dim if a not in axes) for dim in state.layout.dims))
    return local_type(state.type, layout, program.sizes).bytes


# --- a program whose values take the room that they take in such a system ---------------------------------------------


def as_system(program: Program, fused: bool, loss: float = OURS) -> tuple[Program, bool]:
    """The program with other sizes of values, to be replayed and never run; whether weights are gathered by layer."""
    classes = []
    gathers = False
    for cls in program.classes:
        functions = []
        for f in cls.functions:
            lifter = Lifter(program, {s.name: s for s in cls.states}, f.name == "U", _itemsize(program))
            lifter.part(f.body)
            nothing = lifter.inside | (lifter.core if fused else set())
            rewriter = _Rewriter(nothing, f.name == "U", _itemsize(program), loss / OURS)
            functions.append(Function(f.name, f.chunk, rewriter.body(f.body, frozenset(), inside=False)))
            gathers |= rewriter.gathers
        classes.append(replace(cls, functions=tuple(functions)))
    return replace(program, classes=tuple(classes)), gathers


EMPTY = Layout(dims=((),))
NOTHING = Type("bf16", (Dim("nothing", 0),))


class _Rewriter:
    """Of one function: values that stay in kernels become empty, those between kernels narrow."""

    def __init__(self, nothing: set[str], update: bool, itemsize: int, loss: float) -> None:
        self.nothing, self.update, self.itemsize, self.loss = nothing, update, itemsize, loss
        self.gathers = False
        self.logits = 0

    def body(self, body: Body, weights: frozenset[str], inside: bool) -> Body:
        """`weights`: names of parameters that are weights, or pieces of them. inside: a loop's."""
        known = set(weights)
        sunk = sunk_values(body, set())
        if not inside:  # what is largest outside of layers, in f32 and no gradient of a weight, hangs on the logits
            here = [v for i in body.instrs for v in i.outputs if not isinstance(i.op, (LocalRepeat, Read))]
            large = [v.type.elements for v in here if v.type.dtype == "f32" and v.name not in {*sunk, *self.nothing}]
            self.logits = max(large, default=0)
        instrs = []
        for instr in body.instrs:
            op = instr.op
            if isinstance(op, LocalRepeat):
                given = frozenset(p.name for n, p in zip(instr.inputs, op.body.params) if n in known)
                new = replace(op, body=self.body(op.body, given, inside=True))
                results = dict(zip((v.name for v in instr.outputs), op.body.results))
                made = {v.name: v for i in new.body.instrs for v in i.outputs}
                outs = tuple(self._stack(v, made.get(results[v.name])) for v in instr.outputs)
                if not self.gathers:  # gradients are added to their buffers, one layer after the other
                    outs = tuple(Var(v.name, NOTHING, EMPTY) if v.name in sunk else v for v in outs)
                instrs.append(Instr(new, instr.inputs, outs))
                continue
            of_weights = bool(instr.inputs) and all(n in known for n in instr.inputs)
            if isinstance(op, Read) or (of_weights and len(instr.inputs) == 1):
                known.update(v.name for v in instr.outputs)
            gather = of_weights and isinstance(op, AllGather) and not self.update
            self.gathers |= gather and inside
            cast = of_weights and op.mnemonic == "cast"
            outs = tuple(self._var(v, inside, cast) for v in instr.outputs)
            instrs.append(Instr(op, instr.inputs, outs))
        return Body(body.params, tuple(instrs), body.results)

    def _var(self, var: Var, inside: bool, cast: bool) -> Var:
        if self.update or cast or var.name in self.nothing:
            return Var(var.name, NOTHING, EMPTY)
        if inside and var.type.dtype == "f32" and self.itemsize < 4 and len(var.type.dims) > 2:
            return Var(var.name, Type("bf16", var.type.dims), var.layout)
        if not inside and self.loss != 1.0 and var.type.dtype == "f32" and var.type.elements == self.logits:
            *rest, last = var.type.dims
            return Var(var.name, Type("f32", (*rest, Dim(last.name, round(last.size * self.loss)))), var.layout)
        return var

    def _stack(self, var: Var, one: Var | None) -> Var:
        """Of all iterations' results: as large as one of them."""
        if one is None:
            return var
        if one.type.names == ("nothing",):
            return Var(var.name, one.type, one.layout)
        return Var(var.name, Type(one.type.dtype, var.type.dims), var.layout)


def _itemsize(program: Program) -> int:
    """Bytes of the compute type: the narrowest float that the program makes."""
    found = [4]
    for cls in program.classes:
        for f in cls.functions:
            found += [ITEMSIZE[v.type.dtype] for i in f.body.instrs for v in i.outputs if v.type.is_float]
    return min(found)
