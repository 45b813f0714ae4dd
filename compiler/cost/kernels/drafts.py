"""What `group` knows of values and kernels while it goes through a body, and two questions about the whole of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping, Sequence
from dataclasses import field

from compiler.cost.kernels.work import Work
from compiler.graph import Node, Type
from compiler.memory.tiers import FIRST
from compiler.ops.contract import Contract
from compiler.ops.elementwise import Map
from compiler.ops.reduce import Reduce
from dsl.data import dataclass


@dataclass(slots=True)
class Lifted:
    """A value. type, bytes: of the local piece; root: the value that it is a view of; owner: its kernel, or -1.

    taint: `weights`, `gradients`, `statistics` (or a view, cast or collective of some), `constant`, or nothing.
    """

    type: Type
    bytes: int
    elements: int
    root: str
    owner: int = -1
    taint: str = ""
    state: bool = False  # what a state of the model contains, in its memory
    missed: float | None = None  # of a table with a cache: the share of rows that is not there
    code: str = ""  # of integers that rest in words: their format
    scaling: int = 0  # of a product of such integers: how far its result is (`scaling`)
    carried: int | None = None  # a loop's carry: index of the result that it is in the next iteration


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
    others: list[Node] = field(default_factory=list)  # of those, all but the first
    memory: str = FIRST  # that of the processors which compute it


def is_where(instr: Node) -> bool:
    """Whether the instruction chooses between two alternatives."""
    return isinstance(instr.op, Map) and instr.op.fn == "where"


def masked_again(instrs: Sequence[Node], values: Mapping[str, Lifted]) -> list[Node]:
    """Instructions of a kernel that choose by a condition by which their operand was chosen before, with nothing but
    element-wise work in between: a softmax that is exactly 0 where nothing is kept says so twice, before and after its
    exponential, and so does its derivative; systems' kernels mask once.
    """
    if sum(map(is_where, instrs)) < 2:
        return []
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


def is_waited_for(at: int, drafts: Sequence[Draft], grown: Collection[int]) -> bool:
    """Whether another draft depends on this one: one that was begun later, or a message that has `grown` since."""
    later = (drafts[i] for i in range(len(drafts) - 1, at, -1))
    return any(at in d.deps for d in later) or any(at in drafts[i].deps for i in grown)


def gather(
    ins: Sequence[Lifted],
    size: int,
    drafts: Sequence[Draft],
    values: Mapping[str, Lifted],
    views: MutableMapping[int, list[Lifted]],
    grown: Collection[int],
) -> None:
    """Make one kernel of those that give the operands: an optimizer updates a weight and its states in one go.

    Those that others wait for (messages that go together, too) stay as they are, for these might come before.

    Args:
        size: elements of the kernel that takes them.
        views: of what a kernel makes.
        grown: drafts that others have joined.
    """
    owners = sorted({v.owner for v in ins if v.owner >= 0})
    if len(owners) < 2:
        return
    last = drafts[owners[-1]]
    for at in owners[:-1]:
        draft = drafts[at]
        alike = draft.joins and last.joins and draft.size == last.size == size and draft.memory == last.memory
        if not alike or draft.closed or is_waited_for(at, drafts, grown):
            continue
        last.instrs = draft.instrs + last.instrs
        last.deps |= draft.deps
        last.carries |= draft.carries
        last.dims |= draft.dims
        for instr in draft.instrs:
            for var in instr.outputs:
                values[var.name].owner = owners[-1]
        for view in views.pop(at, ()):
            view.owner = owners[-1]
            views.setdefault(owners[-1], []).append(view)
        draft.instrs, draft.deps, draft.carries = [], set(), set()


def dims_of(ins: Sequence[Lifted], outs: Sequence[Lifted]) -> set[str]:
    """The names of the dims of all these values."""
    return set().union(*[v.type.names for v in (*ins, *outs)])
