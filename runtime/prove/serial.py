"""The serial program: graphs run as written, on whole logical arrays. What every distributed run must agree with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field

import numpy as np

from compiler.graph import Graph, Node
from compiler.liveness import liveness
from compiler.model import Training
from compiler.ops.call import Call
from compiler.ops.repeat import Repeat
from compiler.walk import called
from dsl.data import dataclass
from runtime.numpy import STORAGE, CallContext, Env, Kernel, LocalValue, plan, quiet
from runtime.numpy.base import Array
from runtime.numpy.initial import init_array

Arrays = dict[str, Array]

Watch = Callable[[Node, CallContext, Sequence[Array], tuple[Array, ...]], tuple[Array, ...]]
"""Called after every node but loops, whose bodies it sees: (node, context, operands, results) -> what is used of it."""


def run_graph(
    graph: Graph,
    env: Mapping[str, Array],
    ctx: CallContext = CallContext(),  # noqa: B008
    watch: Watch | None = None,
) -> list[Array]:
    """The outputs of the graph, given its inputs by name. Raises KeyError where an input is missing."""
    inputs = [env[v.name] for v in graph.inputs]
    with quiet():
        return _Compiled(graph, watch)(ctx, inputs)


class _Compiled:
    """A graph with a kernel for each node, bodies of loops compiled once."""

    def __init__(self, graph: Graph, watch: Watch | None = None) -> None:
        self.graph, self.watch = graph, watch
        self.dying = liveness(graph, len(graph.outputs)).after
        functions = {id(g): _Compiled(g, watch) for g in called(graph.nodes)}
        self.steps = [
            (node, _kernel(node, watch) if not isinstance(node.op, Call) else functions[id(node.op.body)].kernel)
            for node in graph
        ]

    def kernel(self, ctx: CallContext, *operands: Array) -> tuple[Array, ...]:
        """The graph where it is called."""
        return tuple(self(ctx, operands))

    def __call__(self, ctx: CallContext, inputs: Sequence[Array]) -> list[Array]:
        env = dict(zip((v.name for v in self.graph.inputs), inputs, strict=True))
        for (node, kernel), dying in zip(self.steps, self.dying, strict=True):
            operands = [env[v.name] for v in node.inputs]
            results = kernel(ctx, *operands)
            if not isinstance(results, tuple):
                results = (results,)
            if self.watch is not None and not isinstance(node.op, Repeat | Call):
                results = self.watch(node, ctx, operands, results)
            env.update(zip((v.name for v in node.outputs), results, strict=True))
            for name in dying:
                del env[name]
            del operands, results  # nobody else's
        return [env[v.name] for v in self.graph.outputs]


def _kernel(node: Node, watch: Watch | None) -> Kernel:
    if isinstance(node.op, Repeat):
        return _repeat(node.op, watch)
    ins, outs = ([LocalValue.whole(v.type) for v in values] for values in (node.inputs, node.outputs))
    return plan(node.op, ins, outs, Env())


def _repeat(op: Repeat, watch: Watch | None) -> Kernel:
    body = _Compiled(op.body, watch)
    last = op.carries + op.stacks
    result_types = [v.type for v in op.body.outputs[op.carries :]]

    def loop(ctx: CallContext, *operands: Array) -> tuple[Array, ...]:
        carries, stacks, invariants = list(operands[: op.carries]), operands[op.carries : last], operands[last:]
        results = [np.empty((op.count, *t.shape), STORAGE[t.dtype]) for t in result_types]
        for i in reversed(range(op.count)) if op.reverse else range(op.count):
            out = body(ctx, [*carries, *(s[i] for s in stacks), *invariants])
            carries = out[: op.carries]
            for stack, value in zip(results, out[op.carries :], strict=True):
                stack[i] = value
        return (*carries, *results)

    return loop


# --- the beginning ---------------------------------------------------------------------------------


def initial_state(training: Training) -> tuple[Arrays, Arrays]:
    """Weights and states (optimizer, counters) before the first step, by name: whole logical arrays."""
    seed = training.job.seed
    weights = {w.name: init_array(w.init, w.name, w.value.type, seed) for w in training.model.weights}
    own = (*training.states, *training.model.states)
    states = {s.name: init_array(s.init, s.name, s.value.type, seed) for s in own}
    return weights, states


# --- a step ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SerialStep:
    """What one step computes: everything by name. Gradients are as they leave the backward graph (loss-scaled)."""

    loss: Array
    metrics: Arrays
    gradients: Arrays
    weights: Arrays
    states: Arrays
    reports: Arrays


@dataclass(frozen=True)
class Updated:
    """What an update makes, everything by name."""

    weights: Arrays
    states: Arrays
    reports: Arrays


@dataclass(frozen=True)
class SerialGradients:
    """What the forward and the backward graph compute; gradients as they leave the latter (loss-scaled).

    loss: 0 where the model has none. states: what the model's own contain afterwards.
    """

    loss: Array
    metrics: Arrays
    gradients: Arrays
    outputs: Arrays
    states: Arrays = field(default_factory=dict)
    beside: Arrays = field(default_factory=dict)
    """What else the update takes in of the backward graph."""


def serial_step(
    training: Training,
    weights: Mapping[str, Array],
    states: Mapping[str, Array],
    batch: Mapping[str, Array],
    seed: int | None = None,
) -> SerialStep:
    """One training step on the whole logical batch. `seed` (of random numbers) is the job's, if left out."""
    found = serial_gradients(training, weights, states, batch, seed)
    updated = serial_update(training, found.gradients, weights, states, seed, beside=found.beside)
    new = {**found.states, **updated.states}
    return SerialStep(found.loss, found.metrics, found.gradients, updated.weights, new, updated.reports)


