"""Draws requests that are none, or not quite: bodies, heads, and bytes that are no HTTP."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

from dsl.data import dataclass
from tests.serving.conftest import KEY

WRITES, ENCODES = "write", "job"
"""What the served models are called: one that makes texts, and one that makes vectors."""

VALID: dict[str, tuple[dict[str, Any], ...]] = {
    "/v1/completions": (
        {"model": WRITES, "prompt": "To be", "max_tokens": 2},
        {"model": WRITES, "prompt": ["a", "b"], "max_tokens": 1, "n": 2, "temperature": 0.5, "seed": 7},
        {"model": WRITES, "prompt": [1, 2, 3], "max_tokens": 2, "logprobs": 2, "stop": ["e", "."]},
        {"model": WRITES, "prompt": [[1], [2, 3]], "max_tokens": 1, "echo": True, "top_p": 0.9, "top_k": 5},
        {"model": WRITES, "prompt": "I", "max_tokens": 2, "stream": True, "stream_options": {"include_usage": True}},
    ),
    "/v1/chat/completions": (
        {"model": WRITES, "messages": [{"role": "user", "content": "To be"}], "max_completion_tokens": 2},
        {"model": WRITES, "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "max_tokens": 1,
         "logprobs": True, "top_logprobs": 2, "tools": []},
        {"model": WRITES, "messages": [{"role": "system", "content": "a", "name": "b"}, {"role": "user",
        "content": "I"}],
         "max_tokens": 2, "stream": True, "temperature": 0, "response_format": {"type": "text"}},
    ),
    "/v1/embeddings": (
        {"model": ENCODES, "input": "a text"},
        {"model": ENCODES, "input": ["a", "b"], "encoding_format": "base64", "user": "u"},
        {"model": ENCODES, "input": [[1, 2], [3]], "dimensions": 8, "encoding_format": "float"},
    ),
}  # fmt: skip

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 17, 0.0, -0.0, 0.5, 1.5, 1e308, -1e308, 2**31 - 1, 2**31, 2**63, 2**64,
    -(2**64), 10**400,
    "", "a", "\0", "\ud800", "\udfff\ud800", "é" * 300, "a" * 5000, "🙂", "\u202e", "true", "null", "1", WRITES,
    ENCODES,
    [], [[]], [[[]]], {}, {"a": {}}, [None], [True], [1.5], [-1], [2**40], [""], ["a", 1], [[1], "a"], [["a"]],
    [1] * 500,
    ["a"] * 17, ["a"] * 3000, {"type": "text"}, {"type": "json_object"}, {"1": 2}, [{"role": "user"}],
    [{"content": "a"}],
    [{"role": 1, "content": 2}], [{"role": "user", "content": [{"type": "image_url"}]}], {"include_usage": 1},
)  # fmt: skip

NAMES = (
    "model", "prompt", "messages", "input", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k",
    "n", "seed",
    "stop", "logprobs", "top_logprobs", "stream", "stream_options", "user", "best_of", "echo", "suffix",
    "presence_penalty",
    "frequency_penalty", "logit_bias", "tools", "tool_choice", "response_format", "modalities", "store", "metadata",
    "encoding_format", "dimensions", "", "__proto__", "model ", "\0", "\ud800", "x" * 5000, "functions",
)  # fmt: skip

RAW = (
    '{"model": NaN}', '{"model": -Infinity}', '{"model": 1e999999}', '{"model": ' + "9" * 6000 + "}", "[" * 30_000,
    '{"model":' * 30_000, "null", "3", '"a"', "[]", "{}", "", " ", "{", "}", "{]", "{}{}", "{'model': 'write'}",
    '{"model": "write",}', "model=write&prompt=a", '{"model": "\\u12"}', '{"model": "\\x41"}', "\ufeff{}", "\x00",
    "0" * 400,
    '{"model": "write", "prompt": "a", "prompt": 3}', '{"prompt": "a" /* of a kind */}', "<xml/>",
    "--b\r\n\r\n--b--\r\n",
)  # fmt: skip

Body = tuple[str, bytes]
"""The address, and what is sent there."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """kind: what was done to it; sent: its bytes; whole: the head is one of HTTP, so that an answer in JSON must come;
    vectors: for the service that makes vectors; keeps: the connection is kept for what is sent next."""

    kind: str
    sent: bytes
    whole: bool
    vectors: bool
    keeps: bool = False


def drawn(seed: int | str, number: int) -> Malformed:
    """The one of this number, the same always."""
    rng = random.Random(f"{seed}/{number}")
    kind = rng.choices(tuple(_KINDS), tuple(w for w, _ in _KINDS.values()))[0]
    return _KINDS[kind][1](rng, kind)


# --- bodies


def _valid(rng: random.Random) -> tuple[str, dict[str, Any]]:
    path = rng.choices(tuple(VALID), (4, 3, 3))[0]
    return path, copy.deepcopy(rng.choice(VALID[path]))


def _places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """All places in a tree: what contains it, and its key."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        found.append((value, key))
        _places(value[key], found)
    return found


