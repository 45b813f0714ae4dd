"""What recompute leaves out, and some systems do not.

A layer of which nothing but its input is kept runs again in the backward pass: here what that needs, as PyTorch's
checkpoint does that stops early; Megatron's, and PyTorch's with `use_reentrant`, run all of it, the last product and
the message behind that, too. The program has the former; the price can have either (`reentrant`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from compiler.cost.kernels.work import Collective, Part, Product, Work, WorkNode
from compiler.graph import Graph
from compiler.ops.comm import Comm
from compiler.ops.contract import Contract
from compiler.ops.repeat import Repeat
from compiler.origin import Phase
from compiler.program import FunctionPhase


class LeftOut:
    """Of a chunk of a class: its loops, as they are lifted, those of the backward pass last (`ORDER`)."""

    def __init__(self) -> None:
        self.known: dict[tuple[FunctionPhase, str], tuple[Repeat, Part]] = {}

    def loop(self, phase: FunctionPhase, op: Repeat, part: Part) -> Part:
        """The work of a loop's body. Of one of the backward pass with the products and messages of the forward pass
        that are not made again (`WorkNode.again`), where of an iteration nothing but its carries is kept."""
        name = op.body.name
        self.note(phase, op, part)
        if phase is not FunctionPhase.BACKWARD or (FunctionPhase.FORWARD, name) not in self.known:
            return part
        forward, before = self.known[FunctionPhase.FORWARD, name]
        kept = forward.body.outputs[forward.carries :]
        made = [self.known[p, name] for p in ORDER[1:] if (p, name) in self.known]
        if not any(_products(of.body) for of, _ in made) or not set(kept) <= set(
            forward.body.inputs[: forward.carries]
        ):
            return part
        done: Counter[Hashable] = Counter()
        for of, work in made:
            messages = (n for n in of.body.nodes if isinstance(n.op, Comm))
            again = _products(of.body) | {n.output.name for n in messages if n.inputs[0].origin.phase is Phase.AGAIN}
            done.update(_kind(node.work) for node in work.nodes if node.name in again)
        nodes = list(part.nodes)
        at: tuple[int, ...] = ()
        for node in before.nodes:
            kind = _kind(node.work)
            if done[kind]:
                done[kind] -= 1
            elif kind is not None:
                nodes.append(WorkNode(node.name, node.work, at, (), True))
                at = (len(nodes) - 1,)
        return Part(tuple(nodes))

    def note(self, phase: FunctionPhase, op: Repeat, part: Part) -> None:
        """The work of a loop's body, as it was lifted."""
        self.known[phase, op.body.name] = op, part

    @property
    def before(self) -> tuple[Hashable, ...]:
        """The loops so far, by identity."""
        return tuple([(key, id(op.body), id(part)) for key, (op, part) in self.known.items()])


ORDER = (FunctionPhase.FORWARD, FunctionPhase.WEIGHTS, FunctionPhase.BACKWARD)
"""Passes over a chunk: what is made again for the gradients of weights alone may stand in a pass of its own."""


def _products(body: Graph) -> set[str]:
    """Names of the products of a body that are there already, and made again."""
    return {n.output.name for n in body.nodes if isinstance(n.op, Contract) and n.output.origin.phase is Phase.AGAIN}


def _kind(work: Work) -> Hashable:
    """What is the same work, of products and messages of activations; None for anything else."""
    if isinstance(work, Product):
        return work.m, work.n, work.k, work.batch
    if isinstance(work, Collective) and work.role == "activations":
        return work.op, work.axes, work.elements
    return None


def left_out_flops(part: Part, times: int) -> float:
    """FLOPs of the products that only such systems make again, if the part does `times`."""
    return sum(n * node.work.flops for node, n in part.each(times) if node.again and isinstance(node.work, Product))
