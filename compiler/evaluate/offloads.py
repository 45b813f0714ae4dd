"""`offload`: which classes of tensors rest in which memory, and how many of them are fetched ahead."""

from __future__ import annotations

from compiler.evaluate import limits, static
from compiler.evaluate.expressions import evaluate
from compiler.evaluate.scope import Scope
from compiler.evaluate.session import listed
from compiler.memory.tiers import EXAMPLES
from compiler.model import Cluster
from compiler.strategy import OffloadRule
from dsl import ast
from dsl.diagnostics import did_you_mean, fail
from dsl.source import Span


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
    return OffloadRule(classes, memory, where, count, span, by)
