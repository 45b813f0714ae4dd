"""The functions behind the commands. Importing this costs nothing: each loads what it needs when it is called."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack, get_args

if TYPE_CHECKING:
    from compiler.cost.time.slow import Variation
    from compiler.diff import ProgramDiff
    from compiler.driver import Compiled
    from compiler.evaluate import Check, CheckResult, Evaluation
    from compiler.evaluate.sizes import Sizes
    from compiler.explain import Explanation
    from compiler.model import Device, Job, Training
    from compiler.passes.place.place import Placed
    from compiler.program import Program
    from dsl import ast
    from dsl.codes import Code
    from dsl.diagnostics import Diagnostic
    from dsl.source import Source
    from parc.emitted import PassTiming
    from parc.estimate import Estimate
    from parc.price import Price
    from parc.remedies import Remedies
    from parc.report.trace import Detail, Trace
    from parc.small import Small
    from parc.training import Progress, RunResult
    from runtime.prove import Proof

    File = str | os.PathLike[str] | Source
    """A path, or a text that was read already."""

Stage = Literal["ast", "graph", "training", "placed", "program"]
Executor = Literal["stacked", "private"]
EXECUTORS: tuple[Executor, ...] = get_args(Executor)
STAGES: tuple[Stage, ...] = get_args(Stage)
Entry = Literal["train_step", "evaluate"]
ENTRIES: tuple[Entry, ...] = get_args(Entry)
System = Literal["torch"]
SYSTEMS: tuple[System, ...] = get_args(System)
OURS = ("parc lowered the strategy to a program that is not legal: please report it", None)
"""The note of diagnostics that are not the user's fault."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What `check` found: warnings, and each job with what it lowers to."""

    warnings: tuple[Diagnostic, ...]
    jobs: tuple[Compiled, ...]


class Options(TypedDict, total=False):
    """Keyword arguments of most functions here.

    `params` override the file's `param`s, `job` chooses one where there are several, `strategy` replaces the job's own,
    `double` its precision by float64. `warned` hears of what `check` warns of, once the job has no errors. `entry` is
    what the program is asked to do, `train_step` (if left out) or `evaluate`.
    """

    params: Mapping[str, object]
    job: str | None
    strategy: str | None
    double: bool
    warned: Callable[[Diagnostic], None]
    entry: Entry


def evaluate(file: File, **options: Unpack[Options]) -> Evaluation:
    """The job of a file with its model's graph, and what stands beside it. Raises `ParcError`."""
    return _evaluate(file, _texts(options.get("params")), options.get("job"), options)


def _evaluate(file: File, overrides: Mapping[str, str], job: str | None, options: Options) -> Evaluation:
    from compiler.evaluate import evaluate_file
    from compiler.model import Precision

    precision = Precision("f64", "f64") if options.get("double") else None
    return evaluate_file(file, overrides, job, options.get("strategy"), precision=precision)


def check(file: File, *, told: Callable[[CheckResult], None] | None = None, **options: Unpack[Options]) -> Checked:
    """Everything but running: every job (or only `job`) is evaluated, differentiated, placed and lowered.

    What it lowers to is verified, the schedule for hangs too, whether its data file is there, and the file's checks,
    which `told` hears of, those that fail too. Raises `ParcError` with all that is wrong.
    """
    from compiler.cost.kernels.repeated import repeated_work
    from compiler.driver import compile_job
    from compiler.evaluate import check_file
    from compiler.model import EVALUATE
    from dsl.diagnostics import Diagnostics, ParcError
    from dsl.files import data_file

    overrides, job = _texts(options.get("params")), options.get("job")
    found = Diagnostics()
    for diagnostic in check_file(file, overrides, job=job, strategy=options.get("strategy")):
        found.add(diagnostic)
    found.raise_if_any()
    names = (job,) if job else _job_names(file)
    jobs = []
    checks: tuple[Check, ...] = ()
    for name in names:
        try:
            evaluation = _evaluate(file, overrides, name, options)
            checks = evaluation.checks
            compiled = compile_job(evaluation.job)
            jobs.append(compiled)
            for diagnostic in (*_verified(compiled), *repeated_work(compiled)):
                found.add(diagnostic)
            if evaluation.job.evaluated is not None:  # a model of its own, that may be wrong by itself
                for diagnostic in _verified(compile_job(evaluation.job, EVALUATE)):
                    found.add(diagnostic)
            data = compiled.job.data
            if data is not None and data.path is not None:
                data_file(data.path, data.folder, data.span)
        except ParcError as error:
            for diagnostic in error.diagnostics:
                found.add(diagnostic)
    found.raise_if_any()
    if checks:
        from parc.results import require

        require(checks, jobs, told)
    return Checked(tuple(found), tuple(jobs))


