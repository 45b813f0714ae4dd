"""`two passes`: what a loss needs of the whole batch is computed by all micro-batches before the first of them, and is
then there beside each one's own part.

What is made of it (the *head*) every micro-batch computes as a whole, its cotangents too, up to those of what the first
pass has computed: of these each takes its own part. (Gao et al. 2021, "GradCache"; `--accum-freq` of OpenCLIP.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from compiler.graph import Graph, Node, Value
from compiler.layout import TIME
from compiler.model import Training
from compiler.origin import Phase
from compiler.passes.place.region import Shared
from compiler.passes.place.rules import Rules
from compiler.walk import node_values


def of_first_pass(training: Training) -> dict[str, Value]:
    """What a first pass has computed: the name of each value of the forward graph -> the same of the whole batch."""
    if not training.job.strategy.two_passes:
        return {}
    there = _made(training.forward)
    return {t.origin.of: t for t in training.totals if t.origin.of in there}


def eligible(training: Training, known: Collection[str]) -> set[str]:
    """What a first pass could compute: values outside of loops, numbers."""
    there = _made(training.forward).items()
    return {name for name, v in there if name not in known and v.type.dtype != "bool"}


def heads(training: Training, known: Collection[str]) -> set[str]:
    """The values, by name, that every micro-batch has to have as a whole, of both passes."""
    head = _behind(training.forward.nodes, _roots(training, known))
    nodes = [n for n in training.forward.nodes if n.outputs[0].name in head]
    nodes += [n for n in training.backward.nodes if n.outputs[0].origin.of in head]
    return {v.name for v in node_values(nodes)}


def closed(
    training: Training, shared: Shared, constants: Collection[str], known: Collection[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """What `shared.twice` has, and what is read with it: all parts of micro-batches that meet it, and sums that its
    cotangents are made of, where these are computed again. Each with the dim that micro-batches divide."""
    there = _made(training.forward)
    found: dict[str, str] = {}
    for name, dim in shared.twice.items():
        most = not dim and shared.layouts[name].pending_on(TIME) == "max"
        found |= _parts(training.forward, name, shared) if most else {name: dim}
    head = _behind(training.forward.nodes, [*found, *_roots(training, known)])
    inputs = (v for node in training.forward.nodes if node.outputs[0].name in head for v in node.inputs)
    more = {v.name for v in inputs} - head - found.keys() - set(known) - set(constants)
    beside = _divided((there[name] for name in sorted(more & there.keys())), shared)
    again = {v.origin.of for node in training.backward.nodes for v in _again(node) if node.outputs[0].origin.of in head}
    sums = [n for n in sorted(more & again & shared.layouts.keys()) if shared.layouts[n].pending_on(TIME) == "sum"]
    return {n: dim for n, dim in found.items() if n not in head}, beside | dict.fromkeys(sums, "")


def _again(node: Node) -> Iterable[Value]:
    """What a cotangent is made of that is computed again."""
    gradient = node.outputs[0].origin.phase is Phase.GRADIENT
    return (v for v in node.inputs if gradient and v.origin.phase is Phase.AGAIN)


def _roots(training: Training, known: Collection[str]) -> list[str]:
    """Those that a whole batch is needed for, of what a first pass has computed."""
    beside = {t.origin.of for r in training.rounds for t in r.totals[len(r.totals) - r.beside :]}
    return [name for name in known if name not in beside]


def _divided(values: Iterable[Value], shared: Shared) -> dict[str, str]:
    """Those of which micro-batches have parts, by the dim that they divide; of what is true or false none are kept."""
    dims = {v.name: (v, shared.layouts[v.name].dim_of(TIME)) for v in values if v.type.dtype != "bool"}
    return {name: v.type.names[i] for name, (v, i) in dims.items() if i is not None}


def _parts(graph: Graph, name: str, shared: Shared) -> dict[str, str]:
    """What a maximum over micro-batches is made of: the derivative asks which of all elements it is."""
    made = {v.name: node for node in graph.nodes for v in node.outputs}
    found: dict[str, str] = {}
    work = [name]
    while work:
        node = made.get(work.pop())
        for v in node.inputs if node is not None else ():
            if v.name in shared.layouts and shared.layouts[v.name].pending_on(TIME) is not None:
                work.append(v.name)
            else:
                found |= _divided([v] if v.name in shared.layouts else [], shared)
    return found


def check_first_pass(training: Training, rules: Rules, known: Collection[str]) -> None:
    """Report where there can be no two passes, and where there is no need of them."""
    strategy = training.job.strategy
    if strategy.two_passes and TIME in rules.sizes and not known and training.trains:
        message = (
            "`two passes` changes nothing: the loss needs nothing of the whole batch that micro-batches do not add up"
        )
        rules.diagnostics.error("E0542", message, strategy.microbatch_span, help="leave it out")


def _made(graph: Graph) -> Mapping[str, Value]:
    return {v.name: v for v in (*graph.inputs, *(v for node in graph.nodes for v in node.outputs))}


def _behind(nodes: Sequence[Node], names: Iterable[str]) -> set[str]:
    """The values, by name, that depend on these."""
    found, firsts = set[str](), set(names)
    for node in nodes:
        if any(v.name in found or v.name in firsts for v in node.inputs):
            found.update(v.name for v in node.outputs)
    return found
