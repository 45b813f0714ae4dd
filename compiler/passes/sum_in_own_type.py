"""`sum_in_own_type`: what a weight's gradient is the sum of is added up in the weight's own type, as the last thing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from compiler.graph import Node, Value
from compiler.ops.elementwise import Cast, Map, Transpose
from compiler.ops.shape import Rename
from compiler.passes.transpose import Label

_ADD = Map("add", (None, None))


def sum_in_own_type(nodes: Sequence[Node], gradients: Sequence[Value], labels: dict[Value, Label]) -> list[Node]:
    """`cast(a + b)` at the end of a gradient becomes `cast(a) + cast(b)`; renames and transpositions likewise.

    A weight that is cast once and read in several places (an embedding that is the head as well) gets its gradients as
    a sum in the precision of computation otherwise: less exact, and made for every micro-batch where the readers are on
    different pipeline stages (see `stage._addends`). `labels` gets names for what is new.
    """
    found = list(nodes)
    made = {v: n for n in found for v in n.outputs}
    uses = Counter(v for n in found for v in n.inputs) + Counter(gradients)
    replaced: dict[Node, list[Node]] = {}
    for gradient in gradients:
        last = made.get(gradient)
        if last is not None and (parts := _spread(last, made, uses, labels)):
            replaced[last] = parts
    return [n for node in found for n in replaced.get(node, [node])]


def _spread(last: Node, made: dict[Value, Node], uses: Counter[Value], labels: dict[Value, Label]) -> list[Node]:
    """What stands for `last`, nothing where it is not of that form; the new values have names after the addends."""
    if not isinstance(last.op, (Cast, Transpose, Rename)):
        return []
    (inner,) = last.inputs
    total = made.get(inner)
    if total is None or total.op != _ADD or uses[inner] > 1 or any(v.type != inner.type for v in total.inputs):
        return []
    (result,) = last.outputs
    new: list[Node] = []
    moved: list[Value] = []
    for addend in total.inputs:
        label = (labels.get(addend) or Label(addend.name, addend.origin)).then(last.op.mnemonic)
        value = Value(label.name, result.type, last.span, label.origin)
        labels[value] = label
        node = Node(last.op, (addend,), (value,), last.span)
        new += _spread(node, made, uses, labels) or [node]
        moved.append(value)
    return [*new, Node(_ADD, tuple(moved), (result,), total.span)]
