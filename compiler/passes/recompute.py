"""Recompute rules: which values the backward pass computes again rather than have them saved.

A rule works at one *level*: the top of the graph, or the body of one rolled loop.
  scope None            at the top: all but the results of loops; in each outermost loop: all that the body makes
  scope = a loop's path all that its body makes, so that per iteration only the carries are saved
  scope = another path  what stands below that path, at the level of the innermost loop around it
Loops inside such a scope run again as a whole, but for one that is cut into stages: no stage could run all of it, so
that each runs its own iterations again, one by one (as if the scope were the loop's path, too).
`keep` names values, or scopes whose results are meant.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from compiler.graph import Graph, Node, Value
from compiler.ops.repeat import Repeat
from compiler.origin import scopes, within
from compiler.passes.idle import Idle, Rule, report_idle
from compiler.strategy import RecomputeRule
from compiler.walk import graph_values
from dsl.data import dataclass
from dsl.diagnostics import Diagnostics, did_you_mean


@dataclass(frozen=True, slots=True)
class LoopLevel:
    """The top of the graph (`path` "") or the body of the loop at `path`, by which its graph is called."""

    path: str
    depth: int
    graph: Graph
    label: str = ""


def levels(graph: Graph, path: str = "", depth: int = 0, label: str = "") -> Iterator[LoopLevel]:
    """The top of the graph and the bodies of all its loops, outer before inner."""
    yield LoopLevel(path, depth, graph, label)
    for node in graph.nodes:
        if isinstance(node.op, Repeat):
            yield from levels(node.op.body, node.op.body.name, depth + 1, node.op.label)


class Hidden:
    """The rules at one level: which values must not be saved, and which are to be kept. A `keep` beats all rules.

    of: scopes of the rules; cut: labels of the loops at the top that are cut into stages.
    """

    def __init__(
        self, level: LoopLevel, of: Iterable[str | None], keep: frozenset[str], cut: Collection[str] = ()
    ) -> None:
        self._level = level
        self._scopes = frozenset(of)
        self._keep = keep
        self._cut = cut

    def covers(self, value: Value, node: Node) -> bool:
        """True if a rule's scope holds the value, a result of `node`."""
        loop = node.op if isinstance(node.op, Repeat) else None
        if loop is not None and self._level.depth == 0 and loop.label in self._cut:
            return False
        if None in self._scopes and not (loop is not None and self._level.depth == 0):
            return True
        path = value.origin.path
        return self._level.path in self._scopes or not self._scopes.isdisjoint((path, *scopes(path)))

    def keeps(self, value: Value) -> bool:
        """True if the value is named to be kept."""
        return value.origin.path in self._keep


class Recompute:
    """The rules of a strategy, by the level at which they work."""

    def __init__(
        self, graph: Graph, rules: Sequence[RecomputeRule], cut: Collection[str] = (), written: Graph | None = None
    ) -> None:
        """cut: labels of the loops at the top that are cut into stages; written: the graph that the rules speak
        of, of which something may have been set apart."""
        self._by_path: dict[str, Hidden] = {}
        if not rules:
            return
        all_levels = list(levels(written or graph))
        names = {v.name for v in graph_values(written or graph)}
        _check(rules, names, {level.path for level in all_levels})
        found = _hidden(rules, all_levels, names, cut)
        _check_effects(rules, all_levels, names, found)
        self._by_path = found if written is None else _hidden(rules, list(levels(graph)), names, cut)

    def at(self, path: str) -> Hidden | None:
        """The rules that work at the level of this path."""
        return self._by_path.get(path)


def _hidden(
    rules: Sequence[RecomputeRule], all_levels: Sequence[LoopLevel], names: set[str], cut: Collection[str]
) -> dict[str, Hidden]:
    """What the rules hide, by the path of the level."""
    at = _by_level(rules, all_levels)
    keep = {k for r in rules for k in r.keep}
    results = {n for scope in keep - names for level in all_levels for n in scope_results(level.graph, scope)}
    kept, named = frozenset(keep | results), {r.scope for r in rules if r.scope is not None}
    found = {}
    for level in all_levels:
        inside = [r.scope for r in at.get(level.path, ())]
        if level.depth == 1 and level.label in cut and not named.isdisjoint((level.path, *scopes(level.path))):
            inside.append(level.path)
        if inside:
            found[level.path] = Hidden(level, inside, kept, cut)
    return found


