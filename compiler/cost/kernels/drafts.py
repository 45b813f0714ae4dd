"""What `group` knows of values and kernels while it goes through a body, and two questions about the whole of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeGuard

from compiler.cost.kernels.masks import kept
from compiler.cost.kernels.work import Product, Work
from compiler.graph import ITEMSIZE, Graph, Node, Type
from compiler.ops import comm, effects
from compiler.ops.base import Movement, Op
from compiler.ops.contract import Contract
from compiler.ops.elementwise import Cast, Map
from compiler.ops.reduce import Reduce

ALL = Fraction(1)


@dataclass(slots=True)
class Lifted:
    """A value. type, bytes: of the local piece; root: the value that it is a view of; owner: its kernel, or -1.

    filled: of an index, the part that can be rows of a table at most (`routing.filled`).
    taint: `weights`, `gradients`, `statistics` (or a view, cast or collective of some), `constant`, or nothing.
    """

    type: Type
    bytes: int
    root: str
    owner: int = -1
    taint: str = ""
    filled: Fraction = ALL
    carried: int | None = None  # a loop's carry: index of the result that it is in the next iteration

    @property
    def elements(self) -> int:
        return self.bytes // ITEMSIZE[self.type.dtype]


@dataclass(slots=True)
class Draft:
    """A kernel, message or loop that is being put together. closed: results that are complete only at its end."""

    name: str
    instrs: list[Node] = field(default_factory=list)
    work: Work | None = None
    deps: set[int] = field(default_factory=set)
    carries: set[int] = field(default_factory=set)
    joins: bool = False
    size: int = 0
    dims: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)
    count: int = 1  # tensors that go together


def is_grouped(op: Op) -> TypeGuard[comm.Comm]:
    """Whether all devices of a group take part in a message, not neighbours only."""
    return isinstance(op, comm.Comm) and op.pattern in (comm.Pattern.RING, comm.Pattern.DIRECT)


def sunk_values(body: Graph, results: set[int], into: Collection[str] | None = None) -> set[str]:
    """Values that are only accumulated or written (if `into` is stated, into those accumulators), directly or through
    casts and collectives; so are these results."""
    other = {v.name for i, v in enumerate(body.outputs) if i not in results}
    sunk = {v.name for i, v in enumerate(body.outputs) if i in results} - other
    for instr in reversed(body.nodes):
        op, outs = instr.op, [v.name for v in instr.outputs]
        if isinstance(op, (effects.Accumulate, effects.Write)):
            fine = into is None or op.name in into
        elif isinstance(op, Cast) or op.movement is not Movement.NO or is_grouped(op):
            fine = all(o in sunk and o not in other for o in outs)
        else:
            fine = False
        for v in instr.inputs:
            (sunk if fine else other).add(v.name)
    return sunk - other


def attention_cores(
    drafts: Sequence[Draft], values: Mapping[str, Lifted], made: Mapping[str, Node]
) -> dict[int, float]:
    """Vector nodes between batched products that reduce over rows of what the first gives: softmax over scores, its
    derivative, and what is recomputed of them. (Products with weights are not batched: norms behind them are none.)

    The value: the share that a mask leaves. `made`: value -> the instruction that gives it.
    """
    free: dict[int, set[str]] = {}  # of batched products: dims of the result that only one operand has
    for at, draft in enumerate(drafts):
        if isinstance(draft.work, Product):
            (instr,) = draft.instrs
            left, right = (values[v.name].type for v in instr.inputs)
            names = values[instr.outputs[0].name].type.names
            if any(left.has(n) and right.has(n) for n in names):
                free[at] = {n for n in names if left.has(n) != right.has(n)}
    found: dict[int, float] = {}
    read = {d for at in free for d in drafts[at].deps}
    for at in range(len(drafts) - 1, -1, -1):
        draft = drafts[at]
        rows = set().union(*(free[d] for d in draft.deps if d in free))
        if draft.joins and at in read and any(rows & _summed(i, values) for i in draft.instrs):
            wheres = [i for i in draft.instrs if is_where(i) and values[i.outputs[0].name].elements == draft.size]
            found[at] = kept(wheres, made) if wheres else 1.0
            read |= draft.deps
    return found


def is_where(instr: Node) -> bool:
    """Whether the instruction chooses between two alternatives."""
    return isinstance(instr.op, Map) and instr.op.fn == "where"


def masked_again(instrs: Sequence[Node], values: Mapping[str, Lifted]) -> list[Node]:
    """Instructions of a kernel that choose by a condition by which their operand was chosen before, with nothing but
    element-wise work in between: a softmax that is exactly 0 where nothing is kept says so twice, before and after its
    exponential, and so does its derivative; systems' kernels mask once.
    """
    by: dict[str, set[str]] = {}  # value -> conditions by which it was chosen
    found = []
    for instr in instrs:
        size = values[instr.outputs[0].name].elements
        before: set[str] = set()
        if not isinstance(instr.op, (Reduce, Contract)):
            alternatives = instr.inputs[1:] if is_where(instr) else instr.inputs
            before.update(*(by.get(v.name, ()) for v in alternatives if values[v.name].elements == size))
        if is_where(instr):
            condition = values[instr.inputs[0].name].root
            if condition in before:
                found.append(instr)
            before.add(condition)
        by[instr.outputs[0].name] = before
    return found


def _summed(instr: Node, values: Mapping[str, Lifted]) -> set[str]:
    """Dims that a reduction, or a sum of products, sums over."""
    if not isinstance(instr.op, (Reduce, Contract)):
        return set()
    kept = {n for v in instr.outputs for n in values[v.name].type.names}
    return {n for v in instr.inputs for n in values[v.name].type.names} - kept
