"""Text to syntax tree.

The tables come from `grammar.lark` (`dsl/tables.py`); the loop that drives them is here, for two reasons. A word
becomes a keyword only where the parser's state takes it as one (`Parser._classify`), and after an error the parser goes
on at the next statement, so that several errors are reported at once. A tree is returned only if there was none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

from dsl import ast, limits
from dsl.builder.tree import TreeBuilder
from dsl.data import dataclass
from dsl.diagnostics import Diagnostic, Diagnostics, ParcError
from dsl.explain import digit_first, explain
from dsl.lexer import Lexed, Token, lex
from dsl.source import Span
from dsl.tables import Rule, tables

# Words that are never names where an expression may begin (after a dot, and where only a name fits, they are).
_RESERVED = frozenset({"TRUE", "FALSE", "NOT", "IF", "ELSE", "AND", "OR"})
# Words that follow a value, and words that are never bare names in a setting (`memory size over …`).
_AFTER_VALUE = frozenset({"over", "if", "and", "or"})
_NEVER_BARE = _AFTER_VALUE | {"not", "true", "false", "else"}
# Statements that begin with an expression, or like a call: a bracket behind their keyword makes no name of it.
_EXPRESSION_STATEMENTS = frozenset({"RETURN", "LOSS", "CHECK", "REPEAT", "MICROBATCHES", "MESH"})
# Far above what the limits on brackets and depth allow between statements, but for chains of `else if`.
_DEEPEST_STACK = 4096


@dataclass(frozen=True, slots=True)
class _Reduction:
    """What a rule does: of the last `size` values, `build` makes one, and the parser goes on as behind an `origin`."""

    size: int
    origin: str
    build: Callable[[list[Any]], Any]


class _Unexpected(Exception):
    """No rule goes on with this token."""


class Grammar:
    """The parser's tables and what the grammar calls keywords and punctuation. Build it once: `grammar()`."""

    def __init__(self) -> None:
        self.builder = TreeBuilder()
        made = tables()
        self.spelling = made.literals
        self.keywords = {text: name for name, text in made.literals.items() if text.isidentifier()}
        self.punctuation = {text: name for name, text in made.literals.items() if not text.isidentifier()}
        self.start, self.end = 0, made.end
        reductions = [_Reduction(r.size, r.origin, _build(self.builder, r)) for r in made.rules]
        # For each state, by terminal: the next state, or what is to be reduced first.
        self.states: tuple[dict[str, Any], ...] = tuple(
            {symbol: to if to >= 0 else reductions[-1 - to] for symbol, to in row.items()} for row in made.states
        )


@dataclass(frozen=True, slots=True)
class _Spliced:
    """What a rule whose name begins with `_` matched, on its way into its parent."""

    children: list[Any]


def _build(builder: TreeBuilder, rule: Rule) -> Callable[[list[Any]], Any]:
    """What makes a value of the children, as lark's `transformer=` would."""
    method = _Spliced if rule.name.startswith("_") else getattr(builder, rule.name, None)
    assert method is not None or rule.single, rule.name
    if method is not None and not rule.spliced and not rule.single:
        return method

    def build(children: list[Any]) -> Any:
        if rule.spliced:
            flat: list[Any] = []
            for i, child in enumerate(children):
                if i not in rule.spliced:
                    flat.append(child)
                elif flat:
                    flat += child.children
                else:  # nobody else has this list: a list of n things takes n steps, not n²
                    flat = child.children
            children = flat
        if rule.single and len(children) == 1:
            return children[0]
        assert method is not None
        return method(children)

    return build


@cache
def grammar() -> Grammar:
    """The one grammar of this process."""
    return Grammar()


