"""What a certificate says in words, held to what was priced: texts of strategies are read as the language has them, and
lines that say why a plan loses are made again of its figures."""

from __future__ import annotations

from dataclasses import replace

from compiler.evaluate.index import index_model
from compiler.evaluate.modules import Loader
from compiler.evaluate.plan import build_strategy
from compiler.evaluate.session import Session
from compiler.evaluate.values import Skip
from compiler.model import Job
from compiler.strategy import Strategy
from dsl import ast
from dsl.diagnostics import ParcError
from dsl.parser import parse
from dsl.source import Source, Span
from parc.certifying.by_hand import LIBRARY
from parc.certifying.stated import StatedPart, Unfounded
from parc.units import amount, seconds

TACTICS = "std.tactics"
NAME = "told"
LONGEST = 4096
"""Characters of a statement, and statements of a strategy."""


def hold_text(row: StatedPart, job: Job, priced: Strategy) -> None:
    """Hold the statements of a row of `best` to its strategy: read for the job's model and cluster, with the standard
    library's tactics, they are the very rules. Comments would be words that nothing holds: there are none.

    Raises Unfounded.
    """
    path = row["strategy"].path
    lines = statements(row)
    try:
        told = _read(lines, job, path)
    except ParcError as error:
        first = next(iter(error.diagnostics)).message
        raise Unfounded(f"{path} is no strategy of the model: {first}", path) from None
    except Skip:
        raise Unfounded(f"{path} is no strategy of the model", path) from None
    dims = index_model(job.model).dims
    if (said := plain(told, dims)) != (found := plain(priced, dims)):
        other = next(
            f
            for f in ("mesh", "splits", "shards", "pipelines", "recomputes", "implementations", "offloads", "")
            if _differs(said, found, f)
        )
        what = f"`{other}`" if other else "micro-batches or other rules"
        raise Unfounded(f"{path} says another strategy than the one that was priced: other {what}", path)


def statements(row: StatedPart) -> list[str]:
    """The lines of a strategy. Raises Unfounded for what is none."""
    path = row["strategy"].path
    lines = [line.text() for line in row["strategy"].each()]
    if len(lines) > LONGEST or any(len(line) > LONGEST for line in lines):
        raise Unfounded(f"{path} is longer than a strategy is", path)
    if any("#" in line or len(line.splitlines()) != 1 for line in lines):
        raise Unfounded(f"{path} has a line that is no statement", path)
    return lines


def hold_why(row: StatedPart, best: StatedPart) -> None:
    """Hold the line that says why a runner-up loses to the figures of both. Raises Unfounded."""
    if row.path == best.path:
        row["why"].be("")
        return
    took, least = row["step_seconds"].number(), best["step_seconds"].number()
    more = row["needed_bytes"].whole() - best["needed_bytes"].whole()
    size = "as much" if more == 0 else f"{amount(abs(more))} {'less' if more < 0 else 'more'}"
    share = took / least - 1
    speed = "as fast"
    if share > 0:
        speed = f"{seconds(took - least)} slower (+{share:.2%})"
    elif share < 0:
        speed = f"{-share:.2%} faster"
    row["why"].be(f"{speed}, needs {size}")


def _read(lines: list[str], job: Job, path: str) -> Strategy:
    """The strategy that the statements are, for the job's model and cluster."""
    text = "\n".join([f"strategy {NAME} {{", *lines, "}", ""])
    (item,) = one_strategy(text, path)
    named = sorted({s.call.function.id for s in item.body if isinstance(s, ast.Apply)})
    by_hand = sorted({s.call.function.id for s in item.body if isinstance(s, ast.Implement)})
    for library, names in ((TACTICS, named), (LIBRARY, by_hand)):
        if names:
            text = f"use {library} ({', '.join(names)})\n{text}"
    session = Session()
    module = Loader(session, ".").load(Source("<best>", text))
    session.diagnostics.raise_if_any()
    try:
        name = ast.Name(NAME, span=Span("<best>", 0, 0))
        return build_strategy(session, module, name, index_model(job.model), job.cluster)
    except Skip:
        session.diagnostics.raise_if_any()
        raise


def one_strategy(text: str, path: str) -> list[ast.Strategy]:
    """The one strategy of a text."""
    items = parse(text, "<best>").items
    found = [i for i in items if isinstance(i, ast.Strategy)]
    if len(items) != 1 or len(found) != 1:
        raise Unfounded(f"{path} is more than the statements of a strategy", path)
    return found


def plain(of: Strategy, dims: frozenset[str]) -> Strategy:
    """As it is compared: without dims that the model has not, which tactics name as well, and what says nothing."""
    splits = tuple(replace(s, dims=tuple(d for d in s.dims if d in dims)) for s in of.splits)
    return replace(of, name=NAME, splits=splits, microbatch_dim=of.microbatch_dim if of.microbatches > 1 else None)


def _differs(a: Strategy, b: Strategy, kind: str) -> bool:
    return not kind or getattr(a, kind) != getattr(b, kind)
