"""`divide`: what a model needs of the whole batch, set apart from what its micro-batches can do by themselves.

A sum over the batch that is only added to and scaled is a sum over the micro-batches: nothing to be done. What else is
made of sums and maxima needs them whole. Of those that depend on data alone (the number of positions that count) they
are computed before the first micro-batch, in *rounds*: one after the other, where one depends on the totals of another.
Metrics are *finished* when the last micro-batch is in. Which values these are is found by placing (`place`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from compiler.graph import Builder, Dim, Graph, Names, Node, Value
from compiler.model import Finish, Model, Round
from compiler.ops.create import Iota
from compiler.ops.index import ScatterAdd
from compiler.ops.repeat import Repeat
from compiler.ops.shape import Rename
from compiler.passes.copying import copy_node, renamed, substituted, suffixed
from compiler.passes.prune import prune_nodes
from dsl.data import dataclass

ROUND = suffixed(".batch")
OUTSIDE = suffixed(".outside")
END = suffixed(".end")


@dataclass(frozen=True, slots=True, eq=False)
class Divided:
    """graph: the model's, with the rounds' totals as further inputs, and parts behind the loss and the metrics that are
    summed up."""

    graph: Graph
    rounds: tuple[Round, ...]
    finish: Finish | None


def divide(
    model: Model,
    names: Names,
    whole: Collection[str],
    parts: Collection[str],
    twice: Mapping[str, str],
    beside: Collection[str] = (),
) -> Divided:
    """whole: names of values of data alone, inside loops too, that are needed of the whole batch.

    parts: names of values that metrics need of it. twice: names of those that are computed before, for the loss, and
    again by the micro-batches, by the dim that these divide ("": sums); beside: those of them that are read with the
    others. With none it is the model's graph as it is.
    """
    graph = model.graph
    if not whole and not parts and not twice:
        return Divided(graph, (), None)
    graph, moved = _hoisted(graph, whole, names)
    made = {v.name: v for v in graph.inputs} | {v.name: v for node in graph.nodes for v in node.outputs}
    wanted = [made[moved.get(name, name)] for name in whole]
    total = {v: renamed(v, names.fresh(f"{name}.total")) for v, name in zip(wanted, whole, strict=True)}
    nodes = tuple(substituted(node, total) for node in graph.nodes)
    rounds = _rounds(graph, nodes, total, names)
    if twice:
        again = [(made[name], dim) for name, dim in sorted(twice.items(), key=lambda t: t[0] in beside)]
        first = _first_pass(graph, nodes, rounds, again, names)
        rounds = (*rounds, replace(first, beside=sum(name in beside for name in twice)))
    outputs = tuple(total.get(v, v) for v in graph.outputs)
    inputs = (*graph.inputs, *(t for r in rounds for t in r.totals))
    main = Graph(graph.name, inputs, prune_nodes(nodes, outputs), outputs)
    made |= {v.name: total[v] for v in wanted}
    return _finished(model, main, rounds, [made[name] for name in parts], names)


def needed(model: Model, graph: Graph) -> set[Value]:
    """What the loss, the outputs and the states' new contents depend on."""
    outputs = graph.outputs[len(graph.outputs) - len(model.outputs) - len(model.states) :]
    return {v for node in prune_nodes(graph.nodes, (*graph.outputs[: model.scored], *outputs)) for v in node.outputs}


# --- before the first micro-batch ----------------------------------------------------------------------------------


def _rounds(graph: Graph, nodes: Sequence[Node], total: Mapping[Value, Value], names: Names) -> tuple[Round, ...]:
    """A value's round is the one after the last round whose totals it depends on. Each has copies of what it needs."""
    need = {v: prune_nodes(nodes, [v]) for v in total}
    of = {t: v for v, t in total.items()}
    before = {v: {of[x] for node in need[v] for x in node.inputs if x in of} for v in total}
    depth: dict[Value, int] = {}
    while len(depth) < len(total):
        ready = [v for v in total if v not in depth and before[v] <= depth.keys()]
        depth.update((v, 1 + max((depth[b] for b in before[v]), default=-1)) for v in ready)
    rounds = []
    for k in range(1 + max(depth.values(), default=-1)):
        found = [v for v in total if depth[v] == k]
        chosen = prune_nodes(nodes, found)
        used = {x for node in chosen for x in node.inputs}
        inputs = [v for v in (*graph.inputs, *of) if v in used]
        env: dict[Value, Value] = {v: v for v in inputs}
        copied = tuple(copy_node(node, env, names, ROUND) for node in chosen)
        body = Graph(f"{graph.name}.batch", tuple(inputs), copied, tuple(env[v] for v in found))
        rounds.append(Round(body, tuple(total[v] for v in found)))
    return tuple(rounds)


def _first_pass(
    graph: Graph, nodes: Sequence[Node], rounds: Sequence[Round], wanted: Sequence[tuple[Value, str]], names: Names
) -> Round:
    """The round that computes what the micro-batches compute again. Rows of each micro-batch stand in their places in a
    tensor of zeros, so that all of them add up to the whole."""
    chosen = prune_nodes(nodes, [v for v, _ in wanted])
    used = {x for node in chosen for x in node.inputs} | {v for v, _ in wanted}
    inputs = [v for v in (*graph.inputs, *(t for r in rounds for t in r.totals)) if v in used]
    env: dict[Value, Value] = {v: v for v in inputs}
    copied = [copy_node(node, env, names, ROUND) for node in chosen]
    b = Builder(names)
    outputs = []
    for v, dim in wanted:
        made = env[v]
        if dim:
            size, row = made.type.size(dim), names.fresh(f"{dim}_row")
            types = [row if n == dim else n for n in made.type.names]
            placed = b.add(ScatterAdd(Dim(row, size), tuple(types)), made, b.add(Iota(Dim(dim, size))))
            made = b.add(Rename(((row, dim),)), placed)
        outputs.append(made)
    body = Graph(f"{graph.name}.first", tuple(inputs), (*copied, *b.nodes), tuple(outputs))
    return Round(body, tuple(renamed(v, names.fresh(f"{v.name}.whole")) for v, _ in wanted))


