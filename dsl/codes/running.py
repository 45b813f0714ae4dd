"""Codes E07xx: runs, data, memory."""

from __future__ import annotations

from dsl.codes.code import Code

CODES: tuple[Code, ...] = ()
