"""`parc diff`: what a change of strategy changes in the lowered program."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from dsl.printable import printable
from parc import api
from parc.cli.common import Command, Name, Output, check_program, choice, color, json_option, params_option, read_source

if TYPE_CHECKING:
    from compiler.program import Program

_COLORS = {"+": "32", "-": "31", "@": "36"}


@click.command("diff", cls=Command)
@click.argument("files", nargs=-1, required=True, metavar="BEFORE [AFTER]", type=click.Path())
@click.option(
    "--strategy", "strategies", metavar="NAME", multiple=True, type=Name(), help="Before, and again for after."
)
@click.option("--job", metavar="NAME", type=Name(), help="The job, if a file has several.")
@params_option
@click.option(
    "--entry",
    type=click.Choice(api.ENTRIES),
    help="Compare what the programs do when they are asked for this, such as `decode`; the job's first, if left out.",
)
@click.option("--text", is_flag=True, help="A unified diff of the programs' text.")
@click.option("--exit-code", is_flag=True, help="Fail (1) if the programs differ.")
@json_option
def command(
    out: Output,
    files: tuple[str, ...],
    strategies: tuple[str, ...],
    job: str | None,
    params: tuple[tuple[str, str], ...],
    entry: api.Entry | None,
    text: bool,
    exit_code: bool,
) -> bool:
    """Compare lowered programs: of two files (`.par` or `.npu`), or of one file under two strategies.

    Says what changes in layouts, communication, memory and operations.

    \b
    parc diff old.par new.par
    parc diff golden.npu gpt.par
    parc diff gpt.par --strategy data --strategy megatron
    """
    sides = _sides(files, strategies)
    lowered = [file for file in files if api.is_program(file)]
    if len(lowered) == len(files):
        check_program(out, lowered[0], params=params, job=job, strategy=strategies)
    if lowered and len(strategies) > 1:
        raise click.UsageError(
            f"`{lowered[0]}` is a lowered program, of one strategy: give `--strategy` once, for the other"
        )
    sides = [(file, None if api.is_program(file) else s) for file, s in sides]
    programs = [_program(out, file, choice(out, params, job, s), entry) for file, s in sides]
    names = tuple(printable(f"{file} ({s})" if s else file, line=True) for file, s in sides)
    unified = api.diff_text(programs[0], programs[1], (names[0], names[1]))
    changes = api.diff(*programs)
    out.result = {"equal": not unified, "changes": changes.to_dict(), "text": unified}
    shown = unified if text else f"{changes}\n" if changes else ""
    out.data(_painted(shown) if color(sys.stdout) else shown, newline=False)
    if not unified:
        of = {e.name for p in programs for e in p.entries}
        more = " (the entry `infer`; of a job that decodes `--entry` names others)" if of == {"infer"} else ""
        out.say(f"the lowered programs are the same{more}")
    elif not changes and not text:
        out.say("the same operations stand in both as often; their order, operands or names differ: see `--text`")
    return not (unified and exit_code)


def _program(out: Output, file: str, chosen: api.Options, entry: api.Entry | None) -> Program:
    options: api.Options = {} if api.is_program(file) else chosen
    if entry is not None:
        options = {**options, "entry": entry}
    return api.load_program(read_source(out, file, program=True), **options)


def _sides(files: tuple[str, ...], strategies: tuple[str, ...]) -> list[tuple[str, str | None]]:
    """The file and strategy of either side."""
    if len(files) > 2 or len(strategies) > 2:
        raise click.UsageError("two things can be compared, not more")
    if len(files) == 1 and not strategies:
        raise click.UsageError("what to compare with? Give another file, or `--strategy` once or twice")
    chosen: tuple[str | None, ...] = strategies
    if len(strategies) == 1:  # of one file: against the job's own; of two: in both
        chosen = (None, *strategies) if len(files) == 1 else strategies * 2
    return list(zip(files * 2 if len(files) == 1 else files, chosen or (None, None)))


def _painted(text: str) -> str:
    def paint(line: str) -> str:
        how = "1" if line.startswith(("---", "+++")) else _COLORS.get(line.lstrip()[:1])
        return f"\x1b[{how}m{line}\x1b[0m" if how else line

    return "\n".join(map(paint, text.split("\n")))
