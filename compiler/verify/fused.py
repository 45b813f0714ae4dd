"""Fused regions: neighbours that can be computed block by block, with nothing between them in memory."""

from __future__ import annotations

from compiler.graph import Graph
from compiler.in_place import renewed_of
from compiler.ops.call import Call
from compiler.ops.repeat import Repeat
from compiler.program import DeviceClass, Program
from compiler.regions.fused import readers, refused
from compiler.regions.region import Region, RegionKind
from compiler.text.locations import Site
from compiler.verify.report import Report, head

HELP = "take the instruction out of `fuse { … }`"


def check_fused(program: Program, report: Report) -> None:
    """All functions of all classes, whose values are known to be well-defined."""
    for c, cls in enumerate(program.classes):
        checker: _Checker | None = None
        for i, function in enumerate(cls.functions):
            if checker is None:
                checker = _Checker(cls, report)
            checker.body(function.body, Site(c, "fn", i))


class _Checker:
    def __init__(self, cls: DeviceClass, report: Report) -> None:
        self.report = report
        self.renewed = renewed_of(cls)
        self.called: set[int] = set()

    def body(self, body: Graph, site: Site) -> None:
        at: dict[str, int] = {}
        for i, node in enumerate(body.nodes):
            at.update((v.name, i) for v in node.outputs)
            if isinstance(node.op, Repeat):
                self.body(node.op.body, site.inner(i))
            elif isinstance(node.op, Call) and id(node.op.body) not in self.called:
                self.called.add(id(node.op.body))
                self.body(node.op.body, site.inner(i))
        fused = [r for r in body.regions if r.kind is RegionKind.FUSED]
        last = readers(body) if fused else {}
        for region in fused:
            self.region(region, body, at, last, site)

    def region(self, region: Region, body: Graph, at: dict[str, int], last: dict[str, int], site: Site) -> None:
        places = [at.get(name, -1) for name in region.values]
        first = max(0, *places[:1])
        if places != list(range(first, first + len(places))):
            self.report.error("E0652", site, "a fused region is made of neighbouring instructions", HELP)
            return
        nodes = body.nodes[first : first + len(places)]
        which, why = refused(nodes, self.renewed, {v for v in region.values if last.get(v, -1) > places[-1]})
        if which is not None:
            message = f"{head(nodes[which])} cannot be in a fused region: {why}"
            self.report.error("E0652", site.inner(first + which), message, HELP)
        elif why:
            self.report.error("E0652", site.inner(first), f"a fused region that is none: {why}", HELP)
