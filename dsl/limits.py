"""How much the front end takes before it refuses politely (codes E09xx)."""

from __future__ import annotations

MAX_BYTES = 4 * 1024 * 1024
"""Size of one source file."""

LOWERED = (".graph", ".training", ".placed", ".npu")
"""What files of such texts end in."""

MAX_LOOPS = 20
"""Loops within one another: as many as a function of Python may have, which executors make of the text."""

MAX_LOWERED = 32 * 1024 * 1024
"""Size of a text of a stage, or of a lowered program: of what a command of ours has written."""

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

MAX_DIM = 2**40
"""Size of a dim."""

MAX_DIMS = 64
"""Dims of a tensor."""

MAX_ELEMENTS = 2**56
"""Elements of a tensor."""

MAX_STAGES = 4096
"""Stages of a pipeline, and places of an axis."""

MAX_PREFETCH = 64
"""Of what `offload` fetches ahead; all of it stands in device memory."""
