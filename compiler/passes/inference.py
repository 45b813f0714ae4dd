"""`inference`: of a model that trains nothing, what computes its outputs."""

from __future__ import annotations

from dataclasses import replace

from compiler.graph import Graph, Value
from compiler.model import Model
from compiler.passes.prune import Live
from dsl.diagnostics import fail
from dsl.source import Span


def inference(model: Model, span: Span) -> Model:
    """The model without what only its loss and its metrics need: computations, weights, data (such as targets) too.

    Of its states those stay that an output depends on, now or by what they contain next time.

    Raises ParcError (E0338, at `span`) if it has no outputs.
    """
    if not model.outputs:
        help = "name what it is to give: `output logits`"
        raise fail("E0338", f"the model `{model.name}` has no outputs to infer", span, help=help)
    graph = model.graph
    first = model.scored + len(model.metrics)
    outputs, contents = graph.outputs[first:][: len(model.outputs)], graph.outputs[first + len(model.outputs) :]
    live = Live((), graph.nodes, ())
    for v in outputs:
        live.need(v)
    renewed: dict[str, Value] = {}
    pairs = list(zip(model.states, contents, strict=True))
    while more := [(s, v) for s, v in pairs if s.value in live.values and s.name not in renewed]:
        for s, v in more:
            renewed[s.name] = v
            live.need(v)
    used = live.values
    states = tuple(s for s in model.states if s.name in renewed)
    results = (*outputs, *(renewed[s.name] for s in states))
    return replace(
        model,
        inputs=tuple(i for i in model.inputs if i.value in used),
        weights=tuple(w for w in model.weights if w.value in used),
        graph=Graph(graph.name, tuple(v for v in graph.inputs if v in used), live.kept(graph.nodes), results),
        metrics=(),
        states=states,
        scored=False,
    )
