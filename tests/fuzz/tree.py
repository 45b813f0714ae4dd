"""Where each rule of `grammar.lark` matched in a text, and which tokens it has: what a mutant may take apart."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dsl.diagnostics import Diagnostics, ParcError
from dsl.lexer import Lexed, Token, lex
from dsl.parser import Parser, _Reduction, _Unexpected


@dataclass(frozen=True, slots=True)
class Match:
    """A rule and the text that it matched."""

    rule: str
    start: int
    end: int


class _Recording(Parser):
    """A parser that notes what each of its reductions matched, and builds nothing."""

    def __init__(self, lexed: Lexed, diagnostics: Diagnostics) -> None:
        super().__init__(lexed, "text", diagnostics)
        self.spans: list[tuple[int, int] | None] = []
        self.matches: list[Match] = []

    def _feed(self, token: Token) -> Any:
        states, stack, spans, kind = self.grammar.states, self.stack, self.spans, token.type
        while True:
            action = states[stack[-1]].get(kind)
            if action is None:
                raise _Unexpected
            if not isinstance(action, _Reduction):
                stack.append(action)
                spans.append((token.start, token.end) if kind != "NEWLINE" else None)
                return None
            parts: Sequence[tuple[int, int] | None] = ()
            if action.size:
                parts = spans[-action.size :]
                del stack[-action.size :], spans[-action.size :]
            there = [p for p in parts if p is not None]
            span = (there[0][0], there[-1][1]) if there else None
            if span is not None and not action.origin.startswith("__"):
                self.matches.append(Match(action.origin, *span))
            stack.append(states[stack[-1]][action.origin])
            spans.append(span)
            if kind == "$END" and stack[-1] == self.grammar.end:
                return None

    def run(self) -> None:
        line = 0
        for position, token in enumerate(self.tokens):
            if position == 0 or self.tokens[position - 1].type == "NEWLINE":
                line = position
            token.type = self._classify(position, line)
            self._feed(token)


@lru_cache(2000)  # what is mutated is asked for again and again
def matches(text: str) -> tuple[tuple[Match, ...], list[Token]]:
    """All matches of rules, the inner ones first, up to where the text is no longer a program; and all its tokens."""
    found = Diagnostics()
    lexed = lex(text, "text", found)
    if len(found):
        return (), lexed.tokens
    parser = _Recording(lexed, found)
    with suppress(_Unexpected, ParcError):
        parser.run()
    same: dict[tuple[str, int, int], Match] = {(m.rule, m.start, m.end): m for m in parser.matches}
    return tuple(same.values()), lexed.tokens
