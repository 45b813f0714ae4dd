"""What regions ask of the sizes of a mesh's axes. All else that they hang on is in the program's text."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple, TypeVar

from compiler.graph import Node

Answer = TypeVar("Answer", bound=Hashable)
Sizes = Mapping[str, int]


class RegionQuestion(NamedTuple):
    """of: a node of the region whose numbers the answer is (`Region.kept`, `Region.most`), and nothing else."""

    ask: Callable[[Sizes], Hashable]
    of: Node | None


class RegionQuestions:
    """Those of a program, which are the same whatever the sizes: where they are answered alike, so are its regions."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self.asked: list[RegionQuestion] = []
        self.found: list[Hashable] = []

    def ask(self, question: Callable[[Sizes], Answer], of: Node | None = None) -> Answer:
        """The answer of the sizes; the question may be asked of others, too. of: see `RegionQuestion`."""
        found = question(self.sizes)
        self.asked.append(RegionQuestion(question, of))
        self.found.append(found)
        return found

    def answers(self, sizes: Sizes) -> tuple[Hashable, ...]:
        """Of other sizes."""
        return tuple([question.ask(sizes) for question in self.asked])
