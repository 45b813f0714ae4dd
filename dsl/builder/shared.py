"""What the methods of `dsl.build` share: spans, names, what belongs to the enclosing rule, the depth of expressions."""

from __future__ import annotations

from typing import TypeVar, cast

from dsl import ast, limits
from dsl.data import dataclass
from dsl.diagnostics import fail
from dsl.lexer import Token
from dsl.source import Span

Child = Token | ast.Syntax
Children = list[Child]
_S = TypeVar("_S", bound=ast.Syntax)


@dataclass(frozen=True, slots=True)
class NameList(ast.Syntax):
    """Names that belong to the enclosing rule. This and the next classes are never in a finished tree."""

    names: tuple[ast.Name, ...]
    rest: bool = False
    axes: tuple[tuple[ast.Name, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class NodeGroup(ast.Syntax):
    """Nodes that belong to the enclosing rule."""

    children: tuple[ast.Syntax, ...]


@dataclass(frozen=True, slots=True)
class KeywordClause(ast.Syntax):
    """A keyword and what follows it, in a statement that is made of clauses in any order."""

    keyword: str
    values: tuple[ast.Syntax, ...]


def every(kind: type[_S], children: Children) -> tuple[_S, ...]:
    """The children of this kind, in order."""
    return tuple(c for c in children if isinstance(c, kind))


def first(kind: type[_S], children: Children) -> _S | None:
    """The first child of this kind, if there is one."""
    return next((c for c in children if isinstance(c, kind)), None)


def find(keyword: str, children: Children) -> int:
    """Where the keyword stands; beyond the end if it does not."""
    return next((i for i, c in enumerate(children) if isinstance(c, Token) and c.type == keyword), len(children))


class RuleBase:
    """What the methods of rules share; the source is set before parsing, `fresh` is called before each statement."""

    def __init__(self) -> None:
        self.source = ""
        self._depths: dict[int, int] = {}

    def fresh(self) -> None:
        """Forget the depths of expressions that are finished."""
        self._depths.clear()

    def _span(self, c: Children) -> Span:
        first, last = c[0], c[-1]
        start = first.start if isinstance(first, Token) else first.span.start
        return Span(self.source, start, last.end if isinstance(last, Token) else last.span.end)

    def _name(self, child: Child) -> ast.Name:
        token = cast(Token, child)
        return ast.Name(token.text, span=Span(self.source, token.start, token.end))

    def _ids(self, children: Children) -> tuple[ast.Name, ...]:
        return tuple(self._name(c) for c in children if isinstance(c, Token) and c.type in ("NAME", "WORD"))

    def _name_after(self, keyword: str, children: Children) -> ast.Name | None:
        at = find(keyword, children) + 1
        return self._name(children[at]) if at < len(children) else None

    def _deeper(self, node: _S, parts: tuple[ast.Syntax, ...]) -> _S:
        """Note how deep `node` is; refuse it beyond the limit."""
        depths = self._depths
        depth = 1 + max((depths.get(id(p), 0) for p in parts), default=0)
        if depth > limits.MAX_DEPTH:
            message = f"this expression is more than {limits.MAX_DEPTH} operations deep"
            help = "give names to parts of it (a long sum is as deep as it has terms)"
            raise fail("E0903", message, node.span, help=help)
        depths[id(node)] = depth
        return node

    def _clauses(self, children: Children) -> dict[str, KeywordClause]:
        found: dict[str, KeywordClause] = {}
        for clause in every(KeywordClause, children):
            if clause.keyword in found:
                notes = [("the first one", found[clause.keyword].span)]
                raise fail("E0008", f"`{clause.keyword}` is given twice", clause.span, notes=notes)
            found[clause.keyword] = clause
        return found

    def _dims(self, node: Child) -> tuple[ast.Name, ...]:
        """What stands before an arrow: one dim or a list of them."""
        if isinstance(node, NameList):
            return node.names
        if isinstance(node, ast.Name):
            return (node,)
        help = "write `d -> (h, k)`, `(h, k) -> d` or `s -> t`"
        raise fail("E0009", "only names of dims stand before `->`", self._span([node]), help=help)
