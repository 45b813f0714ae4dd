"""What the program of a draw truly has, for counting: a rule that is drawn may speak of nothing that is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from compiler.driver import Compiled
from compiler.graph import Node
from compiler.memory.tiers import FIRST
from compiler.ops.call import Call
from compiler.ops.effects import Effect
from compiler.ops.move import Move
from compiler.ops.repeat import Repeat
from compiler.ops.rows import WriteRows
from compiler.regions.fused import is_product
from compiler.regions.region import RegionKind
from compiler.walk import bodies

NAMES = (
    "offload", "rows elsewhere", "work on hosts", "implementations", "sparse updates", "fusion", "fused attention",
    "fuse off",
)  # fmt: skip
"""What is counted, in the order in which it is told."""


def contents(compiled: Compiled) -> tuple[str, ...]:
    """Those of `NAMES` that the compiled job has."""
    program, strategy = compiled.program, compiled.job.strategy
    graphs = [g for c in program.classes for f in c.functions for g in bodies(f.body)]
    nodes = [node for graph in graphs for node in graph.nodes]
    fused = [set(r.values) for g in graphs for r in g.regions if r.kind is RegionKind.FUSED]
    products = {v.name for node in nodes if is_product(node) for v in node.outputs}
    has = {
        "offload": any(isinstance(node.op, Move) for node in nodes),
        "rows elsewhere": any(node.far is not None for node in nodes),
        "work on hosts": any(map(_elsewhere, nodes)),
        "implementations": bool(strategy.implementations),
        "sparse updates": any(isinstance(node.op, WriteRows) for node in nodes),
        "fusion": bool(fused),
        "fused attention": any(products & values for values in fused),
        "fuse off": not strategy.fuses,
    }
    return tuple(name for name in NAMES if has[name])


def _elsewhere(node: Node) -> bool:
    """Whether it computes in another memory than the devices', and does not only read rows there."""
    if isinstance(node.op, Effect | Move | Repeat | Call) or node.far is not None:
        return False
    return any(v.memory != FIRST for v in node.outputs)


def shares(found: Collection[Collection[str]]) -> str:
    """Which part of these programs has each, for people."""
    counts = Counter(name for one in found for name in one)
    return ", ".join(f"{name} {100 * counts[name] / max(1, len(found)):.0f}%" for name in NAMES)
