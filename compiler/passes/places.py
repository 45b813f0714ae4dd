"""Where what a strategy places lies, and in which order values pass through the places."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from compiler.graph import Graph, Node, Value
from compiler.ops.repeat import Repeat
from compiler.origin import scopes, within
from compiler.passes.recompute import levels
from compiler.strategy import PipelineRule, PlaceRule
from dsl.diagnostics import Diagnostic, Diagnostics, ParcError
from dsl.source import Span

if TYPE_CHECKING:
    from compiler.passes.stage import Staged


def places(
    graph: Graph, rules: tuple[PlaceRule, ...], apart: Sequence[Graph] = (), written: Graph | None = None
) -> dict[str, int | None]:
    """Scopes and their places (None: wherever it is read). Raises ParcError for one that has no effect.

    apart: what the model does besides, of whole batches; written: the model's graph, where all of its scopes have to
    have an effect. What needs data alone is where it is needed, whatever place its scope has.
    """
    made = _scopes(n for g in (graph, *apart) for n in g.nodes)
    first: dict[str, PlaceRule] = {}
    wrong = Diagnostics()
    for p in rules:
        if first.setdefault(p.scope, p) is not p:
            notes = [("the first is here", first[p.scope].span)]
            wrong.error("E0415", f"`{p.scope}` is placed twice", p.span, notes=notes)
        elif p.scope not in made and written is not None:
            if p.scope in _scopes(written.nodes):
                wrong.add(not_needed(f"`{p.scope}`", p.span))
                continue
            wrong.error("E0410", f"nothing of `{p.scope}` can be placed by itself", p.span, help=_why(graph, p.scope))
    wrong.raise_if_any()
    return {scope: p.index for scope, p in first.items()}


def not_needed(what: str, span: Span | None) -> Diagnostic:
    """E0410 for a rule of something of which nothing is computed."""
    message = f"nothing of {what} is computed: neither the loss nor an output needs it"
    return Diagnostic("E0410", message, span, help="use what it makes, or leave the rule out")


def _scopes(nodes: Iterable[Node]) -> set[str]:
    """Those that the nodes are in."""
    found: set[str] = set()
    for n in nodes:
        path = node_path(n)
        found.update((path, *scopes(path)))
    return found


def place_of(node: Node, fixed: Mapping[str, int | None]) -> int | None:
    """The place of the innermost scope around the node that has one."""
    scope = scope_of(node, fixed)
    return None if scope is None else fixed[scope]


def scope_of(node: Node, fixed: Container[str]) -> str | None:
    """The innermost scope around the node that has a place."""
    path = node_path(node)
    return next((p for p in (path, *scopes(path)) if p in fixed), None)


def check_by_each(graph: Graph, rules: Sequence[PlaceRule], where: Mapping[str, int | None]) -> None:
    """Raises ParcError (E0410) for a scope that is to be computed wherever it is read, and cannot be."""
    of = {r.scope: r for r in rules}
    wrong = Diagnostics()
    for node in graph.nodes if rules else ():
        rule = of.get(scope_of(node, of) or "")
        if rule is None or rule.index is not None or where.get(node.outputs[0].name) is None:
            continue
        if not any(d.span == rule.span for d in wrong):
            message = f"`{rule.scope}` reads what only one stage has: it is computed there"
            help = f"say where, `place {rule.scope} on {rule.axis}[…]`, or leave it out"
            wrong.error("E0410", message, rule.span, help=help)
    wrong.raise_if_any()


def check_cut(graph: Graph, rules: Sequence[PlaceRule], staged: Staged) -> None:
    """Raises ParcError (E0415) where a rule places what is cut."""
    of = {r.scope: r for r in rules if r.index is not None}
    for node in graph.nodes:
        rule = of.get(scope_of(node, of) or "")
        if rule is not None and staged.is_cut(node) and rule.scope == node_path(node):
            message = f"`{rule.scope}` is cut into stages: it is not on one of them"
            raise ParcError(Diagnostic("E0415", message, rule.span, help="place what is not cut"))


def check_order(graph: Graph, rules: Sequence[PipelineRule], staged: Staged, where: Mapping[str, int | None]) -> None:
    """Whether values pass through what is cut in the order of the stages.

    Raises ParcError (E0552) for what needs something that is made on a later stage.
    """
    of = {part: rule for rule in rules for part in rule.parts}
    behind: dict[Value, str] = {}  # value -> the part that it has come from last
    for node in graph.nodes if of else ():
        came = next((behind[v] for v in node.inputs if v in behind), None)
        part = node.op.label if isinstance(node.op, Repeat) else ""
        path = node_path(node)
        part = part if part in of else next((p for p in (path, *scopes(path)) if p in of), "")
        cut = staged.cut_at(node)
        here = where.get(node.outputs[0].name) if cut is None else cut.begin
        late = next((v for v in node.inputs if (s := where.get(v.name)) is not None and s > (here or 0)), None)
        if part and late is not None:
            message = f"`{part}` needs what `{behind.get(late, late.name)}` makes, which is there on a later stage only"
            help = "the parts of a pipeline stand in the order in which values pass through them: name both in one row"
            raise ParcError(Diagnostic("E0552", message, of[part].span, help=help))
        if part or came:
            behind.update(dict.fromkeys(node.outputs, part or came or ""))


def node_path(node: Node) -> str:
    """What rules about places call a node: the scope that a loop opens, or the path of the result."""
    return node.op.body.name if isinstance(node.op, Repeat) else node.outputs[0].origin.path


def _why(graph: Graph, scope: str) -> str:
    """Why no node at the top of the model is in the scope."""
    loops = [level.path for level in levels(graph) if level.path and within(scope, level.path)]
    if loops:
        return f"it is in the loop `{loops[0]}`, which runs in one place: `place {loops[0]} on …`"
    return "weights and data are where they are used: place the scope that computes with them"


def ranks(graphs: Sequence[Graph], fixed: Mapping[str, int | None], groups: int) -> tuple[int, ...] | None:
    """The position of each place in the order in which values pass through them, whatever the places' numbers.

    Places that hand each other nothing stand in the order of their numbers. None where values come back to a place: it
    could not finish its forward pass before another's that it waits for (`visits`). graphs: the forward pass, and what
    is made of whole batches before it.
    """
    after: dict[int, set[int]] = {g: set() for g in range(groups)}
    came: dict[str, frozenset[int]] = {}  # value -> places that it has come from without passing through another one
    for node in (node for graph in graphs for node in graph.nodes):
        sources = frozenset[int]().union(*(came.get(v.name, frozenset()) for v in node.inputs))
        place = place_of(node, fixed)
        if place is not None:
            for source in sources - {place}:
                after[source].add(place)
            sources = frozenset((place,))
        came.update((v.name, sources) for v in node.outputs)
    waits = dict.fromkeys(after, 0)
    for targets in after.values():
        for g in targets:
            waits[g] += 1
    free = [g for g, n in waits.items() if n == 0]  # a heap: in the order of numbers
    found: list[int] = [-1] * groups
    for position in range(groups):
        if not free:
            return None
        found[g := heappop(free)] = position
        for other in after[g]:
            waits[other] -= 1
            if waits[other] == 0:
                heappush(free, other)
    return tuple(found)


def of_weights(graph: Graph, fixed: Mapping[str, int | None], kept: Container[str]) -> frozenset[Node]:
    """Nodes with a place that need weights and states alone and are read at that place alone, or put out (casts,
    gathers, what a state becomes): whichever stage it is that reads them there, it makes them.

    kept: names of weights and states.
    """
    data = {v for v in graph.inputs if v.name not in kept}
    for node in graph.nodes:
        if not data.isdisjoint(node.inputs):
            data.update(node.outputs)
    found: set[Node] = set()
    readers: dict[Value, set[int | None]] = {}
    for node in reversed(graph.nodes):
        place = place_of(node, fixed)
        read = set[int | None]().union(*(readers.get(v, ()) for v in node.outputs))
        if place is not None and read <= {place} and data.isdisjoint(node.outputs):
            found.add(node)
        for v in node.inputs:
            readers.setdefault(v, set()).add(place)
    return frozenset(found)


def visits(
    graph: Graph, fixed: Mapping[str, int | None], groups: int, anywhere: Container[Node]
) -> tuple[dict[str, int], tuple[int, ...]]:
    """Where values come back to places: the visit in which each placed value is made, and the place of each visit, in
    the order in which values pass through them.

    A visit makes all that can be made at a place by then. Places that have nothing left to do afterwards come first,
    then those for which others wait.
    anywhere: nodes that each visit makes which reads them.
    """
    at = {node: None if node in anywhere else place_of(node, fixed) for node in graph.nodes}
    visit: dict[Value, int | None] = dict.fromkeys(graph.inputs)
    order: list[int] = []

    def run(place: int) -> dict[Node, int | None]:
        """What the next visit makes if it is at this place (None: made wherever it is read)."""
        now, made = len(order), dict[Value, int | None]()
        found: dict[Node, int | None] = {}
        for node in left:
            given = [made[v] if v in made else visit.get(v, -1) for v in node.inputs]
            if -1 in given or at[node] not in (None, place):
                continue
            last = now if at[node] is not None else max((g for g in given if g is not None), default=None)
            found[node] = last
            made.update(dict.fromkeys(node.outputs, last))
        return found

    def awaited_by_others(found: Container[Node], place: int) -> bool:
        """Whether a visit makes what another place waits for."""
        made = {v for n in left if n in found for v in n.outputs}
        return any(at[n] not in (None, place) and not made.isdisjoint(n.inputs) for n in left)

    left = list(graph.nodes)
    while left:
        waiting = sorted({p for n in left if (p := at[n]) is not None})
        runs = {p: run(p) for p in waiting} or {0: run(0)}
        runs = {p: found for p, found in runs.items() if not waiting or any(at[n] == p for n in found)}
        done = [p for p, found in runs.items() if all(n in found for n in left if at[n] == p)]
        awaited = [p for p, found in runs.items() if awaited_by_others(found, p)] if not done else []
        place = next(iter((*done, *awaited, *runs)))
        visit.update((v, last) for n, last in runs[place].items() for v in n.outputs)
        left = [n for n in left if n not in runs[place]]
        if waiting:
            order.append(place)
    order += [g for g in range(groups) if g not in order]
    return {v.name: last for v, last in visit.items() if last is not None}, tuple(order)
