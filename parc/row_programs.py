"""Jobs whose sequences are at positions of their own, for whoever generates by their rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from compiler.driver import Compiled, compile_job, joined
from compiler.graph import Type
from compiler.incremental.by_rows import rewinds
from compiler.incremental.paged import Paging, paging
from compiler.model import AHEAD, DECODING, MOVE
from compiler.program import Program
from dsl.data import dataclass
from dsl.diagnostics import ParcError, fail
from parc.generating import weights_given
from parc.serving.batching import for_rows, ports_named
from runtime.executor import Executor
from runtime.generate.pages import PageTable, table_of
from runtime.generate.reader import RowReader


@dataclass(frozen=True, slots=True)
class RowsOfModel:
    """A job whose rows are at positions of their own: its program, and by entry what its data are called (`RowReader`);
    the types of what is kept. paging: how that lies in pages, if it does; pools: which of its dims has their places."""

    compiled: Compiled
    program: Program
    data: Mapping[str, tuple[str, ...]]
    kept: Mapping[str, Type]
    pools: Mapping[str, str]
    paging: Paging | None = None

    def reader(
        self, checkpoint: str | None, executor: Callable[..., Executor], high: int
    ) -> tuple[RowReader, str | None]:
        """Its rows on devices of their own, of tokens below `high`, and the checkpoint's folder. Raises ParcError."""
        model, decoding = self.compiled.training.model, self.compiled.job.decoding
        assert decoding is not None
        weights, began = weights_given(checkpoint, self.program, model)
        run = executor(self.program, initial=weights)
        ports = replace(ports_named(self.compiled), high=high)
        pages = PageTable(table_of(self.program), self.paging) if self.paging is not None else None
        return RowReader(run, ports, decoding.prefill, self.data, self.kept, pages, self.pools), began


def rewinding(compiled: Compiled, ahead: int | None = None) -> RowsOfModel:
    """The job's rows, which can go back to any position. ahead: how many positions its entry of that name reads; None:
    it has none.

    Raises ParcError: E0782 where sequences hang on each other, E0783 for a job that makes no text, E0787 for what
    cannot go back.
    """
    ports = ports_named(compiled)
    if ahead is not None and ahead > ports.places:
        help = f"there are {ports.places} positions along `{ports.dim}`: `--ahead` is at most {ports.places - 1}"
        raise fail("E0787", f"{ahead - 1} tokens cannot be guessed at a time", compiled.job.span, help=help)
    made = _compiled(compiled, (*DECODING, *((AHEAD,) if ahead is not None else ())), ahead or 1)
    job = compiled.job
    if not all(rewinds(c.training.model, ports.places) for c in made.values()):
        raise fail(
            "E0787", f"the model `{job.model.name}` cannot go back to a position before the last one", job.span,
            help="guesses that are not taken are read again: all that is kept of earlier positions has a place for "
            "each of them (attention without a window); sums, scans and windows have not",
        )  # fmt: skip
    return _joined(compiled, made)


def movable(compiled: Compiled) -> RowsOfModel:
    """The job's rows, which can be copied to each other: with the entry `move`, where no micro-batches have them.

    Raises ParcError: E0782 where sequences hang on each other, E0783 for a job that makes no text.
    """
    try:
        return _joined(compiled, _compiled(compiled, (*DECODING, MOVE)))
    except ParcError as error:
        if any(d.code != "E0562" for d in error.diagnostics):
            raise
        return _joined(compiled, _compiled(compiled, DECODING))


def _compiled(compiled: Compiled, entries: tuple[str, ...], ahead: int = 1) -> dict[str, Compiled]:
    job = for_rows(compiled, ports_named(compiled))
    assert job.decoding is not None
    job = replace(job, decoding=replace(job.decoding, last=True, ahead=ahead))
    return {entry: compile_job(job, entry) for entry in entries}


def _joined(compiled: Compiled, made: Mapping[str, Compiled]) -> RowsOfModel:
    inputs = {entry: [i.value.name for i in c.training.model.inputs] for entry, c in made.items()}
    data = {entry: tuple(names if entry == MOVE else names[-1:]) for entry, names in inputs.items()}
    states = [s for c in made.values() for s in c.training.model.states]
    kept = {s.name: s.value.type for s in states}
    pools = {s.name: s.pool for s in states if s.pool is not None}
    return RowsOfModel(compiled, joined([c.program for c in made.values()]), data, kept, pools, _paging(compiled))


def _paging(compiled: Compiled) -> Paging | None:
    decoding = for_rows(compiled, ports_named(compiled)).decoding
    if decoding is None or decoding.pages is None:
        return None
    return paging(compiled.training.model, decoding.pages, decoding.dim, decoding.rows)