def _verified(compiled: Compiled) -> tuple[Diagnostic, ...]:
    """What the verifier finds in the lowered program, at the strategy in the `.par` file that it came from."""
    from dataclasses import replace

    from compiler.verify import verify

    span = compiled.job.strategy.span
    return tuple(replace(d, span=d.span or span, notes=(*d.notes, OURS)) for d in verify(compiled.program))


def compile(file: File, **options: Unpack[Options]) -> Compiled:
    """What each pass makes of a job: `.job`, `.training`, `.placed`, `.program`; the last is verified.

    Raises `ParcError`, for a schedule that hangs too.
    """
    from compiler.driver import compile_job

    compiled = compile_job(evaluate(file, **options).job, options.get("entry", "train_step"))
    _refuse(compiled)
    _warn(compiled.job, options, compiled)
    return compiled


def _refuse(compiled: Compiled) -> None:
    from dsl.diagnostics import ParcError

    found = _verified(compiled)
    if found:
        raise ParcError(*found)


def _warn(job: Job, options: Options, compiled: Compiled | None = None) -> None:
    from compiler.cost.kernels.repeated import repeated_work
    from compiler.evaluate.axes import idle_axes
    from compiler.evaluate.software import foreign_stack

    if warned := options.get("warned"):
        for warning in (
            *foreign_stack(job.cluster),
            *idle_axes(job.strategy),
            *(repeated_work(compiled) if compiled is not None and compiled.training.trains else ()),
        ):
            warned(warning)


def emit(
    file: File,
    stage: Stage | str = "program",
    timed: Callable[[PassTiming], None] | None = None,
    *,
    entries: Sequence[Entry] = (),
    **options: Unpack[Options],
) -> str:
    """The text of a job after a stage, or after a pass (`after:NAME`); later ones are not run.

    entries: those that the program is to have, in this order; before the last stage the first of them.
    The file may be such a text itself (`.graph`, `.training`, `.placed`, `.npu`): the passes behind it are run. `timed`
    hears of each pass on the way to a program. Raises `ParcError`; TypeError for options that choose what the text of a
    stage has no choice of, ValueError for a stage that is before it.
    """
    if stage == "ast":
        from dsl.printer import dump

        return dump(_tree(file))
    if is_program(_name(file)):
        from compiler.text import show

        if stage != "program":
            raise ValueError(f"{_name(file)} is behind `{stage}`")
        return show(load_program(file, **options))
    from compiler.driver import joined
    from compiler.model import Job
    from compiler.text import show
    from parc.emitted import early, lowered

    first, *others = entries or (options.get("entry", "train_step"),)
    given = _staged(file, options) if is_stage(_name(file)) else evaluate(file, **options).job
    if stage == "program":
        compiled = lowered(given, first, timed)
        _refuse(compiled)
        _warn(compiled.job, options, compiled)
        return show(_legal(joined([compiled.program, *(lowered(given, entry).program for entry in others)])))
    text = early(given, stage, first)
    if isinstance(given, Job):
        _warn(given, options)
    return text


