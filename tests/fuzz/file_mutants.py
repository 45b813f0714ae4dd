"""Mutants of files of others, by their kind: JSON (its values, its text), tables and texts, safetensors and `.npy`
(what they say of themselves, their numbers), archives (within, and as they are); bytes of all of them."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Any

from tests.fuzz.npu_mutants import NUMBERS
from tests.fuzz.par_mutants import CHARACTERS

_STRANGE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 64, 10**6, 2**31 - 1, 2**31, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, 10**30,
    0.0, -0.0, 0.5, 1.5, 1e300, 1e-300, float("inf"), float("nan"), "", "a", "0", "../a", "/etc/passwd", "a\0b",
    "\x1b[31mred", "\u202e", "\udc80", "\x85", "x" * 5000, "(a+)+$", "{{ 9 ** 9 }}", [], {}, [[]], [0], ["a"], {"a": 0},
)  # fmt: skip
"""Values that stand in the place of others."""

_CELLS = (
    "", " ", "nan", "inf", "-inf", "1e999", "1e-999", "1e308", "-0", "0x10", "1_000", "٣", "1,2", '"', '""', '"1"',
    "1.5", "-1", "2147483648", "9" * 400, "a", "\0", "\ufeff", "\x1b[2J", "\r", "1;2", "None", "true",
)  # fmt: skip
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\w+|[^\s\w]')
_BYTES = (b"\0", b"\xff", b"\x80", b"\n", b"\r", b'"', b",", b"\x1b[2J", b"\xef\xbb\xbf", b"\xc3", b"\xed\xa0\x80")

Edit = Callable[[bytes, Random], bytes]


def mutant(name: str, content: bytes, rng: Random) -> bytes:
    """The content of a file of that name, with one to three changes, each tried until it changes something."""
    count = 1
    while count < 3 and rng.random() < 0.3:
        count += 1
    for _ in range(count):
        before = content
        for _ in range(10):
            content = _edit(name, rng)(content, rng)
            if content != before:
                break
    return content


def _edit(name: str, rng: Random) -> Edit:
    edits = next((found for suffix, found in _BY_SUFFIX.items() if name.endswith(suffix)), ((_any_bytes, 1),))
    return rng.choices([e for e, _ in edits], [w for _, w in edits])[0]


# --- bytes ------------------------------------------------------------------------------------------------


def _any_bytes(content: bytes, rng: Random) -> bytes:
    """A bit, some bytes, a piece, the end."""
    at, n = rng.randrange(len(content) + 1), rng.choice((1, 1, 2, 4, 8, 100))
    how = rng.randrange(8)
    if how == 0 and at < len(content):
        return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
    if how == 1:
        return content[:at]
    if how == 2:
        return content[:at] + content[at + n :]
    if how == 3:
        return content[:at] + rng.choice(_BYTES) * rng.choice((1, 1, n)) + content[at:]
    if how == 4:
        return content[:at] + rng.choice((b"\0", b"\xff")) * n + content[at + n :]
    if how == 5:
        number = rng.choice((0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1))
        return content[:at] + number.to_bytes(8, "little")[:n] + content[at + min(n, 8) :]
    if how == 6:
        other = rng.randrange(len(content) + 1)
        return content[:at] + content[other : other + n] + content[at + n :]
    return content[:at] + content[at : at + n] * rng.choice((2, 2, 50)) + content[at + n :]


def _no_bytes(content: bytes, rng: Random) -> bytes:
    return b""


# --- texts and tables -------------------------------------------------------------------------------------


def _lines(content: bytes, rng: Random) -> bytes:
    """A line is left out, doubled, exchanged, cut off; ends of lines are others."""
    lines = content.split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    how = rng.randrange(5)
    if how == 0:
        del lines[i]
    elif how == 1:
        lines[i:i] = [lines[j]] * rng.choice((1, 1, 20))
    elif how == 2:
        lines[i], lines[j] = lines[j], lines[i]
    elif how == 3:
        return rng.choice((b"\r\n", b"\r", b"\n\n")).join(lines)
    else:
        lines[i] = lines[i][: rng.randrange(len(lines[i]) + 1)]
    return b"\n".join(lines)


def _cell(content: bytes, rng: Random) -> bytes:
    """A cell of a table becomes another, or is one too many."""
    found = list(re.finditer(rb"[^,\n]+", content))
    if not found:
        return content
    m = rng.choice(found)
    new = rng.choice(_CELLS).encode() if rng.random() < 0.8 else rng.choice(found)[0]
    return content[: m.start()] + new + content[m.end() if rng.random() < 0.9 else m.start() :]


def _characters(content: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    new = rng.choice(CHARACTERS).encode("utf-8", "surrogatepass") * rng.choice((1, 1, 1, 3000))
    return content[:at] + new + content[at + rng.choice((0, 1)) :]


def _tokens(content: bytes, rng: Random) -> bytes:
    """A token is left out, doubled, exchanged with another of the text; a number is another."""
    text = content.decode("utf-8", "surrogateescape")
    found = list(_TOKEN.finditer(text))
    if not found:
        return content
    m, other = rng.choice(found), rng.choice(found)[0]
    new = rng.choice(("", m[0] + " " + m[0], other, m[0] + " " + other, rng.choice(NUMBERS), m[0] * 30))
    return (text[: m.start()] + new + text[m.end() :]).encode("utf-8", "surrogateescape")


# --- JSON -------------------------------------------------------------------------------------------------


def _json(content: bytes, rng: Random) -> bytes:
    """One value of many becomes another, goes, is exchanged; a name is another, a list is long."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return _tokens(content, rng)
    return dumped(changed(found, rng), content)


