"""What an optimizer does to several weights at once, node by node: no function of one weight, which is somewhere."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.graph import Graph, Names, Node, Value
from compiler.origin import Origin, Phase
from compiler.passes.copying import copy_node

SHARED = Origin(phase=Phase.UPDATE)


def written_out(
    body: Graph, operands: Sequence[Value], owned: Sequence[Sequence[Value]], names: Names
) -> tuple[list[Node], dict[str, tuple[Value, ...]]]:
    """The nodes of `body` with these operands, and its results by the names of the weights that they renew.

    owned: of each weight itself, its gradient and states; what is made of one weight's alone is called after it.
    """
    weights = [own[0] for own in owned]
    env = dict(zip(body.inputs, operands, strict=True))
    owner = {v: own[0] for own in owned for v in own}
    of = {v: owner.get(outer) for v, outer in env.items()}
    nodes: list[Node] = []
    for node in body.nodes:
        found = {weight for v in node.inputs if (weight := of[v]) is not None}
        weight = found.pop() if len(found) == 1 else None

        def named(value: Value, weight: Value | None = weight) -> tuple[str, Origin]:
            word = value.name.removeprefix(f"{body.name}.")
            if weight is None:
                return f"update.{word}", SHARED
            return f"{weight.name}.update.{word}", Origin(weight.origin.path, Phase.UPDATE, weight.name)

        nodes.append(copy_node(node, env, names, named))
        of.update((v, weight) for v in node.outputs)
    each = len(body.outputs) // len(weights)
    results = [env[v] for v in body.outputs]
    return nodes, {w.name: tuple(results[i * each : (i + 1) * each]) for i, w in enumerate(weights)}
