"""Where what the text of a stage holds was written, as tables at its end: by source, ranges of characters, then names.

    spans "gpt.par" {
      1203..1210: strategy.splits.0.by, strategy.splits.1.by
      55..70: %block.attention.q, %block.attention.q.grad
    }

A value is called `%name`; a node, where it stands elsewhere than its first result, by that: `=%name`; a fact by the
names and numbers of the fields that lead to it. What is in no table stands nowhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from itertools import count, takewhile
from typing import Any

from compiler.graph import Graph
from compiler.text.attrs import quote
from compiler.text.cursor import Cursor
from compiler.walk import graph_values, walk
from dsl.source import NOWHERE, Span

WORD = "spans"
WIDTH = 120


def of_graph(graph: Graph, known: Mapping[str, Span]) -> Iterator[tuple[str, Span]]:
    """The values and the nodes that stand elsewhere than is known already."""
    spans = {v.name: v.span for v in graph_values(graph)}
    yield from ((f"%{quote(n)}", s) for n, s in spans.items() if known.get(f"%{quote(n)}", NOWHERE) != s)
    for node, _ in walk(graph):
        first = node.outputs[0]
        if node.span != first.span:
            yield f"=%{quote(first.name)}", node.span


def of_fact(value: object, path: str) -> Iterator[tuple[str, Span]]:
    """All spans in a fact."""
    if isinstance(value, Span):
        yield path, value
    elif isinstance(value, tuple):
        for i, x in enumerate(value):
            yield from of_fact(x, f"{path}.{i}")
    elif is_dataclass(value):
        for f in fields(value):
            yield from of_fact(getattr(value, f.name), f"{path}.{f.name}")


def located(value: Any, path: str, spans: Mapping[str, Span]) -> Any:
    """The fact with its spans as the table has them."""
    if isinstance(value, tuple):
        return tuple(located(x, f"{path}.{i}", spans) for i, x in enumerate(value))
    if is_dataclass(value) and not isinstance(value, type):
        new = {f.name: spans.get(at) or _listed(at, spans) or located(getattr(value, f.name), at, spans)
               for f in fields(value) for at in (f"{path}.{f.name}",)}  # fmt: skip
        return replace(value, **new)
    return value


def _listed(path: str, spans: Mapping[str, Span]) -> tuple[Span, ...]:
    """A field that is a list of spans alone: they stand in the table only."""
    return tuple(spans[at] for at in takewhile(spans.__contains__, (f"{path}.{i}" for i in count())))


def show_spans(found: Iterable[tuple[str, Span]]) -> str:
    """The tables, one for each source; nothing if nothing stands anywhere."""
    sources: dict[str, dict[tuple[int, int], list[str]]] = {}
    for what, span in found:
        if span == NOWHERE and "%" not in what:
            continue
        sources.setdefault(span.source, {}).setdefault((span.start, span.end), []).append(what)
    lines = []
    for source, ranges in sorted(sources.items()):
        lines.append(f"{WORD} {json.dumps(source)} {{")
        for (start, end), names in sorted(ranges.items()):
            lines += _wrapped(f"  {start}..{end}:", names)
        lines.append("}")
    return "".join(f"{line}\n" for line in lines)


def _wrapped(head: str, names: Iterable[str]) -> Iterator[str]:
    """Lines that all begin alike."""
    line = head
    for name in names:
        if line != head and len(line) + len(name) + 2 > WIDTH:
            yield line
            line = head
        line += f"{' ' if line == head else ', '}{name}"
    yield line


class SpanParser(Cursor):
    """Reads the tables."""

    def span_tables(self) -> dict[str, Span]:
        """All that follow, up to the end of the text."""
        found: dict[str, Span] = {}
        while self.take_word(WORD):
            source = self.text("the name of a source")
            self.mark("{")
            self.end_line()
            while not self.sees("}"):
                start = self.natural()
                self.mark("..")
                span = Span(source, start, self.natural())
                self.mark(":")
                while not self.sees("newline"):
                    found[self._what()] = span
                    if not self.take(","):
                        break
                self.end_line()
            self.mark("}")
            self.end_line()
            self.skip_lines()
        return found

    def _what(self) -> str:
        which = f"{self.next().text} " if self.sees("word") and self.tokens[self.at + 1].kind in ("=", "%") else ""
        which += "=" if self.take("=") else ""
        if which or self.sees("%"):
            return f"{which}%{quote(self.value_name())}"
        return self.text("a value or a fact")