def _legal(program: Program) -> Program:
    """A program of several entries, if they go together. Raises ParcError."""
    from compiler.verify import verify
    from dsl.diagnostics import ParcError

    found = verify(program) if len(program.entries) > 1 else ()
    if found:
        raise ParcError(*found)
    return program


def _staged(file: File, options: Options) -> Job | Training | Placed:
    from compiler.text.stage_parser import parse_stage
    from dsl.files import load
    from dsl.source import Source

    given = [name for name in ("params", "job", "strategy", "double") if options.get(name)]
    if given:
        raise TypeError(f"{_name(file)} is the text of one job: `{given[0]}` goes with the `.par` file")
    source = file if isinstance(file, Source) else load(file)
    return parse_stage(source.text, source.name)


def export(file: File, system: System = "torch", **options: Unpack[Options]) -> str:
    """The program of a `.par` or `.npu` file, written for another system: `torch`, a file that needs PyTorch alone.

    Raises `ParcError`; ValueError for a system that there is none of; TypeError as `load_program`.
    """
    from compiler.export.torch.file import export_torch

    if system not in SYSTEMS:
        raise ValueError(f"there is no system `{system}` to export to: {', '.join(SYSTEMS)}")
    return export_torch(load_program(file, **options))


def load_program(file: File, **options: Unpack[Options]) -> Program:
    """The program of a `.npu` file, verified, or of a `.par` file after lowering (with the options of `compile`).

    Raises TypeError for options that choose what a `.npu` has no choice of.
    """
    from compiler.text import parse_located
    from compiler.verify import verify
    from dsl.diagnostics import ParcError, fail
    from dsl.files import load
    from dsl.source import Source

    if not is_program(_name(file)):
        return compile(file, **options).program
    given = [name for name in ("params", "job", "strategy", "double") if options.get(name)]
    if given:
        raise TypeError(f"{_name(file)} is a lowered program: `{given[0]}` goes with the `.par` file")
    source = file if isinstance(file, Source) else load(file)
    program, locations = parse_located(source.text, source.name)
    found = verify(program, locations)
    if found:
        raise ParcError(*found)
    names = [e.name for e in program.entries]
    entry = options.get("entry")
    if entry is None or entry in names:
        return program.only(entry or names[0])
    help = f"it has {', '.join(names)}; `parc compile FILE --entry {names[0]} --entry {entry}` gives it both"
    raise fail("E0101", f"the program has no entry `{entry}`", help=help)


def is_stage(name: str) -> bool:
    """Whether a file of this name holds the text of a job after one of the stages before the program."""
    return name.endswith((".graph", ".training", ".placed"))


def is_program(name: str) -> bool:
    """Whether a file of this name holds a lowered program."""
    return name.endswith(".npu")


def diff(before: Program, after: Program) -> ProgramDiff:
    """What changes in layouts, communication and memory; `str()` of it is for people."""
    from compiler.diff import diff

    return diff(before, after)


def diff_text(before: Program, after: Program, names: tuple[str, str] = ("before", "after")) -> str:
    """A unified diff of the text of two lowered programs; empty if they are the same."""
    from difflib import unified_diff

    from compiler.text import show

    old, new = (show(p).splitlines(keepends=True) for p in (before, after))
    return "".join(unified_diff(old, new, *names))


def fmt(text: str, name: str = "<text>") -> str:
    """The canonical form of a `.par` text. Raises `ParcError` if it does not parse."""
    from dsl.printer import format_source

    return format_source(text, name)


