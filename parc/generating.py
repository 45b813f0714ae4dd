"""`generate`: from prompts to texts, by a job that decodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from compiler.declared import logical
from compiler.driver import Compiled, decoding_program
from compiler.model import Decoding, Model
from compiler.origin import Role
from compiler.program import Program
from dsl.data import dataclass
from dsl.diagnostics import fail
from runtime.distribute import Array
from runtime.executor import Executor
from runtime.generate.loop import STOP, Generated, Guesses, Ports, generate
from runtime.generate.pages import PagesTaken, PageTable
from runtime.generate.sampling import Sampling
from runtime.generate.tokenizers import Tokenizer, tokenizer_of

if TYPE_CHECKING:
    from runtime.checkpoints.reading import WeightSource


@dataclass(frozen=True, slots=True)
class TextMade:
    """What was made of one prompt: the text behind it, its tokens, how many the prompt has, and why it ended: `length`,
    `stop`, `context` or `pages`. score: with beams, the logarithm of how likely it is, over its length to the power of
    the length penalty."""

    prompt: str
    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    ended: str
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """Texts of a job on so many devices. began: the checkpoint of its weights; chunks, singles: how many positions were
    read at once, and one by one (or a few, with guesses of another model, in one call); seconds: of the former
    together, and of one of the latter. pages: what sequences had of them, where caches lie in some."""

    name: str
    devices: int
    began: str | None
    texts: tuple[TextMade, ...]
    chunks: int
    singles: int
    prefill_seconds: float
    token_seconds: float
    guesses: Guesses | None = None
    pages: PagesTaken | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Of all texts together, without the positions that were read at once."""
        seconds = self.singles * self.token_seconds
        return sum(len(t.tokens) for t in self.texts) / seconds if seconds else None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "devices": self.devices,
            "began": self.began,
            "texts": [
                {
                    "prompt": t.prompt,
                    "text": t.text,
                    "tokens": list(t.tokens),
                    "prompt_tokens": t.prompt_tokens,
                    "ended": t.ended,
                    "score": t.score,
                }
                for t in self.texts
            ],
            "positions_at_once": self.chunks,
            "positions_by_themselves": self.singles,
            "prefill_seconds": self.prefill_seconds,
            "token_seconds": self.token_seconds,
            "tokens_per_second": self.tokens_per_second,
            "guesses": None if self.guesses is None else {"made": self.guesses.made, "taken": self.guesses.taken},
            "pages": None if self.pages is None else self.pages.as_json(),
        }


def program_of(compiled: Compiled) -> Program:
    """The program with the entries that generate. Raises ParcError (E0783) for a job that does not decode."""
    decoding_of(compiled)
    return decoding_program(compiled.job, last=True)


def decoding_of(compiled: Compiled) -> Decoding:
    """How the job decodes. Raises ParcError (E0783) for one that does not."""
    job = compiled.job
    if job.decoding is None or not compiled.decodes:
        help = "`infer MODEL(…)` and `decode over s` in a job"
        raise fail("E0783", f"the job `{job.name}` does not decode", job.span, help=help)
    return job.decoding


def in_texts(ports: Ports, compiled: Compiled, tokenizer: str | None) -> tuple[Ports, Tokenizer]:
    """The job's tokens, none without a text, and what texts they are. Raises ParcError: E0785."""
    known = tokenizer_of(tokenizer, compiled.job.data, ports.high)
    return replace(ports, high=min(known.size, ports.high or known.size)), known


def generated(
    compiled: Compiled,
    program: Program,
    prompts: Sequence[str],
    steps: int,
    sampling: Sampling,
    stops: Sequence[str] = (),
    given: str | None = None,
    tokenizer: str | None = None,
    told: Callable[[int, str], None] = lambda row, text: None,
    executor: Callable[..., Executor] | None = None,
) -> Generation:
    """Go on from each prompt.

    Args:
        program: what `program_of` made of the job.
        stops: texts at which a continuation ends, without them.
        given: a checkpoint, or a folder of some, of which the last is meant.
        tokenizer: `byte`, the path of a `tokenizer.json`, or None: that of the job's data, else bytes.
        told: hears of each row's text so far.

    Raises ParcError: E0783 to E0786, and E0770 to E0772 for the checkpoint.
    """
    from runtime.stacked import Emulator

    job = compiled.job
    assert job.decoding is not None
    ports, known = in_texts(Ports.of(compiled.training.model, job.decoding, job.span), compiled, tokenizer)
    texts = [known.encode(p) for p in prompts]
    weights, began = weights_given(given, program, compiled.training.model)
    run = (executor or Emulator)(program, initial=weights)

    def hear(row: int, tokens: Sequence[int]) -> None:
        told(row, cut(known, tokens, stops))

    pages = None if job.decoding.pages is None else PageTable.of(program, compiled.training.model, job.decoding)
    found = generate(
        run, ports, job.decoding, texts, steps, sampling, lambda tokens: stopped(known, tokens, stops), hear, pages
    )
    return generation(compiled, program.devices, began, prompts, texts, found, known, stops)


def generation(
    compiled: Compiled,
    devices: int,
    began: str | None,
    prompts: Sequence[str],
    texts: Sequence[Sequence[int]],
    found: Generated,
    known: Tokenizer,
    stops: Sequence[str],
) -> Generation:
    """What was made, as texts. texts: the tokens of the prompts."""
    made = [
        TextMade(prompt, cut(known, s.tokens, stops), s.tokens, len(text), s.ended, s.score)
        for prompt, text, s in zip(prompts, texts, found.sequences)
    ]
    return Generation(
        compiled.job.name, devices, began, tuple(made), found.chunks, found.singles, found.prefill_seconds,
        found.token_seconds, found.guesses, found.pages,
    )  # fmt: skip


def weights_given(given: str | None, program: Program, model: Model) -> tuple[dict[str, Array] | None, str | None]:
    """Those of the checkpoint, and its folder: of what is kept of earlier positions there is nothing in it."""
    if given is None:
        return None, None
    from runtime.checkpoints.reading import taken

    found, kept = _source(given, program, model)
    return taken(found, program, (Role.STATE,), kept), str(found.folder)


def weights_told(given: str | None, program: Program, model: Model) -> str | None:
    """The folder of the checkpoint whose weights are those that `weights_given` would give: they are there, in these
    shapes, says its manifest, and none of them is read. Raises ParcError: E0770, E0772."""
    if given is None:
        return None
    from runtime.checkpoints.reading import taken_names

    found, kept = _source(given, program, model)
    taken_names(found, program, (Role.STATE,), kept)
    return str(found.folder)


def _source(given: str, program: Program, model: Model) -> tuple[WeightSource, set[str]]:
    """What a folder has for the program, and the states that begin as declared whatever it has."""
    from parc.importing.weights import weights_for

    states = {logical(s) for e in program.entries for c in e.classes for s in c.states if s.role is Role.STATE}
    return weights_for(given, model.stored), states - {s.name for s in model.states}


def stopped(known: Tokenizer, tokens: Sequence[int], stops: Sequence[str]) -> bool:
    """Whether a stop is in the text."""
    return bool(stops) and any(s in known.decode(tokens) for s in stops)


def cut(known: Tokenizer, tokens: Sequence[int], stops: Sequence[str]) -> str:
    """The text, up to the first stop."""
    text = known.decode(tokens)
    ends = [at for s in stops if (at := text.find(s)) >= 0]
    return text[: min(ends)] if ends else text


__all__ = ["STOP", "Generation", "TextMade", "generated", "program_of"]
