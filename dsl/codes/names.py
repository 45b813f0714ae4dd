"""Codes E01xx: names, `use`, parameters."""

from __future__ import annotations

from dsl.codes.code import Code

CODES: tuple[Code, ...] = ()
