"""What the catalogue knows of one error code."""

from __future__ import annotations

from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """`failing` is a whole `.par` file (E06xx: `.npu`, E10xx: a `config.json`, E11xx: what a
    certificate states in the place of what it should) that yields this code, `mended` the same without any error.

    Tests run both, for every code. First lines `# -D …`, `# --…` are options of the
    command, `# NAME=…` its environment. Bytes that are not UTF-8 are written as lone surrogates (`surrogateescape`).
    """

    code: str
    title: str
    explanation: str
    failing: str
    mended: str
