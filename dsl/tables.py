"""The parser's tables: what lark makes of `grammar.lark`, kept in `dsl/tables.json`.

Lark takes a quarter of a second for them, more than all of the rest of a check. They are data, so they are made once:
`python -m dsl.tables` writes the file. A file that belongs to another text of the grammar is not used; lark makes the
tables then, as while somebody works on the grammar. Which lark made them does not matter: LALR(1) is one algorithm.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from zlib import crc32

from dsl.data import dataclass

FILE = Path(__file__).with_name("tables.json")

Row = dict[str, int]
"""By symbol: the next state, or -1 - r, where rule r is to be reduced first."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`origin: …` of `size` symbols. name: the rule's or its alias; spliced: which symbols' children take their place
    (those of rules called `_…`); single: one child alone stands for the rule (`?…`)."""

    origin: str
    name: str
    size: int
    spliced: tuple[int, ...]
    single: bool


@dataclass(frozen=True, slots=True)
class Tables:
    """State 0 is the first. literals: terminal -> its text, of those that are fixed texts."""

    literals: dict[str, str]
    rules: tuple[Rule, ...]
    states: tuple[Row, ...]
    end: int


def tables() -> Tables:
    """The tables of the grammar as it stands."""
    text = grammar_text()
    return read(FILE, text) or make(text)


def grammar_text() -> str:
    """In a checkout the grammar stands at the root, in a wheel beside this file."""
    inside = FILE.with_name("grammar.lark")
    path = inside if inside.is_file() else FILE.parent.with_name("grammar.lark")
    return path.read_text(encoding="utf-8")


def read(path: Path, grammar: str) -> Tables | None:
    """What the file holds, if it was made of this grammar."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("grammar") != _mark(grammar):
        return None
    symbols = found["symbols"]
    rules = tuple(Rule(o, n, size, tuple(spliced), bool(single)) for o, n, size, spliced, single in found["rules"])
    rows = [dict(zip(map(symbols.__getitem__, row[::2]), row[1::2], strict=True)) for row in found["rows"]]
    return Tables(found["literals"], rules, tuple(rows[i] for i in found["states"]), found["end"])


def write(path: Path, grammar: str) -> None:
    """Make the file. Equal rows stand there once."""
    from dsl.replacing import replacing

    made = make(grammar)
    symbols = sorted({s for row in made.states for s in row})
    number = {s: i for i, s in enumerate(symbols)}
    rows: dict[tuple[int, ...], int] = {}
    states = []
    for row in made.states:
        flat = tuple(n for symbol, to in row.items() for n in (number[symbol], to))
        states.append(rows.setdefault(flat, len(rows)))
    content = {
        "grammar": _mark(grammar),
        "symbols": symbols,
        "literals": made.literals,
        "rules": [[r.origin, r.name, r.size, r.spliced, int(r.single)] for r in made.rules],
        "rows": list(rows),
        "states": states,
        "end": made.end,
    }
    lines = [f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in content.items()]
    with replacing(path) as file:
        file.write(("{\n" + ",\n".join(lines) + "\n}\n").encode())


def make(grammar: str) -> Tables:
    """Lark's tables, numbered in the order in which the states are reached."""
    from lark import Lark
    from lark.lexer import Lexer, PatternStr

    class NoLexer(Lexer):
        """Lark wants one; the tokens come from `dsl.lexer`."""

        def __init__(self, conf: object) -> None:
            del conf

        def lex(self, lexer_state: object, parser_state: object) -> Iterator[Any]:
            del lexer_state, parser_state
            return iter(())

    lark = Lark(grammar, parser="lalr", lexer=NoLexer, keep_all_tokens=True, maybe_placeholders=False)
    literals = {t.name: t.pattern.value for t in lark.terminals if isinstance(t.pattern, PatternStr)}
    conf = cast(Any, lark.parse_interactive().parser_state.parse_conf)
    number = {conf.start_state: 0}
    rules: dict[Any, int] = {}
    states = []
    for state in (order := [conf.start_state]):
        row: Row = {}
        for symbol, (_, to) in sorted(conf.states[state].items()):
            if hasattr(to, "expansion"):
                row[symbol] = -1 - rules.setdefault(to, len(rules))
                continue
            if to not in number:
                number[to] = len(number)
                order.append(to)
            row[symbol] = number[to]
        states.append(row)
    return Tables(dict(sorted(literals.items())), tuple(map(_rule, rules)), tuple(states), number[conf.end_state])


def _rule(rule: Any) -> Rule:
    spliced = tuple(i for i, s in enumerate(rule.expansion) if not s.is_term and s.name.startswith("_"))
    origin, alias = str(rule.origin.name), rule.alias
    return Rule(origin, str(alias or origin), len(rule.expansion), spliced, bool(rule.options.expand1 and not alias))


def _mark(grammar: str) -> list[int]:
    """By which the text of a grammar is known again."""
    return [len(grammar), crc32(grammar.encode())]


if __name__ == "__main__":
    write(FILE, grammar_text())
