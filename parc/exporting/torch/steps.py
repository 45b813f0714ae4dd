"""Steps of optimizers as PyTorch's own write them: `lerp`, `addcmul`, and `add` with a factor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from compiler.graph import Node, Value
from compiler.ops.elementwise import Map
from compiler.origin import Phase
from compiler.regions.reading import Reading
from parc.exporting.torch.reading import FusedCall
from parc.exporting.torch.writer import number


def steps(of: Reading, nodes: Sequence[Node]) -> Iterator[tuple[Node, FusedCall]]:
    """Where an update adds a product, which nobody else reads, to something."""
    for node in nodes:
        yield from _square(of, node)
        fn = node.op.fn if isinstance(node.op, Map) else ""
        if fn not in ("add", "sub") or node.output.origin.phase is not Phase.UPDATE or len(node.inputs) != 2:
            continue
        for a, b in (node.inputs, node.inputs[::-1])[: 2 if fn == "add" else 1]:
            call = _step(of, node, a, b, fn == "sub")
            if call is not None:
                yield node, call
                break


def _square(of: Reading, node: Node) -> Iterator[tuple[Node, FusedCall]]:
    """The sum of all squares, of which none is kept."""
    summed = of.reduced(node.output, "sum") if len(node.outputs) == 1 else None
    if summed is None or node.output.type.dims or node.output.origin.phase is not Phase.UPDATE:
        return
    factors = of.map(summed[0], "mul")
    if factors is not None and len(factors) == 2 and factors[0] is factors[1] and len(of.readers[summed[0]]) == 1:
        x, core = factors[0], of.made[summed[0]]
        yield node, FusedCall((x,), core, lambda w: f"torch.linalg.vector_norm({w.ref(x)}).square()")


def _step(of: Reading, node: Node, a: Value, b: Value, minus: bool) -> FusedCall | None:
    """a + b or a - b, where b is a product."""
    factors, names = of.map(b, "mul"), node.output.type.names
    if factors is None or len(of.readers[b]) != 1 or a is b or a.type.names != names:
        return None
    core = of.made[b]
    if len(factors) == 2:
        x, y = factors
        value = ", value=-1" if minus else ""
        return FusedCall(
            (a, x, y), core, lambda w: f"torch.addcmul({w.ref(a)}, {w.aligned(x, names)}, {w.aligned(y, names)}{value})"
        )
    (x,), factor = factors, of.literal(b)
    less = of.map(x, "sub", None, None)
    if less is not None and less[1] is a and less[0].type.names == names and not minus and len(of.readers[x]) == 1:
        to = less[0]
        return FusedCall((a, to), core, lambda w: f"torch.lerp({w.ref(a)}, {w.ref(to)}, {number(factor)})")
    alpha = number(-factor if minus else factor)
    return FusedCall((a, x), core, lambda w: f"torch.add({w.ref(a)}, {w.aligned(x, names)}, alpha={alpha})")
