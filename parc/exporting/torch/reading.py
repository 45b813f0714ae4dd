"""What of a body is one call of PyTorch."""

from __future__ import annotations

from collections.abc import Callable

from compiler.graph import Node, Value
from dsl.data import dataclass
from parc.exporting.torch.writer import Writer


@dataclass(frozen=True, slots=True)
class FusedCall:
    """In the place of a node: the values that it reads, the node of its inside that is not needed then, its text."""

    reads: tuple[Value, ...]
    core: Node
    text: Callable[[Writer], str]
