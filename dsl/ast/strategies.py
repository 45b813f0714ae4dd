"""Statements of devices, clusters, strategies and jobs."""

from __future__ import annotations

from dsl.ast.expressions import Call, Expr, Name, Range, Syntax
from dsl.ast.statements import Statement
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Setting(Statement):
    """`memory 32 GB, 1.2 TB/s`, `precision bf16, master f32`: a keyword, its values, its clauses.

    In a device: `compute bf16 320 TFLOP/s`, `memory 32 GB, 1.2 TB/s`, `launch 5 us`. `words` holds
    the bare names before the first value (a name that nothing follows is a value: in `memory size`,
    `size` is one), `values` the expressions, `clauses` the `over …` groups (keyword, expressions).
    Unknown keywords are the evaluator's errors, with suggestions.
    """

    keyword: Name
    words: tuple[Name, ...] = ()
    values: tuple[Expr, ...] = ()
    clauses: tuple[tuple[Name, tuple[Expr, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceUse(Statement):
    """`device npu = ascend910` in a cluster."""

    name: Name
    device: Name


@dataclass(frozen=True, slots=True)
class Level(Statement):
    """`level server = 8 npu over 30 GB/s, 1 us`."""

    name: Name
    count: Expr
    of: Name
    bandwidth: Expr
    latency: Expr


@dataclass(frozen=True, slots=True)
class Path(Syntax):
    """`block.attention.wq`: a scope or a tensor. `block[0..4].attention`: bounds, one per part, say which iterations of
    a loop are meant (a `Range`, or the number of one); none where all are, everywhere."""

    parts: tuple[Name, ...]
    bounds: tuple[Expr | None, ...] = ()

    def __str__(self) -> str:
        return ".".join(p.id for p in self.parts)


@dataclass(frozen=True, slots=True)
class Mesh(Statement):
    """`mesh (pp = 2, dp = 2, tp = tp)`: axes major to minor."""

    axes: tuple[tuple[Name, Expr], ...]


@dataclass(frozen=True, slots=True)
class Split(Statement):
    """`split h, f on tp for weights, activations in block.attention pad`, `split s on cp zigzag`: in an order."""

    dims: tuple[Name, ...]
    axis: Name
    classes: tuple[Name, ...] = ()
    scope: Path | None = None
    pad: bool = False
    order: Name | None = None


@dataclass(frozen=True, slots=True)
class Shard(Statement):
    """`shard optimizer, gradients, weights on dp in block pad`."""

    classes: tuple[Name, ...]
    axis: Name
    scope: Path | None = None
    pad: bool = False


@dataclass(frozen=True, slots=True)
class ReduceDecl(Statement):
    """`reduce gradients on rep per microbatch in block`; `per` is `microbatch` or `step`."""

    classes: tuple[Name, ...]
    axis: Name
    per: str
    scope: Path | None = None


@dataclass(frozen=True, slots=True)
class LayoutDecl(Statement):
    """`layout block.mlp.w1[d, f/tp] in block[0..4]`: per dim, the axes (`f/tp/dp`: tp is major)."""

    tensor: Path
    dims: tuple[tuple[Name, tuple[Name, ...]], ...]
    scope: Path | None = None


SCHEDULES = ("gpipe", "one_f_one_b", "interleaved", "zero_bubble", "by_hand")
"""Names of the schedules of pipelines."""


@dataclass(frozen=True, slots=True)
class Pipeline(Statement):
    """`pipeline block on pp, schedule one_f_one_b(microbatches = 8), cuts [2, 4], chunks [0, 1, 1, 0]`; `parts`: loops
    by label or path, and scopes, in the order in which values pass through them; `chunks`: of each stage, where on the
    axis it is (`down_and_up`: any number of places, and back); of several ways through the model `[[0, 1], [1, 0]]`, or
    `both_ways`."""

    parts: tuple[Path, ...]
    axis: Name
    schedule: Call | None = None
    cuts: Expr | None = None
    chunks: Expr | None = None


@dataclass(frozen=True, slots=True)
class Actions(Syntax):
    """`F[0..4]`, `B1[i]`: a pass (`F`, `B`, `W`) of a chunk (0 if none is named) on one micro-batch or a `Range`."""

    pass_: Name
    at: Expr


@dataclass(frozen=True, slots=True)
class ActionsLoop(Syntax):
    """`for i in 0..4 { F[i + 1] B[i] }`: the actions again and again, each time with another number."""

    name: Name
    range: Range
    body: tuple[Actions, ...]


@dataclass(frozen=True, slots=True)
class OrderRow(Statement):
    """A line of actions, one after the other."""

    items: tuple[Actions | ActionsLoop, ...]


@dataclass(frozen=True, slots=True)
class Order(Statement):
    """`order pp[0] { … }`, `order pp[p in 0..4] { … }`: what the devices at one place of an axis do, or at several,
    with a name for the number of each. Rows are of the kind `OrderRow`."""

    axis: Name
    at: Expr
    name: Name | None
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Microbatches(Statement):
    """`microbatches 8 over b`: gradient accumulation (without a pipeline).

    `microbatches 8 over b, two passes`: what the loss needs of the whole batch is computed before.
    `microbatches 8 over b pad`: the last one may be smaller.
    """

    count: Expr
    dim: Name | None = None
    two_passes: bool = False
    pad: bool = False


@dataclass(frozen=True, slots=True)
class PlaceDecl(Statement):
    """`place image on tower[0]`: what the scope computes lives at that coordinate of the axis; `place mask on pp`: at
    every one that reads it."""

    scope: Path
    axis: Name
    index: Expr | None = None


@dataclass(frozen=True, slots=True)
class Recompute(Statement):
    """`recompute block keep block.attention.out`; `recompute` alone means everything."""

    scope: Path | None = None
    keep: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Offload(Statement):
    """`offload optimizer, activations to host in block prefetch 2`: classes of tensors, the memory, the scope, how many
    are fetched ahead; `offload rows to host cache 1024 hits 0.9`: rows that devices keep, and how often they have one.
    """

    classes: tuple[Name, ...]
    memory: Name
    scope: Path | None = None
    prefetch: Expr | None = None
    cache: Expr | None = None
    hits: Expr | None = None


@dataclass(frozen=True, slots=True)
class RunOn(Statement):
    """`run update, take on host in table`: what computes elsewhere than on the devices, and for which weights."""

    kinds: tuple[Name, ...]
    place: Name
    scope: Path | None = None


@dataclass(frozen=True, slots=True)
class Store(Statement):
    """`store weights as int4(group = 128) in block`: the class of tensors, the format in which they rest, the scope."""

    what: Name
    format: Call
    scope: Path | None = None


@dataclass(frozen=True, slots=True)
class FuseOff(Statement):
    """`fuse off`: every instruction by itself."""


@dataclass(frozen=True, slots=True)
class Implement(Statement):
    """`implement block.mlp by tensor_parallel_mlp(tp)`: the scope is computed by a device-local function."""

    scope: Path
    call: Call


@dataclass(frozen=True, slots=True)
class Apply(Statement):
    """`megatron(tp)`: a tactic applied inside a strategy or another tactic; `in SCOPE` narrows it."""

    call: Call
    scope: Path | None = None


@dataclass(frozen=True, slots=True)
class Task(Statement):
    """`train gpt(layers, 256) on pod(servers = 2) using megatron`; each part but the model may be missing."""

    kind: Name
    model: Call
    cluster: Call | None = None
    strategy: Name | None = None


@dataclass(frozen=True, slots=True)
class Decode(Statement):
    """`decode over s, prefill 512` in a job that infers: new positions by themselves, so many at first."""

    dim: Name
    prefill: Expr | None = None


@dataclass(frozen=True, slots=True)
class OptimizerUse(Statement):
    """`optimizer adamw(lr = 3e-4, clip = 1.0)` in a job."""

    call: Call


@dataclass(frozen=True, slots=True)
class Frozen(Statement):
    """`frozen block, wte keep *.low`: weights that are not trained. `*` in a path stands for any names in between.

    Without paths all weights are meant, but for those that are kept.
    """

    weights: tuple[Path, ...] = ()
    keep: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Precision(Statement):
    """`precision bf16, master f32, loss_scale 1024` (`loss_scale dynamic` is Name("dynamic"))."""

    compute: Name
    master: Name | None = None
    loss_scale: Expr | None = None


@dataclass(frozen=True, slots=True)
class Data(Statement):
    """`data text("data/corpus.txt")`."""

    call: Call


@dataclass(frozen=True, slots=True)
class Seed(Statement):
    """`seed 7`."""

    value: Expr