def dumped(value: Any, like: bytes) -> bytes:
    """As JSON, with as many spaces as there are in `like`."""
    separators = None if b": " in like else (",", ":")
    return json.dumps(value, separators=separators).encode("utf-8", "surrogatepass")


def changed(document: Any, rng: Random) -> Any:
    """A value like JSON's, one part of which is another. The document itself may be changed."""
    holder = [document]
    places: list[tuple[Any, Any]] = []

    def visit(value: Any) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, part in list(items):
            places.append((value, key))
            visit(part)

    visit(holder)
    by_name: dict[str, list[tuple[Any, Any]]] = {}  # rules of many are as rare as those of few
    for of, key in places:
        by_name.setdefault(str(key) if isinstance(of, dict) else "", []).append((of, key))
    of, key = rng.choice(rng.choice(list(by_name.values())) if rng.random() < 0.5 else places)
    other, place = rng.choice(places)
    how = rng.randrange(10)
    if how <= 2:
        of[key] = rng.choice(_STRANGE)
    elif how == 3:
        of[key] = _near(of[key], rng)
    elif how == 4 and of is not holder:
        del of[key]
    elif how == 5:
        of[key] = json.loads(json.dumps(other[place]))
    elif how == 6 and isinstance(of[key], list):
        part = of[key] or [0]
        of[key] = part * rng.choice((2, 2, 100)) if rng.random() < 0.5 else part[::-1]
    elif how == 7 and isinstance(of, dict):
        name = rng.choice((*(str(k) for _, k in places[1:]), "", "__metadata__", "a\0", "\x1b[31m", "x" * 300))
        of[name] = of.pop(key)
    elif how == 8:
        of[key] = [of[key]] if rng.random() < 0.5 else {"a": of[key]}
    else:
        a, b = of[key], other[place]
        if (
            other is not holder
            and of is not holder
            and not isinstance(a, dict | list)
            and not isinstance(b, dict | list)
        ):
            of[key], other[place] = b, a
        else:
            of[key] = _near(a, rng)
    return holder[0]


