"""Text to tokens and comments, in one pass and without a parser.

Drops newlines inside `()`, `[]` and sets (`in {…}`), makes one token of a run of newlines and of a quantity, checks
that brackets match, and enforces the limits. Always returns tokens that are balanced, so that the parser can go on and
find more errors after what is reported here.
"""

from __future__ import annotations

import re

from dsl import limits
from dsl.data import dataclass
from dsl.diagnostics import Diagnostic, Diagnostics, did_you_mean
from dsl.printable import legible
from dsl.source import Span
from dsl.units import UNITS


@dataclass(slots=True)
class Token:
    """`type` is NAME, NUMBER, QUANTITY, STRING, NEWLINE, OP or $END here; the parser replaces NAME and OP."""

    type: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Comment:
    """`# …`; `alone` if nothing else stands on its line."""

    text: str
    start: int
    end: int
    alone: bool


@dataclass(frozen=True, slots=True)
class Lexed:
    """What a text consists of.

    broken_at: the offset of the first bracket that has no partner, if any. glued: by the offset of a number with other
    characters behind it that make no number of it (`1f1b`), all of them, and what was reported.
    """

    tokens: list[Token]
    comments: list[Comment]
    broken_at: int | None
    glued: dict[int, tuple[str, Diagnostic]]


_UNIT = "|".join(sorted((re.escape(u) for u in UNITS), key=len, reverse=True))
_NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_TOKEN = re.compile(
    rf"""(?P<space>[ \t\f]+)
    |(?P<comment>\#[^\r\n]*)
    |(?P<newline>[\r\n][ \t\f\r\n]*)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>{_NUMBER})(?:[ ]?(?P<unit>{_UNIT})(?![A-Za-z0-9_]))?
    |(?P<string>"[^"\\\r\n]*+(?:\\[^\r\n][^"\\\r\n]*+)*+")
    |(?P<op>\.\.\.|\.\.|\.|->|\*\*|//|<=|>=|==|!=|[-+*/%@<>=~:,()\[\]{{}}])""",
    re.VERBOSE,
)
_GLUED = re.compile(r"[A-Za-z0-9_]+(?:\.[0-9]\w*)*|\.[0-9][A-Za-z0-9_.]*|\.(?![A-Za-z_.])")
_QUANTITY = re.compile(rf"({_NUMBER})[ ]?(.*)", re.DOTALL)
_UNKNOWN_UNIT = re.compile(r"[A-Za-z]+(?:/[A-Za-z]+)?(?![A-Za-z0-9_])")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {'"': '"', "\\": "\\", "n": "\n", "t": "\t"}
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LONGEST_JUNK = 100
_LINE_REST = re.compile(r"[^\r\n]*")
_PARTNER = {"(": ")", "[": "]", "{": "}"}
_CLOSERS = frozenset(_PARTNER.values())
_HINTS = {
    ";": "a statement ends at the end of its line",
    "'": 'strings stand in double quotes: "…"',
    "&": "write `and`",
    "|": "write `or`",
    "!": "write `not`",
    "^": "a power is written `**`",
    "?": "a condition is written `a if test else b`",
    "\u00a0": "this is a no-break space: write an ordinary one",
    "×": "write `*`",
    "−": "write `-`",
    "→": "write `->`",
    "…": "write `...`",
    "“": 'strings stand in double quotes: "…"',
    "”": 'strings stand in double quotes: "…"',
}