def run(
    file: File,
    steps: int = 20,
    *,
    progress: Callable[[Progress], None] | None = None,
    told: Callable[[Diagnostic], None] | None = None,
    **options: Unpack[Options],
) -> RunResult:
    """Train a `.par` file, or a lowered `.npu`, on emulated devices; or evaluate as many batches (`entry="evaluate"`).
    Raises `ParcError`.

    `progress` hears of each step, `told` of an error before what helps is looked for, where that takes seconds. A job
    with a cluster says what a step takes there, by the cost model.
    """
    from parc.training import run

    if is_program(_name(file)):
        return run(load_program(file, **options), steps, progress=progress)
    from parc.machine import require_machine

    compiled = compile(file, **options)
    require_machine(compiled, _sized(file, options), "stacked", proof=False)
    simulated = None
    if compiled.job.cluster is not None:
        from compiler.cost.time.simulate import Simulation

        simulated = compiled.job.cluster.device.name, Simulation.of(compiled).seconds()
    from parc.memory import capacities
    from parc.room import require_room

    if compiled.training.trains:
        require_room(compiled, told=told)
    return run(compiled.program, steps, compiled.job.data, capacities(compiled.job), progress, simulated)


def verify(
    file: File,
    steps: int = 2,
    *,
    tolerance: float | None = None,
    exact: bool = False,
    executor: Executor = "stacked",
    at_step: int = 0,
    small: Small | None = None,
    told: Callable[[Diagnostic], None] | None = None,
    **options: Unpack[Options],
) -> Proof:
    """Run the lowered and the serial program and compare loss, gradients, weights and optimizer state: `.ok`.

    `tolerance` replaces what rounding explains; `exact` takes whole numbers and compares to the bit, which fits linear
    models; `executor`: all devices as one array, or each by itself with messages between them; `at_step`: how many
    updates went before, as far as counters of steps know; `small`: what `shrink` made of the job, to be proved in its
    place. With `entry="evaluate"` it is loss, metrics and outputs that are compared. `.blind` and `.unreached` say what
    was not compared, and `.vacuous` why equality says nothing, if it does. Raises `ParcError`, as `run` does for a job
    that its devices have no memory for.
    """
    from compiler.driver import compile_job
    from parc.machine import require_machine
    from parc.room import require_room
    from runtime.data import open_data
    from runtime.prove import prove, prove_evaluation
    from runtime.rank.executor import RankExecutor
    from runtime.stacked import Emulator

    if small is None:
        compiled = compile(file, **options)
        require_machine(compiled, _sized(file, options), executor, proof=True)
        own: Options = {**options, "double": False}
        if compiled.training.trains:
            require_room(compiled, (lambda: compile(file, **own)) if options.get("double") else None, told)
    else:
        compiled = small.compiled
        if (entry := options.get("entry", compiled.training.entry)) != compiled.training.entry:
            compiled = compile_job(compiled.job, entry)
        require_machine(compiled, _sized(file, options), executor, proof=True)
    program = compiled.program
    reader = open_data(None if exact else compiled.job.data, program.inputs)
    return (prove if compiled.training.trains else prove_evaluation)(
        compiled.training,
        program,
        steps,
        None if exact else lambda step: reader.batch(program.seed, step),
        tolerance=tolerance,
        exact=exact,
        executor=RankExecutor if executor == "private" else Emulator,
        first=at_step,
    )


def shrink(file: File, **options: Unpack[Options]) -> Small:
    """The job in the smallest sizes in which its strategy is the same, for `verify`. Raises `ParcError`."""
    from parc.small import small

    _warn(evaluate(file, **options).job, options)
    return small(_sized(file, options))


def _sized(file: File, options: Options) -> Callable[[Sizes], Job]:
    """The job with other sizes than its file states."""
    from compiler.evaluate import evaluate_file
    from compiler.model import Precision

    params, precision = _texts(options.get("params")), Precision("f64", "f64") if options.get("double") else None

    def evaluated(sizes: Sizes) -> Job:
        found = evaluate_file(
            file, params, options.get("job"), options.get("strategy"), precision=precision, sizes=sizes
        )
        return found.job

    return evaluated


def cost(file: File, *, variation: Variation | None = None, **options: Unpack[Options]) -> Estimate:
    """How long a step of a job takes on its cluster, and its memory. Raises `ParcError` (E0801 without a cluster)."""
    return estimate(compile(file, **options), variation)


