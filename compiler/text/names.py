"""Conventions of names that the text leaves out where they hold."""

from __future__ import annotations

ROLES = ("weight", "optimizer", "counter", "gradient", "loss", "metric", "output", "report", "statistic", "saved")


def default_logical(name: str) -> str:
    """`block.w1#1` is `block.w1` in the serial program."""
    return name.split("#", 1)[0]


def default_chunk(name: str) -> int:
    """`block.w1#1` belongs to chunk 1."""
    _, mark, chunk = name.partition("#")
    return int(chunk) if mark and chunk.isascii() and chunk.isdigit() and len(chunk) < 10 else 0
