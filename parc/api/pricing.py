"""What a step costs on a cluster: time, memory, and pages that show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Unpack

from parc.api.compiling import compile
from parc.api.options import Options, texts

if TYPE_CHECKING:
    from compiler.cost.time.slow import Variation
    from compiler.driver import Compiled
    from compiler.model import Device, Job
    from parc.api.options import File
    from parc.estimate import Estimate
    from parc.price import Price
    from parc.remedies import Remedies
    from parc.report.trace import Detail, Trace
    from parc.serving_load import RequestLoad, ServingPrice
    from parc.sweeping import SweptCase


def cost(file: File, *, variation: Variation | None = None, **options: Unpack[Options]) -> Estimate:
    """Estimate how long a step of a job takes on its cluster (seconds), and its memory (bytes per device).

    Args:
        file: the path of a `.par` file, or a `Source`.
        variation: devices and links that are slower than the cluster says.
        options: see `Options`.

    Raises:
        ParcError: for what is wrong; E0801 without a cluster.
    """
    return estimate(compile(file, **options), variation)


def estimate(compiled: Compiled, variation: Variation | None = None) -> Estimate:
    """Estimate, as `cost` does, what is compiled already. Raises ParcError (E0801 without a cluster)."""
    from parc.estimate import estimate

    return estimate(compiled, variation)


def serving_price(compiled: Compiled, load: RequestLoad) -> ServingPrice:
    """Play a load of requests through a job that decodes, as `serve` has it, on the clock of the cost model.

    Raises:
        ParcError: E0782 to E0784 for jobs and loads; E0801 without a cluster.
    """
    from parc.serving_load import serving_price

    return serving_price(compiled, load)


def price(job: Job) -> Price:
    """Price an evaluated job, perhaps with another strategy: seconds of a step, bytes of device memory, as `cost` says.

    For those who compare many: the program is not verified, as `compile` and all that runs one do.

    Raises:
        ParcError: for what cannot be lowered; E0801 without a cluster.
    """
    from parc.price import price

    return price(job)


def sweep(
    file: File, axes: Mapping[str, Sequence[object]], *, job: str | None = None, strategy: str | None = None
) -> tuple[SweptCase, ...]:
    """Price a job for all combinations of values of its parameters, the last parameter's changing first.

    Args:
        file: the path of a `.par` file, or a `Source`.
        axes: the values of each parameter.
        job: which one, where the file has several.
        strategy: in place of the job's own.

    Raises:
        ParcError: for what is wrong with all of them alike.
    """
    from dsl.files import load
    from dsl.source import Source
    from parc.sweeping import sweep

    source = file if isinstance(file, Source) else load(file)
    return sweep(
        source, {name: tuple(texts({"": v})[""] for v in values) for name, values in axes.items()}, job, strategy
    )


def devices() -> tuple[Device, ...]:
    """List the devices of the standard library; `compiler.cost.price.fitted` says what their numbers were fitted on."""
    from compiler.evaluate.library import standard_devices

    return standard_devices()


def trace(compiled: Compiled, detail: Detail = "some", variation: Variation | None = None) -> Trace:
    """Trace what runs when in a step, as Chrome trace events: `.as_json()`.

    Args:
        detail: whether `all` activations, `some` or `none` show the kernels and messages inside; those that a slow
            device takes part in never do.
        variation: devices and links that are slower than the cluster says.

    Raises:
        ParcError: E0801 without a cluster; E0931 for more actions than can be drawn, E0910 for too little memory here.
    """
    from compiler.cost.memory.systems import Systems
    from compiler.cost.time.simulate import Simulation
    from compiler.memory.occupancy import occupancy
    from parc.machine import require_drawn
    from parc.report.memory import held
    from parc.report.trace import Trace

    require_drawn(compiled)
    simulation = Simulation.of(compiled)
    pieces = simulation.record(variation=variation) if detail != "none" else {}
    timeline = simulation.run(None, variation)
    memory = held(timeline, occupancy(compiled.program, Systems(compiled, simulation.features).memory))
    return Trace(timeline, compiled.job.name, pieces, detail, memory)


def report(estimate: Estimate, command: str = "", strategy: str = "") -> str:
    """Write an estimate as a page of HTML.

    Args:
        command: the line that made it, to be shown.
        strategy: the source text of the strategy, to be shown.

    Raises:
        ParcError: E0931 for more actions than can be drawn, E0910 for too little memory here.
    """
    from compiler.cost.time.simulate import Simulation
    from compiler.memory.occupancy import occupancy
    from parc.machine import require_drawn
    from parc.report.inside import UNROLLED
    from parc.report.page import page

    require_drawn(estimate.compiled)
    pieces = Simulation.of(estimate.compiled).record(UNROLLED, estimate.variation)
    held = occupancy(estimate.compiled.program, estimate.systems.memory)
    return page(estimate, held, pieces, command, strategy)


def report_compared(estimates: Sequence[tuple[str, Estimate, str]], command: str = "") -> str:
    """Write several estimates as one page of HTML, the others held against the first.

    Args:
        estimates: of each its name, the estimate, and the source text of its strategy; two at least.
        command: the line that made the page, to be shown.

    Raises:
        ParcError: E0931 for more actions than can be drawn, E0910 for too little memory here.
    """
    from compiler.memory.occupancy import occupancy
    from parc.machine import require_drawn
    from parc.report.compared import ComparedStep, compared

    for _, e, _ in estimates:
        require_drawn(e.compiled)
    return compared(
        [ComparedStep(name, e, occupancy(e.compiled.program, e.systems.memory), text) for name, e, text in estimates],
        command,
    )


def remedies(compiled: Compiled) -> Remedies | None:
    """Find changes of the strategy with which a job fits in the memories of its cluster, the fastest step first.

    They are compiled and simulated: some 8 s at most. None if it fits, or has no cluster.
    """
    from parc.memory import capacities, of_stack
    from parc.remedies import remedies

    there = capacities(compiled.job)
    if not there or of_stack(compiled).fit(there):
        return None
    return remedies(compiled, there)