class Lexer:
    """One run over one text; use `lex`."""

    def __init__(self, text: str, name: str, diagnostics: Diagnostics) -> None:
        self.text = text
        self.name = name
        self.diagnostics = diagnostics
        self.tokens: list[Token] = []
        self.comments: list[Comment] = []
        self.brackets: list[Token] = []
        self.flat = 0  # how many of the open brackets are not blocks
        self.broken_at: int | None = None
        self.glued: dict[int, tuple[str, Diagnostic]] = {}
        self.line_start = 0
        self.stopped = False

    def run(self) -> Lexed:
        """Lex all of the text."""
        text, tokens, match = self.text, self.tokens, _TOKEN.match
        position = 1 if text.startswith("\ufeff") else 0
        length = len(text)
        while position < length:
            found = match(text, position)
            if found is None:
                position = self._illegal(position)
                continue
            kind, start, position = found.lastgroup, position, found.end()
            if kind == "space":
                continue
            if kind == "name":
                if position - start > limits.MAX_NAME:
                    self._error("E0905", f"this name has more than {limits.MAX_NAME} characters", start, position)
                tokens.append(Token("NAME", text[start:position], start, position))
            elif kind == "op":
                self._op(found.group(), start, position)
            elif kind == "newline":
                self.line_start = position
                if not self.flat and tokens and tokens[-1].type != "NEWLINE":
                    tokens.append(Token("NEWLINE", "\n", start, position))
            elif kind == "number" or kind == "unit":
                position = self._number(found)
            elif kind == "comment":
                self._comment(start, position)
            else:
                self._string(found.group(), start, position)
            if len(tokens) + len(self.comments) > limits.MAX_TOKENS:
                message = f"this file has more than {limits.MAX_TOKENS:,} tokens and comments"
                self._error("E0904", message, start, position, help="split the file, and `use` its parts")
                self._stop(start)
            if self.stopped or self.diagnostics.full:
                break
        return self._finish()

    def _finish(self) -> Lexed:
        end = len(self.text)
        for bracket in () if self.stopped else self.brackets:
            self._unbalanced(bracket, f"`{bracket.text}` is never closed")
            if self.diagnostics.full:
                break
        if self.tokens and self.tokens[-1].type != "NEWLINE":
            self.tokens.append(Token("NEWLINE", "\n", end, end))
        self.tokens.append(Token("$END", "", end, end))
        return Lexed(self.tokens, self.comments, self.broken_at, self.glued)

    def _error(self, code: str, message: str, start: int, end: int, help: str | None = None) -> None:
        self.diagnostics.error(code, message, Span(self.name, start, end), help=help)

    def _unbalanced(self, token: Token, message: str, other: Token | None = None) -> None:
        notes = [("the bracket that is open here", Span(self.name, other.start, other.end))] if other else []
        self.diagnostics.error("E0005", message, Span(self.name, token.start, token.end), notes=notes)
        self.broken_at = token.start if self.broken_at is None else min(self.broken_at, token.start)

    def _op(self, text: str, start: int, end: int) -> None:
        tokens, brackets = self.tokens, self.brackets
        token = Token("OP", text, start, end)
        if text in _PARTNER:
            is_set = text == "{" and bool(tokens) and tokens[-1].text == "in" and tokens[-1].type == "NAME"
            brackets.append(token)
            self.flat = self.flat + 1 if self.flat or is_set or text != "{" else 0
            if len(brackets) > limits.MAX_BRACKETS:
                message = f"more than {limits.MAX_BRACKETS} brackets are open here"
                self._error("E0902", message, start, end, help="give names to parts of it")
                self._stop(start)
                return
        elif text in _CLOSERS:
            if not self._close(token):
                return
            if len(tokens) > 1 and tokens[-1].text == "," and tokens[-2].text not in ("(", "[", "{", ","):
                tokens.pop()
        elif text == "." and self.text[end : end + 1].isdigit():
            glued = _GLUED.match(self.text, start)
            stop = glued.end() if glued else end
            shown = _shorten(self.text[start:stop])
            self._error("E0004", f"`{shown}` is not a number", start, stop, help="write `0` before the point")
            return  # as if the point were not there
        tokens.append(token)

    def _close(self, token: Token) -> bool:
        """Whether the bracket has a partner; if the partner is further out, what is between was not closed."""
        brackets = self.brackets
        if not any(_PARTNER[b.text] == token.text for b in brackets[-3:]):
            self._unbalanced(token, f"`{token.text}` closes nothing", brackets[-1] if brackets else None)
            return False
        while brackets:
            last = brackets.pop()
            self.flat = max(0, self.flat - 1)
            if _PARTNER[last.text] == token.text:
                break
            self._unbalanced(last, f"`{last.text}` is not closed before `{token.text}`")
            self.tokens.append(Token("OP", _PARTNER[last.text], token.start, token.start))
        return True

    def _stop(self, at: int) -> None:
        """A limit is passed: nothing after this place is looked at."""
        self.stopped = True
        self.broken_at = at if self.broken_at is None else min(self.broken_at, at)

    def _number(self, found: re.Match[str]) -> int:
        start, end = found.span()
        number = found.group("number")
        if found.group("unit") is None:
            glued = _GLUED.match(self.text, end)
            if glued and not (glued.group() == "." and self.text.startswith("..", end)):
                return self._glued(start, end)
        unit, text = found.group("unit"), found.group()
        scale = UNITS[unit].scale if unit in UNITS else 1
        too_large = not number.isdigit() and float(number) * scale == float("inf")
        if len(number) > limits.MAX_DIGITS or too_large:
            what = f"has more than {limits.MAX_DIGITS} digits" if len(number) > limits.MAX_DIGITS else "is too large"
            self._error("E0004", f"this number {what}", start, end, help="the largest is about 1.8e308")
            text = f"0 {unit}" if unit else "0"
        self.tokens.append(Token("QUANTITY" if unit else "NUMBER", text, start, end))
        return end

    def _glued(self, start: int, end: int) -> int:
        """Letters, digits or points right behind a number."""
        glued = _GLUED.match(self.text, end)
        stop = glued.end() if glued else end
        unit = _UNKNOWN_UNIT.match(self.text, end)
        text = self.text[start:stop]
        if unit:
            help = did_you_mean(unit.group(), UNITS)
            message, span = f"unknown unit `{_shorten(unit.group())}`", Span(self.name, end, unit.end())
            found = Diagnostic("E0006", message, span, help=help)
        else:
            found = Diagnostic("E0004", f"`{_shorten(text)}` is not a number", Span(self.name, start, stop))
        self.diagnostics.add(found)
        self.glued[start] = text, found
        self.tokens.append(Token("NUMBER", "0", start, stop))
        return stop

    def _comment(self, start: int, end: int) -> None:
        text = self.text[start:end].rstrip()
        self._check_characters(start, end)
        alone = not self.text[self.line_start : start].strip(" \t\f\ufeff")
        self.comments.append(Comment(text, start, end, alone))

    def _string(self, text: str, start: int, end: int) -> None:
        self._check_characters(start, end)
        if end - start > limits.MAX_STRING:
            self._error("E0905", f"this string has more than {limits.MAX_STRING:,} characters", start, end)
        else:
            for escape in _ESCAPE.finditer(text):
                if escape.group(1) not in _ESCAPES:
                    at = start + escape.start()
                    known = 'the escapes are \\" \\\\ \\n \\t'
                    self._error("E0003", f"unknown escape `{_shorten(escape.group())}`", at, at + 2, help=known)
        self.tokens.append(Token("STRING", text, start, end))

    def _check_characters(self, start: int, end: int) -> None:
        bad = _CONTROL.search(self.text, start, end)
        if bad:
            self._error("E0002", f"illegal character U+{ord(bad.group()):04X}", bad.start(), bad.end())

    def _illegal(self, position: int) -> int:
        """A character that begins no token; returns where to go on."""
        character = self.text[position]
        if character == '"':
            rest = _LINE_REST.match(self.text, position)
            end = rest.end() if rest else len(self.text)
            self._error("E0003", "this string is not closed on its line", position, end)
            self.tokens.append(Token("STRING", '""', position, end))
            return end
        end, last = position + 1, min(len(self.text), position + _LONGEST_JUNK)
        while end < last and self.text[end] != '"' and _TOKEN.match(self.text, end) is None:
            end += 1
        shown = f"`{character}`" if legible(character) else f"U+{ord(character):04X}"
        self._error("E0002", f"illegal character {shown}", position, end, help=_HINTS.get(character))
        return end


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def lex(text: str, name: str, diagnostics: Diagnostics) -> Lexed:
    """The tokens and comments of `text`; what is wrong goes into `diagnostics`."""
    return Lexer(text, name, diagnostics).run()


def unquote(text: str) -> str:
    """The value of a STRING token."""
    return _ESCAPE.sub(lambda m: _ESCAPES.get(m.group(1), m.group(1)), text[1:-1])


def split_quantity(text: str) -> tuple[str, str]:
    """The number and the unit of a QUANTITY token."""
    found = _QUANTITY.fullmatch(text)
    return (found.group(1), found.group(2)) if found else (text, "B")
