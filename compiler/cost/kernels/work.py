"""Pieces of work: what one kernel, message or loop consists of, in sizes. Prices are in `price.pricer`."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Union

from compiler.graph import Type
from compiler.ops.comm import Comm
from compiler.ops.registry import COMM
from dsl.data import dataclass

COLLECTIVES: dict[str, type[Comm]] = {c.mnemonic: c for c in COMM}


@dataclass(frozen=True, slots=True)
class Product:
    """`batch` products of m*k by k*n matrices.

    bytes: operands and result. core: part of attention's core (scores, or what follows from them), where a fused
    kernel moves only `core_bytes` and computes only the share of scores that a mask has `kept`, or `most` on the device
    that has most to do, for which all wait (0: all have alike much). groups: with weights of so many experts, whose
    products libraries launch one by one. again: fused kernels compute the scores once more beside it, which the program
    has kept: as much as the product itself.
    """

    m: int
    n: int
    k: int
    batch: int
    dtype: str
    bytes: int
    core: bool = False
    core_bytes: int = 0
    kept: float = 1.0
    most: float = 0.0
    groups: int = 1
    again: bool = False

    @property
    def flops(self) -> float:
        return 2.0 * self.m * self.n * self.k * self.batch

    @staticmethod
    def of(left: Type, right: Type, result: Type) -> Product | None:
        """The product that a contraction is, its bytes not counted yet; None for a sum of x*y over rows or columns,
        which is no work for the matrix unit."""
        sizes = {d.name: d.size for d in (*left.dims, *right.dims)}
        batch = prod(s for n, s in sizes.items() if left.has(n) and right.has(n) and result.has(n))
        k = prod(s for n, s in sizes.items() if not result.has(n))
        m = prod(s for n, s in sizes.items() if result.has(n) and not right.has(n))
        n = prod(s for n, s in sizes.items() if result.has(n) and not left.has(n))
        return None if m == 1 and n == 1 else Product(m, n, k, batch, left.dtype, 0)


@dataclass(frozen=True, slots=True)
class Vector:
    """A run of element-wise work and reductions. As one kernel it moves `bytes`, as `ops` kernels `loose` bytes.

    core: between two products of attention's core; not there where attention is fused.
    """

    bytes: int
    loose: int
    ops: int
    flops: int
    dtype: str
    core: bool = False


@dataclass(frozen=True, slots=True)
class Collective:
    """`op` (its mnemonic) over mesh axes. elements: of the whole (larger) side; of `itemsize` bytes.

    role: `weights` (what is gathered depends on weights alone, or is only written back), `gradients` (only accumulated,
    or accumulated before), `activations`. The first two can run beside computation. `stages`: what has come from
    another stage, of which each device may have got a part; the axes are those along which all need the same.

    whole: in `itemsize` bytes in any case, for the job computes in such: there is nothing narrower to cast to.
    copies: of an all-to-all: so many of its elements are copies of one, or are added up to one where they arrive.
    places: so many of those were made first, and copied again, or are added up last (0: it is not done in two steps).
    beside: products of attention's core that need nothing else of other devices, or of which it is the result.
    aside: on a stream of its own; nothing waits for it but what reads it.
    """

    op: str
    axes: tuple[str, ...]
    elements: int
    itemsize: int
    role: str
    whole: bool = False
    copies: int = 1
    places: int = 0
    beside: tuple[Product, ...] = ()
    aside: bool = False

    @property
    def comm(self) -> type[Comm]:
        """The class of the op, which knows how its messages go."""
        return COLLECTIVES[self.op]


@dataclass(frozen=True, slots=True)
class Copy:
    """From one memory to another, by their names. ahead: in a loop, how many iterations early it may begin."""

    bytes: int
    source: str
    target: str
    ahead: int = 0


@dataclass(frozen=True, slots=True)
class Hosted:
    """Work of the processors whose memory this is: bytes that are read and written there, and operations."""

    bytes: int
    flops: float
    memory: str


@dataclass(frozen=True, slots=True)
class Wait:
    """For what virtual stage (own + source) sends under this name."""

    name: str
    source: int


@dataclass(frozen=True, slots=True)
class Post:
    """To virtual stage (own + to). alike: axes along which all devices send the same."""

    name: str
    to: int
    bytes: int
    alike: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Meet:
    """All-reduce between the devices of the same coordinates of several groups, in a ring."""

    key: str
    groups: tuple[int, ...]
    bytes: int

    @property
    def sent(self) -> float:
        """Bytes that a device sends, to the next group."""
        n = len(self.groups)
        return 2 * (n - 1) / n * self.bytes

    def next(self, group: int) -> int:
        """The group to which the devices of `group` send."""
        return self.groups[(self.groups.index(group) + 1) % len(self.groups)]


@dataclass(frozen=True, slots=True)
class WorkLoop:
    """`count` times `body`."""

    count: int
    body: Part


Work = Union[Product, Vector, Collective, Copy, Hosted, Wait, Post, Meet, WorkLoop]  # noqa: UP007 (recursive)


@dataclass(frozen=True, slots=True)
class WorkNode:
    """deps: nodes of the same part that must have ended. carried: nodes of the loop's iteration before. again: only
    systems do it that run whole layers again (`again.py`)."""

    name: str
    work: Work
    deps: tuple[int, ...] = ()
    carried: tuple[int, ...] = ()
    again: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A function's or loop's work in the order in which it is issued."""

    nodes: tuple[WorkNode, ...]

    def each(self, times: int = 1) -> Iterator[tuple[WorkNode, int]]:
        """All nodes but loops, those inside of loops among them, and how often each runs if the part does `times`."""
        for node in self.nodes:
            if isinstance(node.work, WorkLoop):
                yield from node.work.body.each(times * node.work.count)
            else:
                yield node, times