def _other_fields(rng: random.Random) -> Body:
    """Some fields are something else, gone, or new."""
    path, body = _valid(rng)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = _places(body, [])
        how = rng.random()
        if how < 0.4 and places:
            where, key = rng.choice(places)
            where[key] = copy.deepcopy(rng.choice(VALUES))
        elif how < 0.8:
            body[rng.choice(NAMES)] = copy.deepcopy(rng.choice(VALUES))
        elif places:
            where, key = rng.choice(places)
            del where[key]
    return path, json.dumps(body, ensure_ascii=rng.random() < 0.7).encode("utf-8", "surrogatepass")


def _other_text(rng: random.Random) -> Body:
    """Bytes of the body are others."""
    path, body = _valid(rng)
    content = bytearray(json.dumps(body).encode())
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(content) + 1)
        how = rng.randrange(6)
        if how == 0:
            content[at:] = b""
        elif how == 1:
            content[at:at] = rng.randbytes(rng.choice((1, 2, 40)))
        elif how == 2 and at < len(content):
            content[at] ^= 1 << rng.randrange(8)
        elif how == 3:
            content[at : at + rng.randrange(1, 9)] = b""
        elif how == 4:
            content[at:at] = content[at : at + 20] * rng.choice((1, 3, 200))
        else:
            content[at:at] = rng.choice(
                (b"\\u0000", b"\\ud800", b"\xed\xa0\x80", b"\xff", b"\xc3", b'"', b"\\", b"\0", b",")
            )
    return path, bytes(content)


def _no_object(rng: random.Random) -> Body:
    """Not JSON, or no object; or in another encoding."""
    path, body = _valid(rng)
    if rng.random() < 0.3:
        return path, json.dumps(body).encode(rng.choice(("utf-16", "utf-32-le", "utf-8-sig", "cp037")))
    return path, rng.choice(RAW).encode() if rng.random() < 0.8 else rng.randbytes(rng.randrange(200))


def _too_large(rng: random.Random) -> Body:
    """Beyond what a body may have, a prompt, or what a text has places for."""
    path, body = _valid(rng)
    name = {"/v1/completions": "prompt", "/v1/embeddings": "input"}.get(path, "messages")
    count = rng.choice((300, 3000, 30_000))
    body[name] = rng.choice(("a" * count, [1] * count, [[1, 2]] * count, [{"role": "user", "content": "a"}] * count))
    return path, json.dumps(body).encode()


def _of_body(draw: Callable[[random.Random], Body]) -> Callable[[random.Random, str], Malformed]:
    def made(rng: random.Random, kind: str) -> Malformed:
        path, content = draw(rng)
        return Malformed(kind, head("POST", path, len(content)) + content, True, path == "/v1/embeddings", True)

    return made


# --- heads

