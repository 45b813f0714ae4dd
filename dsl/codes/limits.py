"""Codes E09xx: what is refused for its size, so that no input takes long or much memory."""

from __future__ import annotations

from dsl import limits
from dsl.codes.code import Code

CODES: tuple[Code, ...] = (
    Code(
        "E0901",
        "the file is too large",
        f"A source file has at most {limits.MAX_BYTES // 2**20} MiB.",
        "# long\n" * (limits.MAX_BYTES // 7 + 1),
        "# long\n",
    ),
    Code(
        "E0902",
        "brackets are nested too deeply",
        f"At most {limits.MAX_BRACKETS} brackets and braces are open at one place.",
        "param deep = " + "(" * 100 + "1" + ")" * 100 + "\n",
        "param deep = " + "(" * 10 + "1" + ")" * 10 + "\n",
    ),
    Code(
        "E0903",
        "the expression is too deep",
        f"At most {limits.MAX_DEPTH} operations stand below one another in an expression. A sum is as deep as it has\n"
        "terms, since it is added up from the left.",
        "param total = 1" + " + 1" * 200 + "\n",
        "param total = 1" + " + 1" * 20 + "\n",
    ),
    Code(
        "E0904",
        "the file has too many tokens",
        f"A source file has at most {limits.MAX_TOKENS:,} tokens and comments.",
        "param x = 1\n" * (limits.MAX_TOKENS // 5 + 1),
        "param x = 1\n",
    ),
    Code(
        "E0905",
        "a name or a string is too long",
        f"Names have at most {limits.MAX_NAME} characters, strings at most {limits.MAX_STRING:,}.",
        "param " + "x" * 300 + " = 1\n",
        "param x = 1\n",
    ),
)
