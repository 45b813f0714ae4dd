"""Mutants of `.par` texts: parts of the tree of the grammar taken out, doubled, exchanged, put in from other files;
numbers at their extremes, other names; tokens and bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from dsl.lexer import Token
from tests.fuzz.tree import Match, matches

T = TypeVar("T")

NUMBERS = (
    "0", "1", "2", "3", "-1", "-2", "0.0", "-0.0", "1.0", "0.5", "1e-300", "1e300", "1e308", "-1e308", "1e-5", "7",
    "64", "65", "1000", "65536", "10 ** 6", "10 ** 8", "2 ** 31 - 1", "2 ** 31", "-(2 ** 31)", "2 ** 32", "2 ** 53",
    "2 ** 62", "2 ** 63 - 1", "2 ** 63", "10 ** 12", "10 ** 18", "2 ** 200", "9223372036854775807", "3.5", "0 - 5",
)  # fmt: skip
QUANTITIES = ("0 GB", "1 B", "1 GB/s", "0 GB/s", "1e300 GB/s", "1e-300 TFLOP/s", "5 us", "0 s", "1e30 GiB", "1 TB")
_SPELLINGS = """
    over in if else true false not and pad per microbatch step keep for as repeat scan state weight input loss metric
    output dim where sum mean max take softmax dropout iota cast reshape rename concat top_k stop_gradient f32 f64 bf16
    f16 int32 int64 uint32 bool compute master one_f_one_b gpipe interleaved zero_bubble ( ) [ ] { } , .. ... -> ** // %
    @ == < ~ = . : "text" "data.npy" - + * /
"""
WORDS = tuple(_SPELLINGS.split())
CHARACTERS = "\x00\x01\x1b\x7f\x85\u00a0\u202e\ud800é→\ufeff\t\r\f\v\\\"'#;$`\U0001f600"

_STATEMENTS = """
    use param check fn model optimizer device cluster tactic strategy job dim weight input state assign repeat scan
    if_else return_ loss metric output device_use level setting mesh split shard reduce layout pipeline microbatches
    place recompute offload run_on store fuse apply rule_if run optimizer_use frozen precision data seed item statement
    rule task cluster_statement
