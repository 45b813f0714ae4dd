"""Where the parts of a parsed program stand in its text, so that the verifier can point at them."""

from __future__ import annotations

from dataclasses import field, replace

from dsl.data import dataclass
from dsl.source import Span

HEAD = -1
"""In the place of a class: the head of a program."""


@dataclass(frozen=True, slots=True)
class Site:
    """A place in a program, by position.

    `cls`: index of the class, `HEAD` for what stands before the classes; `part`: `fn`, `state`, `schedule` or "" (the
    class itself), of the head `input`; `index`: which of them; `path`: indices of instructions from the function's body
    inwards.
    """

    cls: int
    part: str = ""
    index: int = 0
    path: tuple[int, ...] = ()

    def inner(self, i: int) -> Site:
        """The i-th instruction of the body at this place."""
        return Site(self.cls, self.part, self.index, (*self.path, i))


@dataclass(slots=True)
class Locations:
    """Site -> span. `same`: class -> the class whose states and functions it takes over."""

    spans: dict[Site, Span] = field(default_factory=dict)
    same: dict[int, int] = field(default_factory=dict)
    first: int = 0
    """The class that sites count from: classes are numbered through all entries."""

    def of_entry(self, first: int) -> Locations:
        """For sites in an entry before which there are so many classes."""
        return replace(self, first=first)

    def find(self, site: Site | None) -> Span | None:
        """The span of the place or of what encloses it."""
        site = site and (site if site.cls == HEAD else replace(site, cls=site.cls + self.first))
        while site is not None:
            span = self.spans.get(site)
            if span is None and site.part and site.cls in self.same:
                span = self.spans.get(replace(site, cls=self.same[site.cls]))
            if span is not None:
                return span
            if site.path:
                site = Site(site.cls, site.part, site.index, site.path[:-1])
            elif site.part:
                site = Site(site.cls)
            else:
                site = None
        return None
