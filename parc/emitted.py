"""The text of a job after one of the earlier stages: its graphs, one behind the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.driver import GRAPHS, prepare
from compiler.show import show_graph
from compiler.text.printer import show_type
from dsl.diagnostics import ParcError

if TYPE_CHECKING:
    from compiler.graph import Value
    from compiler.model import Job
    from compiler.passes.place.place import Placed
    from parc.api import Stage


def early(job: Job, stage: Stage, entry: str) -> str:
    """Of `graph`, `training` or `placed`. Raises ParcError."""
    if stage == "graph":
        return str(job.model_of(entry).graph)
    if stage == "placed":
        return _show_placed(prepare(job, entry)[1])
    try:
        graphs = prepare(job, entry)[1].training
    except ParcError:  # there is a training graph all the same
        graphs = GRAPHS[entry](job)
    end = [graphs.finish.graph] if graphs.finish is not None else []
    back, update = ([graphs.backward], [graphs.update]) if graphs.trains else ([], [])
    every = [*(r.graph for r in graphs.rounds), graphs.forward, *back, *end, *update]
    return "\n".join(map(str, every))


def _show_placed(placed: Placed) -> str:
    """The graphs with the layout of each value in its type."""

    def shown(v: Value) -> str:
        return f"%{v.name}: {show_type(v.type, placed.layouts[v.name], placed.sizes)}"

    before = [graph for r in placed.rounds for graph in (r.batch, r.settle)]
    end = [placed.finish] if placed.finish is not None else []
    back, update = ([placed.backward], [placed.update]) if placed.training.trains else ([], [])
    every = [*before, placed.forward, *back, *end, *update]
    return "\n".join(show_graph(graph, shown) for graph in every)
