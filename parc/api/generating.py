"""Texts from a job that decodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import field
from math import inf
from typing import TYPE_CHECKING, Unpack

from dsl.data import dataclass
from parc.api.compiling import compile, sizes
from parc.api.options import Backend, Options

if TYPE_CHECKING:
    from parc.api.options import File
    from parc.generating import Generation
    from runtime.torch.engine import Engine


@dataclass(frozen=True, slots=True)
class DraftModel:
    """A second model: its file, how many tokens it guesses at a time, whose weights it has (None: those that they begin
    with), and its job (`Options`)."""

    file: File
    ahead: int = 4
    checkpoint: str | None = None
    options: Options = field(default_factory=Options)


def generate(
    file: File,
    prompts: Sequence[str],
    steps: int = 32,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    stops: Sequence[str] = (),
    checkpoint: str | None = None,
    tokenizer: str | None = None,
    told: Callable[[int, str], None] = lambda row, text: None,
    engine: Engine | None = None,
    backend: Backend = "numpy",
    draft: DraftModel | None = None,
    beams: int = 1,
    length_penalty: float = 1.0,
    **options: Unpack[Options],
) -> Generation:
    """Go on from prompts, by a job that decodes, on emulated devices or by an engine.

    What is drawn hangs on the seed, the row and the position, and on nothing of a strategy.

    Args:
        file: the path of a `.par` file, or a `Source`.
        prompts: texts, at most as many as the batch of the job's model has rows.
        steps: the most tokens that are made of each.
        temperature: 0 takes the likeliest token; scores are divided by it.
        top_k, top_p: of so many of the likeliest tokens, or of as many as have that share of all.
        stops: texts at which a continuation ends, without them.
        checkpoint: whose weights are taken; None: those that they begin with.
        tokenizer: `byte`, the path of a `tokenizer.json`, or None: that of the job's data, else bytes.
        told: hears of each row's text so far.
        engine: runs the program in place of the emulator.
        backend: as in `run`.
        draft: a second model, which guesses tokens that are read together; nothing else about the texts changes.
        beams: of so many texts of each prompt that go on side by side the best is made (beam search), if there are
            several; nothing is drawn then, and each prompt takes as many rows of the batch.
        length_penalty: of beams: scores are divided by the length to this power, of -10 to 10.
        options: see `Options`.

    Raises:
        ParcError: for what is wrong; E0783 to E0786 for prompts, tokenizers and jobs that make no text, E0787 for
            the draft, E0788 for pages; as `run` for the engine.
        ValueError: for numbers out of their range (a temperature below 0, no steps, no beams, an empty stop).
    """
    numbers = {
        "steps": steps >= 1,
        "temperature": 0 <= temperature < inf,
        "top_k": top_k is None or top_k >= 1,
        "top_p": 0 < top_p <= 1,
        "stops": all(stops),
        "beams": beams >= 1,
        "length_penalty": abs(length_penalty) <= 10,  # beyond it the power has no number
        "draft.ahead": draft is None or draft.ahead >= 1,
    }
    if wrong := [name for name, right in numbers.items() if not right]:
        raise ValueError(f"`{wrong[0]}` is out of its range")
    from parc.api.running import emulator
    from parc.generating import generated, program_of
    from parc.machine import Asked, require_machine
    from runtime.generate.sampling import Sampling

    with engine or nullcontext():
        compiled = compile(file, **options)
        here = ["stacked"] if engine is None else ["private"] if engine.place is None else []
        sampling = Sampling(temperature, top_k, top_p, seed)
        run = emulator(backend) if engine is None else engine.executor
        if beams > 1:
            from parc.beams import generated_by_beams
            from parc.row_programs import movable

            if draft is not None or temperature:
                raise ValueError("beams draw nothing, and no draft guesses for them")
            rows = movable(compiled)
            require_machine(Asked(rows.program, here, None, compiled.job.span, sizes(file, options)))
            return generated_by_beams(rows, prompts, steps, beams, length_penalty, stops, checkpoint, tokenizer, run)
        if draft is None:
            program = program_of(compiled)
            require_machine(Asked(program, here, None, compiled.job.span, sizes(file, options)))
            return generated(compiled, program, prompts, steps, sampling, stops, checkpoint, tokenizer, told, run)
        from parc.row_programs import rewinding
        from parc.speculating import speculated

        both = rewinding(compiled, draft.ahead + 1), rewinding(compile(draft.file, **draft.options))
        for side, asked in zip(both, (sizes(file, options), sizes(draft.file, draft.options))):
            require_machine(Asked(side.program, here, None, side.compiled.job.span, asked))
        given = checkpoint, draft.checkpoint
        return speculated(*both, prompts, steps, sampling, draft.ahead, stops, given, tokenizer, told, run)
