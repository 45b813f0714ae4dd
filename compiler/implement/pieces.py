"""How a local piece relates to the whole: the types of implementations."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import field

from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose piece it is: that of the device `ahead` places further along the axis, plus `each` for each iteration that
    the loop of a label has behind it. Numbers are of an axis of so many devices, round the end. zigzag: pieces are two
    blocks each, in zig-zag order."""

    ahead: int = 0
    each: tuple[tuple[str, int], ...] = ()
    zigzag: bool = False

    def shifted(self, by: int, devices: int) -> Owner:
        """That of the device `by` places further."""
        return Owner((self.ahead + by) % devices, self.each, self.zigzag)

    def growing(self, label: str, by: int, devices: int) -> Owner:
        """`by` places further with each iteration of a loop."""
        each = {**dict(self.each), label: by % devices}
        return Owner(self.ahead, tuple(sorted((k, n) for k, n in each.items() if n)), self.zigzag)

    def after(self, label: str, count: int, devices: int) -> Owner:
        """Behind the loop, which has run `count` times."""
        each = dict(self.each)
        return Owner((self.ahead + each.pop(label, 0) * count) % devices, tuple(sorted(each.items())), self.zigzag)

    @property
    def own(self) -> bool:
        """Whether it is the device's own."""
        return not self.ahead and not self.each

    def __str__(self) -> str:
        steps = "".join(f" + {n if n > 1 else ''}{label}" for label, n in self.each)
        return f"rank + {self.ahead}{steps}" if self.ahead else f"rank{steps}"


MINE = Owner()
MINE_IN_ZIGZAG = Owner(zigzag=True)

Split = tuple[tuple[str, Owner], ...]
"""The axes that pieces of a dim lie along, major first, and whose piece it is along each."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """How a value on each device relates to the whole. Axes of which nothing is said: the same on every device.

    dims: those of which devices have pieces. pending: axes over which a sum or maximum is still to be taken. own: axes
    along which nothing says how it relates to the whole. constant: the number that all elements are (nan: some number);
    such a value suits any whole.
    """

    dims: Mapping[str, Split] = field(default_factory=dict)
    pending: Mapping[str, str] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
    constant: float | None = None

    @property
    def axes(self) -> frozenset[str]:
        """Those along which devices have different values."""
        return frozenset(a for split in self.dims.values() for a, _ in split) | self.pending.keys() | self.own

    def split(self, dim: str) -> tuple[str, ...]:
        """The axes that pieces of the dim lie along."""
        return tuple(a for a, _ in self.dims.get(dim, ()))

    def dims_of(self, axis: str) -> list[str]:
        """The dims of which there are pieces along the axis."""
        return [d for d, split in self.dims.items() if any(a == axis for a, _ in split)]

    def zigzag(self) -> frozenset[str]:
        """The dims of which there are pieces in zig-zag order."""
        return frozenset(d for d, split in self.dims.items() if any(o.zigzag for _, o in split))

    def said(self, axis: str) -> str:
        """Words for how it lies along an axis."""
        if axis in self.own:
            return f"each device's own along `{axis}`"
        if axis in self.pending:
            word = "sum" if self.pending[axis] == "sum" else "maximum"
            return f"a {word} that is pending over `{axis}`"
        parts = [(d, o) for d, split in self.dims.items() for a, o in split if a == axis]
        if not parts:
            return f"the same on every device of `{axis}`"
        dim, owner = parts[0]
        return f"split into pieces of `{dim}` along `{axis}`" + ("" if owner.own else f", of {owner}")


WHOLE = Pieces()


def of_dims(dims: Iterable[tuple[str, Iterable[str]]], zigzag: Collection[str] = ()) -> Pieces:
    """Of a value whose dims are split over these axes; zigzag: the dims that lie in zig-zag order of the first."""
    return Pieces(
        {d: tuple((a, Owner(zigzag=d in zigzag and not k)) for k, a in enumerate(axes)) for d, axes in dims if axes}
    )
