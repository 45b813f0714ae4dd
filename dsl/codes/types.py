"""Codes E02xx: types, dims, units."""

from __future__ import annotations

from dsl.codes.code import Code

CODES: tuple[Code, ...] = ()
