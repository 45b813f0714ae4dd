"""All values that holes can have together, by number: there may be more of them than anybody can list."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd, prod

from dsl.data import dataclass
from parc.planning.holes import Hole, OpenFile

FEW = 1024
"""So many are looked at in their order."""

GOLDEN = 0.6180339887498949
"""Steps of such a share of all come evenly from everywhere."""


@dataclass(frozen=True, slots=True)
class HoleValues:
    """What makes a mesh as large as the cluster, as far as the file says so. holes: as the file has them; sized, sizes:
    those that are sizes of the mesh, and what they can be together; rest: all others."""

    holes: tuple[Hole, ...]
    sized: tuple[Hole, ...]
    sizes: tuple[tuple[int, ...], ...]
    rest: tuple[Hole, ...]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.sizes) * prod(len(h.values) for h in self.rest)

    def at(self, number: int) -> tuple[tuple[Hole, int], ...]:
        """Those with this number: the last hole's change first."""
        values: dict[Hole, int] = {}
        for hole in reversed(self.rest):
            number, at = divmod(number, len(hole.values))
            values[hole] = hole.values[at]
        values |= dict(zip(self.sized, self.sizes[number], strict=True))
        return tuple((h, values[h]) for h in self.holes)

    def number(self, values: tuple[tuple[Hole, int], ...]) -> int:
        """Of these values."""
        chosen = dict(values)
        number = self.sizes.index(tuple(chosen[h] for h in self.sized))
        for hole in self.rest:
            number = number * len(hole.values) + hole.values.index(chosen[hole])
        return number

    def order(self) -> Iterator[int]:
        """All numbers; where there are many, soon some from everywhere."""
        if self.count <= FEW:
            yield from range(self.count)
            return
        step = int(self.count * GOLDEN)
        while gcd(step, self.count) > 1:
            step += 1
        at = 0
        for _ in range(self.count):
            yield at
            at = (at + step) % self.count

    def near(self, number: int) -> Iterator[int]:
        """Those that differ in one hole, by one value; or in two sizes of the mesh."""
        stride = 1
        left = number
        for hole in reversed(self.rest):
            left, at = divmod(left, len(hole.values))
            yield from (number + by * stride for by in (-1, 1) if 0 <= at + by < len(hole.values))
            stride *= len(hole.values)
        own = self.sizes[left]
        for at, sizes in enumerate(self.sizes):
            if sum(a != b for a, b in zip(own, sizes, strict=True)) in (1, 2):
                yield number + (at - left) * stride


def hole_values(of: OpenFile, devices: int) -> HoleValues:
    """Those of a file's holes, on so many devices."""
    mesh = of.mesh
    sized = tuple(h for h in of.holes if mesh is not None and h in mesh)
    rest = tuple(h for h in of.holes if h not in sized)

    def sizes(at: int, left: int) -> Iterator[tuple[int, ...]]:
        if at == len(sized):
            if left == 1 or mesh is None:
                yield ()
            return
        times = sum(part == sized[at] for part in mesh or ())
        for value in sized[at].values:
            if value > 0 and left % value**times == 0:
                for others in sizes(at + 1, left // value**times):
                    yield (value, *others)

    fixed = prod(n for n in mesh or () if isinstance(n, int))
    none = mesh is not None and (fixed == 0 or devices % fixed != 0)
    found = () if none else tuple(sizes(0, devices // fixed if mesh is not None else 1))
    return HoleValues(of.holes, sized, found, rest)
