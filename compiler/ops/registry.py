"""All ops by mnemonic. An op's attributes are its dataclass fields, which is all that its text form needs."""

from __future__ import annotations

from compiler.ops import comm, effects
from compiler.ops.base import Op
from compiler.ops.contract import Contract
from compiler.ops.create import Full, Iota, Random
from compiler.ops.elementwise import Broadcast, Cast, Map, StopGradient, Transpose
from compiler.ops.index import ScatterAdd, Take
from compiler.ops.reduce import Cumsum, Reduce, TopK
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Concat, Flip, Merge, Pad, Rename, Slice, Split
from compiler.ops.window import Fold, Window

COMPUTE: list[type[Op]] = [
    *[Map, Cast, Broadcast, Transpose, StopGradient, Contract, Reduce, Cumsum, TopK],
    *[Rename, Split, Merge, Slice, Pad, Concat, Flip, Take, ScatterAdd, Iota, Full, Random, Window, Fold],
]
COMM: list[type[Op]] = [
    *[comm.Relayout, comm.AllReduce, comm.AllGather, comm.ReduceScatter, comm.AllToAll],
    *[comm.Shard, comm.OnlyFirst, comm.MaskPad, comm.Halo, comm.HaloAdd],
]
EFFECTS: list[type[Op]] = [
    *[effects.Input, effects.Read, effects.Write, effects.Accumulate, effects.Save, effects.Load],
    *[effects.Send, effects.Recv, effects.StageReduce],
]

_ALL: list[type[Op]] = [*COMPUTE, Repeat, *COMM, *EFFECTS]

OPS: dict[str, type[Op]] = {c.mnemonic: c for c in _ALL}
"""Mnemonic -> class, of every op that a graph or a program may hold."""
