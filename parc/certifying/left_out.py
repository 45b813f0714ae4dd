"""What a certificate says that no strategy of its space has, in words that `parc plan --without` knows."""

from __future__ import annotations

from collections.abc import Sequence

from dsl.data import dataclass
from parc.certifying.stated import StatedPart, Unfounded

VALUES: dict[str, tuple[object, ...]] = {
    "zero": (0, 1, 2, 3),
    "recompute": ("part", "products", "layers", "some"),
    "outermost": ("pp", "dp"),
    "offload": ("optimizer", "weights", "activations"),
}
NAMES = frozenset(
    {
        *("pp", "ep", "cp", "sp", "sx", "tp", "gpipe", "one_f_one_b", "interleaved", "zero_bubble", "recompute"),
        *("sequence", "heads", "ring", "zigzag", "rows", "offload", "cuts", "places"),
        *(f"{name}={value}" for name, values in VALUES.items() for value in values),
    }
)
NUMBERED = ("pp", "dp", "ep", "cp", "sp", "sx", "tp", "chunks")
MOST = 64


@dataclass(frozen=True, slots=True)
class StatedLeft:
    """names: what there is none of; most: of axes, or of chunks, the largest number."""

    names: frozenset[str] = frozenset()
    most: tuple[tuple[str, int], ...] = ()

    def told(self) -> str:
        """In words, in the order of the alphabet; empty where nothing is left out."""
        return ", ".join(sorted([*self.names, *(f"{name}>{n}" for name, n in self.most)]))

    def axis(self, name: str, size: int) -> bool:
        """Whether an axis may have so many devices."""
        return name not in self.names and self.number(name, size)

    def number(self, name: str, n: int) -> bool:
        """Whether there may be so many."""
        return not any(of == name and n > limit for of, limit in self.most)

    def schedule(self, name: str, chunks: int) -> bool:
        """Whether stages may run so."""
        return name not in self.names and self.number("chunks", chunks)

    def again(self, rules: Sequence[tuple[str, bool]], layers: Sequence[str]) -> bool:
        """Whether that may be computed again. rules: scopes, and whether something of each is kept; layers: the scopes
        that are a whole layer."""
        if not rules:
            return True
        kept, whole = any(keep for _, keep in rules), {scope for scope, _ in rules} <= {*layers}
        kind = "products" if kept else "layers" if whole else "part"
        return "recompute" not in self.names and f"recompute={kind}" not in self.names

    def by_hand(self, function: str, zigzag: bool) -> bool:
        """Whether a function of the library may take the place of scopes."""
        ring = function in ("ring_attention", "ring_grouped_attention") and "ring" in self.names
        return not ring and not (zigzag and "zigzag" in self.names)

    def away(self, classes: Sequence[str]) -> bool:
        """Whether these may rest with the hosts."""
        return not classes or not ("offload" in self.names or any(f"offload={c}" in self.names for c in classes))

    def hold_around(self, row: StatedPart) -> None:
        """What was tried around the best has nothing of it. Raises Unfounded."""
        for name, there in (
            ("cuts", row["cuts"].each()),
            ("recompute=some", row["again"].each()),
            ("places", not row["places"].none),
        ):
            if there and name in self.names:
                raise Unfounded(f"{row.path} has what is left out: {name}", row.path)


def stated_left(of: StatedPart) -> StatedLeft:
    """Read the list. Raises Unfounded for what is no such name."""
    names, most = set[str](), dict[str, int]()
    for each in of.distinct(MOST):
        text = each.text()
        name, _, number = text.partition(">")
        if text in NAMES:
            names.add(text)
        elif name in NUMBERED and number.isdecimal() and len(number) < 10 and number == str(int(number) or ""):
            most[name] = min(int(number), most.get(name, int(number)))
        else:
            raise Unfounded(f"{each.path} is nothing that can be left out", each.path)
    return StatedLeft(frozenset(names), tuple(sorted(most.items())))
