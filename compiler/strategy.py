"""The rules of a strategy: how a model lies on a cluster.

`span` is where a rule stands (one of the standard library: where its tactic is applied), `by` the strategy's own
statement that applies the tactic from which it comes, if it comes from one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from math import prod

from compiler.homes import Homes
from compiler.memory.tiers import RowCache
from compiler.weight_format import WeightFormat
from dsl.data import dataclass
from dsl.source import NOWHERE, Span

CLASSES = ("weights", "activations", "gradients", "optimizer")
MOVED = ("optimizer", "weights", "activations", "rows")
"""The classes of tensors that can rest in another memory than the devices' own. Rows: of the weights that the model
reads by `take` alone, with the optimizer's states of them; those that are used are moved, not the tables."""


@dataclass(frozen=True, slots=True)
class MeshAxis:
    """A mesh axis; the last of a mesh has neighbouring devices."""

    name: str
    size: int
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class SplitRule:
    """Of each tensor of the classes in the scope, the first of `dims` that it has is split on `axis`.

    zigzag: of twice as many blocks as the axis has devices, device i has block i and, behind it, block 2n-1-i.
    """

    dims: tuple[str, ...]
    axis: str
    classes: tuple[str, ...] = CLASSES
    scope: str | None = None
    pad: bool = False
    span: Span = field(default=NOWHERE, compare=False)
    by: Span | None = field(default=None, compare=False)
    zigzag: bool = False


@dataclass(frozen=True, slots=True)
class ShardRule:
    """The storage of these classes (`optimizer`, `gradients`, `weights`) is also split on `axis`: ZeRO-1/2/3.

    pad: a weight of which no dim divides is stored in uneven pieces, else whole.
    """

    classes: tuple[str, ...]
    axis: str
    scope: str | None = None
    pad: bool = False
    span: Span = field(default=NOWHERE, compare=False)
    by: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ReduceRule:
    """When gradients are summed over the devices of `axis`, where it does not split them: `per` "microbatch" (as they
    come) or "step" (once, in the update, as without a rule)."""

    axis: str
    per: str
    scope: str | None = None
    span: Span = field(default=NOWHERE, compare=False)
    by: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class LayoutRule:
    """One tensor's layout, written out: per dim its axes, major to minor."""

    tensor: str
    dims: tuple[tuple[str, tuple[str, ...]], ...]
    span: Span = field(default=NOWHERE, compare=False)
    by: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ActionRow:
    """`count` times the same actions (pass, chunk, micro-batch the first time), on micro-batches that come `by` later
    each time."""

    steps: tuple[tuple[str, int, int], ...]
    count: int = 1
    by: int = 1
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class PipelineRule:
    """A row of parts is cut into stages along `axis`: rolled loops, by label, and scopes, by path.

    A loop has as many places for a cut as it has iterations, a scope is one. `cuts`: of each stage but the first, the
    first iteration (or scope), counted through the row. homes: of each stage its place on the axis; (): round and
    round. copies: the same of further ways through the model. orders: what the devices of each place do, where the
    schedule is written by hand.
    """

    parts: tuple[str, ...]
    axis: str
    schedule: str = "gpipe"
    chunks: int = 1
    cuts: tuple[int, ...] | None = None
    span: Span = field(default=NOWHERE, compare=False)
    homes: tuple[int, ...] = ()
    orders: tuple[tuple[ActionRow, ...], ...] = ()
    copies: tuple[tuple[int, ...], ...] = ()

    def where(self, places: int) -> Homes:
        """Where its stages are, and their copies. places: of the axis."""
        if not self.homes:
            return Homes.dealt(places, places * self.chunks)
        return Homes(tuple(g for way in (self.homes, *self.copies) for g in way), 1 + len(self.copies))

    def length(self, loops: Mapping[str, int]) -> int:
        """Iterations and scopes in the row; loops: label -> count."""
        return sum(loops.get(part, 1) for part in self.parts)