class Parser:
    """One run over the tokens of one file."""

    def __init__(self, lexed: Lexed, name: str, diagnostics: Diagnostics) -> None:
        self.grammar = grammar()
        self.grammar.builder.source = name
        self.grammar.builder.fresh()
        self.tokens = lexed.tokens
        self.broken_at = lexed.broken_at
        self.glued = lexed.glued
        self.name = name
        self.diagnostics = diagnostics
        self.stack = [self.grammar.start]
        self.values: list[Any] = []
        self.opened: list[int] = []
        """Where a brace was forgotten that opens a body, which was read all the same."""

    def run(self) -> ast.File | None:
        """The tree, or None after errors."""
        tokens, stack, values, builder = self.tokens, self.stack, self.values, self.grammar.builder
        position = line = 0
        saved: tuple[list[Any], list[Any]] = ([], [])
        result = None
        while position < len(tokens):
            if position == 0 or tokens[position - 1].type == "NEWLINE":
                line = position
                if len(stack) > _DEEPEST_STACK:
                    message = f"more than {limits.MAX_DEPTH} branches in one `if`"
                    self.diagnostics.error("E0903", message, Span(self.name, tokens[line].start, tokens[line].end))
                    return None
                saved = list(stack), list(values)
                builder.fresh()
            token = tokens[position]
            token.type = self._classify(position, line)
            if token.start in self.glued:
                self._take_for_name(position)
            try:
                result = self._feed(token)
                position += 1
            except (_Unexpected, ParcError) as error:
                if self._report(error, position, line):
                    return None
                if token.type == "NEWLINE" and tokens[position + 1].text != "{" and self._opened(token):
                    continue
                stack[:], values[:] = saved
                position = self._resume(line)
        return result if isinstance(result, ast.File) else None

    def _feed(self, token: Token) -> Any:
        """Take in one token; what the whole text is, if it was the last one."""
        states, stack, values, kind = self.grammar.states, self.stack, self.values, token.type
        while True:
            action = states[stack[-1]].get(kind)
            if action is None:
                raise _Unexpected
            if action.__class__ is not _Reduction:
                stack.append(action)
                values.append(token)
                return None
            children: list[Any] = []
            if size := action.size:
                children = values[-size:]
                del stack[-size:], values[-size:]
            value = action.build(children)
            stack.append(states[stack[-1]][action.origin])
            values.append(value)
            if kind == "$END" and stack[-1] == self.grammar.end:
                return value

    # --- keywords -----------------------------------------------------------------------------------

    def _classify(self, position: int, line: int) -> str:
        """The terminal that the token at `position` is, given the state of the parser."""
        token = self.tokens[position]
        if token.type == "OP":
            return self.grammar.punctuation[token.text]
        if token.type != "NAME":
            return token.type
        choices = self.grammar.states[self.stack[-1]]
        following = self.tokens[position + 1]
        if "WORD" in choices and self._is_word(token, following):
            return "WORD"
        if token.text == "as" and "LOOP_AS" in choices and self._ends_head(position + 2, line):
            return "LOOP_AS"
        keyword = self.grammar.keywords.get(token.text)
        if keyword is None:
            return "NAME"
        if "NAME" not in choices:
            # Neither fits: whichever the error message can say more about.
            return keyword if keyword in choices or keyword in _RESERVED or position == line else "NAME"
        if keyword in _RESERVED:
            return "NAME" if position and self.tokens[position - 1].text == "." else keyword
        if keyword not in choices:
            return "NAME"
        if not _shiftable(self.grammar.states, list(self.stack), "NAME"):
            return keyword  # the row of an LALR state may hold a name that no rule takes here
        if not _shiftable(self.grammar.states, list(self.stack), keyword):
            return "NAME"  # or a keyword
        if keyword == "OVER" and position == line + 1:
            return keyword  # `memory over …`: a setting's value never begins with it
        return keyword if self._is_keyword(keyword, position) else "NAME"

    def _take_for_name(self, position: int) -> None:
        """`1f1b` where names stand and numbers do not: it is read as the name that it is meant to be."""
        token, expected = self.tokens[position], self._acceptable()
        text, reported = self.glued[token.start]
        if "NAME" in expected and "NUMBER" not in expected and token.type == "NUMBER":
            self.diagnostics.discard(reported)
            known = ast.SCHEDULES if position and self.tokens[position - 1].text == "schedule" else ()
            self.diagnostics.add(digit_first(text, Span(self.name, token.start, token.end), known))
            token.type, token.text = "NAME", text

    def _ends_head(self, position: int, line: int) -> bool:
        """Whether the head of a loop ends there: `as` before that is the loop's, not a call's."""
        token = self.tokens[min(position, len(self.tokens) - 1)]
        return self.tokens[line].type == "REPEAT" and token.text in ("{", "\n", "")

    def _is_word(self, token: Token, following: Token) -> bool:
        if token.text in _NEVER_BARE:
            return False
        if following.type == "NAME":
            return following.text not in _AFTER_VALUE
        return following.type in ("NUMBER", "QUANTITY", "STRING") or following.text == "["

    def _is_keyword(self, keyword: str, position: int) -> bool:
        """Where both a keyword and a name fit, what follows decides."""
        following = self.tokens[position + 1]
        if keyword in ("OVER", "KEEP"):
            return following.type in ("NAME", "NUMBER", "QUANTITY", "STRING") or following.text in ("(", "[", "*")
        if following.type != "OP" or keyword == "RETURN":
            return True
        if following.text == "[":
            return not self._assigned(position + 1)
        if following.text == "(":
            return keyword in _EXPRESSION_STATEMENTS
        return following.text not in ("=", ",")

    def _assigned(self, position: int) -> bool:
        """Whether the list that begins there is followed by what follows the dims of a target."""
        depth = 0
        for at in range(position, len(self.tokens) - 1):
            text = self.tokens[at].text
            depth += (text == "[") - (text == "]")
            if not depth:
                return self.tokens[at + 1].text in ("=", ",")
        return False

    # --- errors -------------------------------------------------------------------------------------

    def _report(self, error: _Unexpected | ParcError, position: int, line: int) -> bool:
        """Record the error; whether to give up."""
        token = self.tokens[position]
        if self.broken_at is not None and token.start >= self.broken_at:
            return True
        if isinstance(error, ParcError):
            for diagnostic in error.diagnostics:
                self.diagnostics.add(diagnostic)
        elif token.start not in self.glued:  # else the lexer has said what is wrong
            expected = self._acceptable()
            self.diagnostics.add(explain(self.tokens, position, line, expected, self.grammar.spelling, self.name))
        unclosed = isinstance(error, ParcError) and self.tokens[line].text == "}"
        return self.diagnostics.full or unclosed or token.type == "$END"

    def _opened(self, newline: Token) -> bool:
        """A body whose brace is missing is read all the same: what stands in it is not wrong, too."""
        if "LBRACE" not in self._acceptable():
            return False
        self._feed(Token("LBRACE", "{", newline.start, newline.start))
        self.opened.append(newline.start)
        return True

    def _acceptable(self) -> set[str]:
        """The terminals that could stand here (not only those in the state's row: reductions are tried)."""
        states = self.grammar.states
        found = set()
        for terminal in states[self.stack[-1]]:
            if terminal.isupper() and _shiftable(states, list(self.stack), terminal):
                found.add(terminal)
        return found

    def _resume(self, line: int) -> int:
        """Where the statement that began at `line` ends, with the block that it opened if any."""
        tokens = self.tokens
        depth, position = 0, line
        while tokens[position].type != "$END":
            token = tokens[position]
            if token.text == "{":
                depth += 1
            elif token.text == "}":
                depth -= 1
            elif token.type == "NEWLINE" and depth <= 0:
                break
            position += 1
        if depth < 0 and tokens[line].text == "}" and position > line + 1:
            # `} something`: close the block all the same
            del tokens[line + 1 : position]
            tokens[line].type = "OP"
            return line
        return position + (tokens[position].type == "NEWLINE")


