"""A candidate as a strategy: as rules, to be priced, and as text, with tactics by name where they fit."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import count

from compiler.memory.tiers import HOST
from compiler.strategy import (
    CLASSES,
    MeshAxis,
    OffloadRule,
    PipelineRule,
    ShardRule,
    SplitRule,
    Strategy,
)
from dsl.source import Span
from parc.planning.dims import TOLD
from parc.planning.recomputes import rule_text
from parc.planning.space import DATA, EXPERTS, INNER, POSITIONS, STAGES, AxisRole, PlanChoice, PlanSpace

SHARDED = ((), ("optimizer",), ("optimizer", "gradients"), ("optimizer", "gradients", "weights"))
"""What is stored in pieces, by ZeRO's stage."""


def dims_of(space: PlanSpace, of: PlanChoice, kind: str, dim: str = "", size: int = 1) -> tuple[str, ...]:
    """What an axis splits, first to last. dim: the position's."""
    split, rules = space.split, of.rules
    if kind == DATA:
        return (*rules.rows, split.batch)
    if kind == EXPERTS:
        return (*split.experts, split.batch)
    if kind == INNER:
        return (*space.inner(size), *((rules.along,) if rules.along else ()))
    return (*(space.heads(of.mesh) if rules.heads else ()), dim)


def strategy_of(space: PlanSpace, of: PlanChoice, name: str = "planned") -> Strategy:
    """The rules of a candidate. Each stands somewhere: one that changes nothing is refused, as it is in a file. Raises
    ParcError for what is written by hand and cannot be along so many devices."""
    rules, batch = of.rules, space.split.batch
    at = (Span("<plan>", n, n + 1) for n in count())
    splits = []
    shards = []
    for role, size in of.axes:
        if role.kind != STAGES:
            dims = dims_of(space, of, role.kind, role.dim, size)
            classes = ("activations",) if role.kind == POSITIONS else CLASSES
            zigzag = role.kind == POSITIONS and rules.by > 0 and space.implementations[rules.by - 1].zigzag
            splits.append(SplitRule(dims, role.name, classes, span=next(at), zigzag=zigzag))
        if role.kind in (DATA, EXPERTS, POSITIONS) and rules.zero:
            shards.append(ShardRule(SHARDED[rules.zero], role.name, span=next(at)))
    stages = [role.name for role, _ in of.axes if role.kind == STAGES]
    parts = tuple(label for label, _ in space.split.loops)
    pipelines = tuple(PipelineRule(parts, axis, rules.schedule, rules.chunks) for axis in stages)
    return Strategy(
        name,
        tuple(MeshAxis(role.name, size) for role, size in of.axes),
        tuple(splits),
        tuple(shards),
        pipelines=pipelines,
        recomputes=tuple(replace(rule, span=next(at)) for rule in space.again(rules)),
        implementations=space.by_hand.rules(rules.by, of.mesh.size(POSITIONS)) if space.by_hand and rules.by else (),
        offloads=(OffloadRule(rules.offload, HOST, span=next(at)),) if rules.offload else (),
        microbatches=of.mesh.microbatches,
        microbatch_dim=batch or None,
        microbatch_span=next(at),
    )


def lines_of(space: PlanSpace, of: PlanChoice, known: Collection[str] | None = None) -> list[str]:
    """The statements of a candidate. known: tactics that may be named; what no tactic says is written out."""
    rules, batch, m = of.rules, space.split.batch, of.mesh.microbatches
    lines = [f"mesh ({', '.join(f'{role.name} = {size}' for role, size in of.axes)})"] if of.axes else []
    for role, size in of.axes:
        if role.kind != STAGES:
            by_hand = space.implementations[rules.by - 1] if rules.by and role.kind == POSITIONS else None
            found = _split(space, of, role, size, TACTICS if known is None else known)
            lines += [found] if by_hand is None else by_hand.lines(role.dim, role.name)
    for role, _ in of.axes:
        if role.kind in (DATA, EXPERTS, POSITIONS) and rules.zero:
            named = known is None or "optimizer_parallel" in known
            written = f"shard {', '.join(SHARDED[rules.zero])} on {role.name}"
            lines.append(f"optimizer_parallel({role.name}, {rules.zero})" if named else written)
    lines += [f"recompute {rule_text(rule)}" for rule in space.again(rules)]
    lines += [f"offload {', '.join(rules.offload)} to {HOST}"] if rules.offload else []
    cut = list(_pipelines(space, of))
    return lines + (cut or ([f"microbatches {m} over {batch}"] if m > 1 else []))


def _split(space: PlanSpace, of: PlanChoice, role: AxisRole, size: int, known: Collection[str]) -> str:
    dims = dims_of(space, of, role.kind, role.dim, size)
    tactic = _tactic(dims, role.kind, set(space.split.sizes) & set(TOLD), bool(of.rules.along))
    if tactic in known:
        return f"{tactic}({role.name})"
    return f"split {', '.join(dims)} on {role.name}{' for activations' if role.kind == POSITIONS else ''}"


def _tactic(dims: tuple[str, ...], kind: str, heads: set[str], along: bool) -> str:
    """The tactic of the standard library that says the same of this model, if there is one."""
    plain = {(DATA, ("b",)): "data_parallel", (EXPERTS, ("e", "b")): "moe", (POSITIONS, ("s",)): "context_parallel"}
    if kind == POSITIONS and dims == ("h", "s") and "r" not in heads:
        return "ulysses"
    if kind == INNER and set(dims[: len(dims) - along]) == heads and (not along or dims[-1] == "s"):
        return "megatron" if along else "tensor_parallel"
    return plain.get((kind, dims), "")


def _pipelines(space: PlanSpace, of: PlanChoice) -> Iterator[str]:
    rules, m = of.rules, of.mesh.microbatches
    parts = ", ".join(space.split.paths)  # labels are no names where loops of several scopes are called the same
    for role, _ in of.axes:
        if role.kind == STAGES:
            chunks = f"chunks = {rules.chunks}, " if rules.schedule == "interleaved" else ""
            over = f"over = {space.split.batch}"
            yield f"pipeline {parts} on {role.name}, schedule {rules.schedule}(microbatches = {m}, {chunks}{over})"


TACTICS = (
    *("data_parallel", "moe", "megatron", "tensor_parallel", "context_parallel", "ulysses", "optimizer_parallel"),
)
"""Of the standard library, which `lines_of` may name."""
