"""What stands at the top level of a file."""

from __future__ import annotations

from dsl.ast.expressions import Expr, Name, Range, String, Syntax
from dsl.ast.statements import Statement, Target
from dsl.ast.strategies import Path
from dsl.data import dataclass


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
