"""The space that is searched: which axes a mesh may have and what they split, and how much there is to choose.

An axis is of one of five kinds, of each at most one in a mesh but for positions:

    stages     holds pieces of the loops, by a schedule
    data       splits the batch (and the rows of those tables that it divides, if that is chosen)
    experts    splits experts, and the batch elsewhere
    positions  splits a dim of the inputs besides the batch, of activations alone, or heads in its place inside
    inner      splits what is between products, and perhaps positions where there is nothing of the kind

All sizes in one mesh are above 1, so that no strategy is there twice. How many there are follows from numbers alone
(`PlanSpace.total`); which of them can be is looked at dim by dim (`PlanSpace.meshes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from functools import cached_property
from itertools import combinations, product
from math import comb, prod

from compiler.model import Job
from compiler.strategy import Strategy
from dsl.data import dataclass
from parc.planning.dims import Splittable
from parc.planning.implementing import HandWritten, Implementing
from parc.planning.left_out import NOTHING_LEFT_OUT, SpaceWithout
from parc.planning.offloads import NOTHING, Away
from parc.planning.recomputes import Again, in_place_of

STAGES, DATA, EXPERTS, POSITIONS, INNER = "stages", "data", "experts", "positions", "inner"

CHUNKS = (2, 3, 4, 5, 6, 7, 8)
"""Of interleaved stages. Where the layers do not come out even, powers of two alone."""

SCHEDULES = (("gpipe", 1), ("one_f_one_b", 1), *(("interleaved", c) for c in CHUNKS), ("zero_bubble", 1))
"""Schedules, and chunks of each."""

ZERO = (0, 1, 2, 3)

MOST_POSITIONS = 2
"""Dims of positions that are split at once: rows and columns of images."""


@dataclass(frozen=True, slots=True)
class AxisRole:
    """What an axis of the mesh is for. dim: the position's, else empty."""

    name: str
    kind: str
    dim: str = ""


@dataclass(frozen=True, slots=True)
class MeshChoice:
    """Axes above 1 and their sizes, the usual order: major to minor. microbatches: of the whole batch."""

    axes: tuple[tuple[AxisRole, int], ...]
    microbatches: int

    def size(self, kind: str) -> int:
        """Devices along the axes of a kind."""
        return prod(n for role, n in self.axes if role.kind == kind)


@dataclass(frozen=True, slots=True)
class PlanRules:
    """What is chosen besides the mesh. first: the kind of the outermost axis. along: what inner axes split besides
    ("" or a dim of positions); heads: axes of positions split what is inner inside; rows: of the tables that the
    axis of data splits; recompute: index into `PlanSpace.recomputes`; by: of what is written by hand which takes its
    scopes' place along the axis of positions, counted from 1 (0: none); offload: what rests with the hosts."""

    first: str = STAGES
    zero: int = 0
    recompute: int = 0
    schedule: str = ""
    chunks: int = 1
    along: str = ""
    heads: bool = False
    rows: tuple[str, ...] = ()
    by: int = 0
    offload: Away = ()

    @property
    def inside(self) -> tuple[bool, int]:
        """What stands inside of attention, where positions are split."""
        return self.heads, self.by


@dataclass(frozen=True, slots=True)
class FieldWays:
    """The values that each field of `PlanRules` may have. inside: of `heads` and `by`, one of them at most."""

    first: tuple[str, ...]
    zero: tuple[int, ...]
    recompute: tuple[int, ...]
    schedules: tuple[tuple[str, int], ...]
    along: tuple[str, ...]
    inside: tuple[tuple[bool, int], ...]
    rows: tuple[tuple[str, ...], ...]
    offload: tuple[Away, ...]

    @property
    def number(self) -> int:
        """All combinations."""
        return prod(len(getattr(self, f.name)) for f in fields(self))


@dataclass(frozen=True, slots=True)
class PlanChoice:
    """One strategy of the space."""

    mesh: MeshChoice
    rules: PlanRules

    @property
    def bunched(self) -> PlanRules:
        """The rules but for the order of axes, ZeRO and the schedule, as `PlanSpace.bunches` has them."""
        return replace(self.rules, first=STAGES, zero=0, schedule="", chunks=1)

    @property
    def axes(self) -> tuple[tuple[AxisRole, int], ...]:
        """In their order on the cluster, major to minor."""
        axes = self.mesh.axes
        first = [a for a in axes if a[0].kind == self.rules.first]
        return (*first, *(a for a in axes if a not in first))


