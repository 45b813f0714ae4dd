"""The syntax tree of `.par`: what was written, nothing evaluated. Every node knows its span.

Printed back to canonical text by `dsl.printer`. Comments are kept by the lexer apart from the tree.
"""

from __future__ import annotations

from dataclasses import field

from dsl.data import dataclass
from dsl.source import NOWHERE, Span


@dataclass(frozen=True, slots=True)
class Syntax:
    """Root of all syntax nodes. `span` does not take part in equality, so trees compare by meaning."""

    span: Span = field(default=NOWHERE, compare=False, kw_only=True, repr=False)


# --- expressions -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Expr(Syntax):
    """Any expression."""


@dataclass(frozen=True, slots=True)
class Number(Expr):
    """`8`, `3e-4`. `text` keeps the way it was written (for the printer)."""

    value: int | float
    text: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Quantity(Expr):
    """`30 GB/s`, `1 us`: a number and a unit (the unit's meaning is in `dsl.units`).

    `text` keeps the way the number was written (for the printer).
    """

    value: int | float
    unit: str
    text: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class String(Expr):
    """`"data/corpus.txt"`."""

    value: str


@dataclass(frozen=True, slots=True)
class Boolean(Expr):
    """`true`, `false`."""

    value: bool


@dataclass(frozen=True, slots=True)
class Name(Expr):
    """An identifier: a parameter, a value, a dim (its size, where a number is expected), a function."""

    id: str


@dataclass(frozen=True, slots=True)
class Attribute(Expr):
    """`pretrain.memory.peak`."""

    base: Expr
    name: str


@dataclass(frozen=True, slots=True)
class Unary(Expr):
    """`-x`, `not x`."""

    op: str
    operand: Expr


@dataclass(frozen=True, slots=True)
class Binary(Expr):
    """`+ - * / // % ** @`, comparisons `< <= > >= == !=`, and `and`, `or`."""

    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Conditional(Expr):
    """`a if test else b`; `test` is known when the file is evaluated."""

    then: Expr
    test: Expr
    other: Expr


@dataclass(frozen=True, slots=True)
class ListExpr(Expr):
    """`[1, 2, 3]`."""

    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Arrow(Expr):
    """`s -> t`, `d -> (h, k)`, `(h, k) -> d`: dims before and after, as an argument."""

    before: tuple[Name, ...]
    after: tuple[Name, ...]


@dataclass(frozen=True, slots=True)
class Over(Expr):
    """`over v`, `over (h, w)`: the dims that an operation works along, as an argument.

    `over s -> s2` also names the dims of the result (`after`, else empty).
    """

    dims: tuple[Name, ...]
    after: tuple[Name, ...] = ()


@dataclass(frozen=True, slots=True)
class Range(Expr):
    """`0..n`: from the first (included) to the last (not included)."""

    low: Expr
    high: Expr


@dataclass(frozen=True, slots=True)
class Argument(Syntax):
    """One argument of a call; `name` for `name = value`."""

    value: Expr
    name: Name | None = None


@dataclass(frozen=True, slots=True)
class Call(Expr):
    """`f(a, over v, lr = 1e-3) as label`: `label` names the scope of what the call makes."""

    function: Name
    arguments: tuple[Argument, ...]
    label: Name | None = None


# --- statements of functions, models and optimizers ----------------------------------------------


@dataclass(frozen=True, slots=True)
class Statement(Syntax):
    """Any statement inside braces."""


@dataclass(frozen=True, slots=True)
class Target(Syntax):
    """What an assignment, a parameter or a declaration names: `x`, `x[b,s,d]`, `x[..., d]`.

    `dims` is None where none were written; `rest` is True if the list begins with `...`.
    """

    name: Name
    dims: tuple[Name, ...] | None = None
    rest: bool = False


@dataclass(frozen=True, slots=True)
class DimDecl(Statement):
    """`dim b = batch, s = seq`."""

    dims: tuple[tuple[Name, Expr], ...]


@dataclass(frozen=True, slots=True)
class WeightDecl(Statement):
    """`weight w1[d,f], w2[f,d] ~ normal(0.02)`: the initialiser (or None) counts for all of them."""

    targets: tuple[Target, ...]
    init: Expr | None = None


@dataclass(frozen=True, slots=True)
class InputDecl(Statement):
    """`input tokens, targets : int32[b,s] in 0..v`: the range (or None) bounds integers."""

    names: tuple[Name, ...]
    dtype: Name
    dims: tuple[Name, ...]
    range: Range | None = None


@dataclass(frozen=True, slots=True)
class StateDecl(Statement):
    """`state m, v ~ zeros`, in an optimizer: one tensor per weight, of the weight's shape."""

    names: tuple[Name, ...]
    init: Expr | None = None


@dataclass(frozen=True, slots=True)
class Assign(Statement):
    """`u[b,s,f] = x @ w1`; `values, indices = top_k(x, over e, k = 2)`."""

    targets: tuple[Target, ...]
    value: Expr


@dataclass(frozen=True, slots=True)
class Repeat(Statement):
    """`repeat layers as block { ... }`: what the body assigns of the variables outside is carried."""

    count: Expr
    label: Name
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Scan(Statement):
    """`scan over s as cell { ... }`: the body sees one position of the dim after the other."""

    dim: Name
    label: Name
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class If(Statement):
    """`if causal { ... } else { ... }`; the test is known when the file is evaluated."""

    test: Expr
    then: tuple[Statement, ...]
    other: tuple[Statement, ...] = ()