def _shiftable(states: Sequence[dict[str, Any]], stack: list[int], terminal: str) -> bool:
    """Whether the parser, with this stack of states, would take the terminal after some reductions."""
    for _ in range(10_000):
        action = states[stack[-1]].get(terminal)
        if action is None or not isinstance(action, _Reduction):
            return action is not None
        if action.size:
            del stack[-action.size :]
        stack.append(states[stack[-1]][action.origin])
    return False


def _without_partners(found: list[Diagnostic], opened: list[int]) -> list[Diagnostic]:
    """Without the `}` that close nothing only because a brace was forgotten, which is reported itself."""
    left, kept = list(opened), []
    for d in found:
        alone = d.code == "E0005" and d.message.startswith("`}` closes nothing") and d.span is not None
        if alone and left and d.span is not None and left[0] < d.span.start:
            del left[0]
        else:
            kept.append(d)
    return kept


@lru_cache(maxsize=64)
def parse(text: str, name: str) -> ast.File:
    """The syntax tree of a `.par` text; `name` is what spans call it. Raises `ParcError` with all errors found.

    Kept, for each job of a file is evaluated by itself; trees do not change.
    """
    tree, _ = parse_with_comments(text, name)
    return tree


def parse_with_comments(text: str, name: str) -> tuple[ast.File, Lexed]:
    """As `parse`, with the tokens and comments of the text."""
    diagnostics = Diagnostics()
    if len(text) > limits.MAX_BYTES:
        message = f"this file is larger than {limits.MAX_BYTES // 2**20} MiB"
        diagnostics.error("E0901", message, Span(name, 0, 0))
        diagnostics.raise_if_any()
    lexed = lex(text, name, diagnostics)
    parser = Parser(lexed, name, diagnostics)
    tree = None if diagnostics.full else parser.run()
    if len(diagnostics):
        found = sorted(diagnostics, key=lambda d: d.span.start if d.span else 0)
        raise ParcError(*_without_partners(found, parser.opened))
    if tree is None:
        raise AssertionError("no tree and no error")  # a bug in the parser, not in the text
    return tree, lexed