def _near(value: Any, rng: Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice(
            (value + 1, value - 1, -value, value * 2, value // 2, value * 10**9, float(value), str(value))
        )
    if isinstance(value, float):
        return rng.choice((-value, value * 1.5, value * 1e300, int(value) if abs(value) < 1e300 else 0, str(value)))
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return value[:at] + rng.choice((*CHARACTERS, "a", " ", "0", "../", "")) + value[at + rng.choice((0, 1)) :]
    return rng.choice(_STRANGE)


def _twice(content: bytes, rng: Random) -> bytes:
    """A name of a JSON object stands twice."""
    found = list(re.finditer(rb'"[^"\\]*"\s*:', content))
    if not found:
        return content
    m = rng.choice(found)
    value = json.dumps(rng.choice(_STRANGE)).encode("utf-8", "surrogatepass")
    return content[: m.start()] + m[0] + value + b"," + content[m.start() :]


def _deep(content: bytes, rng: Random) -> bytes:
    """Something is nested deeply."""
    found = list(_TOKEN.finditer(content.decode("latin-1")))
    if not found:
        return content
    m, n = rng.choice(found), rng.choice((100, 990, 5000, 200_000))
    start, end = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return content[: m.start()] + start * n + content[m.start() : m.end()] + end * n + content[m.end() :]


# --- arrays -----------------------------------------------------------------------------------------------


def _safetensors(content: bytes, rng: Random) -> bytes:
    """What the file says of its tensors is another, with the length that is right, or without."""
    length = int.from_bytes(content[:8], "little")
    head, rest = content[8 : 8 + length], content[8 + length :]
    if length > len(content) or not head:
        return _any_bytes(content, rng)
    edit = rng.choice((_json,) * 6 + (_twice, _tokens, _deep))
    new = edit(head, rng)
    said = len(new) if rng.random() < 0.9 else rng.choice((0, length + 1, 2**63, 2**64 - 1))
    return said.to_bytes(8, "little") + new + rest


def _npy(content: bytes, rng: Random) -> bytes:
    """The header is another, with the length that is right."""
    length = int.from_bytes(content[8:10], "little")
    head, rest = content[10 : 10 + length], content[10 + length :]
    new = _tokens(head, rng)[: 2**16 - 1]
    return content[:8] + len(new).to_bytes(2, "little") + new + rest


def _numbers(content: bytes, rng: Random) -> bytes:
    """Numbers in the second half are extreme ones: nan, inf, the largest, the least."""
    at = len(content) - 4 * rng.randrange(1, max(2, len(content) // 8))
    new = rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", b"\xff\xff\xff\x7f", b"\0\0\0\x80"))
    return content[:at] + new + content[at + 4 :]


def _within(edits: Sequence[tuple[Edit, int]]) -> Edit:
    """What is in an archive is another."""

    def edit(content: bytes, rng: Random) -> bytes:
        inner = content
        with suppress(OSError, EOFError, zlib.error):
            inner = gzip.decompress(content)
        chosen = rng.choices([e for e, _ in edits], [w for _, w in edits])[0]
        packed = gzip.compress(chosen(inner, rng), 1, mtime=0)
        return packed * 2 if rng.random() < 0.05 else packed

    return edit


_TABLE = ((_cell, 5), (_lines, 3), (_characters, 1), (_any_bytes, 1), (_no_bytes, 1))
_TEXT = ((_lines, 3), (_tokens, 3), (_characters, 2), (_any_bytes, 1), (_no_bytes, 1))
_BY_SUFFIX: dict[str, Sequence[tuple[Edit, int]]] = {
    ".json": ((_json, 20), (_twice, 2), (_tokens, 3), (_deep, 1), (_characters, 1), (_any_bytes, 1), (_no_bytes, 1)),
    ".csv": _TABLE,
    ".csv.gz": ((_within(_TABLE), 5), (_any_bytes, 2)),
    ".txt.gz": ((_within(_TEXT), 5), (_any_bytes, 2)),
    ".txt": _TEXT,
    ".jinja": ((_tokens, 8), *_TEXT),
    ".safetensors": ((_safetensors, 6), (_numbers, 2), (_any_bytes, 3)),
    ".npy": ((_npy, 4), (_numbers, 1), (_any_bytes, 3)),
}