USUAL = {"Host": "127.0.0.1", "Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}


def head(method: str, path: str, size: int, **more: str) -> bytes:
    """Of a request whose body has so many bytes."""
    fields = USUAL | {"Content-Length": str(size)} | {name.replace("_", "-"): v for name, v in more.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


HEADERS: tuple[tuple[str, str], ...] = (
    ("Content-Type", "text/plain"), ("Content-Type", ""), ("Content-Type", "application/json; charset=latin-1"),
    ("Content-Type", ";;;"),
    ("Content-Type", "multipart/form-data"), ("Authorization", ""), ("Authorization", "Bearer"), ("Authorization",
    "Bearer wrong"),
    ("Authorization", f"Basic {KEY}"), ("Authorization", "Bearer " + "a" * 4000), ("Authorization", "Bearer \xff\xfe"),
    ("Host", ""), ("Host", "example.org"), ("Host", "127.0.0.1:99999999"), ("Host", "[::1"), ("Host", "localhost:"),
    ("Host", "\xff"),
    ("Expect", "100-continue"), ("Expect", "200-maybe"), ("Content-Encoding", "gzip"), ("Accept", "text/html"),
    ("Range", "bytes=0-1"),
    ("Cookie", "a=b;" * 1000), ("X-Forwarded-For", "::1, evil"), ("TE", "trailers, deflate"), ("Connection",
    "close, keep-alive, upgrade"),
    ("X-Request-Id", "a" * 3000), ("If-None-Match", "*"),
)  # fmt: skip


def _other_headers(rng: random.Random, kind: str) -> Malformed:
    """A header that says something else, in a head that is one."""
    path, body = _valid(rng)
    content = json.dumps(body).encode()
    found = dict(rng.sample(HEADERS, rng.choice((1, 1, 2))))
    return Malformed(
        kind, head("POST", path, len(content), **{n.replace("-", "_"): v for n, v in found.items()}) + content,
        found.get("Host", " ") != "" and "Expect" not in found and "Connection" not in found, path == "/v1/embeddings",
    )  # fmt: skip


METHODS = ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "post", "CONNECT", "P" * 300, "BREW")
PATHS = (
    "/", "/v1", "/v1/", "/v1/completions/", "//v1/completions", "/v1/completions?a=b&%ff", "/v1/completions#a",
    "/v1/%63ompletions",
    "/v1/completions%00", "/v1/models/%2e%2e/%2e%2e/etc/passwd", "/../../etc/passwd", "/v1/models/",
    "/v1/models/" + "a" * 3000,
    "/v1/models/%ff%fe", "*", "http://127.0.0.1/v1/models", "http://example.org/", "/metrics/..",
    "/health?" + "a=" * 2000, "/ready/", "/%",
    "/v1/models/a/b/c", "/favicon.ico", "/v1/engines", "/V1/COMPLETIONS",
)  # fmt: skip


def _other_address(rng: random.Random, kind: str) -> Malformed:
    """Another method, or another address."""
    path, body = _valid(rng)
    content = json.dumps(body).encode() if rng.random() < 0.5 else b""
    method = rng.choice(METHODS) if rng.random() < 0.5 else "POST"
    where = rng.choice(PATHS) if rng.random() < 0.7 else path
    return Malformed(kind, head(method, where, len(content)) + content, False, path == "/v1/embeddings")


def _other_size(rng: random.Random, kind: str) -> Malformed:
    """The body has another size than its head says, or its pieces are none."""
    path, body = _valid(rng)
    content = json.dumps(body).encode()
    vectors = path == "/v1/embeddings"
    if rng.random() < 0.5:
        size = rng.choice((0, 1, len(content) - 1, len(content) + 1, 10**6 + 10**5, 10**18, 10**30))
        said = rng.choice((str(size), "-1", "1e2", "0x10", " ", "١٢", "12, 12", "12, 13", "+5", "5\x0b"))
        lines = head("POST", path, 0).replace(b"Content-Length: 0", b"Content-Length: " + said.encode())
        return Malformed(kind, lines + content, False, vectors)
    pieces = b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)
    broken = (
        pieces, pieces[: rng.randrange(len(pieces))], b"-1\r\n\r\n", b"ffffffffffffffffff\r\n" + content,
        b"zz\r\n" + content,
        b"5;" + b"a" * 3000 + b"\r\nabcde\r\n0\r\n\r\n", pieces[:-2] + b"a: b\r\n\r\n",
        b"1\r\n{\r\n" * 200 + b"0\r\n\r\n", b"",
    )  # fmt: skip
    coding = rng.choice(("chunked", "chunked", "chunked", "gzip", "chunked, chunked", "identity", "Chunked", ""))
    lines = head("POST", path, 0).replace(b"Content-Length: 0", b"Transfer-Encoding: " + coding.encode())
    both = lines[:-2] + b"Content-Length: 5\r\n\r\n" if rng.random() < 0.1 else lines
    return Malformed(kind, both + rng.choice(broken), False, vectors)


