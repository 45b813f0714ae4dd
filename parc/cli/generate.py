"""`parc generate`: texts that go on from prompts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from dsl.printable import printable
from parc import api
from parc.cli.common import (
    Command,
    Name,
    NumberRange,
    Output,
    choice,
    file_argument,
    job_options,
    read_source,
    set_threads,
    threads_option,
)
from parc.cli.engine import backend_option, check_backend, engine_of, engine_options
from parc.cli.keeping import from_option, say_weights
from parc.cli.tables import plural, seconds

F = TypeVar("F", bound=Callable[..., Any])


def draft_options(function: F) -> F:
    """`--draft`, `--draft-job`, `--draft-from`, `--ahead`: a second model that guesses."""
    for option in (
        click.option(
            "--ahead", type=click.IntRange(1), metavar="K", help="How many tokens the draft guesses at a time (4).",
        ),
        click.option(
            "--draft-from", "draft_given", metavar="CHECKPOINT", help="The draft's weights, as `--from` those of FILE."
        ),
        click.option("--draft-job", metavar="NAME", type=Name(), help="The draft's job, if its file has several."),
        click.option(
            "--draft", metavar="FILE",
            help="A second model guesses tokens (speculative decoding); what is drawn is as likely as without it.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


@click.command("generate", cls=Command)
@file_argument
@click.option("--prompt", "prompts", metavar="TEXT", multiple=True, required=True, help="Go on from it; several, too.")
@click.option("--steps", type=click.IntRange(1), default=32, show_default=True, help="The most tokens of each text.")
@click.option(
    "--temperature",
    type=NumberRange(0, 1e6),
    default=0.0,
    show_default=True,
    help="0: the likeliest token; else tokens are drawn, of scores divided by it.",
)
@click.option("--top-k", type=click.IntRange(1), metavar="K", help="Draw of the K likeliest tokens.")
@click.option(
    "--top-p",
    type=NumberRange(0, 1, min_open=True),
    default=1.0,
    metavar="P",
    help="Draw of the likeliest tokens that together have this share.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of what is drawn.")
@click.option(
    "--beams",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Search by so many texts side by side for the likeliest one; each takes a row of the batch.",
)
@click.option(
    "--length-penalty", type=NumberRange(-10, 10), metavar="P",
    help="Of beams: how likely a text is, its logarithm, is divided by its length to the power of P (1).",
)  # fmt: skip
@click.option("--stop", "stops", metavar="TEXT", multiple=True, help="End before this text.")
@click.option("--tokenizer", metavar="byte|FILE", help="`byte`, or a `tokenizer.json`; else that of the job's data.")
@from_option
@draft_options
@engine_options
@backend_option
@threads_option
@job_options
def command(
    out: Output,
    file: str,
    prompts: tuple[str, ...],
    steps: int,
    temperature: float,
    top_k: int | None,
    top_p: float,
    seed: int,
    beams: int,
    length_penalty: float | None,
    stops: tuple[str, ...],
    tokenizer: str | None,
    given: str | None,
    draft: str | None,
    draft_job: str | None,
    draft_given: str | None,
    ahead: int | None,
    engine: str,
    device: str,
    patience: float,
    backend: api.Backend,
    threads: int,
    params: tuple[tuple[str, str], ...],
    job: str | None,
    strategy: str | None,
) -> None:
    """Go on from each prompt, by the job of FILE, which says `decode over` a dim, on emulated devices or, with
    `--engine torch`, by a process of PyTorch for each device.

    Prompts of different lengths go side by side. What is drawn does not change with the strategy, nor the engine.

    \b
    parc generate writer.par --prompt "To be" --from saved
    parc generate writer.par --prompt "To be" --temperature 0.8 --top-p 0.9 --seed 7
    parc generate writer.par --prompt "To be" --draft small.par --ahead 4
    """
    set_threads(threads)
    check_backend(backend, engine)
    if any(not s for s in stops):
        raise click.UsageError("a stop is empty")
    if beams > 1 and (draft is not None or temperature):
        raise click.UsageError("`--beams` draws nothing, so it goes without `--temperature` and `--draft`")
    if beams == 1 and length_penalty is not None:
        raise click.UsageError("`--length-penalty` is of `--beams`")
    chosen, chosen_draft = engine_of(engine, device, patience), None
    if draft is not None:
        same = {"params": dict(params)} if draft == file else {}
        source = read_source(out, draft)
        chosen_draft = api.DraftModel(source, ahead or 4, draft_given, {**same, "job": draft_job})  # type: ignore[typeddict-item]
    elif draft_job is not None or draft_given is not None or ahead is not None:
        raise click.UsageError("`--draft-job`, `--draft-from` and `--ahead` are of a `--draft FILE`")
    said = _Said(out, prompts, max(map(len, stops), default=1) - 1)
    found = api.generate(
        read_source(out, file),
        prompts,
        steps,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stops=stops,
        checkpoint=given,
        tokenizer=tokenizer,
        told=said.hear,
        engine=chosen,
        backend=backend,
        draft=chosen_draft,
        beams=beams,
        length_penalty=1.0 if length_penalty is None else length_penalty,
        **choice(out, params, job, strategy),
    )
    out.result = found.as_json()
    if said.alone:
        said.rest(found.texts[0].text)
    else:
        out.data(seen("\n\n".join(t.prompt + t.text for t in found.texts), sys.stdout.isatty()))
    say_weights(out, found.began)
    if cut := sum(t.ended == "pages" for t in found.texts):
        out.say(f"{plural(cut, 'text')} ended where no page was left: `pages` of the strategy's `paged` says how many")
    if (pages := found.pages) is not None:
        most, of = plural(pages.most, "page"), f"of {pages.of:,}"
        out.say(f"at most {most} of {pages.slots} positions at a time, {of}; whole rows have {pages.whole:,}")
    many = plural(sum(len(t.tokens) for t in found.texts), "token")
    read = f"{plural(found.chunks, 'position')} at once in {seconds(found.prefill_seconds)}, " if found.chunks else ""
    if found.guesses is None:
        out.say(f"{many}; {read}{seconds(found.token_seconds)} for each position here")
        return
    made, taken, rate = found.guesses.made, found.guesses.taken, found.tokens_per_second
    told = f"{taken} of {plural(made, 'guess')} taken ({taken / made:.0%})" if made else "nothing was guessed"
    out.say(f"{many}; {read}{told}; {seconds(found.token_seconds)} for each call here, {rate or 0:.1f} tokens/s")


class _Said:
    """Prints a text as it is made, if it is the only one. held: so many of the last characters may be of a stop."""

    def __init__(self, out: Output, prompts: tuple[str, ...], held: int) -> None:
        self.out, self.alone, self.held = out, len(prompts) == 1 and not out.json, held
        self.prompt, self.shown = prompts[0], ""

    def hear(self, row: int, text: str) -> None:
        """The text so far; a character that is not whole yet is waited for."""
        sure = text[: len(text) - self.held]
        if self.alone and sure.startswith(self.shown) and not sure.endswith("\ufffd"):
            self._data((self.prompt if not self.shown else "") + sure[len(self.shown) :], newline=False)
            self.shown = sure

    def rest(self, text: str) -> None:
        """The whole text: what is missing of it."""
        if self.shown and text.startswith(self.shown):
            self._data(text[len(self.shown) :])
        else:
            self._data(("\n" if self.shown else "") + self.prompt + text)

    def _data(self, text: str, newline: bool = True) -> None:
        self.out.data(seen(text, sys.stdout.isatty()), newline)


def seen(text: str, terminal: bool) -> str:
    """A text that somebody else has made, as it may be shown: to a terminal without what that would act upon."""
    return "\t".join(map(printable, text.split("\t"))) if terminal else text