@dataclass(frozen=True)
class PlanSpace:
    """All strategies of a job that are looked at. recomputes: choices of what is computed again; by_hand: what is
    written by hand and may take the place of scopes; whole: whether something needs the whole batch, and nothing has
    micro-batches (`whole_batch`); without: what none has."""

    devices: int
    split: Splittable
    batch: int
    recomputes: tuple[Again, ...]
    domains: tuple[int, ...] = ()
    """Devices of one domain of each level of the cluster."""
    by_hand: Implementing | None = None
    offloads: tuple[Away, ...] = NOTHING
    whole: bool = False
    without: SpaceWithout = NOTHING_LEFT_OUT

    @cached_property
    def everything(self) -> PlanSpace:
        """The same with what is left out: what is looked at for bounds need be no strategy that is searched."""
        return replace(self, without=NOTHING_LEFT_OUT) if self.without.names else self

    @property
    def implementations(self) -> tuple[HandWritten, ...]:
        """Of which `PlanRules.by` speaks."""
        return self.by_hand.found if self.by_hand is not None else ()

    def again(self, rules: PlanRules) -> Again:
        """What a candidate computes again."""
        by_hand = self.implementations[rules.by - 1].scopes if rules.by else ()
        return in_place_of(self.recomputes[rules.recompute], by_hand)

    def job_of(self, job: Job, strategy: Strategy) -> Job:
        """The job with a strategy of the space. Raises ParcError for what is written by hand and cannot be."""
        if self.by_hand is None or not strategy.implementations:
            return replace(job, strategy=strategy)
        return self.by_hand.job_of(strategy)

    @cached_property
    def roles(self) -> tuple[AxisRole, ...]:
        """The axes that there may be, major to minor. Without a schedule there are no stages."""
        out = {*self.without.words, *(() if self.schedules else ("pp",))}
        return tuple(role for role in self.every_role if role.name not in out)

    @cached_property
    def schedules(self) -> tuple[tuple[str, int], ...]:
        """Of stages."""
        return tuple(s for s in SCHEDULES if self.without.schedule(*s))

    @cached_property
    def every_role(self) -> tuple[AxisRole, ...]:
        """The axes that there may be where none is left out, major to minor."""
        split = self.split
        found = [AxisRole("pp", STAGES)] if split.loops else []
        found += [AxisRole("dp", DATA)]
        found += [AxisRole("ep", EXPERTS)] if split.experts else []
        positions = split.positions[:MOST_POSITIONS]
        names = ("cp",) if split.loops and len(positions) == 1 else ("sp", "sx")
        found += [AxisRole(n, POSITIONS, d) for n, d in zip(names, positions, strict=False)]
        return (*found, *([AxisRole("tp", INNER)] if split.inner else []))

    @cached_property
    def batches(self) -> tuple[int, ...]:
        """All numbers of micro-batches that divide the batch."""
        return divisors(self.batch)

    # --- in numbers ----------------------------------------------------------------------------------------------

    @cached_property
    def total(self) -> int:
        """All strategies, those that cannot be among them: a closed form."""
        found = 0
        for n in range(len(self.roles) + 1):
            for roles in combinations(self.roles, n):
                found += self._sizes(roles) * len(self.batches) * self.options(roles)
        return found

    def _sizes(self, roles: Sequence[AxisRole]) -> int:
        """In how many ways these axes share the devices."""
        if not any(self.without.limits(role.name) for role in roles):
            return ordered(self.devices, len(roles))
        every = factors(self.devices, len(roles))
        return sum(self._within(tuple(zip(roles, sizes, strict=True))) for sizes in every)

    def _within(self, axes: Sequence[tuple[AxisRole, int]]) -> bool:
        return all(self.without.size(role.name, size) for role, size in axes)

    def options(self, roles: Sequence[AxisRole]) -> int:
        """Choices besides sizes and micro-batches, for a mesh of these axes."""
        return self._ways(roles).number

    def _ways(self, roles: Sequence[AxisRole]) -> FieldWays:
        kinds, without = {role.kind for role in roles}, self.without
        positions = self.split.positions[:MOST_POSITIONS] if "sequence" not in without.words else ()
        both = tuple(k for name, k in (("pp", STAGES), ("dp", DATA)) if f"outermost={name}" not in without.words)
        tables = DATA in kinds and self.split.rows and "rows" not in without.words
        return FieldWays(
            both if {STAGES, DATA} <= kinds else (roles[0].kind if roles else STAGES,),
            tuple(z for z in ZERO if without.zero(z)) if kinds & {DATA, EXPERTS, POSITIONS} else (0,),
            tuple(i for i, rules in enumerate(self.recomputes) if without.again(rules, self.split.paths)),
            self.schedules if STAGES in kinds else (("", 1),),
            ("", *positions) if INNER in kinds else ("",),
            self._inside() if POSITIONS in kinds else ((False, 0),),
            ((), self.split.rows) if tables else ((),),
            tuple(away for away in self.offloads if without.away(away)),
        )

    def _inside(self) -> tuple[tuple[bool, int], ...]:
        heads = ((True, 0),) if self.split.heads and "heads" not in self.without.words else ()
        found = enumerate(self.implementations, 1)
        return ((False, 0), *heads, *((False, n) for n, of in found if self.without.by_hand(of)))

    # --- what can be ---------------------------------------------------------------------------------------------

    def meshes(self) -> Iterator[MeshChoice]:
        """All meshes and micro-batches of which no number speaks against all strategies."""
        for n in range(len(self.roles) + 1):
            for roles in combinations(self.roles, n):
                for sizes in factors(self.devices, n):
                    axes = tuple(zip(roles, sizes, strict=True))
                    if not self._divides(axes):
                        continue
                    pieces = _pieces(axes)
                    for m in (1,) if self.whole else self.batches:
                        if self.batch % (m * pieces) == 0:
                            yield MeshChoice(axes, m)

    def has(self, mesh: MeshChoice) -> bool:
        """Whether a mesh of so many devices as there are is one of these."""
        pieces = mesh.size(DATA) * mesh.size(EXPERTS) * mesh.microbatches
        if self.whole and mesh.microbatches > 1:
            return False
        return prod(n for _, n in mesh.axes) == self.devices and self._divides(mesh.axes) and not self.batch % pieces

    def can_share(self, mesh: MeshChoice, along: str, inside: tuple[bool, int], rows: Sequence[str]) -> bool:
        """Whether no number speaks against layers that are shared so. mesh: of as many devices as there may be; rows:
        of tables that the axis of data splits."""
        ways = self.ways(mesh)
        splits = along in ways.along and inside in ways.inside and {*rows} <= {*self.rows(mesh)}
        return splits and self._divides(mesh.axes) and not self.batch % (_pieces(mesh.axes) * mesh.microbatches)

    def _divides(self, axes: Sequence[tuple[AxisRole, int]]) -> bool:
        """Whether what each axis splits can be split so, and none has more devices than it may."""
        if self.without.most and not self._within(axes):
            return False
        for role, size in axes:
            if role.kind == STAGES and size > self.split.layers:
                return False
            if role.kind == INNER and not self.inner(size):
                return False
            if role.kind == EXPERTS and any(self.split.sizes[d] % size for d in self.split.experts):
                return False
            if role.kind == POSITIONS and self.split.sizes[role.dim] % size:
                return False
        return True

    def _chunks(self, stages: int, chunks: int) -> bool:
        """Whether so many stages can have so many chunks each."""
        layers, all_chunks = max(1, self.split.layers), stages * chunks
        return all_chunks <= layers and (chunks in (1, 2, 4, 8) or layers % all_chunks == 0)

    def inner(self, size: int) -> tuple[str, ...]:
        """The inner dims that so many devices can split."""
        return tuple(d for d in self.split.inner if self.split.sizes[d] % size == 0)

    def rows(self, mesh: MeshChoice) -> tuple[str, ...]:
        """The rows of tables that the axis of data can split, beside an inner axis that splits them, too."""
        sizes, data, inner = self.split.sizes, mesh.size(DATA), self.inner(mesh.size(INNER))
        return tuple(d for d in self.split.rows if sizes[d] % (data * (mesh.size(INNER) if d in inner else 1)) == 0)

    def ways(self, mesh: MeshChoice) -> FieldWays:
        """All choices besides mesh and micro-batches that no number speaks against. None hangs on another. Where all
        devices of a domain share a layer, the order of stages and replicas is the same to the cluster: one is left."""
        all_ways, sizes = self._ways([role for role, _ in mesh.axes]), self.split.sizes
        pieces = {
            a: prod(n for role, n in mesh.axes if role.kind == INNER or role.dim == a) for a in all_ways.along if a
        }
        within = prod(n for role, n in mesh.axes if role.kind not in (STAGES, DATA))
        same = all(within % domain == 0 for domain in self.domains[:-1])  # whichever is outermost spans all levels
        return replace(
            all_ways,
            first=all_ways.first[:1] if same else all_ways.first,
            schedules=tuple(s for s in all_ways.schedules if self._chunks(mesh.size(STAGES), s[1])),
            along=tuple(a for a in all_ways.along if not a or sizes[a] % pieces[a] == 0),
            inside=tuple(i for i in all_ways.inside if self._can_be(mesh, *i)),
            rows=tuple(dict.fromkeys(self.rows(mesh) if r else r for r in all_ways.rows)),
        )

    def bunches(self, mesh: MeshChoice) -> Iterator[tuple[PlanRules, FieldWays]]:
        """What is chosen but for the order of axes, ZeRO and the schedule, and the ways that there are of these."""
        ways = self.ways(mesh)
        fields = ways.recompute, ways.along, ways.inside, ways.rows, ways.offload
        for again, along, (heads, by), rows, away in product(*fields):
            yield PlanRules(recompute=again, along=along, heads=heads, rows=rows, by=by, offload=away), ways

    def _can_be(self, mesh: MeshChoice, heads: bool, by: int) -> bool:
        """Whether positions can be split so inside of attention."""
        if by and self.implementations[by - 1].zigzag:  # two blocks to each device
            return all(self.split.sizes[r.dim] % (2 * n) == 0 for r, n in mesh.axes if r.kind == POSITIONS)
        return not heads or bool(self.heads(mesh))

    def heads(self, mesh: MeshChoice) -> tuple[str, ...]:
        """The heads that the axes of positions can split where those of what is inner split them, too."""
        sizes, pieces = self.split.sizes, mesh.size(POSITIONS)
        inner = mesh.size(INNER)
        return tuple(d for d in self.split.heads if sizes[d] % (pieces * (inner if sizes[d] % inner == 0 else 1)) == 0)

    def legal(self, mesh: MeshChoice) -> int:
        """How many strategies of the mesh no number speaks against."""
        return self.ways(mesh).number


