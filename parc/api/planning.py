"""Strategies that are found."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Unpack

from parc.api.options import Options, texts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from parc.api.options import File
    from parc.certifying.check import Certified
    from parc.planning.answer import FoundPlan
    from parc.planning.compared import ComparedPlans
    from parc.planning.filled_answer import FilledPlan
    from parc.planning.found import Counts, PricedPlan

Minimised = Literal["step", "memory", "days", "device-time"]


def plan(
    file: File,
    *,
    devices: int | None = None,
    minimise: Minimised = "step",
    within: float | None = 10.0,
    keep: int = 5,
    told: Callable[[PricedPlan, Counts], None] | None = None,
    processes: int = 1,
    without: Sequence[str] = (),
    **options: Unpack[Options],
) -> FoundPlan | FilledPlan:
    """Search the strategies of a job on its cluster for the best: `.text` is the file with it.

    Where the file leaves numbers open (`auto`), these alone are searched: all else is kept as it is written.

    Args:
        file: the path of a `.par` file, or a `Source`.
        devices: of the cluster, in the place of as many as it has.
        minimise: the time of a step, or the memory of the fullest device; days, and the time of all devices, are steps.
        within: seconds that the search may take; None: until it is done.
        keep: so many of the best are told of.
        told: hears of each better plan, as it is found.
        processes: among so many the search is shared out; numbers that are left open are searched in one.
        without: what no strategy is to have, such as `zero_bubble`, `zero=3`, `tp>8`.
        options: see `Options`; where the job's strategy has no `auto`, the search begins at what is most like it.

    Raises:
        ParcError: for what is wrong with the file; E0801 without a cluster, E0951 if nothing that fits was found,
            E0803 for what cannot be left out.
    """
    from dsl.files import load
    from dsl.source import Source
    from parc.planning.answer import planned_file
    from parc.planning.holes import has_holes
    from parc.planning.left_out import left_out, refuse_open

    out = left_out(without)
    source = file if isinstance(file, Source) else load(file)
    params = texts(options.get("params"))
    search = "memory" if minimise == "memory" else "step"
    job, strategy = options.get("job"), options.get("strategy")
    if has_holes(source, job, strategy, params):
        refuse_open(out)
        from parc.planning.filled_answer import filled_file

        return filled_file(source, params, job, strategy, devices, search, within, keep)
    how = search, within, keep, told
    return planned_file(source, params, job, strategy, devices, *how, processes=processes, without=out)


def plan_cases(
    file: File,
    *,
    devices: Sequence[int] = (),
    free: Mapping[str, Sequence[object]] | None = None,
    minimise: Minimised = "step",
    within: float | None = 10.0,
    keep: int = 5,
    told: Callable[[PricedPlan, Counts], None] | None = None,
    processes: int = 1,
    without: Sequence[str] = (),
    **options: Unpack[Options],
) -> ComparedPlans:
    """Search for each number of devices and each value of parameters, such as the batch, and compare what was found.

    Args:
        file: the path of a `.par` file, or a `Source`.
        devices: of the cluster, in the place of as many as it has.
        free: by parameter the values that are tried.
        minimise: the time of a token (of a sample, where there are no tokens), that times the devices, or memory.
        within: seconds that all searches may take together; None: until they are done.
        keep: so many of the best of each are told of.
        told: hears of each better plan, as it is found.
        processes: among so many the search is shared out; numbers that are left open are searched in one.
        without: what no strategy is to have, such as `zero_bubble`, `zero=3`, `tp>8`.
        options: see `Options`.

    Raises:
        ParcError: for what is wrong with the file, or with all cases; E0134 for more cases than are searched; E0803 for
            what cannot be left out.
    """
    from dsl.files import load
    from dsl.source import Source
    from parc.planning.cases import free_values, planned_cases
    from parc.planning.left_out import left_out

    out = left_out(without)
    source = file if isinstance(file, Source) else load(file)
    params = texts(options.get("params"))
    job, strategy = options.get("job"), options.get("strategy")
    lists = {name: tuple(texts({name: v})[name] for v in values) for name, values in (free or {}).items()}
    values = free_values(source, params, job, strategy, devices, lists)
    return planned_cases(source, values, job, strategy, minimise, within, keep, told, processes, out)


def plan_report(
    found: FoundPlan | FilledPlan | ComparedPlans, *, tokens: float | None = None, command: str = ""
) -> str:
    """Write what a search found as one page of HTML: time against memory, the best beside each other, and why.

    Args:
        found: what `plan` or `plan_cases` returned; of several cases the page is of the best, and compares all.
        tokens: that are to be trained: how many days they take is told.
        command: the line that made the page, to be shown.
    """
    from parc.report.plan_page import plan_page

    return plan_page(found, tokens, command)


def certify(file: File, certificate: object, *, job: str | None = None) -> Certified:
    """Hold a certificate to the file with the plan: count its space, make every bound and every price again.

    Args:
        file: the path of the `.par` file that `parc plan` wrote, or a `Source`.
        certificate: as JSON has it.
        job: its name, to be sure that it is of this one.

    Raises:
        Unfounded: for what the certificate says that is not so, of this file.
    """
    from dsl.files import load
    from dsl.source import Source
    from parc.certifying.check import certified

    return certified(file if isinstance(file, Source) else load(file), certificate, job)
