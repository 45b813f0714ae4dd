"""What a model's names are: the vocabulary that strategies may use."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.evaluate.session import listed
from compiler.graph import Graph, Value
from compiler.model import Model
from compiler.ops.repeat import Repeat
from compiler.origin import scopes
from compiler.walk import bodies
from dsl.data import dataclass
from dsl.diagnostics import ParcError, did_you_mean, fail
from dsl.source import Span


@dataclass(frozen=True, slots=True)
class ModelIndex:
    """`scopes`: all prefixes of paths; `tensors`: path -> names of dims (without loop dims of weights).

    loops: label -> count, of `repeat`; scans: labels of `scan`; paths_of_loops: path -> label, of both.
    """

    model: Model
    dims: frozenset[str]
    loops: dict[str, int]
    scans: frozenset[str]
    scopes: frozenset[str]
    tensors: dict[str, tuple[str, ...]]
    paths_of_loops: dict[str, str]

    def has(self, path: str) -> bool:
        """Whether a scope or a tensor has this path."""
        return path in self.tensors or path in self.scopes

    def unknown(self, path: str, span: Span) -> ParcError:
        """Says that nothing has a path, and what to write in its place."""
        tails = [p for p in self.paths if p.endswith(f".{path}")]
        tops = sorted({p for p in self.scopes if "." not in p})
        help = f"did you mean `{tails[0]}`?" if tails else did_you_mean(path, self.paths)
        help = help or (f"the outermost are {listed(tops)}" if tops else None)
        return fail("E0404", f"`{self.model.name}` has no scope or tensor `{path}`", span, help=help)

    @property
    def paths(self) -> list[str]:
        return [*sorted(self.scopes), *self.tensors]


def index_model(model: Model) -> ModelIndex:
    """Looks at every value once, rolled loops included."""
    dims: set[str] = set()
    loops: dict[str, int] = {}
    scans: set[str] = set()
    paths: dict[str, str] = {}
    around: set[str] = set()
    tensors: dict[str, tuple[str, ...]] = {}
    for graph in bodies(model.graph):
        found = [n.op for n in graph.nodes if isinstance(n.op, Repeat)]
        loops |= {op.label: op.count for op in found if not op.scan}
        scans |= {op.label for op in found if op.scan}
        paths |= {op.body.name: op.label for op in found}
        for value in _values(graph):
            dims.update(value.type.names)
            tensors[value.name] = value.type.names
            around.update(scopes(value.origin.path))
    for weight in model.weights:
        tensors[weight.name] = weight.value.type.names[len(weight.loops) :]
    return ModelIndex(model, frozenset(dims), loops, frozenset(scans), frozenset(around), tensors, paths)


def _values(graph: Graph) -> Iterator[Value]:
    yield from graph.inputs
    for node in graph.nodes:
        yield from node.outputs