def _pieces(axes: Sequence[tuple[AxisRole, int]]) -> int:
    """In how many the axes cut the batch."""
    return prod(n for role, n in axes if role.kind in (DATA, EXPERTS))


def primes(n: int) -> dict[int, int]:
    """The prime factors of a number, and how often each is there."""
    found: dict[int, int] = {}
    p = 2
    while p * p <= n:
        while n % p == 0:
            found[p] = found.get(p, 0) + 1
            n //= p
        p += 1
    if n > 1:
        found[n] = found.get(n, 0) + 1
    return found


def ordered(n: int, parts: int) -> int:
    """In how many ways a number is a product of so many factors above 1, their order counted: of factors from 1 on
    there are the product of C(e + k - 1, k - 1) over its primes' exponents e; those with a 1 are taken out again."""
    exponents = primes(n).values()

    def weak(k: int) -> int:
        return prod(comb(e + k - 1, k - 1) for e in exponents) if k else int(n == 1)

    return sum((-1) ** j * comb(parts, j) * weak(parts - j) for j in range(parts + 1))


def divisors(n: int) -> tuple[int, ...]:
    """All divisors of a number, from 1 on."""
    found = [1]
    for p, e in primes(n).items():
        found = [d * p**i for d in found for i in range(e + 1)]
    return tuple(sorted(found))


def factors(n: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to write a number as a product of so many factors above 1."""
    if parts == 0:
        if n == 1:
            yield ()
        return
    if parts == 1:
        if n > 1:
            yield (n,)
        return
    for first in divisors(n)[1:]:
        for rest in factors(n // first, parts - 1):
            yield (first, *rest)
