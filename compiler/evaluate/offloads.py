"""`offload`: which classes of tensors rest in which memory, and how many of them are fetched ahead; `run … on host`."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.evaluate import limits, static
from compiler.evaluate.expressions import evaluate
from compiler.evaluate.scope import Scope
from compiler.evaluate.session import listed
from compiler.memory.tiers import EXAMPLES, HOST, WAYS, RowCache
from compiler.model import Cluster
from compiler.strategy import RUN, OffloadRule, RunRule
from dsl import ast
from dsl.diagnostics import did_you_mean, fail
from dsl.source import Span


def classes_of(names: Sequence[ast.Name], allowed: Sequence[str]) -> tuple[str, ...]:
    """The classes of tensors that a rule names. Raises ParcError (E0403) for what is none of those allowed."""
    for name in names:
        if name.id not in allowed:
            help = did_you_mean(name.id, allowed) or f"there are {listed(allowed)}"
            raise fail("E0403", f"there is no class of tensors `{name.id}` here", name.span, help=help)
    return tuple(dict.fromkeys(n.id for n in names))


def offload_rule(
    statement: ast.Offload,
    classes: tuple[str, ...],
    where: str | None,
    scope: Scope,
    cluster: Cluster | None,
    span: Span,
    by: Span | None,
) -> OffloadRule:
    """The rule of a statement whose classes and scope are known. Raises ParcError: E0412 for a memory that there is
    not, or not on this cluster, E0570 for a distance that is none, E0571 for one of rows."""
    memory, ahead = statement.memory.id, statement.prefetch
    if memory not in EXAMPLES:
        help = did_you_mean(memory, EXAMPLES) or f"there are {listed(EXAMPLES)}"
        raise fail("E0412", f"there is no memory `{memory}`", statement.memory.span, help=help)
    if cluster is not None and memory not in cluster.tiers:
        message = f"the cluster `{cluster.name}` has no memory `{memory}`"
        notes = [("this is the cluster", cluster.span)]
        raise fail("E0412", message, statement.memory.span, notes=notes, help=f"describe it there: {EXAMPLES[memory]}")
    count = 1
    if ahead is not None and classes == ("rows",):
        message = "rows are fetched as soon as their numbers are known, which is not ahead of the step"
        raise fail("E0571", message, ahead.span, help="leave out `prefetch`")
    if ahead is not None:
        count = static.integer(evaluate(ahead, scope), "`prefetch`", ahead.span)
        if not 0 <= count <= limits.MAX_PREFETCH:
            message = f"`prefetch` says how many are fetched ahead: 0 to {limits.MAX_PREFETCH}, not {count}"
            raise fail(
                "E0570", message, ahead.span, help="`prefetch 1`, as without the word: one, while one is computed"
            )
    return OffloadRule(classes, memory, where, count, span, by, _cache(statement, classes, scope))


def _cache(statement: ast.Offload, classes: tuple[str, ...], scope: Scope) -> RowCache | None:
    """Of rows, those that devices keep. Raises ParcError: E0576, E0577."""
    if statement.cache is None:
        return None
    if classes != ("rows",):
        message = f"a cache has rows of tables, and this is of {listed(classes)}"
        raise fail("E0576", message, statement.cache.span, help="`offload rows to host cache …` as a rule of its own")
    rows = static.integer(evaluate(statement.cache, scope), "`cache`", statement.cache.span)
    if not 0 < rows <= limits.MAX_CACHE or rows % WAYS:
        least = max(1, min(rows, limits.MAX_CACHE) // WAYS) * WAYS
        near = f"{least} or {least + WAYS}" if WAYS < rows < limits.MAX_CACHE else str(least)
        message = f"`cache` says how many rows a device keeps, in sets of {WAYS}: not {rows}"
        raise fail("E0576", message, statement.cache.span, help=f"`cache {near}`")
    if statement.hits is None:
        return RowCache(rows)
    hits = static.number(evaluate(statement.hits, scope), "`hits`", statement.hits.span)
    if not 0 <= hits <= 1:
        message = f"`hits` is the share of the rows asked for that a device has: 0 to 1, not {hits}"
        help = "`parc run --executor private` measures it; without the word rows are as likely asked for as others"
        raise fail("E0577", message, statement.hits.span, help=help)
    return RowCache(rows, float(hits))


def run_rule(statement: ast.RunOn, where: str | None, cluster: Cluster | None, span: Span, by: Span | None) -> RunRule:
    """The rule of a statement, for a scope. Raises ParcError: E0412 for hosts of which the cluster says nothing,
    E0572 if it does not say what they compute, E0573 for what runs nowhere else, and for a place where none does."""
    for name in statement.kinds:
        if name.id not in RUN:
            help = did_you_mean(name.id, RUN) or f"there are {listed(RUN)}"
            raise fail("E0573", f"`{name.id}` is nothing that can run elsewhere", name.span, help=help)
    place = statement.place
    if place.id != HOST:
        raise fail(
            "E0573", f"nothing runs on `{place.id}`", place.span, help=f"`on {HOST}`: on the servers' processors"
        )
    if cluster is not None:
        notes = [("this is the cluster", cluster.span)]
        host = cluster.tiers.get(HOST)
        if host is None:
            message = f"the cluster `{cluster.name}` does not describe its hosts"
            raise fail("E0412", message, place.span, notes=notes, help=f"describe them there: {EXAMPLES[HOST]}")
        if not host.compute:
            message = f"the cluster `{cluster.name}` does not say what its hosts compute"
            help = "beside `host memory …`: `host compute 3 TFLOP/s`, of all processors of a server"
            raise fail("E0572", message, place.span, notes=notes, help=help)
    return RunRule(tuple(dict.fromkeys(n.id for n in statement.kinds)), place.id, where, span, by)
