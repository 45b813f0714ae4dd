"""`generate` by beam search."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from parc.generating import Generation, generation, in_texts, stopped
from parc.row_programs import RowsOfModel
from parc.serving.batching import ports_named
from runtime.executor import Executor
from runtime.generate.beams import beam_search


def generated_by_beams(
    rows: RowsOfModel,
    prompts: Sequence[str],
    steps: int,
    beams: int,
    penalty: float,
    stops: Sequence[str] = (),
    given: str | None = None,
    tokenizer: str | None = None,
    executor: Callable[..., Executor] | None = None,
) -> Generation:
    """The best text of each prompt. rows: those of the job, as `movable` has them; others: as of `generated`.

    Raises ParcError: E0783 to E0786, and E0770 to E0772 for the checkpoint.
    """
    from runtime.stacked import Emulator

    compiled = rows.compiled
    ports, known = in_texts(ports_named(compiled), compiled, tokenizer)
    texts = [known.encode(p) for p in prompts]
    assert ports.high is not None
    reader, began = rows.reader(given, executor or Emulator, ports.high)
    found = beam_search(reader, texts, steps, beams, penalty, lambda tokens: stopped(known, tokens, stops))
    return generation(compiled, rows.program.devices, began, prompts, texts, found, known, stops)
