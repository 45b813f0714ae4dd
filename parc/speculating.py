"""`generate` with a second model that guesses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dsl.diagnostics import fail
from parc.generating import Generation, cut, generation, in_texts, stopped
from parc.row_programs import RowsOfModel
from parc.serving.batching import ports_named
from runtime.executor import Executor
from runtime.generate.loop import check_prompts
from runtime.generate.sampling import Sampling
from runtime.generate.speculative import speculate
from runtime.generate.tokenizers import Tokenizer


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
    texts = [known.encode(p) for p in prompts]
    check_prompts(ports, texts)
    if theirs.rows < len(prompts):
        help = "its batch has a row for each prompt"
        raise fail(
            "E0787", f"the draft `{job.name}` has {theirs.rows} rows for {len(prompts)} prompts", job.span, help=help
        )
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