def _hoisted(graph: Graph, wanted: Collection[str], names: Names) -> tuple[Graph, dict[str, str]]:
    """The graph in which what is wanted stands outside of loops, and the new names. Inside, it is an invariant."""
    moved: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if not isinstance(node.op, Repeat):
            nodes.append(node)
            continue
        body, inner = _hoisted(node.op.body, wanted, names)
        moved |= inner
        here = {inner.get(name, name) for name in wanted}
        values = [v for n in body.nodes for v in n.outputs if v.name in here]
        if not values:
            nodes.append(node)
            continue
        outer: dict[Value, Value] = dict(zip(body.inputs, node.inputs, strict=True))
        nodes += [copy_node(n, outer, names, OUTSIDE) for n in prune_nodes(body.nodes, values)]
        params = {v: renamed(v, names.fresh(v.name)) for v in values}
        inside = tuple(substituted(n, params) for n in body.nodes)
        results = tuple(params.get(v, v) for v in body.outputs)
        op = replace(
            node.op,
            body=Graph(body.name, (*body.inputs, *params.values()), prune_nodes(inside, results), results),
        )
        nodes.append(Node(op, (*node.inputs, *(outer[v] for v in values)), node.outputs, node.span))
        back = {new: old for old, new in inner.items()}
        moved |= {back.get(v.name, v.name): outer[v].name for v in values}
    return (Graph(graph.name, graph.inputs, tuple(nodes), graph.outputs) if moved else graph), moved


# --- behind the last micro-batch -----------------------------------------------------------------------------------


def _finished(model: Model, main: Graph, rounds: tuple[Round, ...], seeds: Sequence[Value], names: Names) -> Divided:
    """Metrics that depend on `seeds` other than by sums: what makes them of those goes to a graph of its own."""
    loss = needed(model, main)
    late: set[Value] = set()
    moved: list[Node] = []
    for node in main.nodes:
        if loss.isdisjoint(node.outputs) and any(v in late or v in seeds for v in node.inputs):
            moved.append(node)
            late.update(node.outputs)
    metrics = list(zip(model.metrics, main.outputs[model.scored :], strict=False))
    results = main.outputs[model.scored + len(model.metrics) :]  # those of the states among them
    last = [(name, v) for name, v in metrics if v in late]
    if not last:
        return Divided(main, rounds, None)
    chosen = prune_nodes(moved, [v for _, v in last])
    made = {v: node for node in main.nodes for v in node.outputs}
    given = {*(t for r in rounds for t in r.totals), *([model.step] if model.step else [])}
    constant = _constants(main.nodes)
    env: dict[Value, Value] = {}
    nodes: list[Node] = []
    parts: dict[Value, Value] = {}
    for v in dict.fromkeys(x for node in chosen for x in node.inputs if x not in late):
        if v in given:
            continue
        if v in constant:
            for n in prune_nodes([made[x] for x in constant], [v]):
                if n.outputs[0] not in env:
                    nodes.append(copy_node(n, env, names, END))
            continue
        parts[v] = env[v] = renamed(v, names.fresh(f"{v.name}.total"))
    nodes += [substituted(node, env) for node in chosen]
    used = {x for node in nodes for x in node.inputs}
    inputs = (*parts.values(), *(v for v in main.inputs if v in given and v in used))
    graph = Graph(f"{main.name}.finish", inputs, tuple(nodes), tuple(v for _, v in last))
    outputs = (*main.outputs[: model.scored], *(v for _, v in metrics if v not in late), *parts, *results)
    rest = Graph(main.name, main.inputs, prune_nodes(main.nodes, outputs), outputs)
    return Divided(rest, rounds, Finish(graph, tuple(name for name, _ in last), tuple(parts)))


def _constants(nodes: Iterable[Node]) -> dict[Value, None]:
    """Values that depend on nothing at all, in order."""
    found: dict[Value, None] = {}
    for node in nodes:
        if all(v in found for v in node.inputs) and not isinstance(node.op, Repeat):
            found.update(dict.fromkeys(node.outputs))
    return found


# --- what may be set apart -----------------------------------------------------------------------------------------


def of_data(graph: Graph, weights: Collection[Value]) -> set[str]:
    """Names of the values that depend on data alone, and not on weights or states (`weights`); in loops, of those that
    are the same in all iterations."""
    found = {v for v in graph.inputs if v not in weights}
    return {v.name for v in _static(graph.nodes, found)}


def _static(nodes: Iterable[Node], known: set[Value]) -> set[Value]:
    found = set(known)
    for node in nodes:
        if all(v in found for v in node.inputs):
            found.update(node.outputs)
        if isinstance(node.op, Repeat):
            op = node.op
            first = op.carries + op.stacks
            same = {p for p, v in zip(op.body.inputs[first:], node.inputs[first:], strict=True) if v in found}
            found |= _static(op.body.nodes, same) - same
    return found


def aside(graph: Graph, roots: Sequence[Value]) -> Callable[[str], bool]:
    """Whether a value, by its name, is of use to metrics only, and not to `roots`, the loss and the outputs."""
    loss = {v for node in prune_nodes(graph.nodes, roots) for v in node.outputs}
    others = {v.name for node in graph.nodes if loss.isdisjoint(node.outputs) for v in node.outputs}
    return others.__contains__
