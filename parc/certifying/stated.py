"""A certificate as it is read: each field of the kind that it has to be."""

from __future__ import annotations

MALFORMED = "E1101"
"""For what is no certificate, whatever it is of."""

CODES = {
    **dict.fromkeys(("file", "job", "devices"), "E1102"),
    "space": "E1103",
    **dict.fromkeys(("work", "cluster", "layers", "paces", "rooms"), "E1104"),
    "tried": "E1105",
    **dict.fromkeys(("best", "around"), "E1106"),
    **dict.fromkeys(("counts", "space.total"), "E1107"),
    **dict.fromkeys(("least", "proved", "gap"), "E1108"),
    **dict.fromkeys(("cases", "asked"), "E1102"),
}
"""By the part of the certificate that does not hold."""


class Unfounded(Exception):
    """A certificate says what is not so: which part of it, and what is. path: of the part, empty for what cannot be
    read as one. code: of the kind of mistake."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.code = CODES.get(path) or CODES.get(path.partition(".")[0].partition("[")[0], MALFORMED)

    def of_case(self, number: int) -> Unfounded:
        """The same, of one case of several: counted from 1."""
        found = Unfounded(f"case {number}: {self}")
        found.code = self.code
        return found


LARGEST = 2**62
"""That a number may be: what is counted, seconds, bytes and operations of a step are far below."""


class StatedPart:
    """A part of a certificate. Asking for a field that is not there, or is of another kind, raises Unfounded. asked:
    paths of all fields that were asked for, of the whole certificate."""

    def __init__(self, value: object, path: str = "certificate", asked: set[str] | None = None) -> None:
        self.value, self.path = value, path
        self._asked: set[str] = set() if asked is None else asked

    def __getitem__(self, key: str) -> StatedPart:
        if not isinstance(self.value, dict) or key not in self.value:
            raise Unfounded(f"{self.path} has no `{key}`")
        found = StatedPart(self.value[key], f"{self.path}.{key}" if self.path != "certificate" else key, self._asked)
        self._asked.add(found.path)
        return found

    def number(self) -> float:
        """A number that is not negative."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float) or not 0 <= self.value <= LARGEST:
            raise Unfounded(f"{self.path} is no number")
        return float(self.value)

    def whole(self, least: int = 0) -> int:
        """A whole number."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or not least <= self.value <= LARGEST:
            raise Unfounded(f"{self.path} is no whole number of at least {least}")
        return self.value

    def text(self) -> str:
        """A text."""
        if not isinstance(self.value, str):
            raise Unfounded(f"{self.path} is no text")
        return self.value

    def truth(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            raise Unfounded(f"{self.path} is neither true nor false")
        return self.value

    def each(self) -> list[StatedPart]:
        """The parts of a list."""
        if not isinstance(self.value, list):
            raise Unfounded(f"{self.path} is no list")
        return [StatedPart(v, f"{self.path}[{i}]", self._asked) for i, v in enumerate(self.value)]

    def distinct(self, most: int) -> list[StatedPart]:
        """The parts of a list, so many at most, none of them twice."""
        found = self.each()
        if len(found) > most or len({repr(x.value) for x in found}) < len(found):
            raise Unfounded(f"{self.path} has more than {most} entries, or one twice")
        return found

    def pair(self) -> tuple[StatedPart, StatedPart]:
        """The parts of a list of two."""
        found = self.each()
        if len(found) != 2:
            raise Unfounded(f"{self.path} is no pair")
        return found[0], found[1]

    def items(self) -> dict[str, StatedPart]:
        """The parts of a mapping, which counts as asked for with all that it has: whoever asks holds its keys."""
        if not isinstance(self.value, dict):
            raise Unfounded(f"{self.path} is no mapping")
        self._asked.add(f"{self.path}.*")
        return {str(k): StatedPart(v, f"{self.path}.{k}", self._asked) for k, v in self.value.items()}

    @property
    def none(self) -> bool:
        """Whether nothing is stated."""
        return self.value is None

    def be(self, found: object) -> None:
        """Hold the value to what was found. Raises Unfounded."""
        self._asked.add(f"{self.path}.*")
        if not alike(self.value, found):
            raise Unfounded(f"{self.path} is {_short(self.value)}, but {_short(found)} was found", self.path)

    def unasked(self) -> None:
        """Hold that nothing is said that nobody asked for: what is held to nothing may be false. Raises Unfounded."""
        if isinstance(self.value, list):
            for part in self.each():
                part.unasked()
        if isinstance(self.value, dict) and f"{self.path}.*" not in self._asked:
            for key, value in self.value.items():
                path = f"{self.path}.{key}" if self.path != "certificate" else str(key)
                if path not in self._asked:
                    raise Unfounded(f"{self.path} has `{key}`, which no certificate of this format has", path)
                StatedPart(value, path, self._asked).unasked()


def alike(a: object, b: object) -> bool:
    """Equal and of one type, numbers up to the order in which they were added up. What is stated as 4 may be 4.0, but
    what counts is no fraction."""
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, bool) or isinstance(b, bool) or not (_numeric(a) and _numeric(b)):
        return type(a) is type(b) and a == b
    if isinstance(b, int):
        return isinstance(a, int) and a == b
    assert isinstance(a, int | float) and isinstance(b, int | float)
    if not (abs(a) <= LARGEST and abs(b) <= LARGEST):
        return a == b
    return abs(a - b) <= NEAR * max(abs(a), abs(b))


NEAR = 1e-9
"""Of a number: sums of floats hang on their order."""


def _numeric(value: object) -> bool:
    return isinstance(value, int | float)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."
