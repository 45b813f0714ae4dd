"""Codes E03xx: the model and its graph."""

from __future__ import annotations

from dsl.codes.code import Code

CODES: tuple[Code, ...] = ()
