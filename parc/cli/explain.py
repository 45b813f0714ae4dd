"""`parc explain`: what an error code means; why a tensor is laid out and moved as it is."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from parc import api
from parc.cli.common import Command, Output, choice, color, job_options, read_source
from parc.cli.tables import amount

if TYPE_CHECKING:
    from parc.explanation import Explanation


@click.command("explain", cls=Command)
@click.argument("what", metavar="CODE|FILE")
@click.argument("tensor", required=False)
@job_options
def command(
    out: Output,
    what: str,
    tensor: str | None,
    params: tuple[tuple[str, str], ...],
    job: str | None,
    strategy: str | None,
) -> None:
    """Explain an error CODE (`all` lists them), or how a TENSOR of FILE is laid out, why, and what is sent for it.

    \b
    parc explain E0010
    parc explain gpt.par block.attention.out
    """
    if tensor is None:
        _code(out, what)
    else:
        _tensor(out, what, tensor, choice(params, job, strategy))


class _Style:
    def __init__(self, on: bool) -> None:
        self.bold, self.dim, self.end = ("\x1b[1m", "\x1b[2m", "\x1b[0m") if on else ("", "", "")


def _code(out: Output, code: str) -> None:
    from dsl.codes import CODES
    from dsl.diagnostics import suggest

    name = code.upper()
    if name == "ALL":
        out.result = {"codes": [{"code": c.code, "title": c.title} for c in CODES.values()]}
        out.data("\n".join(f"{c.code}  {c.title}" for c in CODES.values()))
        return
    if name not in CODES:
        if code.endswith(".par"):
            raise click.UsageError("which tensor? `parc explain FILE TENSOR`")
        near = suggest(name, CODES)
        hint = f"did you mean {near}?" if near else "`parc explain all` lists them"
        raise click.UsageError(f"there is no error code `{code}`; {hint}")
    found = CODES[name]
    out.result = {
        "code": found.code,
        "title": found.title,
        "explanation": found.explanation.strip(),
        "failing": found.failing,
        "mended": found.mended,
    }
    style = _Style(color(sys.stdout))

    def example(title: str, text: str) -> str:
        shown = text.encode("utf-8", "replace").decode().rstrip("\n")
        return f"{style.dim}{title}{style.end}\n\n" + "\n".join(f"    {line}".rstrip() for line in shown.split("\n"))

    parts = [f"{style.bold}{found.code}: {found.title}{style.end}", found.explanation.strip()]
    if found.failing:
        parts.append(example("This has it:", found.failing))
    if found.mended:
        parts.append(example("This does not:", found.mended))
    out.data("\n\n".join(parts))


def _tensor(out: Output, file: str, tensor: str, chosen: api.Options) -> None:
    found = api.explain_tensor(read_source(out, file), tensor, **chosen)
    place = None
    source = out.sources.get(found.span.source) if found.span.source else None
    if source:
        line, column = source.position(found.span.start)
        place = {"file": source.name, "line": line, "column": column}
    out.result = {k: v for k, v in asdict(found).items() if k != "span"} | {"place": place}
    out.data(_shown(found, f"{place['file']}:{place['line']}" if place else ""))


def _shown(found: Explanation, place: str) -> str:
    style = _Style(color(sys.stdout))
    lines = [f"{style.bold}{found.name}{style.end}: {found.type}"]
    if place:
        lines[0] += f"   {style.dim}{place}{style.end}"
    if found.storage:
        lines.append(f"  stored as {found.storage}")
    for why in found.why:
        what = f"splits {', '.join(why.dims)}" if why.dims else "splits nothing new"
        lines.append(f"  {why.axis} {what}: {why.reason}")
        if len(why.candidates) > 1:
            others = ", ".join(f"{dim} {amount(sent)}" for dim, sent in why.candidates)
            lines.append(f"    {style.dim}bytes moved by choice: {others}{style.end}")
    lines += [
        f"  {change.kind}, {amount(change.bytes)} per device: {change.reader} needs {change.type}"
        for change in found.changes
    ]
    if not found.why and not found.changes:
        lines.append("  laid out as the rules of the strategy say; nothing is sent for it")
    return "\n".join(lines)