@dataclass(frozen=True, slots=True)
class PlaceRule:
    """What the scope computes lives at coordinate `index` of `axis` (None: wherever it is read)."""

    scope: str
    axis: str
    index: int | None
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class RecomputeRule:
    """The backward pass computes what the scope (None: everything) made again, but for `keep`."""

    scope: str | None = None
    keep: tuple[str, ...] = ()
    span: Span = field(default=NOWHERE, compare=False)
    by: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ImplementRule:
    """What the scope computes is written by hand, along these axes: on no other dims do they split anything there.

    axes: each with the name of the dim of its devices, which it splits. weights: by path, dims with the axes that their
    pieces lie along, major first.
    """

    scope: str
    axes: tuple[tuple[str, str], ...]
    weights: tuple[tuple[str, tuple[tuple[str, tuple[str, ...]], ...]], ...] = ()
    span: Span = field(default=NOWHERE, compare=False)
    by: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class OffloadRule:
    """Tensors of these classes in the scope (None: everywhere) rest in `memory` (`host`, `nvme`). Of several rules for
    a tensor the first counts. prefetch: how many of those that are read next are fetched ahead. cache: of rows, those
    that each device keeps."""

    classes: tuple[str, ...]
    memory: str
    scope: str | None = None
    prefetch: int = 1
    span: Span = field(default=NOWHERE, compare=False)
    by: Span | None = field(default=None, compare=False)
    cache: RowCache | None = None


RUN = ("update", "take")
"""What can be computed elsewhere than on the devices."""


@dataclass(frozen=True, slots=True)
class RunRule:
    """Of the weights in the scope (None: all) these run on `place`, the hosts' processors: the optimizer's update, and
    `take` of rows that rest there."""

    kinds: tuple[str, ...]
    place: str
    scope: str | None = None
    span: Span = field(default=NOWHERE, compare=False)
    by: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class StoreRule:
    """Matrices of the scope (None: all) rest in this format; or (`caches`) what is kept of positions does, or what
    products with these matrices take has it (`activations`). Of several rules for one the last counts."""

    format: WeightFormat
    scope: str | None = None
    span: Span = field(default=NOWHERE, compare=False)
    by: Span | None = field(default=None, compare=False)


PAGES = "sequences.pages"
"""What the data of a program is called that says which pages each sequence has."""


def is_page_table(name: str) -> bool:
    """Whether data of this name is that: no data of a model has such a name in a program of new positions."""
    return name == PAGES or name.startswith(f"{PAGES}_")


@dataclass(frozen=True, slots=True)
class PageRule:
    """What is kept of all positions lies in pages of `slots` positions each, which sequences have as they grow: `pages`
    of them (None: as many as all sequences can have together). pieces: into how many the strategy cuts dims."""

    slots: int
    pages: int | None = None
    span: Span = field(default=NOWHERE, compare=False)
    by: Span | None = field(default=None, compare=False)
    pieces: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Strategy:
    """Layouts, places and an order. `microbatches` of dim `microbatch_dim` (None: first dim of the first input).

    microbatch_pad: the last micro-batch may be smaller.
    two_passes: what a loss needs of the whole batch is computed before the first micro-batch, and once more with it.
    fuses: whether neighbouring instructions run as one (`fuse off`: each by itself).
    """

    name: str
    mesh: tuple[MeshAxis, ...] = ()
    splits: tuple[SplitRule, ...] = ()
    shards: tuple[ShardRule, ...] = ()
    reductions: tuple[ReduceRule, ...] = ()
    layouts: tuple[LayoutRule, ...] = ()
    pipelines: tuple[PipelineRule, ...] = ()
    places: tuple[PlaceRule, ...] = ()
    recomputes: tuple[RecomputeRule, ...] = ()
    microbatches: int = 1
    microbatch_dim: str | None = None
    span: Span = field(default=NOWHERE, compare=False)
    offloads: tuple[OffloadRule, ...] = ()
    two_passes: bool = False
    microbatch_span: Span = field(default=NOWHERE, compare=False)
    microbatch_pad: bool = False
    implementations: tuple[ImplementRule, ...] = ()
    runs: tuple[RunRule, ...] = ()
    stores: tuple[StoreRule, ...] = ()
    caches: tuple[StoreRule, ...] = ()
    activations: tuple[StoreRule, ...] = ()
    pages: PageRule | None = None
    fuses: bool = True

    @property
    def devices(self) -> int:
        return prod(a.size for a in self.mesh)

    def pieces(self) -> dict[str, int]:
        """Into how many pieces rules may cut dims, by their names."""
        sizes = {a.name: a.size for a in self.mesh}
        axes: dict[str, set[str]] = {}
        for rule in self.splits:
            for d in rule.dims:
                axes.setdefault(d, set()).add(rule.axis)
        return {d: prod(sizes[a] for a in found) for d, found in axes.items()}

    @property
    def zigzags(self) -> tuple[SplitRule, ...]:
        """The rules that say an order, along axes that split anything."""
        sizes = {a.name: a.size for a in self.mesh}
        return tuple(r for r in self.splits if r.zigzag and sizes[r.axis] > 1)


SERIAL = Strategy("serial")
