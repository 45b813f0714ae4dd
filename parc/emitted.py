"""The text of a job after one of the earlier stages: its graphs, one behind the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.driver import run_passes
from compiler.show import show_graph
from compiler.text.printer import show_type
from dsl.diagnostics import ParcError

if TYPE_CHECKING:
    from compiler.graph import Value
    from compiler.model import Job
    from compiler.passes.place.place import Placed
    from parc.api import Stage


def early(job: Job, stage: Stage) -> str:
    """Of `graph`, `training` or `placed`. Raises ParcError."""
    if stage == "graph":
        return str(job.model.graph)
    if stage == "placed":
        return _show_placed(run_passes(job, "place").placed)
    try:
        graphs = run_passes(job, "place").training
    except ParcError:  # there is a training graph all the same
        graphs = run_passes(job, "update").training
    return "\n".join(map(str, graphs.graphs))


def _show_placed(placed: Placed) -> str:
    """The graphs with the layout of each value in its type."""

    def shown(v: Value) -> str:
        return f"%{v.name}: {show_type(v.type, v.layout, placed.sizes)}"

    return "\n".join(show_graph(graph, shown) for graph in placed.graphs)
