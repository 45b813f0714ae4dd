"""How much the front end takes before it refuses politely (codes E09xx)."""

from __future__ import annotations

MAX_BYTES = 4 * 1024 * 1024
"""Size of one source file."""

MAX_TOKENS = 100_000
"""Tokens in one source file."""

MAX_BRACKETS = 64
"""Brackets and braces open at one place."""

MAX_DEPTH = 100
"""Operations below one another in an expression: `1 + 1 + 1` has two, `f(-x)` too."""

MAX_DIGITS = 100
"""Digits of a number."""

MAX_NAME = 200
"""Characters of a name."""

MAX_STRING = 4096
"""Characters of a string."""
