"""Dims that stand in for others in a `split` rule: `split h, r on tp` splits `r` where `h` does not divide, else `h`.

Such are query heads per key head: there may be fewer key heads than devices. Then each device has all key heads, and a
part of the queries of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import combinations

from compiler.graph import Graph
from compiler.model import Model
from compiler.ops.contract import Contract
from compiler.ops.shape import Split
from compiler.strategy import SplitRule
from compiler.walk import walk


def chosen(rules: Sequence[SplitRule], sizes: Mapping[str, int], model: Model) -> list[SplitRule]:
    """The rules with one of each pair of a dim and its stand-in behind it: the first, if it divides or none does."""
    if all(rule.pad or len(rule.dims) < 2 for rule in rules):
        return list(rules)
    dims = _sizes(model)
    found = []
    for rule in rules:
        gone: set[str] = set()
        for first, second in combinations(rule.dims, 2):
            if not rule.pad and first not in gone and _stands_in(dims, first, second, model):
                n = sizes[rule.axis]
                gone.add(second if _divides(dims, first, n) or not _divides(dims, second, n) else first)
        found.append(replace(rule, dims=tuple(d for d in rule.dims if d not in gone)) if gone else rule)
    return found


def with_samples(rules: Sequence[SplitRule], dim: str, count: int, model: Model) -> list[SplitRule]:
    """The rules, in which what micro-batches hold of their dim stands behind it: where the model splits it into `count`
    micro-batches and the samples of each, these are split as it is."""
    if not any(dim in rule.dims for rule in rules):
        return list(rules)
    parts = {d.name for op in _splits(model.graph) if op.dim == dim and op.into[0].size == count for d in op.into[1:2]}
    if not parts:
        return list(rules)

    def more(names: tuple[str, ...]) -> tuple[str, ...]:
        at = names.index(dim) + 1
        return (*names[:at], *sorted(parts.difference(names)), *names[at:])

    return [replace(rule, dims=more(rule.dims)) if dim in rule.dims else rule for rule in rules]


@lru_cache(4)
def _splits(graph: Graph) -> tuple[Split, ...]:
    return tuple([node.op for node, _ in walk(graph) if isinstance(node.op, Split)])


def stand_in(dim: str, n: int, model: Model) -> str | None:
    """A dim of the model that divides into `n` parts and can stand in for `dim`."""
    dims = _sizes(model)
    others = (d for d in dims if d != dim and _divides(dims, d, n))
    return next((other for other in others if _stands_in(dims, dim, other, model)), None)


def _sizes(model: Model) -> dict[str, set[int]]:
    """Sizes of the dims that weights have, but for those of loops."""
    found: dict[str, set[int]] = {}
    for weight in model.weights:
        for d in weight.value.type.dims[len(weight.loops) :]:
            found.setdefault(d.name, set()).add(d.size)
    return found


def _divides(dims: Mapping[str, set[int]], dim: str, n: int) -> bool:
    return all(size % n == 0 for size in dims.get(dim, ()))


def _stands_in(dims: Mapping[str, set[int]], dim: str, other: str, model: Model) -> bool:
    """Whether all weights with the other have this dim, too, and products that have both sum over both or over none."""
    if other not in dims or any(w.value.type.has(other) and not w.value.type.has(dim) for w in model.weights):
        return False
    alike = [(dim in op.dims) == (other in op.dims) for op, names in _products(model.graph) if {dim, other} <= names]
    return bool(alike) and all(alike)


def _products(graph: Graph) -> Iterator[tuple[Contract, set[str]]]:
    for node, _ in walk(graph):
        if isinstance(node.op, Contract):
            yield node.op, {n for v in node.inputs for n in v.type.names}
