"""Quantities: numbers with a unit. Dimensions are checked; `GB` is not `GiB`.

A quantity holds its value in base units: bytes, seconds, FLOP. Bits are an eighth of a byte, `Hz` is `1/s`. Arithmetic
that the dimensions forbid raises `DimensionError`; a result without dimension is a plain number.
"""

from __future__ import annotations

from math import inf, isfinite, log10

from dsl.data import dataclass

Number = int | float


@dataclass(frozen=True, slots=True)
class Dimension:
    """Exponents of the base units."""

    bytes: int = 0
    seconds: int = 0
    flop: int = 0

    def __mul__(self, other: Dimension) -> Dimension:
        return Dimension(self.bytes + other.bytes, self.seconds + other.seconds, self.flop + other.flop)

    def __truediv__(self, other: Dimension) -> Dimension:
        return self * other**-1

    def __pow__(self, power: int) -> Dimension:
        return Dimension(self.bytes * power, self.seconds * power, self.flop * power)

    def __str__(self) -> str:
        """In words: `data per time`."""
        if self in _NAMES:
            return _NAMES[self]
        parts = [("B", self.bytes), ("FLOP", self.flop), ("s", self.seconds)]
        return " ".join(u if e == 1 else f"{u}^{e}" for u, e in parts if e)


NONE = Dimension()
BYTES = Dimension(bytes=1)
SECONDS = Dimension(seconds=1)
FLOP = Dimension(flop=1)
HERTZ = Dimension(seconds=-1)
BYTES_PER_SECOND = BYTES / SECONDS
FLOP_PER_SECOND = FLOP / SECONDS

_NAMES = {
    NONE: "a plain number",
    BYTES: "an amount of data",
    SECONDS: "a time",
    FLOP: "an amount of computation",
    HERTZ: "a frequency",
    BYTES_PER_SECOND: "data per time",
    FLOP_PER_SECOND: "computation per time",
}


class DimensionError(Exception):
    """An operation on quantities that their dimensions forbid; the message says which."""


@dataclass(frozen=True, slots=True)
class Unit:
    """`value` of this unit are `value * scale / per` base units."""

    dimension: Dimension
    scale: int = 1
    per: int = 1

    def of(self, value: Number) -> Number:
        """In base units; stays an integer where that is exact."""
        scaled = value * self.scale
        if self.per == 1:
            return scaled
        return scaled // self.per if isinstance(scaled, int) and scaled % self.per == 0 else scaled / self.per


def _units() -> dict[str, Unit]:
    units = {"B": Unit(BYTES), "FLOP": Unit(FLOP)}
    for power, prefix in enumerate("KMGTP", 1):
        units[f"{prefix}B"] = Unit(BYTES, 1000**power)
        units[f"{prefix}iB"] = Unit(BYTES, 1024**power)
        units[f"{prefix}b"] = Unit(BYTES, 1000**power, 8)
    for power, prefix in enumerate("KMGTPEZ", 1):
        units[f"{prefix}FLOP"] = Unit(FLOP, 1000**power)
    units |= {f"{name}/s": Unit(u.dimension / SECONDS, u.scale, u.per) for name, u in units.items()}
    units |= {name: Unit(SECONDS, 1, per) for name, per in (("ns", 10**9), ("us", 10**6), ("ms", 1000), ("s", 1))}
    units |= {"min": Unit(SECONDS, 60), "h": Unit(SECONDS, 3600)}
    units |= {"days": Unit(SECONDS, 86400), "years": Unit(SECONDS, 31557600)}  # Julian years: 365.25 days
    units |= {name: Unit(HERTZ, scale) for name, scale in (("Hz", 1), ("kHz", 10**3), ("MHz", 10**6), ("GHz", 10**9))}
    return units


UNITS: dict[str, Unit] = _units()


@dataclass(frozen=True, slots=True, eq=False)
class Quantity:
    """A value in base units and its dimension."""

    value: Number
    dimension: Dimension

    @staticmethod
    def of(value: Number, unit: str) -> Quantity:
        """`Quantity.of(30, "GB/s")`; the unit must be one of `UNITS`."""
        known = UNITS[unit]
        return Quantity(known.of(value), known.dimension)

    def expect(self, dimension: Dimension) -> Number:
        """The value in base units; a `DimensionError` if the quantity is of another dimension."""
        if self.dimension != dimension:
            raise DimensionError(f"{self} is {self.dimension}, expected {dimension}")
        return self.value

    def _same(self, other: object, verb: str) -> Number:
        dimension = other.dimension if isinstance(other, Quantity) else NONE
        if dimension != self.dimension or not isinstance(other, Quantity | int | float):
            raise DimensionError(f"cannot {verb} {self.dimension} and {dimension}")
        return other.value if isinstance(other, Quantity) else other

    def __add__(self, other: object) -> Quantity:
        return Quantity(self.value + self._same(other, "add"), self.dimension)

    def __radd__(self, other: object) -> Quantity:
        return self + other

    def __sub__(self, other: object) -> Quantity:
        return Quantity(self.value - self._same(other, "subtract"), self.dimension)

    def __rsub__(self, other: object) -> Quantity:
        return -self + other

    def __neg__(self) -> Quantity:
        return Quantity(-self.value, self.dimension)

    def __mul__(self, other: Quantity | Number) -> Quantity | Number:
        if isinstance(other, Quantity):
            return _plain(self.value * other.value, self.dimension * other.dimension)
        return Quantity(self.value * other, self.dimension)

    __rmul__ = __mul__

    def __truediv__(self, other: Quantity | Number) -> Quantity | Number:
        if isinstance(other, Quantity):
            return _plain(_divide(self.value, other.value), self.dimension / other.dimension)
        return Quantity(_divide(self.value, other), self.dimension)

    def __rtruediv__(self, other: Number) -> Quantity | Number:
        return _plain(_divide(other, self.value), self.dimension**-1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantity) and (self.value, self.dimension) == (other.value, other.dimension)

    def __hash__(self) -> int:
        return hash((self.value, self.dimension))

    def __lt__(self, other: object) -> bool:
        return self.value < self._same(other, "compare")

    def __le__(self, other: object) -> bool:
        return self.value <= self._same(other, "compare")

    def __gt__(self, other: object) -> bool:
        return self.value > self._same(other, "compare")

    def __ge__(self, other: object) -> bool:
        return self.value >= self._same(other, "compare")

    def __str__(self) -> str:
        return show(self)


