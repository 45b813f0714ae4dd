"""Codes E06xx: text of lowered programs, the verifier."""

from __future__ import annotations

from dsl.codes.code import Code

CODES: tuple[Code, ...] = ()
