"""Codes E05xx: pipeline, schedule, micro-batches."""

from __future__ import annotations

from dsl.codes.code import Code

CODES: tuple[Code, ...] = ()
