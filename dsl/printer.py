"""Canonical text of a file: `parc fmt`. Total on whatever parses, idempotent, and keeps comments.

Two spaces of indent, one statement a line, no alignment, at most one blank line in a row and always one around
definitions. Comments stay before or behind the statement they stood at; one in the middle of a statement (between
brackets that go over lines) moves to before the statement.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import fields, is_dataclass

from dsl import ast
from dsl.data import dataclass
from dsl.layout import INDENT, lay_out
from dsl.lexer import Comment, Lexed
from dsl.parser import parse_with_comments
from dsl.show.statements import statement
from dsl.source import Span


def format_source(text: str, name: str) -> str:
    """The text in its canonical form; raises `ParcError` if it does not parse."""
    tree, lexed = parse_with_comments(text, name)
    return _Printer(text, lexed).file(tree)


def print_tree(tree: ast.File) -> str:
    """The canonical text of a tree, without regard to where its nodes stood."""
    return _Printer("", None).file(tree)


@dataclass(frozen=True, slots=True)
class _Region:
    """Where the statements of a body stand in the text: from behind its brace to the closing one."""

    start: int
    end: int


_NO_REGION = _Region(0, 0)


class _Printer:
    def __init__(self, text: str, lexed: Lexed | None) -> None:
        self.text = text
        self.comments: list[Comment] = lexed.comments if lexed else []
        self.next = 0  # the first comment that is not printed yet
        self.lines: list[str] = []
        self.end = 0  # where, in the text, what is printed ends
        self.braces, self.partners = _braces(lexed) if lexed else ([], {})
        self.ends = _ends(lexed) if lexed else []

    def file(self, tree: ast.File) -> str:
        self.body(tree.items, _Region(0, len(self.text)), "")
        return "\n".join(self.lines) + "\n" if self.lines else ""

    def body(self, nodes: tuple[ast.Item, ...] | tuple[ast.Statement, ...], region: _Region, indent: str) -> None:
        """The statements of a body and the comments around them."""
        self.end = region.start
        before: ast.Syntax | None = None
        fresh = True
        for node in nodes:
            wide = isinstance(node, ast.Definition) or isinstance(before, ast.Definition)
            if self.leading(self._head_end(node.span), indent, fresh, wide):
                fresh = wide = False
            self.blank(node.span.start, fresh, wide)
            self.node(node, indent)
            before, fresh = node, False
        self.leading(region.end, indent, fresh, isinstance(before, ast.Definition))

    def leading(self, until: int, indent: str, fresh: bool, wide: bool) -> bool:
        """The comments up to there, on lines of their own; whether there are any.

        `fresh` says that a body begins here, `wide` asks for a blank line before the first of them.
        """
        first = self.next
        while self.next < len(self.comments) and self.comments[self.next].start < until:
            comment = self.comments[self.next]
            self.blank(comment.start, fresh, wide)
            self.lines.append(indent + comment.text)
            self.end, self.next = max(self.end, comment.end), self.next + 1
            fresh = wide = False
        return self.next > first

    def _head_end(self, span: Span) -> int:
        """Where the part of a statement ends whose comments go before it: all of it, or the head of its body."""
        at = bisect_left(self.braces, span.start)
        return min(span.end, self.braces[at]) if at < len(self.braces) else span.end

    def blank(self, start: int, fresh: bool, wide: bool) -> None:
        """A blank line, if there was one before `start` in the text or if one is due."""
        if fresh or not self.lines:
            return
        gap = self.text[self.end : start]
        if wide or gap.count("\n") + gap.count("\r") - gap.count("\r\n") > 1:
            self.lines.append("")

    def trailing(self, end: int) -> None:
        """What the text has behind `end` on the same line, if that is a comment."""
        self.end = max(self.end, end)
        if self.next < len(self.comments):
            comment = self.comments[self.next]
            if comment.start >= end and not self.text[end : comment.start].strip(" \t\f,"):
                self.lines[-1] += "  " + comment.text
                self.end, self.next = comment.end, self.next + 1

    # --- statements -----------------------------------------------------------------------------------

    def node(self, node: ast.Syntax, indent: str) -> None:
        """One statement or item, with its body if it has one, and the comment behind it."""
        if isinstance(node, ast.If):
            self.if_else(node, indent, "")
        elif isinstance(node, ast.Definition | ast.Repeat | ast.Scan | ast.Order):
            self.head(node, indent, "")
            self.block(node.body, self._region(node.span.start), indent)
            self.lines.append(indent + "}")
        else:
            self.lines += lay_out(statement(node), indent)
        self.trailing(self._end(node.span))

    def _end(self, span: Span) -> int:
        """Where a statement ends: behind the parentheses that its last expression may stand in."""
        at = bisect_left(self.ends, span.end)
        return self.ends[at] if at < len(self.ends) else span.end

    def head(self, node: ast.Syntax, indent: str, before: str) -> None:
        self.lines += lay_out([before, *statement(node), " {"], indent)

    def block(self, nodes: tuple[ast.Statement, ...], region: _Region, indent: str) -> None:
        """What stands between braces: after the line of the first up to the line of the second."""
        self.trailing(region.start)
        self.body(nodes, _Region(self.end, region.end), indent + INDENT)
        self.end = region.end

    def if_else(self, node: ast.If, indent: str, before: str) -> None:
        """`if … { … } else if … { … } else { … }`."""
        while True:
            self.head(node, indent, before)
            region = self._region(node.test.span.end)
            self.block(node.then, region, indent)
            if not node.other:
                break
            inner = node.other[0]
            other = self._region(region.end)
            chained = len(node.other) == 1 and isinstance(inner, ast.If) and not self._commented(inner, other, node)
            if not chained:
                self.lines.append(indent + "} else {")
                self.block(node.other, other, indent)
                break
            assert isinstance(inner, ast.If)
            node, before = inner, "} else "
        self.lines.append(indent + "}")

    def _commented(self, inner: ast.If, other: _Region, node: ast.If) -> bool:
        """Whether the block that holds nothing but `inner` also has comments of its own."""
        if other.start > inner.span.start:  # written as `else if`
            return False
        return any(
            node.span.start <= c.start < node.span.end
            and (other.start <= c.start < inner.span.start or inner.span.end <= c.start < other.end)
            for c in self.comments[self.next :]
        )

    def _region(self, start: int) -> _Region:
        """Between the first pair of a body's braces that opens at or behind `start`."""
        at = bisect_left(self.braces, start)
        if at == len(self.braces):
            return _NO_REGION
        brace = self.braces[at]
        return _Region(brace + 1, self.partners[brace])