"""
_LINES = frozenset(_STATEMENTS.split())
"""Rules that stand on lines of their own."""


@dataclass
class Pool:
    """What other texts have for each rule, and all their names."""

    parts: dict[str, list[str]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    @staticmethod
    def of(texts: Sequence[str]) -> Pool:
        """Each part once."""
        parts: dict[str, dict[str, None]] = {}
        names: dict[str, None] = {}
        for text in texts:
            found, tokens = matches(text)
            for m in found:
                if m.end - m.start < 600:
                    parts.setdefault(m.rule, {})[text[m.start : m.end]] = None
            names.update((t.text, None) for t in tokens if t.type == "NAME")
        return Pool({rule: list(known) for rule, known in parts.items()}, list(names))


def mutant(text: str, pool: Pool, rng: Random) -> str:
    """The text with one to four changes."""
    return edited(text, pool, rng, 4, _EDITS, _WEIGHTS)


def edited(
    text: str,
    given: T,
    rng: Random,
    most: int,
    edits: Sequence[Callable[[str, T, Random], str]],
    weights: Sequence[int],
) -> str:
    """The text with one change to `most`, each tried ten times until it changes something. given: what edits take."""
    count = 1
    while count < most and rng.random() < 0.3:
        count += 1
    for _ in range(count):
        before = text
        for _ in range(10):
            text = rng.choices(edits, weights)[0](text, given, rng)
            if text != before:
                break
    return text


def _pick(text: str, rng: Random) -> Match | None:
    """A match, of rules alike often, however often they occur."""
    found = matches(text)[0]
    if not found:
        return None
    rule = rng.choice(sorted({m.rule for m in found}))
    return rng.choice([m for m in found if m.rule == rule])


def _replace(text: str, pool: Pool, rng: Random) -> str:
    m = _pick(text, rng)
    if m is None or m.rule not in pool.parts:
        return _token(text, pool, rng)
    return text[: m.start] + rng.choice(pool.parts[m.rule]) + text[m.end :]


def _delete(text: str, pool: Pool, rng: Random) -> str:
    m = _pick(text, rng)
    if m is None:
        return _token(text, pool, rng)
    end = m.end
    rest = text[end : end + 2]
    if rest.startswith(","):  # one of a list
        end += 2 if rest[1:] == " " else 1
    return text[: m.start] + text[end:]


def _double(text: str, pool: Pool, rng: Random) -> str:
    m = _pick(text, rng)
    if m is None:
        return _token(text, pool, rng)
    between = "\n" if m.rule in _LINES else rng.choice((", ", " ", " + ", " * ", ".", " @ "))
    part = text[m.start : m.end]
    return text[: m.end] + between + part + text[m.end :]


def _exchange(text: str, pool: Pool, rng: Random) -> str:
    """Two matches of a rule, which do not overlap, change places."""
    found = matches(text)[0]
    first = _pick(text, rng)
    if first is None:
        return _token(text, pool, rng)
    others = [m for m in found if m.rule == first.rule and (m.start >= first.end or m.end <= first.start)]
    if not others:
        return _replace(text, pool, rng)
    a, b = sorted((first, rng.choice(others)), key=lambda m: m.start)
    return text[: a.start] + text[b.start : b.end] + text[a.end : b.start] + text[a.start : a.end] + text[b.end :]


def _add(text: str, pool: Pool, rng: Random) -> str:
    """A statement of another text beside one of this."""
    found = [m for m in matches(text)[0] if m.rule in _LINES and m.rule in pool.parts]
    if not found:
        return _token(text, pool, rng)
    m = rng.choice(found)
    return text[: m.start] + rng.choice(pool.parts[m.rule]) + "\n" + text[m.start :]


def _number(text: str, pool: Pool, rng: Random) -> str:
    found = [t for t in matches(text)[1] if t.type in ("NUMBER", "QUANTITY")]
    if not found:
        return _token(text, pool, rng)
    t = rng.choice(found)
    new = rng.choice(QUANTITIES if t.type == "QUANTITY" and rng.random() < 0.7 else NUMBERS)
    return text[: t.start] + new + text[t.end :]


def _name(text: str, pool: Pool, rng: Random) -> str:
    """A name becomes another, as a rule one of the same text."""
    found = [t for t in matches(text)[1] if t.type == "NAME"]
    if not found:
        return _token(text, pool, rng)
    t = rng.choice(found)
    new = rng.choice(found).text if rng.random() < 0.8 else rng.choice(pool.names)
    return text[: t.start] + new + text[t.end :]


def _wrap(text: str, pool: Pool, rng: Random) -> str:
    """An expression becomes part of a larger one."""
    found = [m for m in matches(text)[0] if m.rule in ("atom", "arith", "expr", "call", "postfix")]
    if not found:
        return _token(text, pool, rng)
    m = rng.choice(found)
    part = text[m.start : m.end]
    other = rng.choice(pool.parts.get("call", ["1"])) if rng.random() < 0.5 else rng.choice(NUMBERS)
    new = rng.choice(
        (f"-({part})", f"({part}) * {other}", f"({part}) / {other}", f"({part}) ** {other}", f"{other} - ({part})",
         f"exp({part})", f"log({part})", f"sum({part})", f"mean({part})", f"({part}) < {other}", f"sqrt({part})",
         f"({part}) if true else {other}", f"stop_gradient({part})", f"cast({part}, int32)", f"[{part}, {other}]",
         f"({part}) // {other}", f"({part}) % {other}", f"max({part})", f"cast({part}, bf16)", f"not ({part})")
    )  # fmt: skip
    return text[: m.start] + new + text[m.end :]


def _token(text: str, pool: Pool, rng: Random) -> str:
    """A token is left out, doubled, exchanged with the next, or another put in."""
    tokens: list[Token] = [t for t in matches(text)[1] if t.end > t.start]
    if not tokens:
        return text + rng.choice(WORDS)
    i = rng.randrange(len(tokens))
    t = tokens[i]
    how = rng.randrange(5)
    if how == 0:
        return text[: t.start] + text[t.end :]
    if how == 1:
        return text[: t.end] + " " + text[t.start :]
    if how == 2 and i + 1 < len(tokens):
        u = tokens[i + 1]
        return text[: t.start] + text[u.start : u.end] + text[t.end : u.start] + text[t.start : t.end] + text[u.end :]
    new = rng.choice(WORDS) if rng.random() < 0.7 else rng.choice(tokens).text
    return text[: t.start] + new + (text[t.end :] if how == 3 else " " + text[t.start :])


def _bytes(text: str, pool: Pool, rng: Random) -> str:
    """Characters are left out, doubled, cut off, replaced, or odd ones put in."""
    if not text:
        return rng.choice(CHARACTERS)
    i, n = rng.randrange(len(text)), rng.choice((1, 1, 1, 2, 5, 40))
    return rng.choice(
        (text[:i] + text[i + n :], text[:i] + rng.choice(CHARACTERS) + text[i:], text[: i + n] + text[i:],
         text[:i] + chr(rng.randrange(32, 127)) + text[i + 1 :], text[:i], text[:i] + text[i : i + n] * 50 + text[i:])
    )  # fmt: skip


Edit = Callable[[str, Pool, Random], str]
_EDITS: tuple[Edit, ...] = (_replace, _delete, _double, _exchange, _add, _number, _name, _wrap, _token, _bytes)
_WEIGHTS = (6, 3, 3, 3, 3, 6, 5, 3, 2, 1)
