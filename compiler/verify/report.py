"""Collects what the rules find, with the place in the program or in the graphs of a stage before it."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.graph import Graph, Node
from compiler.program import Program
from compiler.text.attrs import quote, runs, show_run
from compiler.text.locations import HEAD, Locations, Site
from dsl.diagnostics import Diagnostic, Diagnostics

Finding = tuple[str, str, str | None]
"""Code, message, help."""


def head(instr: Node) -> str:
    """How messages speak of an instruction: its results and op."""
    results = ", ".join(f"%{quote(v.name)}" for v in instr.outputs)
    fn = getattr(instr.op, "fn", None) if instr.op.mnemonic == "map" else None
    return f"{results} = {fn or instr.op.mnemonic}" if results else instr.op.mnemonic


class Report:
    """Findings about one program, or about the graphs of a stage before it, whose sites count the graphs."""

    def __init__(self, of: Program | Sequence[Graph], locations: Locations | None) -> None:
        self.of, self.locations = of, locations
        self.found = Diagnostics(50)

    @property
    def failed(self) -> bool:
        return self.found.failed

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        return tuple(self.found)

    def error(self, code: str, site: Site | None, message: str, help: str | None = None) -> None:
        """Record an error at a place of the program (None: the program as a whole)."""
        span = self.locations.find(site) if self.locations is not None else None
        self.found.error(code, f"{self._where(site)}{message}", span, help=help)

    def _where(self, site: Site | None) -> str:
        if site is None or site.cls == HEAD:
            return ""
        if not isinstance(self.of, Program):
            return f"{self.of[site.cls].name}: "
        cls = self.of.classes[site.cls]
        stage = f"stage {', '.join(show_run(*r) for r in runs(cls.groups))}"
        if site.part != "fn":
            return f"{stage}: "
        f = cls.functions[site.index]
        return f"{stage}, {f.phase}{f'.{f.chunk}' if f.chunk else ''}: "
