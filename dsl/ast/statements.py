"""Statements of functions, models and optimizers."""

from __future__ import annotations

from dsl.ast.expressions import Expr, Name, Range, Syntax
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Statement(Syntax):
    """Any statement inside braces."""


@dataclass(frozen=True, slots=True)
class Target(Syntax):
    """What an assignment, a parameter or a declaration names: `x`, `x[b,s,d]`, `x[..., d]`.

    `dims` is None where none were written; `rest` is True if the list begins with `...`.
    axes: of each dim those that its pieces lie along, `x[b, s/cp]`, major first; () where none is written.
    """

    name: Name
    dims: tuple[Name, ...] | None = None
    rest: bool = False
    axes: tuple[tuple[Name, ...], ...] = ()


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
    """`state m, v ~ zeros`, in an optimizer: one tensor per weight, of the weight's shape.

    In a model: `state mean[c] ~ zeros`, in master precision, or `state seen : int32[b]`.
    """

    targets: tuple[Target, ...]
    dtype: Name | None = None
    dims: tuple[Name, ...] = ()
    init: Expr | None = None

    @property
    def names(self) -> tuple[Name, ...]:
        return tuple(t.name for t in self.targets)


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