def estimate(compiled: Compiled, variation: Variation | None = None) -> Estimate:
    """`cost` of what is compiled already. Raises `ParcError`."""
    from parc.estimate import estimate

    return estimate(compiled, variation)


def price(job: Job) -> Price:
    """Seconds of a step and bytes of device memory of an evaluated job, perhaps with another strategy: what `cost` says
    of it, and nothing else. The program is not verified, which `compile` and all that runs one do. Raises `ParcError`.
    """
    from parc.price import price

    return price(job)


def devices() -> tuple[Device, ...]:
    """The devices of the standard library; `compiler.cost.price.fitted` says what their numbers were fitted on."""
    from compiler.evaluate.library import standard_devices

    return standard_devices()


def trace(compiled: Compiled, detail: Detail = "some", variation: Variation | None = None) -> Trace:
    """What runs when in a step, as Chrome trace events: `.as_json()`. Raises `ParcError` (E0801 without a cluster).

    detail: whether `all` activations, `some` or `none` show the kernels and messages inside; those that a slow device
    takes part in never do.
    """
    from compiler.cost.memory.systems import Systems
    from compiler.cost.time.simulate import Simulation
    from compiler.memory.occupancy import occupancy
    from parc.report.memory import held
    from parc.report.trace import Trace

    simulation = Simulation.of(compiled)
    pieces = simulation.record(variation=variation) if detail != "none" else {}
    timeline = simulation.run(None, variation)
    memory = held(timeline, occupancy(compiled.program, Systems(compiled, simulation.features).memory))
    return Trace(timeline, compiled.job.name, pieces, detail, memory)


def report(estimate: Estimate, command: str = "", strategy: str = "") -> str:
    """An estimate as a page of HTML. command: the line that made it; strategy: its source text, to be shown."""
    from compiler.cost.time.simulate import Simulation
    from compiler.memory.occupancy import occupancy
    from parc.report.inside import UNROLLED
    from parc.report.page import page

    pieces = Simulation.of(estimate.compiled).record(UNROLLED, estimate.variation)
    held = occupancy(estimate.compiled.program, estimate.systems.memory)
    return page(estimate, held, pieces, command, strategy)


def remedies(compiled: Compiled) -> Remedies | None:
    """Changes of the strategy with which a job fits in the memories of its cluster, the fastest first.

    They are compiled and simulated: up to 10 s. None if it fits, or has no cluster.
    """
    from parc.memory import capacities, of_stack
    from parc.remedies import remedies

    there = capacities(compiled.job)
    if not there or of_stack(compiled).fit(there):
        return None
    return remedies(compiled, there)


def explain_tensor(file: File, tensor: str, **options: Unpack[Options]) -> Explanation:
    """Why a tensor has its layout and what is sent for it. Raises `ParcError`, for an unknown tensor too."""
    from compiler.driver import compile_job
    from compiler.explain import explain_tensor

    compiled = compile_job(evaluate(file, **options).job)
    _warn(compiled.job, options)
    return explain_tensor(compiled.placed, compiled.staged, compiled.program, tensor)


def explain(code: str) -> Code:
    """What an error code means. Raises KeyError if there is none."""
    from dsl.codes import CODES

    return CODES[code.upper()]


def _name(file: File) -> str:
    from dsl.source import Source

    return file.name if isinstance(file, Source) else os.fspath(file)


def _texts(params: Mapping[str, object] | None) -> dict[str, str]:
    """Values as they would be written behind `-D name=`."""
    return {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in (params or {}).items()}


def _tree(file: File) -> ast.File:
    from dsl.files import load
    from dsl.parser import parse
    from dsl.source import Source

    source = file if isinstance(file, Source) else load(file)
    return parse(source.text, source.name)


def _job_names(file: File) -> tuple[str, ...]:
    from dsl import ast

    return tuple(item.name.id for item in _tree(file).items if isinstance(item, ast.Job))