def _by_level(rules: Iterable[RecomputeRule], all_levels: Sequence[LoopLevel]) -> dict[str, list[RecomputeRule]]:
    """The rules that work at each level, by its path: those of scopes in it, and in no loop of it; rules for the whole
    model at its top and in the loops there."""
    found: dict[str, list[RecomputeRule]] = {level.path: [] for level in all_levels}
    for rule in rules:
        scope = rule.scope
        if scope is None:
            for path in dict.fromkeys(level.path for level in all_levels if level.depth <= 1):
                found[path].append(rule)
        else:
            found[next(path for path in (scope, *scopes(scope), "") if path in found)].append(rule)
    return found


def scope_results(graph: Graph, scope: str) -> list[str]:
    """Names of the values of a scope that are used outside of it at this level; failing that, of the last one."""
    inside = [n for n in graph.nodes if within(n.outputs[0].origin.path, scope)]
    made = {v for n in inside for v in n.outputs}
    used = {v for n in graph.nodes if made.isdisjoint(n.outputs) for v in n.inputs} | set(graph.outputs)
    found = [v.name for n in inside for v in n.outputs if v in used and v in made]
    return found or [v.name for n in inside[-1:] for v in n.outputs]


def _check(rules: Iterable[RecomputeRule], names: set[str], paths: set[str]) -> None:
    """Every scope and every `keep` must speak of something."""
    found = Diagnostics()
    known_scopes = paths.union(*map(scopes, names))
    for rule in rules:
        wanted = [("scope", rule.scope, known_scopes | names)] if rule.scope is not None else []
        wanted += [("value or scope", keep, known_scopes | names) for keep in rule.keep]
        for what, path, known in wanted:
            if path not in known:
                found.error(
                    "E0404",
                    f"recompute: the model has no {what} `{path}`",
                    rule.span,
                    help=did_you_mean(path, sorted(known)) or "names are paths such as `block.attention.out`",
                )
    found.raise_if_any()


def _check_effects(
    rules: Sequence[RecomputeRule], all_levels: Sequence[LoopLevel], names: set[str], hidden: Mapping[str, Hidden]
) -> None:
    """Every scope must hold something that is computed, every `keep` something that would be computed again."""
    made = {level.path: [(v, n) for n in level.graph.nodes for v in n.outputs] for level in all_levels}
    again = {v.name for path, h in hidden.items() for v, node in made[path] if h.covers(v, node)}
    computed: set[int] = set()  # rules that have something computed again
    for path, of in _by_level(rules, all_levels).items():
        there = {s for v, _ in made[path] for s in (v.origin.path, *scopes(v.origin.path))} if of else set()
        computed |= {id(r) for r in of if r.scope in there or (made[path] and r.scope == path)}
    rows: list[tuple[Rule, object, Idle | None]] = []
    for rule in rules:
        idle = None
        if rule.scope is not None and id(rule) not in computed:
            message = f"`recompute {rule.scope}` changes nothing: nothing is computed there"
            idle = Idle(message, "weights and inputs are there anyway: name the scope that computes with them")
        rows.append((rule, "recompute", idle))
        for keep in rule.keep:
            kept = {keep} if keep in names else {n for level in all_levels for n in scope_results(level.graph, keep)}
            idle = None
            if not kept & again:
                message = f"`keep {keep}` changes nothing: no rule has it computed again"
                idle = Idle(
                    message, "leave it out, or recompute a scope around it; a loop inside a scope runs again as a whole"
                )
            rows.append((rule, ("keep", keep), idle))
    found = Diagnostics()
    report_idle(rows, found)
    found.raise_if_any()
