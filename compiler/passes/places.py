"""Where what a strategy places lies, and in which order values pass through the places."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from compiler.graph import Graph, Node, Value
from compiler.ops.repeat import Repeat
from compiler.origin import scopes, within
from compiler.passes.recompute import levels
from compiler.strategy import PlaceRule
from dsl.diagnostics import Diagnostics


def places(
    graph: Graph, rules: tuple[PlaceRule, ...], apart: Sequence[Graph] = (), strict: bool = True
) -> dict[str, int | None]:
    """Scopes and their places (None: wherever it is read). Raises ParcError for one that has no effect.

    apart: what the model does besides, of whole batches. It is where it is needed, whatever place its scope has.
    """
    made: set[str] = set()
    for n in (*graph.nodes, *(n for other in apart for n in other.nodes)):
        path = node_path(n)
        made.update((path, *scopes(path)))
    first: dict[str, PlaceRule] = {}
    wrong = Diagnostics()
    for p in rules:
        if first.setdefault(p.scope, p) is not p:
            notes = [("the first is here", first[p.scope].span)]
            wrong.error("E0415", f"`{p.scope}` is placed twice", p.span, notes=notes)
        elif p.scope not in made and strict:
            wrong.error("E0410", f"nothing of `{p.scope}` can be placed by itself", p.span, help=_why(graph, p.scope))
    wrong.raise_if_any()
    return {scope: p.index for scope, p in first.items()}


def place_of(node: Node, fixed: Mapping[str, int | None]) -> int | None:
    """The place of the innermost scope around the node that has one."""
    path = node_path(node)
    return next((fixed[p] for p in (path, *scopes(path)) if p in fixed), None)


def by_each(rules: Sequence[PlaceRule]) -> Callable[[Node], bool]:
    """Of which nodes the innermost place says that they are computed wherever they are read."""
    fixed = {p.scope: p.index for p in reversed(rules)}
    if None not in fixed.values():
        return lambda node: False

    def found(node: Node) -> bool:
        path = node_path(node)
        return next((fixed[p] is None for p in (path, *scopes(path)) if p in fixed), False)

    return found


def check_by_each(graph: Graph, rules: Sequence[PlaceRule], where: Mapping[str, int | None]) -> None:
    """Raises ParcError (E0410) for a scope that is to be computed wherever it is read, and cannot be."""
    each = by_each(rules)
    wrong = Diagnostics()
    for node in graph.nodes:
        if not each(node) or where.get(node.outputs[0].name) is None:
            continue
        rule = next(r for r in rules if r.index is None and within(node_path(node), r.scope))
        if not any(d.span == rule.span for d in wrong):
            message = f"`{rule.scope}` reads what only one stage has: it is computed there"
            help = f"say where, `place {rule.scope} on {rule.axis}[…]`, or leave it out"
            wrong.error("E0410", message, rule.span, help=help)
    wrong.raise_if_any()


def node_path(node: Node) -> str:
    """What rules about places call a node: the scope that a loop opens, or the path of the result."""
    return node.op.body.name if isinstance(node.op, Repeat) else node.outputs[0].origin.path


def _why(graph: Graph, scope: str) -> str:
    """Why no node at the top of the model is in the scope."""
    loops = [level.path for level in levels(graph) if level.path and within(scope, level.path)]
    if loops:
        return f"it is in the loop `{loops[0]}`, which runs in one place: `place {loops[0]} on …`"
    return "weights and data are where they are used: place the scope that computes with them"


def ranks(graph: Graph, fixed: Mapping[str, int | None], groups: int) -> tuple[int, ...] | None:
    """The position of each place in the order in which values pass through them, whatever the places' numbers.

    Places that hand each other nothing stand in the order of their numbers. None where values come back to a place: it
    could not finish its forward pass before another's that it waits for (`visits`).
    """
    after: dict[int, set[int]] = {g: set() for g in range(groups)}
    came: dict[str, frozenset[int]] = {}  # value -> places that it has come from without passing through another one
    for node in graph.nodes:
        sources = frozenset[int]().union(*(came.get(v.name, frozenset()) for v in node.inputs))
        place = place_of(node, fixed)
        if place is not None:
            for source in sources - {place}:
                after[source].add(place)
            sources = frozenset((place,))
        came.update((v.name, sources) for v in node.outputs)
    before = {g: {a for a in after if g in after[a]} for g in after}
    order: list[int] = []
    while len(order) < groups:
        free = [g for g in after if g not in order and before[g] <= set(order)]
        if not free:
            return None
        order.append(free[0])
    return tuple(order.index(g) for g in range(groups))


def visits(graph: Graph, fixed: Mapping[str, int | None], groups: int) -> tuple[dict[str, int], tuple[int, ...]]:
    """Where values come back to places: the visit in which each placed value is made, and the place of each visit, in
    the order in which values pass through them.

    A visit makes all that can be made at a place by then. Places that have nothing left to do afterwards come first.
    """
    at = {node: place_of(node, fixed) for node in graph.nodes}
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

    left = list(graph.nodes)
    while left:
        waiting = sorted({p for n in left if (p := at[n]) is not None})
        runs = {p: run(p) for p in waiting} or {0: run(0)}
        runs = {p: found for p, found in runs.items() if not waiting or any(at[n] == p for n in found)}
        done = (p for p, found in runs.items() if all(n in found for n in left if at[n] == p))
        place = next(done, None)
        place = next(iter(runs)) if place is None else place
        visit.update((v, last) for n, last in runs[place].items() for v in n.outputs)
        left = [n for n in left if n not in runs[place]]
        if waiting:
            order.append(place)
    order += [g for g in range(groups) if g not in order]
    return {v.name: last for v, last in visit.items() if last is not None}, tuple(order)