def _plain(value: Number, dimension: Dimension) -> Quantity | Number:
    return Quantity(value, dimension) if dimension != NONE else value


def _divide(a: Number, b: Number) -> Number:
    """Exact where both are integers and the division has no rest."""
    if isinstance(a, int) and isinstance(b, int) and b and a % b == 0:
        return a // b
    return a / b


_SHOWN: dict[Dimension, tuple[str, ...]] = {
    BYTES: ("B", "KB", "KiB", "MB", "MiB", "GB", "GiB", "TB", "TiB", "PB", "PiB"),
    BYTES_PER_SECOND: ("B/s", "KB/s", "MB/s", "GB/s", "TB/s", "PB/s"),
    FLOP: ("FLOP", "KFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP"),
    FLOP_PER_SECOND: ("FLOP/s", "KFLOP/s", "MFLOP/s", "GFLOP/s", "TFLOP/s", "PFLOP/s", "EFLOP/s", "ZFLOP/s"),
    SECONDS: ("ns", "us", "ms", "s", "min", "h", "days", "years"),
    HERTZ: ("Hz", "kHz", "MHz", "GHz"),
}


def show(quantity: Quantity, digits: int = 4) -> str:
    """`30 GB/s`: in its `best_unit`, rounded to `digits` significant digits."""
    if quantity.dimension not in _SHOWN:
        return f"{quantity.value:.{digits}g} {quantity.dimension}".removesuffix(" a plain number")
    return show_in(quantity, best_unit(quantity, digits), digits)


def show_in(quantity: Quantity, unit: str, digits: int = 4) -> str:
    """The quantity in a unit of its dimension."""
    return f"{_digits(count_in(quantity, unit), digits)} {unit}"


def show_both(left: Quantity, right: Quantity, unit: str | None = None, digits: int = 4) -> tuple[str, str]:
    """Two quantities of a dimension in one unit: `unit`, else the best one of the right, or of the left where the right
    is zero; in one each where they lie so far apart that no unit is good to read for both. With as many more digits as
    it takes to tell them apart, and in another unit where none do.
    """
    one = None  # unit for both
    if left.dimension in _SHOWN:
        for wanted in (unit, best_unit(right if right.value else left, digits), best_unit(left, digits)):
            counts = [abs(count_in(q, wanted)) for q in (left, right)] if wanted else []
            if wanted and all(1e-3 <= count < 1e6 or not count for count in counts):
                one = wanted
                break

    def told(digits: int) -> tuple[str, str]:
        first, second = (show_in(q, one, digits) if one else show(q, digits) for q in (left, right))
        return first, second

    while (shown := told(digits))[0] == shown[1] and left.value != right.value and digits < 17:
        digits += 1
    if one and shown[0] == shown[1] and left.value != right.value:  # a unit's scale can round two numbers to one
        each = [(show_in(left, name, digits), show_in(right, name, digits)) for name in _SHOWN[left.dimension]]
        shown = next((pair for pair in each if pair[0] != pair[1]), shown)
    return shown


def count_in(quantity: Quantity, unit: str) -> Number:
    """How many of a unit it is."""
    return quantity.value * UNITS[unit].per / UNITS[unit].scale


def best_unit(quantity: Quantity, digits: int = 4) -> str:
    """Of the units in which the number lies between 1 and 1,000, the one that needs the fewest characters; where there
    is none, the one that comes nearest to that. Binary units are used only where they are exact (`32 GiB`).
    """
    best, least = "", (inf, 0)
    for name in _SHOWN[quantity.dimension]:
        count = count_in(quantity, name)
        if "iB" in name and (not isfinite(count) or count != int(count) or not 1 <= abs(count) < 1024):
            continue
        rounded = abs(float(f"{count:.{digits}g}"))
        off = max(0.0, -log10(rounded), log10(rounded) - 3) if 0 < rounded < inf and "iB" not in name else 0.0
        if rounded == 1000 and "iB" not in name:
            off = 1e-9  # the next unit's 1, if it has a next
        rank = (off, len(f"{_digits(count, digits)} {name}"))
        if not best or rank < least:
            best, least = name, rank
    return best


def _digits(count: Number, digits: int) -> str:
    """Rounded, without an exponent where that is short."""
    text = f"{float(f'{count:.{digits}g}'):.{digits}g}"
    if "e" not in text or not 1e-6 <= abs(count) < 1e9:
        return text
    return f"{float(text):.{digits + 6}f}".rstrip("0").rstrip(".")
