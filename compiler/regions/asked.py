"""What regions ask of the sizes of a mesh's axes. All else that they hang on is in the program's text."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
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
        self.known: list[dict[tuple[str, ...], dict[tuple[int, ...], Hashable]]] = []
        """Of each question, by the axes whose sizes it has looked at, by these: its answers."""

    def ask(self, question: Callable[[Sizes], Answer], of: Node | None = None) -> Answer:
        """The answer of the sizes; the question may be asked of others, too. of: see `RegionQuestion`."""
        found = question(self.sizes)
        self.asked.append(RegionQuestion(question, of))
        self.found.append(found)
        return found

    def answers(self, sizes: Sizes) -> tuple[Hashable, ...]:
        """Of other sizes."""
        while len(self.known) < len(self.asked):
            self.known.append({})
        return tuple([_answer(q.ask, sizes, known) for q, known in zip(self.asked, self.known, strict=True)])


def _answer(
    ask: Callable[[Sizes], Hashable], sizes: Sizes, known: dict[tuple[str, ...], dict[tuple[int, ...], Hashable]]
) -> Hashable:
    """Where all sizes that a question has looked at are as they were, it has the same answer."""
    for axes, answers in known.items():
        if (values := tuple([sizes.get(axis, 0) for axis in axes])) in answers:
            return answers[values]
    seen = _Seen(sizes)
    found = ask(seen)
    axes = tuple(sorted(seen.axes))
    known.setdefault(axes, {})[tuple([sizes.get(axis, 0) for axis in axes])] = found
    return found


class _Seen(Mapping[str, int]):
    """Sizes, and which of them somebody has looked at."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes, self.axes = sizes, set[str]()

    def __getitem__(self, axis: str) -> int:
        self.axes.add(axis)
        return self.sizes[axis]

    def __iter__(self) -> Iterator[str]:
        self.axes.update(self.sizes)
        return iter(self.sizes)

    def __len__(self) -> int:
        self.axes.update(self.sizes)
        return len(self.sizes)
