"""From a file to a job, its program, and their texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Unpack

from dsl.data import dataclass
from parc.api.options import OURS, Entry, Options, Stage, is_program, is_stage, name_of, texts

if TYPE_CHECKING:
    from compiler.diff import ProgramDiff
    from compiler.driver import Compiled
    from compiler.evaluate import Check, CheckResult, Evaluation
    from compiler.evaluate.sizes import Sizes
    from compiler.model import Job, Training
    from compiler.passes.place.place import Placed
    from compiler.program import Program
    from dsl import ast
    from dsl.diagnostics import Diagnostic
    from parc.api.options import File
    from parc.by_hand import TriedByHand
    from parc.emitted import PassTiming

    Sized = Callable[[Sizes], Job]


@dataclass(frozen=True, slots=True)
class Checked:
    """What `check` found: warnings, and each job with what it lowers to."""

    warnings: tuple[Diagnostic, ...]
    jobs: tuple[Compiled, ...]
    by_hand: tuple[TriedByHand, ...] = ()
    """Implementations, each tried by itself."""


def evaluate(file: File, **options: Unpack[Options]) -> Evaluation:
    """Evaluate the job of a file: its model's graph, cluster and strategy, and the file's checks beside it.

    Args:
        file: the path of a `.par` file, or a `Source`.
        options: see `Options`.

    Raises:
        ParcError: for what is wrong with the file, or with what is said by the options.
    """
    return _evaluate(file, texts(options.get("params")), options.get("job"), options)


def _evaluate(file: File, overrides: Mapping[str, str], job: str | None, options: Options) -> Evaluation:
    from compiler.evaluate import evaluate_file
    from compiler.model import Precision

    precision = Precision("f64", "f64") if options.get("double") else None
    return evaluate_file(file, overrides, job, options.get("strategy"), precision=precision)


def check(file: File, *, told: Callable[[CheckResult], None] | None = None, **options: Unpack[Options]) -> Checked:
    """Check all but what running shows: every job (or only `job`) is evaluated, differentiated, placed and lowered.

    What it lowers to is verified, the schedule for hangs too, whether its data file is there, and the file's checks.

    Args:
        file: the path of a `.par` file, or a `Source`.
        told: hears of each of the file's checks, those that fail too.
        options: see `Options`.

    Raises:
        ParcError: with all that is wrong.
    """
    from compiler.cost.kernels.repeated import repeated_work
    from compiler.driver import compile_job
    from compiler.evaluate import checked
    from compiler.model import DECODING, EVALUATE
    from compiler.readers import paths
    from dsl.diagnostics import Diagnostics, ParcError
    from dsl.files import data_file

    overrides, job = texts(options.get("params")), options.get("job")
    found = Diagnostics()
    findings, evaluations = checked(file, overrides, job=job, strategy=options.get("strategy"))
    for diagnostic in findings:
        found.add(diagnostic)
    found.raise_if_any()
    names = (job,) if job else _job_names(file)
    jobs = []
    by_hand: list[TriedByHand] = []
    checks: tuple[Check, ...] = ()
    for name in names:
        try:
            evaluation = evaluations.get(name) or _evaluate(file, overrides, name, options)
            checks = evaluation.checks
            compiled = compile_job(evaluation.job)
            jobs.append(compiled)
            sized = sizes(file, {**options, "job": name})
            for diagnostic in (*_verified(compiled, sized), *repeated_work(compiled)):
                found.add(diagnostic)
            if evaluation.job.strategy.implementations:
                from parc.by_hand import tried_by_hand

                tried, findings = tried_by_hand(file, evaluation, {**options, "job": name})
                by_hand += tried
                for diagnostic in findings:
                    found.add(diagnostic)
            # A model of its own, that may be wrong by itself.
            if evaluation.job.evaluated is not None and compiled.training.trains:
                for diagnostic in _verified(compile_job(evaluation.job, EVALUATE), sized):
                    found.add(diagnostic)
            for entry in DECODING if evaluation.job.decoding is not None else ():
                for diagnostic in _verified(compile_job(evaluation.job, entry), sized):
                    found.add(diagnostic)
            data = compiled.job.data
            if data is not None:
                for path in paths(data):
                    data_file(path, data.folder, data.span)
        except ParcError as error:
            for diagnostic in error.diagnostics:
                found.add(diagnostic)
    found.raise_if_any()
    if checks:
        from parc.results import require

        require(checks, jobs, told)
    return Checked(tuple(found), tuple(jobs), tuple(by_hand))


def _verified(compiled: Compiled, sized: Sized | None = None) -> tuple[Diagnostic, ...]:
    """What the verifier finds in the lowered program, at the strategy in the `.par` file that it came from; of limits,
    which parameters the job is smaller with."""
    from dataclasses import replace

    from compiler.verify import verify
    from parc.smaller import told_smaller

    span, found = compiled.job.strategy.span, []
    for d in verify(compiled.program):
        d = replace(d, span=d.span or span)
        found.append(told_smaller(d, sized) if d.limit else replace(d, notes=(*d.notes, OURS)))
    return tuple(found)


def sizes(file: File, options: Options) -> Sized:
    """The job with other sizes than its file states."""
    from compiler.evaluate import evaluate_file
    from compiler.model import Precision

    params, precision = texts(options.get("params")), Precision("f64", "f64") if options.get("double") else None

    def evaluated(instead: Sizes) -> Job:
        job, strategy = options.get("job"), options.get("strategy")
        return evaluate_file(file, params, job, strategy, precision=precision, sizes=instead).job

    return evaluated


def compile(file: File, **options: Unpack[Options]) -> Compiled:
    """Compile a job: what each pass makes of it is `.job`, `.training`, `.placed`, `.program`. The last is verified.

    Args:
        file: the path of a `.par` file, or a `Source`.
        options: see `Options`.

    Raises:
        ParcError: for what is wrong, for a schedule that hangs too.
    """
    return compile_with(file, options)


def compile_with(file: File, options: Options, lists: bool = True) -> Compiled:
    """lists: gradients of tables may stay lists of rows."""
    from compiler.driver import compile_job

    compiled = compile_job(evaluate(file, **options).job, options.get("entry"), lists=lists)
    _refuse(compiled, sizes(file, options))
    warn(compiled.job, options, compiled)
    return compiled


def _refuse(compiled: Compiled, sized: Sized | None = None) -> None:
    from dsl.diagnostics import ParcError

    found = _verified(compiled, sized)
    if found:
        raise ParcError(*found)


def warn(job: Job, options: Options, compiled: Compiled | None = None) -> None:
    """Tell `options["warned"]`, if it is there, what `check` would warn of."""
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
    folder: str | None = None,
    **options: Unpack[Options],
) -> str:
    """Print a job as it is after a stage, or after a pass (`after:NAME`); later ones are not run.

    Args:
        file: a `.par` file, or such a text itself (`.graph`, `.training`, `.placed`, `.npu`): passes behind it are run.
        stage: one of `STAGES`, or `after:` and the name of a pass.
        timed: hears of each pass on the way to a program: its time in seconds, and the size of what it made.
        entries: those that the program is to have, in this order; before the last stage the first of them counts.
        folder: where the text is to lie, which says where its data is from there; None: where the data is.
        options: see `Options`.

    Raises:
        ParcError: for what is wrong.
        TypeError: for options that choose what the text of a stage has no choice of.
        ValueError: for a stage that is before that of the text.
    """
    if stage == "ast":
        from dsl.printer import dump

        return dump(_tree(file))
    if is_program(name_of(file)):
        from compiler.text import show

        if stage != "program":
            raise ValueError(f"{name_of(file)} is behind `{stage}`")
        return show(load_program(file, **options))
    from compiler.model import Job
    from compiler.text import show
    from parc.emitted import early, lowered

    first, *others = entries or (options.get("entry"),)
    given = _staged(file, options) if is_stage(name_of(file)) else evaluate(file, **options).job
    if stage == "program":
        compiled = lowered(given, first, timed)
        _refuse(compiled)
        warn(compiled.job, options, compiled)
        return show(joined_entries([compiled, *(lowered(given, entry) for entry in others)]))
    text = early(given, stage, first, folder)
    if isinstance(given, Job):
        warn(given, options)
    return text


def joined_entries(compiled: Sequence[Compiled]) -> Program:
    """One program of several entries of a job, if they go together.

    Raises ParcError, at the states' declarations."""
    from dataclasses import replace

    from compiler.driver import joined
    from compiler.text.locations import Locations, Site
    from compiler.verify import verify
    from dsl.diagnostics import ParcError

    program, job = joined([c.program for c in compiled]), compiled[0].job
    if len(program.entries) == 1:
        return program
    values = [*(w.value for w in job.model.weights), *(s.value for s in job.model.states)]
    declared = {v.name: v.span for v in values}
    classes = enumerate(cls for entry in program.entries for cls in entry.classes)
    states = ((Site(c, "state", i), s.logical) for c, cls in classes for i, s in enumerate(cls.states))
    found = verify(program, Locations({site: declared[name] for site, name in states if name in declared}))
    if found:
        raise ParcError(*(replace(d, span=d.span or job.strategy.span) for d in found))
    return program


