"""FLOPs of products: those that a model needs, whatever its strategy, and those that devices compute."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from compiler.cost.kernels.seats import Seats, occupied
from compiler.cost.kernels.work import Product
from compiler.graph import Node, Value
from compiler.layout import local_type
from compiler.model import Training
from compiler.ops.contract import Contract
from compiler.ops.repeat import Repeat
from compiler.origin import Phase
from compiler.passes.differentiate import differentiate
from compiler.program import FunctionPhase, Program
from compiler.walk import walk

Seated = Mapping[Value, Seats]


class _Same:
    """A training graph by its model and entry: what is priced with one strategy after the other is one object."""

    def __init__(self, training: Training) -> None:
        self.training = training

    def __hash__(self) -> int:
        return hash((self.training.model, self.training.entry))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Same) or other.training.entry != self.training.entry:
            return False
        return other.training.model is self.training.model


def model_flops(training: Training) -> float:
    """Of the products of a step of the serial model, on the whole batch: forward and (where it trains) backward, each
    once.

    As in PaLM's model FLOPs (Chowdhery and others 2022, appendix B): nothing that is made again, attention's scores
    whole, whatever is masked of them. Products that no loss, metric or gradient needs are not there: so the first of
    several layers has no gradient of its input, where that is data. The update's are not counted. Of experts, those of
    the copies that go to them: seats that stay empty are no need (`seats`).
    """
    return _model_flops(_Same(training))


@lru_cache(maxsize=8)
def _model_flops(of: _Same) -> float:
    # Scopes with places of their own share nothing, whatever they compute alike: the model by itself would.
    apart = of.training.trains and of.training.job.strategy.places
    found = differentiate(of.training.model) if apart else of.training
    graphs = (found.forward, found.backward)
    seats = occupied(graphs)
    return sum(_needed(g.nodes, g.outputs, seats)[0] for g in graphs)


def _needed(nodes: Sequence[Node], outputs: Iterable[Value], seats: Seated) -> tuple[float, set[Value]]:
    """FLOPs of the products that these values need, and the values that they are made from."""
    total, wanted = 0.0, set(outputs)
    for node in reversed(nodes):
        if wanted.isdisjoint(node.outputs):
            continue
        again = node.outputs[0].origin.phase is Phase.AGAIN
        if isinstance(node.op, Repeat) and not again:
            flops, taken = _loop(node.op, {i for i, v in enumerate(node.outputs) if v in wanted}, seats)
            total += flops
            wanted.update(node.inputs[i] for i in taken)
            continue
        if not again:
            total += flops_of(node) * min((float(seats[v].share) for v in node.inputs if v in seats), default=1.0)
        wanted.update(node.inputs)
    return total, wanted


def flops_of(node: Node) -> float:
    """FLOPs of a product, or of all products of a loop; 0 for anything else."""
    if isinstance(node.op, Repeat):
        return node.op.count * sum(map(flops_of, node.op.body.nodes))
    if not isinstance(node.op, Contract):
        return 0.0
    work = Product.of(*(v.type for v in (*node.inputs, *node.outputs)))
    return work.flops if work else 0.0


def _loop(op: Repeat, outputs: Collection[int], seats: Seated) -> tuple[float, set[int]]:
    """The same of a loop and its outputs, by index. From the last iteration to the first: what one needs of the one
    before is soon the same, or comes round again, so that not all have to be looked at."""
    results = {i for i in outputs if i >= op.carries}
    carries = frozenset(i for i in outputs if i < op.carries)
    taken: set[int] = set()
    seen: dict[frozenset[int], int] = {}
    steps: list[float] = []
    while len(steps) < op.count and carries not in seen:
        seen[carries] = len(steps)
        flops, wanted = _needed(op.body.nodes, (op.body.outputs[i] for i in carries | results), seats)
        steps.append(flops)
        inputs = {i for i, v in enumerate(op.body.inputs) if v in wanted}
        taken |= {i for i in inputs if i >= op.carries}
        carries = frozenset(i for i in inputs if i < op.carries)
    total = sum(steps)
    if left := op.count - len(steps):
        first = seen[carries]
        round_ = steps[first:]
        total += left // len(round_) * sum(round_) + sum(round_[: left % len(round_)])
        carries = next(c for c, at in seen.items() if at == first + left % len(round_))
    return total, taken | carries


def program_flops(program: Program) -> dict[str, float]:
    """Of the products that all devices compute in a step, by type of data; the update's are not counted.

    A product is what is one by whole types: a device's piece may be a single row of a single column.
    """
    found: dict[str, float] = {}
    for node, flops in products(program):
        dtype = node.inputs[0].type.dtype
        found[dtype] = found.get(dtype, 0.0) + flops
    return found


def products(program: Program) -> Iterator[tuple[Node, float]]:
    """Each product outside of the update, with the FLOPs that all devices of its class compute of it in a step."""
    sizes = program.sizes
    for c in program.classes:
        members = len(c.groups) * (program.devices // program.groups)
        for f in c.functions:
            if f.phase is not FunctionPhase.UPDATE:
                runs = program.runs(f)
                for node, times in walk(f.body, members * runs):
                    if isinstance(node.op, Contract) and Product.of(*(v.type for v in (*node.inputs, *node.outputs))):
                        pieces = [local_type(v.type, v.layout, sizes) for v in node.inputs]
                        yield node, float(times * node.op.flops(pieces))