def _braces(lexed: Lexed) -> tuple[list[int], dict[int, int]]:
    """Where bodies open, in order, and where each of them closes."""
    found: list[int] = []
    partners: dict[int, int] = {}
    stack: list[int] = []
    for before, token in zip(lexed.tokens, lexed.tokens[1:]):
        if token.type == "LBRACE":
            stack.append(token.start if before.type != "IN" else -1)
            if before.type != "IN":
                found.append(token.start)
        elif token.type == "RBRACE":
            opened = stack.pop()
            partners[opened] = token.start
    return found, partners


def _ends(lexed: Lexed) -> list[int]:
    """Where statements end, in order."""
    return [before.end for before, token in zip(lexed.tokens, lexed.tokens[1:]) if token.type == "NEWLINE"]


# --- the debug dump -----------------------------------------------------------------------------------


def dump(tree: ast.Syntax) -> str:
    """The tree, one node a line, indented: for `--emit ast`."""
    lines: list[str] = []
    _dump(tree, "", "", lines)
    return "\n".join(lines) + "\n"


def _dump(value: object, label: str, indent: str, lines: list[str]) -> None:
    if isinstance(value, ast.Name):
        lines.append(f"{indent}{label}{value.id}")
    elif isinstance(value, ast.Path):
        lines.append(f"{indent}{label}{value}")
    elif isinstance(value, ast.Number | ast.String | ast.Boolean):
        lines.append(f"{indent}{label}{type(value).__name__} {value.value!r}")
    elif is_dataclass(value):
        lines.append(f"{indent}{label}{type(value).__name__}")
        for field in fields(value):
            part = getattr(value, field.name)
            if field.compare and part is not None and part != () and part is not False:
                _dump(part, f"{field.name}: ", indent + INDENT, lines)
    elif isinstance(value, tuple):
        if all(isinstance(v, ast.Name | ast.Path) for v in value):
            lines.append(f"{indent}{label}{', '.join(v.id if isinstance(v, ast.Name) else str(v) for v in value)}")
            return
        lines.append(f"{indent}{label}".rstrip())
        for part in value:
            _dump(part, "", indent + INDENT, lines)
    else:
        lines.append(f"{indent}{label}{value!r}")
