"""Codes E04xx: strategy, layout, placement."""

from __future__ import annotations

from dsl.codes.code import Code

CODES: tuple[Code, ...] = ()
