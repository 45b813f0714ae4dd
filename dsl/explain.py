"""Says what is wrong where the parser met a token that it did not expect, and what would mend it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from dsl.diagnostics import Diagnostic, did_you_mean, suggest
from dsl.lexer import Token
from dsl.source import Span
from dsl.units import UNITS

_EXPRESSION = frozenset({"NAME", "NUMBER", "QUANTITY", "STRING", "LSQB", "LPAR", "TRUE", "FALSE", "NOT", "MINUS"})
_OPERATORS = frozenset(
    ["PLUS", "MINUS", "STAR", "SLASH", "PERCENT", "AT", "POWER", "FLOORDIV", "IF", "AND", "OR", "DOT"]
    + ["LESSTHAN", "MORETHAN", "LE", "GE", "EQ", "NE"]
)
_COMPARISONS = frozenset({"<", "<=", ">", ">=", "==", "!="})
_HUMAN = {
    "NAME": "a name",
    "NUMBER": "a number",
    "QUANTITY": "a quantity",
    "STRING": "a string",
    "NEWLINE": "the end of the line",
    "$END": "the end of the file",
    "LOOP_AS": "`as`",
}
_OTHER_LANGUAGES = {
    "def": "a function is `fn name(…) { … }`",
    "func": "a function is `fn name(…) { … }`",
    "function": "a function is `fn name(…) { … }`",
    "class": "a model is `model name(…) { … }`",
    "import": "write `use std.layers (attention)`",
    "from": "write `use std.layers (attention)`",
    "include": "write `use std.layers (attention)`",
    "let": "an assignment is `name = value`",
    "var": "an assignment is `name = value`",
    "const": "a parameter of the file is `param name = value`",
    "for": "a loop is `repeat count as name { … }`",
    "while": "a loop is `repeat count as name { … }`",
    "elif": "write `} else if test {`",
    "lambda": "functions are declared with `fn`, at the top level of the file",
}
_MESSAGES = ("all_gather", "all_reduce", "all_to_all", "reduce_scatter", "shard", "shift")
_MOST_SHOWN = 8
_PARTS = re.compile(r"[0-9]+|[a-z_]+")
_DIGITS = dict(zip("0123456789", ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]))


def explain(
    tokens: list[Token], at: int, line: int, expected: set[str], spelling: Mapping[str, str], name: str
) -> Diagnostic:
    """The diagnostic for the unexpected token `tokens[at]` in the statement that begins at `tokens[line]`."""
    token = tokens[at]
    before = tokens[at - 1] if at else None
    span = Span(name, token.start, max(token.end, token.start))

    def error(code: str, message: str, help: str | None = None) -> Diagnostic:
        return Diagnostic(code, message, span, help=help)

    words = [spelling[t] for t in expected if spelling.get(t, "").isidentifier()]
    if before and before.type in ("NUMBER", "QUANTITY") and token.type == "NAME" and before.end <= token.start:
        if token.text in {u.removesuffix("/s") for u in UNITS}:
            return error("E0006", f"`{token.text}` is too far from its number", "leave one space between them")
        if at + 1 == len(tokens) or not suggest(token.text, words):
            unit = suggest(token.text, UNITS)
            if unit:
                return error("E0006", f"unknown unit `{token.text}`", f"did you mean `{unit}`?")
    if token.text in _COMPARISONS and _compares(tokens, at, line):
        return error("E0007", "comparisons do not chain", "write `a < b and b < c`")
    if at == line + 1 and before and before.type == token.type == "NAME":
        help = _meant(before.text, [w for w in spelling.values() if w.isidentifier()])
        if help or "EQUAL" in expected:  # else it may be the name of a tactic
            where = Span(name, before.start, before.end)
            return Diagnostic("E0010", f"no statement here begins with `{_short(before.text)}`", where, help=help)
    message = f"expected {expectation(expected, spelling)}, found {_found(token)}"
    if at == line and token.type == "NAME" and "NAME" not in expected:
        code, help = "E0010", _meant(token.text, words)
        return error(code, f"no statement here begins with `{_short(token.text)}`", help or _listing(words))
    if at == line and token.text == "else":
        return error("E0011", "`else` has no `if`", "`else` stands on the line of the closing brace: `} else {`")
    if before and before.text == "{" and expected <= {"NEWLINE", "RBRACE"}:
        return error("E0011", f"expected {_HUMAN['NEWLINE']}, found {_found(token)}", "a body begins on a new line")
    if token.type == "RBRACE" and "NEWLINE" in expected:
        return error("E0011", message, "the closing brace stands on a line of its own")
    if token.type == "NEWLINE" and "LBRACE" in expected:
        return error("E0011", message, "the brace that opens a body stands on the line of its head")
    after = tokens[at + 1] if at + 1 < len(tokens) else None
    if after and after.text == "=" and "EQUAL" in expected and token.text in ("+", "-", "*", "/", "@") and before:
        return error("E0001", message, f"written out: `{_short(before.text)} = {_short(before.text)} {token.text} …`")
    help = _one_axis(tokens, at, line) or _each_axis(tokens, at, line, expected) or _pieces(tokens, at)
    help = help or _scope_first(tokens, at, line)
    return error("E0001", message, help or _help(token, before, expected, words))


def digit_first(text: str, span: Span, known: Sequence[str] = ()) -> Diagnostic:
    """The diagnostic for a number with letters behind it, where a name is expected; single digits can be spelt out.

    known: the only names that there are, if that is known.
    """
    parts = _PARTS.findall(text.lower())
    help, message = "names begin with a letter", f"expected a name, found `{_short(text)}`"
    if "".join(parts) == text.lower() and not any(p.isdigit() and len(p) > 1 for p in parts):
        spelt = "_".join(_DIGITS.get(p, p.strip("_")) for p in parts if p.strip("_"))
        if not known or spelt in known:
            return Diagnostic("E0001", message, span, help=f"{help}: `{_short(spelt)}`")
    if known:
        help += f"; there are {', '.join(f'`{name}`' for name in known[:-1])} and `{known[-1]}`"
    return Diagnostic("E0001", message, span, help=help)


def _help(token: Token, before: Token | None, expected: set[str], words: list[str]) -> str | None:
    if token.type == "EQUAL" and expected & _OPERATORS:
        return "`==` compares"
    if token.type == "EQ" and "EQUAL" in expected:
        return "`=` assigns, `==` compares"
    if token.type == "COLON" and "EQUAL" in expected:
        return "`=` assigns; dims stand in brackets: `x[b,s] = …`"
    if token.type == "FLOORDIV" and not expected & _OPERATORS:
        return "a comment begins with `#`"
    if token.type == "COLON" and "LBRACE" in expected:
        return "a body stands in braces"
    if token.type == "LPAR" and before and before.type == "NAME" and "NEWLINE" in expected and "DOT" in expected:
        return "only functions can be called, and they have simple names"
    if token.type == "LSQB" and "DOT" in expected:
        return "there is no indexing: use `slice` or `take`"
    if token.type == "NAME":
        return _meant(token.text, words)
    if token.text.isidentifier() and "NAME" in expected:
        return f"`{token.text}` is a word of the language, it cannot be a name here"
    return None


def _one_axis(tokens: list[Token], at: int, line: int) -> str | None:
    """What to write for `split b on dp, tp` and `split b on (dp, tp)`."""
    if tokens[line].text not in ("split", "shard") or tokens[at].text not in (",", "(", "[", "*"):
        return None
    head = [t.text for t in tokens[line:at]]
    if "on" not in head:
        return None
    names = [t.text for t in tokens[line + head.index("on") + 1 : at + 4] if t.type == "NAME"][:2]
    what = _short(" ".join(head[: head.index("on")]).replace(" ,", ","))
    if len(names) < 2:
        return "each statement names one axis"
    return "each statement names one axis: " + " and below it ".join(f"`{what} on {_short(n)}`" for n in names)


def _pieces(tokens: list[Token], at: int) -> str | None:
    """What to write for `f/(outer, inner)` in a type."""
    if at < 2 or tokens[at - 1].text != "/" or tokens[at].text not in ("(", "["):
        return None
    names = [t.text for t in tokens[at + 1 : at + 6] if t.type == "NAME"]
    dim = tokens[at - 2].text
    if len(names) < 2:
        return f"an axis stands behind its `/`: `{_short(dim)}/{_short(names[0]) if names else 'axis'}`"
    return f"each axis has a `/` of its own, the first cuts the whole: `{_short('/'.join([dim, *names[:2]]))}`"


def _scope_first(tokens: list[Token], at: int, line: int) -> str | None:
    """What to write for `offload weights to host prefetch 2 in block`."""
    words = [t.text for t in tokens[line:at]]
    if words[:1] != ["offload"] or tokens[at].text != "in":
        return None
    end = next((i for i, w in enumerate(words) if w in ("prefetch", "cache")), len(words))
    path = []
    for t in tokens[at + 1 :]:
        if t.type == "NEWLINE":
            break
        path.append(t.text)
    if not path or end == len(words):
        return None
    text = " ".join([*words[:end], "in", "".join(path), *words[end:]]).replace(" ,", ",")
    return f"the scope comes before `{words[end]}`" + (f": `{text}`" if len(text) <= 80 else "")


def _each_axis(tokens: list[Token], at: int, line: int, expected: set[str]) -> str | None:
    """What to write for `all_reduce(x, (r, c))`."""
    if "ARROW" not in expected or tokens[at].text not in (")", ","):
        return None
    opened = next((k for k in reversed(range(line, at)) if tokens[k].text == "("), line)
    call = next((k for k in reversed(range(line, opened)) if tokens[k].text == "("), None)
    help = "names in parentheses before `->` are dims, of which `rename` and others make new ones"
    if call is None or tokens[call - 1].text not in _MESSAGES:
        return help
    axes = [t.text for t in tokens[opened:at] if t.type == "NAME"]
    if tokens[call - 1].text != "all_reduce":
        return f"a message goes along one axis: write one for each of {', '.join(f'`{_short(a)}`' for a in axes)}"
    what = _short(" ".join(t.text for t in tokens[call + 1 : opened - 1]))
    for axis in axes:
        what = f"{tokens[call - 1].text}({what}, {_short(axis)})"
    return f"a message goes along one axis: `{what}`"


def _meant(word: str, words: list[str]) -> str | None:
    """What to write for a word of another language, or a misspelt one of ours."""
    return _OTHER_LANGUAGES.get(word) or did_you_mean(word, words)


def _compares(tokens: list[Token], at: int, line: int) -> bool:
    """Whether there is a comparison before this one in the same expression."""
    depth = 0
    for token in reversed(tokens[line:at]):
        if token.text in (")", "]"):
            depth += 1
        elif token.text in ("(", "["):
            depth -= 1
        if depth < 0 or (depth == 0 and (token.text in ("=", ",", "->") or token.type in ("AND", "OR", "NOT", "IF"))):
            return False
        if depth == 0 and token.type != "STRING" and token.text in _COMPARISONS:
            return True
    return False


def expectation(expected: set[str], spelling: Mapping[str, str]) -> str:
    """What could stand there, for people: groups of terminals by one word each."""
    rest, parts = set(expected), []
    if {"NUMBER", "LPAR"} <= rest:
        rest -= _EXPRESSION
        parts.append("an expression")
    if {"PLUS", "STAR"} <= rest:
        rest -= _OPERATORS | {"LPAR", "AS"}
        parts.append("an operator")
    rest.discard("WORD")
    names = sorted(_HUMAN.get(t) or f"`{spelling.get(t, t)}`" for t in rest)
    names.sort(key=lambda n: n.startswith("`") and n[1].isalpha())
    shown = names + parts if parts == ["an operator"] else parts + names
    if len(shown) > _MOST_SHOWN:
        shown = [*shown[: _MOST_SHOWN - 1], "…"]
    if not shown:
        return "nothing"
    return shown[0] if len(shown) == 1 else "one of: " + ", ".join(shown)


def _listing(words: list[str]) -> str | None:
    return f"one of: {', '.join(sorted(words))}" if words else None


def _found(token: Token) -> str:
    if token.type in ("NEWLINE", "$END"):
        return _HUMAN[token.type]
    return f"`{_short(token.text)}`"


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
