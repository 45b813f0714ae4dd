"""`parc explain`: what an error code means."""

from __future__ import annotations

import sys

import click

from parc.cli.common import Command, Output, color, json_option


@click.command("explain", cls=Command)
@click.argument("code")
@json_option
def command(out: Output, code: str) -> None:
    """Explain the error CODE, with an example that has it and the same mended (`parc explain all` lists them)."""
    from dsl.codes import CODES
    from dsl.diagnostics import suggest

    name = code.upper()
    if name == "ALL":
        out.result = {"codes": [{"code": c.code, "title": c.title} for c in CODES.values()]}
        out.data("\n".join(f"{c.code}  {c.title}" for c in CODES.values()))
        return
    if name not in CODES:
        near = suggest(name, CODES)
        raise click.UsageError(
            f"there is no error code `{code}`; {f'did you mean {near}?' if near else 'see `parc explain all`'}"
        )
    found = CODES[name]
    out.result = {
        "code": found.code,
        "title": found.title,
        "explanation": found.explanation.strip(),
        "failing": found.failing,
        "mended": found.mended,
    }
    bold, dim, end = ("\x1b[1m", "\x1b[2m", "\x1b[0m") if color(sys.stdout) else ("", "", "")

    def example(title: str, text: str) -> str:
        shown = text.encode("utf-8", "replace").decode().rstrip("\n")
        return f"{dim}{title}{end}\n\n" + "\n".join(f"    {line}".rstrip() for line in shown.split("\n"))

    parts = [f"{bold}{found.code}: {found.title}{end}", found.explanation.strip()]
    if found.failing:
        parts.append(example("This has it:", found.failing))
    if found.mended:
        parts.append(example("This does not:", found.mended))
    out.data("\n\n".join(parts))
