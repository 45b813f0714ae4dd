"""`parc fmt`: format files in place, or standard input to standard output."""

from __future__ import annotations

import click

from dsl.diagnostics import ParcError
from parc.api import is_program
from parc.cli.common import Command, Output, json_option, read_source
from parc.cli.writing import write_file


@click.command("fmt", cls=Command)
@click.argument("files", nargs=-1, required=True, type=click.Path(allow_dash=True))
@click.option("--check", is_flag=True, help="Change nothing; fail if a file is not in canonical form.")
@json_option
def command(out: Output, files: tuple[str, ...], check: bool) -> bool:
    """Format FILES in place (`-`: standard input to standard output).

    There is one canonical form, and formatting twice changes nothing. Comments stay.
    """
    for name in files:
        if is_program(name):
            raise click.UsageError(f"`{name}` is a lowered program; `parc fmt` formats `.par` files")
    changed: list[str] = []
    broken: list[ParcError] = []
    for name in files:
        try:
            if _format(out, name, check):
                changed.append(name)
        except ParcError as error:
            broken.append(error)
    out.result = {"checked": len(files), "changed": changed}
    if broken:
        raise ParcError(*(d for error in broken for d in error.diagnostics))
    if check and changed:
        out.say(f"{len(changed)} of {len(files)} files would change")
    return not (check and changed)


def _format(out: Output, name: str, check: bool) -> bool:
    """Whether the file was not in canonical form."""
    from dsl.printer import format_source

    source = read_source(out, name)
    text = format_source(source.text, source.name)
    changed = text != source.text
    if name == "-" and not check:
        out.data(text, newline=False)
        if out.json:
            out.result["text"] = text
    elif changed:
        if not check:
            write_file(source.path or name, text)
        out.say(f"{'would format' if check else 'formatted'} {source.name}")
    return changed
