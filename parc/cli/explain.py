"""`parc explain`: what an error code means; why a tensor is laid out and moved as it is."""

from __future__ import annotations

import sys
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import click

from dsl.source import Span
from parc import api
from parc.cli.common import Command, Output, Sources, choice, color, job_options, read_source
from parc.cli.tables import amount, table

if TYPE_CHECKING:
    from compiler.explain import Explanation


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
        _tensor(out, what, tensor, choice(out, params, job, strategy))


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
    out.result = _json(found, out.sources) | {"sent": found.sent}
    out.data(_shown(found, out.sources))


def _json(value: object, sources: Sources) -> Any:
    """Dataclasses as objects; spans as places (`span` itself under the name `place`)."""
    if isinstance(value, Span):
        return _place(value, sources)
    if isinstance(value, tuple):
        return [_json(v, sources) for v in value]
    if is_dataclass(value):
        pairs = ((f.name, getattr(value, f.name)) for f in fields(value))
        return {"place" if name == "span" else name: _json(v, sources) for name, v in pairs}
    return value


def _place(span: Span, sources: Sources) -> dict[str, Any] | None:
    source = sources.get(span.source) if span.source else None
    if source is None:
        return None
    line, column = source.position(span.start)
    return {"file": source.name, "line": line, "column": column, "text": source.text[span.start : span.end]}


def _shown(found: Explanation, sources: Sources) -> str:
    style = _Style(color(sys.stdout))

    def at(span: Span | None, quoted: bool = True) -> str:
        place = _place(span, sources) if span is not None else None
        if place is None:
            return ""
        shown = place["text"]
        text = f"`{shown}`, " if quoted and "\n" not in shown else ""
        return f"   {style.dim}{text}{place['file']}:{place['line']}{style.end}"

    here, whole = found.bytes
    of = f" of {amount(whole)}" if whole != here else ""
    parts = [
        f"{style.bold}{found.name}{style.end}: {found.type}{at(found.span, False)}\n"
        f"{found.role}, {amount(here)}{of} on each device"
    ]
    lines = []
    for why in found.why:
        what = f"{why.axis} splits {' = '.join(why.dims)}: " if why.dims else f"{why.axis}: "
        lines.append(f"{what}{why.reason}{at(why.rule)}")
        if len(why.candidates) > 1:
            others = ", ".join(f"{dim} {amount(sent)}" for dim, sent in why.candidates)
            lines.append(f"  {style.dim}bytes moved by choice: {others}{style.end}")
    lines += [f"{kept.what}: {kept.type}{at(kept.rule)}" for kept in found.kept]
    lines += [f"its gradient is {found.gradient}"] if found.gradient else []
    if lines:
        parts.append("\n".join(lines))
    if not found.changes:
        parts.append("nothing is sent for it")
    else:
        head = ["sent for it", "of", "in", "calls", "per device and step", "wanted by", "as"]
        rows = [
            [c.kind, c.of or "itself", c.phase, f"{c.times:,}", amount(c.times * c.bytes), c.reader, c.type]
            for c in found.changes
        ]
        wide = table(head, rows, color(sys.stdout), left=3, words=(5, 6))
        parts.append(f"{wide}\n{amount(found.sent)} per device and step in all")
    return "\n\n".join(parts)
