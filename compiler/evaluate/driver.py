"""Evaluation of a file: everything that it says about one job, or all errors in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from compiler.evaluate.checks import Check, check_statics
from compiler.evaluate.index import index_model
from compiler.evaluate.job import build_job, job_names
from compiler.evaluate.modules import Loader, Module, apply_overrides
from compiler.evaluate.plan import build_strategy
from compiler.evaluate.session import Session, listed
from compiler.evaluate.sizes import Sizes
from compiler.evaluate.values import Defined, Skip, Static
from compiler.model import Job, Precision
from dsl import ast
from dsl.data import dataclass
from dsl.diagnostics import Diagnostic, ParcError, did_you_mean, fail
from dsl.files import load, project_root
from dsl.source import Source, Span

Path = str | os.PathLike[str]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A job and what stands beside it in its file.

    jobs: names of all jobs of the file. checks: those that need the job's costs. params: values, overrides included.
    sources: the texts that spans point into, by name.
    """

    job: Job
    jobs: tuple[str, ...]
    checks: tuple[Check, ...]
    params: dict[str, Static]
    sources: dict[str, Source]


def evaluate(
    path: Path | Source,
    overrides: Mapping[str, str] | None = None,
    job: str | None = None,
    strategy: str | None = None,
    root: Path | None = None,
) -> Job:
    """The job of a `.par` file. `job` chooses one, `strategy` replaces its strategy, `root` bounds what `use` reads.

    Raises `ParcError` with all errors found.
    """
    return evaluate_file(path, overrides, job, strategy, root).job


def evaluate_file(
    path: Path | Source,
    overrides: Mapping[str, str] | None = None,
    job: str | None = None,
    strategy: str | None = None,
    root: Path | None = None,
    precision: Precision | None = None,
    sizes: Sizes | None = None,
) -> Evaluation:
    """As `evaluate`, with the file's checks and parameters; `precision` replaces the job's, `sizes` what it states."""
    session = Session()
    session.sizes = sizes

    def run() -> Evaluation:
        module = _load(session, path, overrides or {}, root)
        entry = _choose(module, job)
        override = ast.Name(strategy, span=entry.item.name.span) if strategy else None
        made = build_job(session, module, entry, override, precision)
        checks = check_statics(session, module)
        params = {n: v for n in module.param_names() if (v := module.param(n)) is not None}
        if session.diagnostics.failed:
            raise Skip
        return Evaluation(made, tuple(job_names(module)), checks, params, session.sources)

    result = _collect(session, run)
    session.diagnostics.raise_if_any()
    assert result is not None, "no result and no error"
    return result


def check_file(
    path: Path | Source,
    overrides: Mapping[str, str] | None = None,
    root: Path | None = None,
    job: str | None = None,
    strategy: str | None = None,
) -> tuple[Diagnostic, ...]:
    """All findings in a file, as `checked`."""
    return checked(path, overrides, root, job, strategy)[0]


def checked(
    path: Path | Source,
    overrides: Mapping[str, str] | None = None,
    root: Path | None = None,
    job: str | None = None,
    strategy: str | None = None,
) -> tuple[tuple[Diagnostic, ...], dict[str, Evaluation]]:
    """All findings in a file: every job is evaluated, every strategy that no job uses too, and every check; and what
    came out, by the names of the jobs, if nothing is wrong.

    `strategy` replaces that of the job called `job`, or of all jobs: these alone are evaluated then, and no other
    strategy is.
    """
    session = Session()
    made: dict[str, Job] = {}
    evaluations: dict[str, Evaluation] = {}

    def run() -> None:
        module = _load(session, path, overrides or {}, root)
        jobs = [e for e in module.of_kind("job") if not strategy or job in (None, e.name)]
        named = frozenset(n for e in jobs for n in ([strategy] if strategy else _strategies(e)))
        used = set(named)
        for entry in jobs:
            _collect(session, lambda e=entry: _check_job(session, module, e, strategy, named, used, made))  # type: ignore[misc]
        for entry in list(module.of_kind("strategy")):
            if entry.name not in used and strategy in (None, entry.name):
                _collect(session, lambda entry=entry: build_strategy(session, module, entry.item.name, None, None))  # type: ignore[misc]
        checks = _collect(session, lambda: check_statics(session, module)) or ()
        params = {n: v for n in module.param_names() if (v := module.param(n)) is not None}
        names = tuple(job_names(module))
        evaluations.update((n, Evaluation(j, names, checks, params, session.sources)) for n, j in made.items())

    _collect(session, run)
    return tuple(session.diagnostics), {} if session.diagnostics.failed else evaluations


def _check_job(
    session: Session,
    module: Module,
    entry: Defined,
    instead: str | None,
    named: frozenset[str],
    used: set[str],
    made: dict[str, Job],
) -> None:
    """The job, with its strategy, then those for its model that no job names: `used` then; or the job with the one that
    is `instead`, and no more."""
    override = ast.Name(instead, span=entry.item.name.span) if instead else None
    job = _collect(session, lambda: build_job(session, module, entry, override))
    if job is not None:
        made[entry.name] = job
    if override:
        return
    if job is None and not _strategies(entry):  # then its model is wrong
        return
    if job is None:  # perhaps its strategy is wrong; the model is needed for the others all the same
        job = build_job(session, module, entry, ast.Name("serial", span=entry.item.name.span))
    index = index_model(job.serial.model)
    for other in module.of_kind("strategy"):
        item = other.item
        assert isinstance(item, ast.Strategy)
        if item.model and item.model.id == job.model.name and other.name not in named:
            used.add(other.name)
            _collect(session, lambda item=item: build_strategy(session, module, item.name, index, None))  # type: ignore[misc]


def _strategies(entry: Defined) -> list[str]:
    """Names of the strategies that a job uses."""
    assert isinstance(entry.item, ast.Job)
    return [s.strategy.id for s in entry.item.body if isinstance(s, ast.Task) and s.strategy]


def _collect(session: Session, run: Callable[[], _T]) -> _T | None:
    try:
        return run()
    except ParcError as error:
        session.report(error)
    except Skip:
        pass
    return None


NAMED = 3
"""Parameters that an error of what is too large names."""


def _load(session: Session, path: Path | Source, overrides: Mapping[str, str], root: Path | None) -> Module:
    source = path if isinstance(path, Source) else load(path)
    if root is None:
        root = project_root(source.path) if source.path else "."
    module = Loader(session, os.fspath(root)).load(source)
    apply_overrides(module, overrides)
    session.params = partial(module.largest, NAMED)
    return module


def _choose(module: Module, job: str | None) -> Defined:
    """The job of this name, or the only one. Where the choice is told to be wrong, the place says of which file."""
    names, file = job_names(module), Span(module.name, 0, 0)
    if job is not None:
        entry = module.entries.get(("job", job))
        if entry is None:
            help = did_you_mean(job, names) or (
                f"there {'is' if len(names) == 1 else 'are'} {listed(names)}" if names else None
            )
            raise fail("E0113", f"there is no job `{job}`", file, help=help)
        return entry
    if not names:
        raise fail("E0113", "the file has no job", file, help="`job pretrain { train … }`")
    if len(names) > 1:
        second = module.entries["job", names[1]].item.name.span
        raise fail("E0113", "the file has several jobs: choose one", second, help=f"there are {listed(names)}")
    return module.entries["job", names[0]]
