"""Errors as data: what is wrong, where, and what to do about it.

    ParcError                 whatever a user's input can cause; carries its diagnostics
    └─ (subclasses elsewhere) for callers that need to tell them apart

Functions that can find several errors collect them in a `Diagnostics` and raise once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from typing import Literal

from dsl.data import dataclass
from dsl.source import Span

Severity = Literal["error", "warning"]
Note = tuple[str, Span | None]

_CAP = 20
_LONGEST_WORD = 64
_MOST_CANDIDATES = 2000


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. `code` is a key of `dsl.codes.CODES`; `notes` may point to other places."""

    code: str
    message: str
    span: Span | None = None
    notes: tuple[Note, ...] = ()
    help: str | None = None
    severity: Severity = "error"

    @property
    def limit(self) -> bool:
        """Whether it refuses something for its size: a job, or (E0608) a lowered program's text."""
        return self.code.startswith("E09") or self.code == "E0608"

    def __str__(self) -> str:
        return f"{self.severity}[{self.code}]: {self.message}"


class ParcError(Exception):
    """Something is wrong with what the user wrote; `diagnostics` say what."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        super().__init__("\n".join(str(d) for d in diagnostics))
        self.diagnostics = diagnostics


@contextmanager
def at_span(span: Span | None) -> Iterator[None]:
    """What is told inside without a place is told at this one."""
    try:
        yield
    except ParcError as error:
        if span is None or all(d.span is not None for d in error.diagnostics):
            raise
        raise ParcError(*(d if d.span is not None else replace(d, span=span) for d in error.diagnostics)) from error


class Diagnostics:
    """Collects findings, up to a cap; the same finding at the same place counts once."""

    def __init__(self, cap: int = _CAP) -> None:
        self._found: dict[tuple[str, Span | None, str], Diagnostic] = {}
        self._cap = cap

    def __iter__(self) -> Iterator[Diagnostic]:
        return iter(self._found.values())

    def __len__(self) -> int:
        return len(self._found)

    @property
    def full(self) -> bool:
        """Whether further errors would be dropped: a reason to stop looking."""
        return len(self._found) >= self._cap and sum(d.severity == "error" for d in self) >= self._cap

    @property
    def failed(self) -> bool:
        """Whether any of the findings is an error."""
        return any(d.severity == "error" for d in self)

    def add(self, diagnostic: Diagnostic) -> None:
        """Take in a diagnostic made elsewhere. Warnings leave room for errors."""
        if not self.full and (diagnostic.severity == "error" or len(self) < self._cap):
            self._found.setdefault((diagnostic.code, diagnostic.span, diagnostic.message), diagnostic)

    def discard(self, diagnostic: Diagnostic) -> None:
        """Take back a finding: something better will be said of the same place."""
        self._found.pop((diagnostic.code, diagnostic.span, diagnostic.message), None)

    def forget(self, kept: int) -> None:
        """Drop all but the first `kept` findings: what they speak of was an attempt."""
        for key in list(self._found)[kept:]:
            del self._found[key]

    def error(
        self, code: str, message: str, span: Span | None = None, *, notes: Iterable[Note] = (), help: str | None = None
    ) -> None:
        """Record an error."""
        self.add(Diagnostic(code, message, span, tuple(notes), help))

    def warning(
        self, code: str, message: str, span: Span | None = None, *, notes: Iterable[Note] = (), help: str | None = None
    ) -> None:
        """Record a warning."""
        self.add(Diagnostic(code, message, span, tuple(notes), help, "warning"))

    def raise_if_any(self) -> None:
        """Raise a `ParcError` with the errors, if there are any: what is only a warning may follow from them."""
        if self.failed:
            raise ParcError(*(d for d in self if d.severity == "error"))


def fail(
    code: str, message: str, span: Span | None = None, *, notes: Iterable[Note] = (), help: str | None = None
) -> ParcError:
    """A `ParcError` with one diagnostic: ``raise fail("E0101", …)``."""
    return ParcError(Diagnostic(code, message, span, tuple(notes), help))


def suggest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `word` is most likely a misspelling of. Bounded work, whatever the input."""
    if len(word) > _LONGEST_WORD:
        return None
    near = [c for _, c in zip(range(_MOST_CANDIDATES), candidates) if abs(len(c) - len(word)) <= 3 and c != word]
    folded = {c.lower(): c for c in near}
    if word.lower() in folded:
        return folded[word.lower()]
    found = get_close_matches(word, near, n=1, cutoff=0.6)
    return found[0] if found else None


def plural(number: int, what: str) -> str:
    """`1 device`, `2,048 devices`, `2 batches`."""
    ending = "es" if what.endswith(("ch", "ss")) else "s"
    return f"{number:,} {what}{'' if number == 1 else ending}"


def did_you_mean(word: str, candidates: Iterable[str]) -> str | None:
    """`suggest` as a help text."""
    found = suggest(word, candidates)
    return f"did you mean `{found}`?" if found else None
