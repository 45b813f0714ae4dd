"""The text of a job after a stage, or after a pass, and how long the passes took."""

from __future__ import annotations

import time
from collections.abc import Callable

from compiler import driver
from compiler.driver import Compiled, run_passes
from compiler.graph import Graph
from compiler.model import Job, Training
from compiler.passes.pipeline import NAMES, PASSES, Pass, Work
from compiler.passes.place.place import Placed
from compiler.program import Program
from compiler.text import show
from compiler.text.stages import show_graph, show_stage
from compiler.walk import bodies
from dsl.data import dataclass
from dsl.diagnostics import ParcError


@dataclass(frozen=True, slots=True)
class PassTiming:
    """CPU seconds of a pass, and the nodes of what there is afterwards (those inside loops counted once)."""

    name: str
    seconds: float
    nodes: int


class Timer:
    """Tells of each pass that `compile_job(…, timer)` runs."""

    def __init__(self, timed: Callable[[PassTiming], None]) -> None:
        self._timed, self._since = timed, time.process_time()

    def __call__(self, step: Pass, work: Work) -> None:
        self.tell(step.name, step.made(work))

    def tell(self, name: str, made: tuple[Graph, ...] | Program) -> None:
        """What was done since; counting the nodes is no part of it."""
        self._timed(PassTiming(name, time.process_time() - self._since, _nodes(made)))
        self._since = time.process_time()


def _nodes(made: tuple[Graph, ...] | Program) -> int:
    if isinstance(made, Program):
        return sum(len(b.nodes) for c in made.classes for f in c.functions for b in bodies(f.body))
    return sum(len(b.nodes) for graph in made for b in bodies(graph))


def lowered(
    given: Job | Training | Placed, entry: str | None, timed: Callable[[PassTiming], None] | None = None
) -> Compiled:
    """All passes, for an entry or what the job is for. Raises ParcError."""
    return driver.compile_job(given, entry, Timer(timed) if timed is not None else None)


def early(given: Job | Training | Placed, stage: str, entry: str | None, folder: str | None) -> str:
    """`graph`, `training` or `placed`, and what is behind a pass: `after:NAME`. folder: where the text is to lie.
    Raises ParcError."""
    if stage == "graph" and isinstance(given, Job):
        return show_stage(given, folder)
    if stage == "placed":
        return show_stage(given if isinstance(given, Placed) else run_passes(given, "place", entry).placed, folder)
    if stage == "training" and not isinstance(given, Placed):
        try:
            return show_stage(run_passes(given, "place", entry).training, folder)
        except ParcError:  # there is a training graph all the same
            return show_stage(run_passes(given, "update", entry).training, folder)
    name = stage.removeprefix("after:")
    step = next((p for p in PASSES if p.name == name), None)
    behind = {Job: 0, Training: NAMES.index("place"), Placed: NAMES.index("stage")}[type(given)]
    if step is None or NAMES.index(name) < behind:
        raise ValueError(f"the text is behind `{stage}`")
    work = run_passes(given, name, entry)
    made = step.made(work)
    if isinstance(made, Program):
        return show(made)
    laid = any(v.layout is not None for g in made for v in g.outputs)
    return "\n".join(show_graph(g, "graph", work.placed.sizes if laid else {}) for g in made)
