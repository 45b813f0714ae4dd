"""In which order a group of devices runs its micro-batches: schedules by name, rolled, shared between groups, checked.

actions   what each schedule means: the list of one group, written out
rolled    the same without growing with the micro-batches (closed forms; tests prove them equal to `actions`)
families  groups whose rolled schedules are one, with numbers affine in the group index
unroll    back to the list
loops     as plain loops, whose steps have chunks and micro-batches of their own
visits    the order where groups have several stages of a graph
find_hang simulation of all groups
moments   that none hangs, at once, where it can be seen so
"""

from __future__ import annotations

from compiler.schedules.actions import (
    CHUNKED,
    NAMES,
    Action,
    Turn,
    actions,
    chain,
    check_schedule,
    kinds,
    legal_microbatches,
)
from compiler.schedules.hang import Edge, Hang, find_hang
from compiler.schedules.loops import ActionLoop, loops, out_of_turn
from compiler.schedules.rolled import families, rolled, unify, unroll
from compiler.schedules.visits import visits

__all__ = [
    "CHUNKED",
    "NAMES",
    "Action",
    "Edge",
    "Hang",
    "ActionLoop",
    "Turn",
    "actions",
    "chain",
    "check_schedule",
    "families",
    "find_hang",
    "kinds",
    "legal_microbatches",
    "loops",
    "out_of_turn",
    "rolled",
    "unify",
    "unroll",
    "visits",
]