def _staged(file: File, options: Options) -> Job | Training | Placed:
    from compiler.text.locations import Locations
    from compiler.text.stage_parser import parse_stage
    from compiler.verify import verify_stage
    from dsl.diagnostics import ParcError
    from dsl.files import load
    from dsl.source import Source

    given = [name for name in ("params", "job", "strategy", "double") if options.get(name)]
    if given:
        raise TypeError(f"{name_of(file)} is the text of one job: `{given[0]}` goes with the `.par` file")
    source = file if isinstance(file, Source) else load(file)
    locations = Locations()
    stage = parse_stage(source.text, source.name, os.path.dirname(source.path) if source.path else ".", locations)
    found = verify_stage(stage, locations)
    if found:
        raise ParcError(*found)
    return stage


def load_program(file: File, entries: Sequence[Entry] | None = (), **options: Unpack[Options]) -> Program:
    """Read the program of a `.npu` file and verify it, or lower a `.par` file (with the options of `compile`).

    Args:
        file: a path, or a `Source`.
        entries: of a `.npu`, those that are kept; None: all.
        options: see `Options`; of a `.npu` with several entries `entry` chooses one.

    Raises:
        ParcError: for what is wrong, for an entry that is not there too.
        TypeError: for options that choose what a `.npu` has no choice of.
    """
    from dataclasses import replace

    from compiler.text import parse_located
    from compiler.verify import verify
    from dsl.diagnostics import ParcError, fail
    from dsl.files import load
    from dsl.source import Source

    if not is_program(name_of(file)):
        return compile(file, **options).program
    given = [name for name in ("params", "job", "strategy", "double") if options.get(name)]
    if given:
        raise TypeError(f"{name_of(file)} is a lowered program: `{given[0]}` goes with the `.par` file")
    source = file if isinstance(file, Source) else load(file)
    program, locations = parse_located(source.text, source.name)
    found = verify(program, locations)
    if found:
        raise ParcError(*found)
    names = [e.name for e in program.entries]
    if entries is None:
        return program
    wanted = tuple(dict.fromkeys(entries)) or (options.get("entry") or names[0],)
    entry = next((e for e in wanted if e not in names), None)
    if entry is None:
        return replace(program, entries=tuple(program.only(e).entries[0] for e in wanted))
    help = f"it has {', '.join(names)}; `parc compile FILE --entry {names[0]} --entry {entry}` gives it both"
    raise fail("E0101", f"the program has no entry `{entry}`", help=help)


def diff(before: Program, after: Program) -> ProgramDiff:
    """Compare two programs: what changes in layouts, communication and memory (bytes). `str()` of it is for people."""
    from compiler.diff import diff

    return diff(before, after)


def diff_text(before: Program, after: Program, names: tuple[str, str] = ("before", "after")) -> str:
    """Compare the texts of two lowered programs: a unified diff, empty if they are the same.

    Args:
        names: what the two are called in its head.
    """
    from difflib import unified_diff

    from compiler.text import show

    old, new = (show(p).splitlines(keepends=True) for p in (before, after))
    return "".join(unified_diff(old, new, *names))


def fmt(text: str, name: str = "<text>") -> str:
    """Format a `.par` text: its canonical form.

    Args:
        name: what the text is called in errors.

    Raises:
        ParcError: if it does not parse.
    """
    from dsl.printer import format_source

    return format_source(text, name)


def _tree(file: File) -> ast.File:
    from dsl.files import load
    from dsl.parser import parse
    from dsl.source import Source

    source = file if isinstance(file, Source) else load(file)
    return parse(source.text, source.name)


def _job_names(file: File) -> tuple[str, ...]:
    from dsl import ast

    return tuple(item.name.id for item in _tree(file).items if isinstance(item, ast.Job))
