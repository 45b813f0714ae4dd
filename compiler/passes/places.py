"""Where what a strategy places lies, and in which order values pass through the places."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from compiler.graph import Graph, Node
from compiler.ops.repeat import Repeat
from compiler.origin import scopes, within
from compiler.passes.recompute import levels
from compiler.strategy import PlaceRule
from dsl.diagnostics import Diagnostic, Diagnostics, ParcError


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


def ranks(graph: Graph, rules: tuple[PlaceRule, ...], fixed: Mapping[str, int | None], groups: int) -> tuple[int, ...]:
    """The position of each place in the order in which values pass through them, whatever the places' numbers.

    Places that hand each other nothing stand in the order of their numbers. Raises ParcError (E0551) where values come
    back to a place: it could not finish its forward pass before another's that it waits for.
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
            raise ParcError(_circle(after, [g for g in after if g not in order], rules))
        order.append(free[0])
    return tuple(order.index(g) for g in range(groups))


def _circle(after: Mapping[int, set[int]], stuck: list[int], rules: tuple[PlaceRule, ...]) -> Diagnostic:
    """Each of the stuck places has one of them before it, so that a walk backwards closes a circle."""
    walk = [stuck[0]]
    while walk[-1] not in walk[:-1]:
        walk.append(next(g for g in stuck if walk[-1] in after[g]))
    circle = walk[walk.index(walk[-1]) :][::-1]
    ways = " → ".join(f"{rules[0].axis}[{g}]" for g in circle)
    notes = [(f"placed on {r.axis}[{r.index}] here", r.span) for r in rules if r.index in circle]
    return Diagnostic(
        "E0551",
        f"the places send values round in a circle, {ways}: the stages would wait for each other",
        rules[0].span,
        help="place the scopes so that values flow one way",
        notes=tuple(notes[1:] if notes and notes[0][1] == rules[0].span else notes),
    )
