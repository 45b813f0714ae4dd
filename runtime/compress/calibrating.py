"""What the inputs of products with stored weights are: the serial program runs on some batches, and is watched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from compiler.graph import Node
from compiler.model import Model
from compiler.ops.contract import Contract
from compiler.stored import unpacked_in
from compiler.weight_format import WORDS, PackedWeight
from runtime.numpy import CallContext
from runtime.numpy.base import Array, quiet
from runtime.prove.serial import run_graph

Arrays = Mapping[str, Array]
At = tuple[int, ...]
"""Which layer of a weight: its index along each of its loops."""


class Watched:
    """A model some of whose weights are stored, as it computes with them as they were before: `whole`, by name.

    moments: of each weight and layer what x·xᵀ adds up to, over all inputs x of its products (`[inputs, inputs]`).
    rows: some of these, as many of each run as are asked for (`[rows, inputs]`).
    """

    def __init__(self, model: Model, whole: Arrays, measure: bool = False, rows: int = 0) -> None:
        self.model, self.whole, self.measure, self._some = model, whole, measure, rows
        words = {s.parts[WORDS]: s for s in model.stored}
        self.made = {name: words[of] for name, of in unpacked_in(model.graph).items() if of in words}
        self.moments: dict[str, dict[At, Array]] = {}
        self.rows: dict[str, dict[At, Array]] = {}
        self._turn: dict[str, int] = {}
        self._at: dict[str, At] = {}

    def run(self, env: Arrays, seed: int) -> list[Array]:
        """The outputs of the model's graph."""
        self._turn.clear()
        with quiet():
            return run_graph(self.model.graph, env, CallContext(seed=seed), self._watch)

    def _watch(
        self, node: Node, ctx: CallContext, operands: Sequence[Array], results: tuple[Array, ...]
    ) -> tuple[Array, ...]:
        if node.op.unpacks and node.output.name in self.made:
            of = self.made[node.output.name]
            turn = self._turn[node.output.name] = self._turn.get(node.output.name, -1) + 1
            layers = of.type.shape[: of.loops]
            at = tuple(int(i) for i in np.unravel_index(turn, layers)) if layers else ()
            self._at[node.output.name] = at
            return (self.whole[of.name][at],)
        if self.measure and isinstance(node.op, Contract):
            for w, x in ((0, 1), (1, 0)):
                if node.inputs[w].name in self.made:
                    self._note(node, self.made[node.inputs[w].name], self._at[node.inputs[w].name], w, operands[x], x)
        return results

    def _note(self, node: Node, of: PackedWeight, at: At, w: int, x: Array, number: int) -> None:
        names = node.inputs[number].type.names
        inputs = [n for n in of.type.names if n in of.inputs]
        rows = [n for n in names if n not in inputs]
        moved = x.transpose([names.index(n) for n in (*rows, *inputs)])
        flat = moved.reshape(int(np.prod(moved.shape[: len(rows)], dtype=np.int64)), -1).astype(np.float64)
        layers = self.moments.setdefault(of.name, {})
        layers[at] = layers.get(at, 0) + flat.T @ flat
        if self._some:
            some = flat[:: max(1, len(flat) // self._some)][: self._some]
            before = self.rows.setdefault(of.name, {})
            before[at] = np.concatenate([before[at], some]) if at in before else some.copy()
