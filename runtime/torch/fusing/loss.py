"""Cross entropies and their derivatives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from compiler.graph import Node, Value
from compiler.ops.elementwise import Broadcast
from compiler.ops.reduce import Reduce
from compiler.regions import forms
from compiler.regions.forms import CrossEntropy
from compiler.regions.reading import Reading, pairs
from runtime.torch.fusing.found import Candidate, Fresh, Put, after, product
from runtime.torch.fusing.ops import FusedCrossEntropy, FusedCrossEntropyBackward

TYPES = ("f32", "f64")


def losses(of: Reading, joint: Reading, nodes: Sequence[Node], fresh: Fresh) -> Iterator[Candidate]:
    """The cross entropies that these nodes make, with their derivatives."""
    for node in [n for n in nodes if isinstance(n.op, Reduce) and n.op.fn == "sum"]:
        found = forms.cross_entropy(of, node)
        if found is None or found.z.type.dtype not in TYPES:
            continue
        logs = fresh(found.z, "logs")
        put = Put(FusedCrossEntropy(), (found.z, found.targets), (found.each.output, logs))
        power, total = found.core.output, of.made[found.each.inputs[0]].inputs[0]
        inside = (power, total)
        yield Candidate(node.output.name, put, tuple(_backward(joint, found, power, total, logs)), inside)


def _backward(of: Reading, loss: CrossEntropy, power: Value, total: Value, logs: Value) -> Iterator[Put]:
    """g exp / total, less g where the target is."""
    for node in after(of, power):
        for share, other in pairs(of, node.output, "mul"):
            divided = of.map(of.through(share, Broadcast), "div", None, None) if other is power else None
            if divided is None or divided[1] is not total or divided[0].type.names != loss.targets.type.names:
                continue
            g = divided[0]
            for whole in after(of, node.output):
                for a, b in pairs(of, whole.output, "add"):
                    targets = _picked(of, b, g, loss) if a is node.output else None
                    if targets is not None:
                        yield Put(FusedCrossEntropyBackward(), (g, logs, targets), (whole.output,))


def _picked(of: Reading, v: Value, g: Value, loss: CrossEntropy) -> Value | None:
    """The targets, if a value is -g where they are, and else 0."""
    chosen = of.map(v, "where", None, None, 0.0)
    equal = of.map(chosen[0], "eq", None, None) if chosen else None
    if chosen is None or equal is None or not product(of, chosen[1], (g,)).of(-1.0, g):
        return None
    targets = forms.picked_by(of, equal, loss.z.type.names[-1])
    return targets if targets is not None and _input(of, targets) == _input(of, loss.targets) else None


def _input(of: Reading, v: Value) -> object:
    """The data that a value is; else itself."""
    node = of.made.get(v)
    return node.op if node is not None and not node.inputs else v
