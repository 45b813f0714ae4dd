"""`generate` with a second model that guesses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from compiler.driver import Compiled, compile_job, joined
from compiler.incremental.by_rows import rewinds
from compiler.model import AHEAD, DECODING
from compiler.program import Program
from dsl.data import dataclass
from dsl.diagnostics import fail
from parc.generating import Generation, cut, generation, in_texts, stopped, weights_given
from parc.serving.batching import for_rows, ports_named
from runtime.executor import Executor
from runtime.generate.sampling import Sampling
from runtime.generate.speculative import RowReader, speculate
from runtime.generate.tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class RowsOfModel:
    """A job whose rows are at positions of their own, and can go back: its program with these entries, and by entry
    what the data are called that are the positions."""

    compiled: Compiled
    program: Program
    positions: Mapping[str, str]

    def reader(
        self, checkpoint: str | None, executor: Callable[..., Executor], high: int
    ) -> tuple[RowReader, str | None]:
        """Its rows on devices of their own, of tokens below `high`, and the checkpoint's folder. Raises ParcError."""
        model, decoding = self.compiled.training.model, self.compiled.job.decoding
        assert decoding is not None
        weights, began = weights_given(checkpoint, self.program, model)
        run = executor(self.program, initial=weights) if weights is not None else executor(self.program)
        ports = replace(ports_named(self.compiled), high=high)
        return RowReader(run, ports, decoding.prefill, self.positions), began


def rows_of(compiled: Compiled, ahead: int | None = None) -> RowsOfModel:
    """The job's rows. ahead: how many positions its entry of that name reads; None: it has none.

    Raises ParcError: E0782 where sequences hang on each other, E0783 for a job that makes no text, E0787 for what
    cannot go back.
    """
    ports = ports_named(compiled)
    if ahead is not None and ahead > ports.places:
        help = f"there are {ports.places} positions along `{ports.dim}`: `--ahead` is at most {ports.places - 1}"
        raise fail("E0787", f"{ahead - 1} tokens cannot be guessed at a time", compiled.job.span, help=help)
    job = for_rows(compiled, ports)
    assert job.decoding is not None
    job = replace(job, decoding=replace(job.decoding, last=True, ahead=ahead or 1))
    made = {entry: compile_job(job, entry) for entry in (*DECODING, *((AHEAD,) if ahead is not None else ()))}
    if not all(rewinds(c.training.model, ports.places) for c in made.values()):
        raise fail(
            "E0787", f"the model `{job.model.name}` cannot go back to a position before the last one", job.span,
            help="guesses that are not taken are read again: all that is kept of earlier positions has a place for "
            "each of them (attention without a window); sums, scans and windows have not",
        )  # fmt: skip
    positions = {entry: c.training.model.inputs[-1].value.name for entry, c in made.items()}
    return RowsOfModel(compiled, joined([c.program for c in made.values()]), positions)


def speculated(
    target: RowsOfModel,
    draft: RowsOfModel,
    prompts: Sequence[str],
    steps: int,
    sampling: Sampling,
    ahead: int,
    stops: Sequence[str] = (),
    given: tuple[str | None, str | None] = (None, None),
    tokenizer: str | None = None,
    told: Callable[[int, str], None] = lambda row, text: None,
    executor: Callable[..., Executor] | None = None,
) -> Generation:
    """Go on from each prompt, as `generated` does. target: with the entry `ahead`, of `ahead + 1` positions. given: the
    checkpoints of both.

    Raises ParcError: E0783 to E0787, and E0770 to E0772 for the checkpoints.
    """
    from runtime.stacked import Emulator

    compiled = target.compiled
    ports, known = in_texts(ports_named(compiled), compiled, tokenizer)
    theirs, other = in_texts(ports_named(draft.compiled), draft.compiled, tokenizer)
    job, high = draft.compiled.job, ports.high
    if not _same(known, other) or ports.high != theirs.high:
        help = "both have the same tokens: of one tokenizer (`--tokenizer`), or of one text"
        raise fail(
            "E0787",
            f"the draft `{job.name}` has {theirs.high} tokens, others than the {high} here",
            job.span,
            help=help,
        )
    if theirs.rows < len(prompts):
        help = "its batch has a row for each prompt"
        raise fail(
            "E0787", f"the draft `{job.name}` has {theirs.rows} rows for {len(prompts)} prompts", job.span, help=help
        )
    texts = [known.encode(p) for p in prompts]
    assert high is not None
    sides = sorted((target, draft), key=lambda side: -side.program.devices)  # an engine has the processes of the first
    readers = {id(s): s.reader(given[s is draft], executor or Emulator, high) for s in sides}
    (first, began), (second, _) = readers[id(target)], readers[id(draft)]
    found = speculate(
        first, second, texts, steps, sampling, ahead, lambda tokens: stopped(known, tokens, stops),
        lambda row, tokens: told(row, cut(known, tokens, stops)),
    )  # fmt: skip
    return generation(compiled, target.program.devices, began, prompts, texts, found, known, stops)


def _same(a: Tokenizer, b: Tokenizer) -> bool:
    """Whether each token is the same text in both."""
    return a.size == b.size and all(a.decode([t]) == b.decode([t]) for t in range(a.size))