def _broken_head(rng: random.Random, kind: str) -> Malformed:
    """Bytes of the head are others, or too many."""
    path, body = _valid(rng)
    content = json.dumps(body).encode()
    how = rng.randrange(7)
    lines = bytearray(head("POST" if how != 5 else rng.choice(("GET", "POST")), path, len(content)))
    if how == 5 and rng.random() < 0.5:
        lines, content = bytearray(bytes(lines).replace(b"Content-Length: %d\r\n" % len(content), b"")), b""
    at = rng.randrange(len(lines))
    if how == 0:
        lines[at] ^= 1 << rng.randrange(8)
    elif how == 1:
        lines[at:at] = rng.choice(
            (b"\0", b"\r", b"\n", b"\r\n", b" ", b"\x7f", b"\xff", b":", b"\r\n\r\n", b"\r\n \r\n")
        )
    elif how == 2:
        lines = lines[:at]
        content = b""
    elif how == 3:
        lines[-2:] = (
            b"".join(b"X-%d: %s\r\n" % (i, b"a" * rng.choice((1, 100))) for i in range(rng.choice((50, 2000))))
            + b"\r\n"
        )
    elif how == 4:
        lines = bytearray(
            bytes(lines).replace(
                b"HTTP/1.1", rng.choice((b"HTTP/1.0", b"HTTP/0.9", b"HTTP/3", b"HTTP/1.1.1", b"", b"HTCPCP/1.0"))
            )
        )
    elif how == 5:
        lines[-2:] = rng.choice(
            (b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n",
             b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
             b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: !!!\r\n",
             b"Upgrade: \xff\r\nConnection: upgrade\r\n", b" folded: yes\r\n", b"no colon\r\n", b": no name\r\n")
        ) + b"\r\n"  # fmt: skip
    else:
        lines = bytearray(bytes(lines).replace(b"\r\n", rng.choice((b"\n", b"\r", b"\r\n\r\n", b"\n\r"))))
    return Malformed(kind, bytes(lines) + content, False, path == "/v1/embeddings")


# --- bytes

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def _frame(rng: random.Random) -> bytes:
    """Of HTTP/2, of any kind, flags and stream, with bytes that may be anything."""
    content = rng.randbytes(rng.choice((0, 4, 5, 8, 40)))
    size = len(content) if rng.random() < 0.8 else rng.randrange(2**24)
    stream = rng.choice((0, 1, 2, 3, 2**31 - 1))
    return (
        size.to_bytes(3, "big")
        + bytes((rng.choice((*range(11), 255)), rng.randrange(256)))
        + stream.to_bytes(4, "big")
        + content
    )


def _no_http(rng: random.Random, kind: str) -> Malformed:
    """Bytes that are something else: of TLS, of HTTP/2, of any kind, or none."""
    how = rng.randrange(5)
    if how == 0:
        content = rng.randbytes(rng.choice((0, 1, 20, 1000, 100_000)))
    elif how == 1:
        content = bytes.fromhex("16030100a5010000a10303") + rng.randbytes(160)
    elif how == 2:
        content = PREFACE + b"".join(_frame(rng) for _ in range(rng.randrange(6)))
    elif how == 3:
        settings = b"\0\0\0\4\0\0\0\0\0"
        content = PREFACE + settings + b"".join(_frame(rng) for _ in range(rng.randrange(1, 4)))
    else:
        path, body = _valid(rng)
        sent = json.dumps(body).encode()
        good = head("POST", path, len(sent)) + sent
        content = good * rng.choice((1, 3)) + good[: rng.randrange(len(good))] + rng.randbytes(rng.choice((0, 30)))
    return Malformed(kind, content, False, rng.random() < 0.3)


_KINDS: dict[str, tuple[int, Callable[[random.Random, str], Malformed]]] = {
    "other fields": (40, _of_body(_other_fields)),
    "other text": (18, _of_body(_other_text)),
    "no object": (8, _of_body(_no_object)),
    "too large": (2, _of_body(_too_large)),
    "other headers": (8, _other_headers),
    "other address": (8, _other_address),
    "other size": (6, _other_size),
    "broken head": (6, _broken_head),
    "no HTTP": (4, _no_http),
}
"""How often each comes, and who draws it."""
