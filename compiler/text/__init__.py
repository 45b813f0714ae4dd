"""`.npu`: lowered programs as text. `show` prints, `parse_program` reads; `parse_program(show(p)) == p`."""

from __future__ import annotations

from compiler.text.locations import Locations, Site
from compiler.text.parser import parse_located, parse_program
from compiler.text.printer import show, show_body, show_instr, show_schedule, show_var

__all__ = [
    "Locations",
    "Site",
    "parse_located",
    "parse_program",
    "show",
    "show_body",
    "show_instr",
    "show_schedule",
    "show_var",
]