def serial_gradients(
    training: Training,
    weights: Mapping[str, Array],
    states: Mapping[str, Array],
    batch: Mapping[str, Array],
    seed: int | None = None,
    watch: Watch | None = None,
) -> SerialGradients:
    """The step as far as the gradients."""
    ctx = CallContext(seed=training.job.seed if seed is None else seed)
    env: Arrays = {**batch, **weights, **states}
    model = training.model
    assert not training.rounds and training.finish is None, "the serial program has nothing set apart"
    outputs = run_graph(training.forward, env, ctx, watch)
    env.update(zip((v.name for v in training.forward.outputs), outputs, strict=True))
    found = run_graph(training.backward, env, ctx, watch)
    gradients = dict(zip((w.name for w in training.trained), found))
    beside = dict(zip((v.name for _, v in training.beside), found[len(gradients) :], strict=True))
    results = iter(outputs[model.scored : training.results])
    kinds = (model.metrics, model.outputs, [s.name for s in model.states])
    metrics, asked, renewed = ({name: next(results) for name in names} for names in kinds)
    loss = outputs[0] if model.scored else np.zeros(())
    return SerialGradients(loss, metrics, gradients, asked, renewed, beside)


def serial_update(
    training: Training,
    gradients: Mapping[str, Array],
    weights: Mapping[str, Array],
    states: Mapping[str, Array],
    seed: int | None = None,
    watch: Watch | None = None,
    beside: Mapping[str, Array] = {},  # noqa: B006
) -> Updated:
    """What the update makes of these gradients (by the names of their weights, as they leave the backward graph).

    beside: what else that puts out.
    """
    ctx = CallContext(seed=training.job.seed if seed is None else seed)
    env: Arrays = {**weights, **states}
    env.update((v.name, gradients[w.name]) for v, w in zip(training.gradients, training.model.trained, strict=True))
    env.update(beside)
    updated = iter(run_graph(training.update, env, ctx, watch))
    new_weights = {w.name: next(updated) if w.trained else weights[w.name] for w in training.model.weights}
    new_states = {s.name: next(updated) for s in training.states}
    return Updated(new_weights, new_states, {name: next(updated) for name in training.reports})
