"""Mutants of the text of lowered programs: lines, operands, words, numbers, types, blocks, characters."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from tests.fuzz.par_mutants import CHARACTERS, edited

NUMBERS = (
    "0", "1", "2", "3", "4", "5", "7", "8", "64", "65", "1000", "1000000", "100000000", "1000000000", "1000000000000",
    "2147483647", "2147483648", "4294967296", "9223372036854775807", "9223372036854775808", "99999999999999999999",
    "-1", "-2", "-5", "0.0", "-0.0", "0.5", "1.0", "1e300", "1e-300", "-1.0", "1.5", "inf", "nan",
)  # fmt: skip

_OPERAND = re.compile(r"%[\w.#]+")
_NUMBER = re.compile(r"(?<![\w.#%])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
_TOKEN = re.compile(r'%?[A-Za-z_][\w.#]*|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|"[^"\n]*"|\.\.|->|[^\s\w]')
_WORD = re.compile(r"(?<![%\w.#])[A-Za-z_][\w.#]*")
_TYPE = re.compile(r"(?:f32|f64|bf16|f16|int32|int64|uint32|bool)\[[^\]\n]*\](?: pending\([^)\n]*\))?")


@dataclass(frozen=True)
class Parts:
    """What all programs have: lines, words, types."""

    lines: tuple[str, ...]
    words: tuple[str, ...]
    types: tuple[str, ...]

    @staticmethod
    def of(texts: Sequence[str]) -> Parts:
        """Each once; lines with other names are other lines, and a part of them are enough."""

        def once(pattern: re.Pattern[str]) -> tuple[str, ...]:
            return tuple(dict.fromkeys(m for t in texts for m in pattern.findall(t)))

        kinds: dict[str, str] = {}
        for text in texts:
            for line in text.splitlines():
                kinds.setdefault(re.sub(r"%[\w.#]+|\d+", "", line), line)
        return Parts(tuple(kinds.values()), once(_WORD), once(_TYPE))


def mutant(text: str, parts: Parts, rng: Random) -> str:
    """The text with one to three changes."""
    return edited(text, parts, rng, 3, _EDITS, _WEIGHTS)


def _one(pattern: re.Pattern[str], text: str, rng: Random) -> re.Match[str] | None:
    found = list(pattern.finditer(text))
    return rng.choice(found) if found else None


def _put(text: str, m: re.Match[str] | None, new: str) -> str:
    return text if m is None else text[: m.start()] + new + text[m.end() :]


def _line(text: str, parts: Parts, rng: Random) -> str:
    """A line is left out, doubled, moved, exchanged with the next, or another put in."""
    lines = text.splitlines()
    if not lines:
        return text
    i = rng.randrange(len(lines))
    how = rng.randrange(5)
    if how == 0:
        del lines[i]
    elif how == 1:
        lines.insert(i, lines[i])
    elif how == 2:
        lines.insert(rng.randrange(len(lines)), lines.pop(i))
    elif how == 3 and i + 1 < len(lines):
        lines[i], lines[i + 1] = lines[i + 1], lines[i]
    else:
        lines.insert(i, rng.choice(parts.lines if rng.random() < 0.5 else lines))
    return "\n".join(lines) + "\n"


def _operand(text: str, parts: Parts, rng: Random) -> str:
    """A value becomes another, as a rule of the lines about."""
    m = _one(_OPERAND, text, rng)
    if m is None:
        return text
    near = text[max(0, m.start() - 1500) : m.end() + 500]
    return _put(text, m, rng.choice(_OPERAND.findall(near if rng.random() < 0.8 else text)))


def _exchanged(text: str, parts: Parts, rng: Random) -> str:
    """Two values of a line change places."""
    found = [m for m in re.finditer(r"^.*%.*%.*$", text, re.MULTILINE)]
    if not found:
        return text
    line = rng.choice(found)
    values = list(_OPERAND.finditer(line[0]))
    if len(values) < 2:
        return text
    a, b = sorted(rng.sample(values, 2), key=lambda m: m.start())
    s = line[0]
    new = s[: a.start()] + b[0] + s[a.end() : b.start()] + a[0] + s[b.end() :]
    return text[: line.start()] + new + text[line.end() :]


def _number(text: str, parts: Parts, rng: Random) -> str:
    m = _one(_NUMBER, text, rng)
    if m is None:
        return text
    near = [str(int(float(m[0])) + d) for d in (-1, 1)] if len(m[0]) < 15 else []
    return _put(text, m, rng.choice([*NUMBERS, *near * 6]))


def _word(text: str, parts: Parts, rng: Random) -> str:
    """A word becomes another: an op, an axis, a dim, a role, the name of a buffer."""
    m = _one(_WORD, text, rng)
    return _put(text, m, rng.choice(_WORD.findall(text) if rng.random() < 0.7 else parts.words))


def _type(text: str, parts: Parts, rng: Random) -> str:
    m = _one(_TYPE, text, rng)
    return _put(text, m, rng.choice(_TYPE.findall(text) if m and rng.random() < 0.7 else parts.types))


def _everywhere(text: str, parts: Parts, rng: Random) -> str:
    """A number, a word or a type becomes another, wherever it stands: programs often stay legal so."""
    m = _one(rng.choice((_WORD, _TYPE, re.compile(r"(?<=\b[a-z]=)\d+"), _NUMBER)), text, rng)
    if m is None:
        return text
    new = rng.choice(NUMBERS) if m[0][:1].isdigit() else rng.choice(parts.words)
    if _TYPE.fullmatch(m[0]):
        new = rng.choice(parts.types)
    if rng.random() < 0.5 and re.match(r"(?:f32|f64|bf16|f16|int32|int64|uint32|bool)\b", m[0]):
        m, new = (
            re.match(r"\w+", m[0]) or m,
            rng.choice(("f32", "f64", "bf16", "f16", "int32", "int64", "uint32", "bool")),
        )
    return re.sub(rf"(?<![\w.#%]){re.escape(m[0])}(?![\w#])", lambda _: new, text)


def _size(text: str, parts: Parts, rng: Random) -> str:
    """A dim or an axis gets another size, wherever it has this one; often the program stays legal."""
    m = _one(re.compile(r"\b([A-Za-z_]\w*)=(\d+)"), text, rng)
    if m is None:
        return text
    old = int(m[2])
    new = rng.choice((old * 2, old * 3, old + 1, max(0, old - 1), old // 2, 1, 0, 2**31, 10**6, old, old * 7))
    return re.sub(rf"\b{re.escape(m[0])}(?!\d)", f"{m[1]}={new}", text)


def _literal(text: str, parts: Parts, rng: Random) -> str:
    """A number that is computed with, or with which a weight begins, becomes another."""
    m = _one(re.compile(r"(?<=[ (])-?\d+\.\d+(?:e[+-]?\d+)?"), text, rng)
    numbers = ("0.0", "1.0", "-1.0", "0.5", "2.0", "1e300", "1e-300", "1e30", "-0.0", "3.0", "inf", "1", "0")
    return _put(text, m, rng.choice(numbers))


def _range(text: str, parts: Parts, rng: Random) -> str:
    """The range of an input is turned round, empty, or beyond its type."""
    m = _one(re.compile(r"(?<=in )(-?\d+)\.\.(-?\d+)"), text, rng)
    if m is None:
        return text
    low, high = m[1], m[2]
    others = ((high, low), (high, high), (low, "10000000000"), ("-5", high), ("", high))
    return _put(text, m, "..".join(rng.choice(others)))


def _token(text: str, parts: Parts, rng: Random) -> str:
    m = _one(_TOKEN, text, rng)
    if m is None:
        return text
    how = rng.randrange(3)
    other = rng.choice(_TOKEN.findall(text))
    return _put(text, m, ("", f"{m[0]} {m[0]}", f"{m[0]} {other}")[how])


def _block(text: str, parts: Parts, rng: Random) -> str:
    """What stands in braces is left out or doubled, with its head."""
    m = _one(re.compile(r"^( *)\S[^\n]*\{\n(?:.*\n)*?\1\}\n", re.MULTILINE), text, rng)
    return _put(text, m, m[0] * 2 if m and rng.random() < 0.5 else "")


def _characters(text: str, parts: Parts, rng: Random) -> str:
    i, n = rng.randrange(len(text) + 1), rng.choice((1, 1, 2, 30))
    new = rng.choice(CHARACTERS) if rng.random() < 0.5 else chr(rng.randrange(32, 127))
    return rng.choice((text[:i] + text[i + n :], text[:i] + new + text[i:], text[:i] + new + text[i + 1 :], text[:i]))


Edit = Callable[[str, Parts, Random], str]
_EDITS: tuple[Edit, ...] = (
    _line, _operand, _exchanged, _number, _word, _type, _everywhere, _token, _block, _characters, _size, _literal,
    _range,
)  # fmt: skip
_WEIGHTS = (5, 4, 2, 6, 5, 3, 5, 2, 1, 1, 6, 3, 2)
