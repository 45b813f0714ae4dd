"""What may be computed again: nothing, the part of each layer of which most is saved, each layer but for its products'
results, or each layer whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from compiler.driver import run_passes
from compiler.graph import Value
from compiler.model import Job
from compiler.ops.contract import Contract
from compiler.ops.repeat import Repeat
from compiler.origin import outer, scopes, within
from compiler.strategy import SERIAL, RecomputeRule
from parc.planning.dims import Splittable

Again = tuple[RecomputeRule, ...]
"""One choice of what is computed again."""


def recomputes(job: Job, split: Splittable) -> tuple[Again, ...]:
    """The choices. What is saved is that of the serial program."""
    if not split.loops or job.kind != "train":
        return ((),)
    saved: dict[str, int] = {}
    for value in _saved(job, ()):
        inside = next((s for s in scopes(value.origin.path) if outer(s) in split.paths), None)
        if inside is not None:
            saved[inside] = saved.get(inside, 0) + value.type.bytes
    most = [max(of, key=lambda s: saved[s]) for p in split.paths if (of := [s for s in saved if outer(s) == p])]
    choices: list[Again] = [(), tuple(map(RecomputeRule, most)), _but_products(job, split)]
    return (*dict.fromkeys(choices), tuple(map(RecomputeRule, split.paths)))


def _but_products(job: Job, split: Splittable) -> Again:
    """Each layer, but for what its products make; empty where that keeps nothing.

    A product of two activations whose result is larger than both (scores of attention) is made again: it is little
    work for what it keeps. So is what the backward pass needs for nothing.
    """
    wide = tuple(RecomputeRule(p, tuple(_products(job, split, p))) for p in split.paths)
    there = {v.origin.path for v in _saved(job, wide)}
    found = tuple(replace(rule, keep=tuple(k for k in rule.keep if k in there)) for rule in wide)
    return found if any(rule.keep for rule in found) else ()


def _products(job: Job, split: Splittable, path: str) -> Iterator[str]:
    """Names of what the products of a layer make, in their order. (A loop in a layer runs again as a whole.)"""
    loops = (n.op for n in job.model.graph.nodes if isinstance(n.op, Repeat) and n.op.body.name == path)
    for node in (n for loop in loops for n in loop.body.nodes if isinstance(n.op, Contract)):
        made, of = node.outputs[0], [v.type for v in node.inputs]
        if any(not t.has(split.batch) for t in of) or made.type.bytes <= max(t.bytes for t in of):
            yield made.origin.path


def _saved(job: Job, again: Again) -> tuple[Value, ...]:
    """What the serial program keeps for its backward pass."""
    return tuple(run_passes(replace(job, strategy=replace(SERIAL, recomputes=again)), "update").training.saved)


def kept_by_loops(job: Job, split: Splittable, again: Again) -> tuple[int, ...]:
    """Bytes that the serial program keeps for its backward pass, of what each loop at the top makes."""
    saved = _saved(job, again)
    return tuple(sum(v.type.bytes for v in saved if within(v.origin.path, path)) for path in split.paths)


def in_place_of(again: Again, by_hand: Iterable[str]) -> Again:
    """The same where these scopes are written by hand: of what is kept in them, their results are."""
    replaced = [*by_hand]

    def kept(name: str) -> str:
        return next((scope for scope in replaced if within(name, scope)), name)

    return tuple(replace(rule, keep=tuple(dict.fromkeys(map(kept, rule.keep)))) for rule in again)


def rule_text(rule: RecomputeRule) -> str:
    """What stands behind `recompute`."""
    return f"{rule.scope} keep {', '.join(rule.keep)}" if rule.keep else str(rule.scope)


def told(again: Again) -> str:
    """In words."""
    rows = (f"{r.scope} but for {len(r.keep)} products" if r.keep else str(r.scope) for r in again)
    return ", ".join(rows) or "none"