@dataclass(frozen=True, slots=True)
class Return(Statement):
    """`return y` or `return a, b`."""

    values: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Loss(Statement):
    """`loss cross_entropy(logits, targets, over v)`: a scalar."""

    value: Expr


@dataclass(frozen=True, slots=True)
class Metric(Statement):
    """`metric accuracy = mean(...)`: a scalar that is reported and not differentiated."""

    name: Name
    value: Expr


@dataclass(frozen=True, slots=True)
class Output(Statement):
    """`output logits`: tensors that are results besides the loss, under their names."""

    names: tuple[Name, ...]


# --- statements of clusters, strategies and jobs --------------------------------------------------


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
    """`block.attention.wq`: a scope or a tensor."""

    parts: tuple[Name, ...]

    def __str__(self) -> str:
        return ".".join(p.id for p in self.parts)


@dataclass(frozen=True, slots=True)
class Mesh(Statement):
    """`mesh (pp = 2, dp = 2, tp = tp)`: axes major to minor."""

    axes: tuple[tuple[Name, Expr], ...]


@dataclass(frozen=True, slots=True)
class Split(Statement):
    """`split h, f on tp for weights, activations in block.attention pad`."""

    dims: tuple[Name, ...]
    axis: Name
    classes: tuple[Name, ...] = ()
    scope: Path | None = None
    pad: bool = False


@dataclass(frozen=True, slots=True)
class Shard(Statement):
    """`shard optimizer, gradients, weights on dp in block pad`."""

    classes: tuple[Name, ...]
    axis: Name
    scope: Path | None = None
    pad: bool = False


@dataclass(frozen=True, slots=True)
class LayoutDecl(Statement):
    """`layout block.mlp.w1[d, f/tp]`: per dim, the axes (`f/tp/dp`: tp is major)."""

    tensor: Path
    dims: tuple[tuple[Name, tuple[Name, ...]], ...]


SCHEDULES = ("gpipe", "one_f_one_b", "interleaved", "zero_bubble")
"""Names of the schedules of pipelines."""


@dataclass(frozen=True, slots=True)
class Pipeline(Statement):
    """`pipeline block on pp, schedule one_f_one_b(microbatches = 8), cuts [2, 4]`; `loop` by label or path."""

    loop: Path
    axis: Name
    schedule: Call | None = None
    cuts: Expr | None = None


@dataclass(frozen=True, slots=True)
class Microbatches(Statement):
    """`microbatches 8 over b`: gradient accumulation (without a pipeline)."""

    count: Expr
    dim: Name | None = None


@dataclass(frozen=True, slots=True)
class PlaceDecl(Statement):
    """`place image on tower[0]`: what the scope computes lives at that coordinate of the axis."""

    scope: Path
    axis: Name
    index: Expr


@dataclass(frozen=True, slots=True)
class Recompute(Statement):
    """`recompute block keep block.attention.out`; `recompute` alone means everything."""

    scope: Path | None = None
    keep: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Offload(Statement):
    """`offload optimizer, activations to host in block`: classes of tensors, the memory, the scope."""

    classes: tuple[Name, ...]
    memory: Name
    scope: Path | None = None


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


# --- top level --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Item(Syntax):
    """Anything at the top level of a file."""


@dataclass(frozen=True, slots=True)
class Use(Item):
    """`use std.layers (attention, mlp)` or `use "parts/blocks.par" (block)`; no names = all."""

    module: Path | String
    names: tuple[Name, ...] = ()


@dataclass(frozen=True, slots=True)
class Param(Item):
    """`param tp = 2 in {1, 2, 4, 8}` or `param layers = 8 in 1..1000`."""

    name: Name
    default: Expr
    choices: tuple[Expr, ...] | Range | None = None


@dataclass(frozen=True, slots=True)
class Parameter(Syntax):
    """A parameter of a function, model, tactic…: `x[b,s,d]` (a tensor pattern), `width`, `causal = true`."""

    target: Target
    default: Expr | None = None


@dataclass(frozen=True, slots=True)
class Definition(Item):
    """A named thing with parameters and a body."""

    name: Name
    parameters: tuple[Parameter, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Function(Definition):
    """`fn mlp(x[b,s,d], width) { ... return y }`."""


@dataclass(frozen=True, slots=True)
class Model(Definition):
    """`model gpt(layers, hidden) { ... loss ... }`."""


@dataclass(frozen=True, slots=True)
class Optimizer(Definition):
    """`optimizer sgd(lr, momentum = 0.9) { state m ~ zeros  m = …  w = w - lr * m }`: `w`, `g`, `step` are given."""


@dataclass(frozen=True, slots=True)
class Device(Definition):
    """`device ascend910 { compute bf16 256 TFLOP/s … }`."""


@dataclass(frozen=True, slots=True)
class Cluster(Definition):
    """`cluster pod(servers = 2) { ... }`."""


@dataclass(frozen=True, slots=True)
class Tactic(Definition):
    """`tactic megatron(tp) { split h, f, v, s on tp }`: strategy statements with parameters (axes, numbers)."""


@dataclass(frozen=True, slots=True)
class Strategy(Definition):
    """`strategy megatron for gpt { mesh (...) ... }`; `model` is None when it fits any model."""

    model: Name | None = None


@dataclass(frozen=True, slots=True)
class Job(Definition):
    """`job pretrain { train … }`."""


@dataclass(frozen=True, slots=True)
class Check(Item, Statement):
    """`check pretrain.memory.peak <= 30 GiB`; in the body of a function, `check active <= experts`."""

    test: Expr


@dataclass(frozen=True, slots=True)
class File(Syntax):
    """One `.par` file."""

    items: tuple[Item, ...]
