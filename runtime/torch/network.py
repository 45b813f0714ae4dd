"""Messages between devices by `torch.distributed`: one process per device, process groups made once.

How its backends behave, and what is made of it here:

- gloo's `send` waits for its `recv`, even of one element: all messages are asynchronous, and a send is waited for at
  the end of the step only. Nobody can send to himself.
- gloo's maxima lose NaN by its place: they are made of integers that are ordered as the floats are, NaN the largest.
- gloo adds up bf16 and f16 in that type, rounding after every addition, in an order that depends on the place: results
  of one device and those of the emulator differ (`runtime.prove.rounding`), those of all devices are the same.
- gather and scatter take equal shapes only, in one piece of memory; pieces are padded before they come here. An
  exchange of unequal pieces is one call with the sizes of all.
- There are no 8-bit floats and no unsigned integers in collectives: uint32 is int64 in this backend (`base.STORAGE`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from compiler.numbering import Ranks
from compiler.ops.comm import Comm
from compiler.ops.effects import Recv, Send, StageReduce
from compiler.program import DeviceClass, Program
from compiler.walk import walk
from dsl.data import dataclass
from runtime.backend import Shape
from runtime.comm import Done, Handle, Wait
from runtime.torch.base import STORAGE
from runtime.torch.world import World

T = TypeVar("T")

_LARGEST_TAG = 2**31 - 1


@dataclass(slots=True)
class Coming(Generic[T]):
    """A handle: `finish` gives the result once the work is done. `keep`: what must live until then."""

    world: World
    work: Any
    finish: Callable[[], T]
    what: str
    peers: Sequence[int]
    keep: Any = None

    def done(self) -> bool:
        return bool(self.work.is_completed())

    def wait(self) -> Wait[T]:
        yield from ()
        return self.get()

    def get(self) -> T:
        """The result; this process waits for it."""
        try:
            self.work.wait()
        except RuntimeError as error:
            raise self.world.lost(error, self.what, self.peers) from error
        self.keep = None
        return self.finish()


class TorchNetwork:
    """What connects the device of this process with the others.

    tags: by name of a message, its number; all processes number alike.
    """

    def __init__(self, program: Program, world: World, device: torch.device) -> None:
        self.program, self.world, self.device = program, world, device
        self.ranks = Ranks.of(program)
        self._made: dict[Any, Peers | Alone] = {}
        self.open: dict[Any, Bucket] | None = None
        self.tags = {name: i for i, name in enumerate(sorted({op.name for op in _ops(program, Send, Recv)}))}

    @staticmethod
    def make_groups(program: Program, world: World) -> None:
        """Make all process groups of the program, on all processes in the same order (also for those of others): those
        that were made by their members alone would be named by how many groups each of these has already."""
        ranks = Ranks.of(program)
        axes = {tuple(op.axes) for op in _ops(program, Comm) if op.message}
        stages = {tuple(op.groups) for op in _ops(program, StageReduce)}
        if _ops(program, Send):
            stages.add(tuple(range(program.groups)))
        found = {tuple(sorted(ranks.along(r, a))) for a in axes for r in range(ranks.devices)}
        heads = (r for r in range(ranks.devices) if ranks.group(r) == 0)
        found |= {tuple(sorted(ranks.peer(r, g) for g in groups)) for r in heads for groups in stages}
        for members in sorted(found):
            if len(members) > 1:
                world.group(members)

    def over(self, axes: Sequence[str]) -> Peers | Alone:
        """The devices of the own group that differ from this one on these axes only, of which the first is major."""
        return self._peers(tuple(axes), lambda: self.ranks.along(self.world.rank, axes), f"over {', '.join(axes)}")

    def between(self, groups: Sequence[int]) -> Peers | Alone:
        """The devices of the same mesh coordinates in these groups, in this order; the own group is among them."""
        mine = self.world.rank
        return self._peers(tuple(groups), lambda: [self.ranks.peer(mine, g) for g in groups], "between stages")

    @contextmanager
    def together(self) -> Iterator[None]:
        """Calls of one kind that are made inside travel as one message."""
        self.open = {}
        try:
            yield
            for bucket in self.open.values():
                bucket.close()
        finally:
            self.open = None

    def _peers(self, key: Any, ranks: Callable[[], list[int]], what: str) -> Peers | Alone:
        if key not in self._made:
            found = ranks()
            made = Peers(self, found, what) if len(found) > 1 else Alone()
            self._made[key] = made
        return self._made[key]

    def tag(self, tag: tuple[Any, ...]) -> int:
        """A number for a message that is under way between two devices: by name, micro-batch and both stages."""
        name, micro, source, target = tag
        stages = self.program.stages
        found = ((self.tags[name] * self.program.microbatches + micro) * stages + source) * stages + target
        if found > _LARGEST_TAG:
            raise RuntimeError(f"{self.program.name} has more messages in a step than torch has tags for")
        return int(found)


class Peers:
    """A device among its peers. `ranks`: of their processes, in the order of peers."""

    def __init__(self, network: TorchNetwork, ranks: Sequence[int], what: str) -> None:
        self.network, self.world, self.ranks, self.what = network, network.world, tuple(ranks), what
        self.rank, self.size = self.ranks.index(self.world.rank), len(self.ranks)
        self.group = self.world.group(self.ranks)
        members = sorted(self.ranks)
        self.place = [members.index(r) for r in self.ranks]
        """By peer, its number in the process group, which counts ranks."""
        self.order = [self.ranks.index(r) for r in members]
        """By number in the process group, the peer."""
        self.mail: dict[tuple[Any, ...], Tensor] = {}

    def _coming(self, work: Any, finish: Callable[[], T], what: str, keep: Any = None) -> Coming[T]:
        return Coming(self.world, work, finish, f"{what} {self.what}", self.ranks, keep)

    def all_reduce(self, x: Tensor, fn: str, spare: bool = False) -> Handle[Tensor]:
        y, back = _ordered(x, fn), _reduced_back(x.dtype, fn)
        bucket = self._bucket("all_reduce", fn, y.dtype)
        shape, row = tuple(y.shape), _row(y)
        if bucket.alone and not spare and row.data_ptr() == x.data_ptr():
            row = row.clone()  # it is done in place
        return bucket.add([row], lambda parts: back(parts[0].view(shape)))

    def all_gather(self, x: Tensor) -> Handle[list[Tensor]]:
        shape = tuple(x.shape)
        bucket = self._bucket("all_gather", "", x.dtype)
        return bucket.add([_row(x)], lambda parts: [parts[p].view(shape) for p in self.place])

    def reduce_scatter(self, parts: Sequence[Tensor], fn: str) -> Handle[Tensor]:
        shape = tuple(parts[0].shape)
        back = _reduced_back(parts[0].dtype, fn)
        given = [_ordered(parts[p].reshape(-1), fn) for p in self.order]
        bucket = self._bucket("reduce_scatter", fn, given[0].dtype)
        return bucket.add(given, lambda found: back(found[0]).view(shape))

    def _bucket(self, kind: str, fn: str, dtype: torch.dtype) -> Bucket:
        """Where a call of this kind goes: with others that are made together, or on its own, at once."""
        open_ = self.network.open
        if open_ is None:
            return Bucket(self, kind, fn, alone=True)
        return open_.setdefault((id(self), kind, fn, dtype), Bucket(self, kind, fn, alone=False))

    def start(self, kind: str, fn: str, pieces: Sequence[Sequence[Tensor]], alone: bool) -> tuple[Coming[Tensor], int]:
        """Start one call for several: `pieces[i]` are what call i sends, to each peer or to all. Its result, in a row,
        and how many parts that has. alone: it is one call, whose only piece may be written over."""
        sizes = range(len(pieces[0]))
        flat = [p[k] for k in sizes for p in pieces]
        given = flat[0] if alone and len(flat) == 1 else torch.cat(flat)
        total = given.numel() // len(sizes)
        if kind == "all_reduce":
            out, parts, work = given, 1, self.group.allreduce([given], _ALL_REDUCE[fn])
        elif kind == "all_gather":
            out, parts = given.new_empty(self.size * total), self.size
            work = self.group._allgather_base(out, given)
        else:
            out, parts = given.new_empty(total), 1
            work = self.group._reduce_scatter_base(out, given, _SCATTER[fn])
        return self._coming(work, lambda: out, f"{kind} {fn}".strip(), given), parts

    def all_to_all(self, parts: Sequence[Tensor], shapes: Sequence[Shape]) -> Handle[list[Tensor]]:
        given = torch.cat([parts[p].reshape(-1) for p in self.order])
        sent, got = [parts[p].numel() for p in self.order], [prod(shapes[p]) for p in self.order]
        out = given.new_empty(sum(got))
        work = self.group.alltoall_base(out, given, got, sent)

        def received() -> list[Tensor]:
            found = out.split(got)
            return [found[i].view(shapes[p]) for p, i in enumerate(self.place)]

        return self._coming(work, received, "all_to_all", given)

    def send(self, x: Tensor, to: int, tag: tuple[Any, ...]) -> Handle[None]:
        data = _row(x)
        if to == self.rank:
            self.mail[tag] = data
            return Done(None)
        work = self.group.send([data], self.place[to], self.network.tag(tag))
        return self._coming(work, lambda: None, f"process {self.ranks[to]} to take `{tag[0]}`", data)

    def recv(self, source: int, tag: tuple[Any, ...], shape: Shape, dtype: str) -> Handle[Tensor]:
        if source == self.rank:
            return Done(self.mail.pop(tag).view(shape))
        out = torch.empty(shape, dtype=STORAGE[dtype], device=self.network.device)
        work = self.group.recv([out.view(-1)], self.place[source], self.network.tag(tag))
        return self._coming(work, lambda: out, f"`{tag[0]}` of process {self.ranks[source]}", out)


class Bucket:
    """Calls of one kind that travel as one message. `alone`: a single one, which is started at once."""

    def __init__(self, peers: Peers, kind: str, fn: str, alone: bool) -> None:
        self.peers, self.kind, self.fn, self.alone = peers, kind, fn, alone
        self.pieces: list[Sequence[Tensor]] = []
        self.work: Coming[Tensor] | None = None
        self.parts: Sequence[Sequence[Tensor]] = ()

    def add(self, pieces: Sequence[Tensor], finish: Callable[[Sequence[Tensor]], T]) -> Bucketed[T]:
        """A call that sends these pieces; `finish` makes its result of what comes."""
        self.pieces.append(pieces)
        if self.alone:
            self.close()
        return Bucketed(self, len(self.pieces) - 1, finish)

    def close(self) -> None:
        """Send all."""
        self.sizes = [p[0].numel() for p in self.pieces]
        self.work, self.count = self.peers.start(self.kind, self.fn, self.pieces, self.alone)
        self.pieces = [()] * len(self.pieces)

    def part(self, i: int) -> Sequence[Tensor]:
        """What has come for call i; this process waits for it."""
        if not self.parts:
            assert self.work is not None, "it is waited for before it was sent"
            rows = self.work.get().view(self.count, -1)
            self.parts = [row.split(self.sizes) for row in rows]
        return [row[i] for row in self.parts]


@dataclass(slots=True)
class Bucketed(Generic[T]):
    """A handle of one call of a bucket."""

    bucket: Bucket
    number: int
    finish: Callable[[Sequence[Tensor]], T]

    def done(self) -> bool:
        return self.bucket.work is not None and self.bucket.work.done()

    def wait(self) -> Wait[T]:
        yield from ()
        return self.finish(self.bucket.part(self.number))


class Alone:
    """A device without peers, which may send to itself."""

    rank, size = 0, 1

    def __init__(self) -> None:
        self.mail: dict[tuple[Any, ...], Tensor] = {}

    def all_reduce(self, x: Tensor, fn: str, spare: bool = False) -> Done[Tensor]:
        return Done(x if spare else x.clone())

    def all_gather(self, x: Tensor) -> Done[list[Tensor]]:
        return Done([x.clone()])

    def reduce_scatter(self, parts: Sequence[Tensor], fn: str) -> Done[Tensor]:
        return Done(parts[0].clone())

    def all_to_all(self, parts: Sequence[Tensor], shapes: Sequence[Shape]) -> Done[list[Tensor]]:
        return Done([parts[0].clone()])

    def send(self, x: Tensor, to: int, tag: tuple[Any, ...]) -> Done[None]:
        self.mail[tag] = x.clone()
        return Done(None)

    def recv(self, source: int, tag: tuple[Any, ...], shape: Shape, dtype: str) -> Done[Tensor]:
        return Done(self.mail.pop(tag))


def _row(x: Tensor) -> Tensor:
    """The elements in a row, one beside the other: those of a view of some columns are a step apart in `reshape`."""
    return x.reshape(-1).contiguous()


def _all_reduce_options(fn: str) -> Any:
    options = dist.AllreduceOptions()
    options.reduceOp = dist.ReduceOp.SUM if fn == "sum" else dist.ReduceOp.MAX
    return options


def _scatter_options(fn: str) -> Any:
    options = dist.ReduceScatterOptions()
    options.reduceOp = dist.ReduceOp.SUM if fn == "sum" else dist.ReduceOp.MAX
    return options


_ALL_REDUCE = {fn: _all_reduce_options(fn) for fn in ("sum", "max")}
_SCATTER = {fn: _scatter_options(fn) for fn in ("sum", "max")}


def _ordered(x: Tensor, fn: str) -> Tensor:
    """What can be reduced in place of `x`; itself where it can."""
    if x.dtype == torch.bool:
        return x.to(torch.uint8)
    return to_ordered(x) if fn == "max" and x.is_floating_point() else x


def _reduced_back(dtype: torch.dtype, fn: str) -> Callable[[Tensor], Tensor]:
    """What makes the result of a reduction of what `_ordered` gave."""
    if dtype == torch.bool:
        return lambda y: y != 0
    return (lambda y: from_ordered(y, dtype)) if fn == "max" and dtype.is_floating_point else lambda y: y


def to_ordered(x: Tensor) -> Tensor:
    """Integers that are ordered as these floats are, NaN above all of them."""
    wide = x if x.dtype in (torch.float32, torch.float64) else x.to(torch.float32)
    bits = torch.where(wide.isnan(), torch.nan, wide).contiguous().view(_INTEGERS[wide.dtype])
    return torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits)


def from_ordered(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """The floats that `to_ordered` made integers of."""
    bits = torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits)
    return bits.view(_FLOATS[bits.dtype]).to(dtype)


_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}
_FLOATS = {integer: floating for floating, integer in _INTEGERS.items()}


def _ops(program: Program, *kinds: type) -> list[Any]:
    """All ops of these kinds in the program."""
    bodies = [f.body for cls in program.classes for f in cls.functions]
    return [i.op for body in bodies for i, _ in walk(body) if isinstance(i.op, kinds)]


def place_of(program: Program, rank: int) -> tuple[DeviceClass, int, Mapping[str, int]]:
    """The class, the group and the mesh coordinates of a process' device."""
    ranks = Ranks.of(program)
    group = ranks.group(rank)
    cls = next(c for c in program.classes if group in c.groups)
    axes = [a for a in ranks.axes if a.kind == "mesh"]
    return cls, group, {a.name: rank // ranks.strides[a.name] % a.size for a in axes}
