"""A plan as a file: the user's own, with a strategy more, which its job uses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from compiler.cluster import Cluster
from dsl import ast
from dsl.diagnostics import ParcError, fail
from dsl.parser import parse
from dsl.printer import format_source
from dsl.source import Source, Span
from parc.planning.implementing import FUNCTIONS, LIBRARY
from parc.planning.space import PlanChoice, PlanSpace
from parc.planning.written import TACTICS, lines_of

NAME = "planned"


def with_strategy(
    source: Source,
    job: str,
    params: Mapping[str, str],
    space: PlanSpace,
    candidate: PlanChoice,
    cluster: Cluster | None = None,
    tactics: bool = True,
    change: Callable[[Sequence[str]], Sequence[str]] = list,
) -> str:
    """The canonical text. params: become the defaults of the file's parameters. cluster: in the place of the job's own,
    where it has other devices. tactics: of the standard library are named where they fit. change: of the statements."""
    file = parse(source.text, source.name)
    edits: list[tuple[int, int, str]] = []
    (item,) = (i for i in file.items if isinstance(i, ast.Job) and i.name.id == job)
    (task,) = (s for s in item.body if isinstance(s, ast.Task))
    lines = change(lines_of(space, candidate, _known(file) if tactics else ()))
    name = _free(file, ast.Strategy, NAME)
    before = [f"strategy {name} for {task.model.function.id} {{", *(f"  {line}" for line in lines), "}", ""]
    if cluster is not None and task.cluster is not None:
        copy, more = _resized(source, file, task.cluster.function, cluster)
        before = [*copy, "", *before]
        edits += more
    named = {line.partition("(")[0] for line in lines if "(" in line} & {*TACTICS}
    by_hand = {line.rpartition(" by ")[2].partition("(")[0] for line in lines if line.startswith("implement ")}
    wanted = ((module, _missing(file, module, names)) for module, names in ((LIBRARY, by_hand), ("std.tactics", named)))
    if uses := [f"use {module} ({', '.join(names)})\n" for module, names in wanted if names]:
        last = max((i.span.end for i in file.items if isinstance(i, ast.Use)), default=0)
        edits.append((last, last, "\n" + "".join(uses)))
    edits.append((item.span.start, item.span.start, "\n".join([*before, ""])))
    if task.strategy is not None:
        edits.append((task.strategy.span.start, task.strategy.span.end, name))
    else:
        end = (task.cluster or task.model).span.end
        edits.append((end, end, f" using {name}"))
    edits += defaults(file, params)
    return format_source(edited(source.text, edits), source.name)


def defaults(file: ast.File, params: Mapping[str, str]) -> list[tuple[int, int, str]]:
    """The edits by which values become the defaults of the file's parameters."""
    edits = []
    for param in (i for i in file.items if isinstance(i, ast.Param) and i.name.id in params):
        value = params[param.name.id]
        text = _quoted(value) if isinstance(param.default, ast.String) else value
        edits.append((param.default.span.start, param.default.span.end, text))
    return edits


def _quoted(value: str) -> str:
    """A text as a file has it; one that comes in quotes is one."""
    if value.startswith('"'):
        return value
    for plain, written in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t")):
        value = value.replace(plain, written)
    return f'"{value}"'


def text_params(file: ast.File) -> frozenset[str]:
    """The file's parameters that are texts."""
    items = (i for i in file.items if isinstance(i, ast.Param))
    return frozenset(i.name.id for i in items if isinstance(i.default, ast.String))


def printed(value: str) -> str:
    """A value as a file has it that is printed: `08` is 8. What is no value stays, whoever sets it says so."""
    try:
        return format_source(f"param p = {value}\n", "<-D>").removeprefix("param p = ").rstrip("\n")
    except ParcError:
        return value


def edited(text: str, edits: Sequence[tuple[int, int, str]]) -> str:
    """The text with pieces replaced: (from, to, what stands there instead)."""
    for start, end, instead in sorted(edits, key=lambda e: e[:2], reverse=True):
        text = text[:start] + instead + text[end:]
    return text


def _known(file: ast.File) -> frozenset[str]:
    """Tactics of the standard library that the file can name: its own of such a name are others."""
    return frozenset(TACTICS) - _names(file, "std.tactics")


def taken(source: Source) -> frozenset[str]:
    """Names by which the file cannot call an implementation of the standard library."""
    return frozenset(FUNCTIONS) & _names(parse(source.text, source.name), LIBRARY)


def _names(file: ast.File, module: str) -> frozenset[str]:
    """Names that stand for something else than what the module has of such a name."""
    own = {i.name.id for i in file.items if isinstance(i, ast.Definition | ast.Param)}
    others = {n.id for i in file.items if isinstance(i, ast.Use) and str(i.module) != module for n in i.names}
    return frozenset(own | others)


def _missing(file: ast.File, module: str, names: Collection[str]) -> list[str]:
    """Those of the names that the file does not use yet."""
    uses = [i for i in file.items if isinstance(i, ast.Use) and str(i.module) == module]
    if any(not i.names for i in uses):
        return []
    return sorted({*names} - {n.id for i in uses for n in i.names})


def _free(file: ast.File, kind: type[ast.Definition], name: str) -> str:
    taken = {i.name.id for i in file.items if isinstance(i, ast.Definition | ast.Param)}
    taken |= {n.id for i in file.items if isinstance(i, ast.Use) for n in i.names}
    number = 1
    while (found := name if number == 1 else f"{name}_{number}") in taken:
        number += 1
    return found


def with_cluster(source: Source, job: str, cluster: Cluster) -> Source:
    """The text in which a job runs on a copy of its cluster whose levels have these counts. Raises ParcError (E0801)
    for one that stands in another file."""
    file = parse(source.text, source.name)
    (item,) = (i for i in file.items if isinstance(i, ast.Job) and i.name.id == job)
    (task,) = (s for s in item.body if isinstance(s, ast.Task))
    assert task.cluster is not None
    copy, edits = _resized(source, file, task.cluster.function, cluster)
    at = item.span.start
    return replace(source, text=edited(source.text, [(at, at, "\n".join([*copy, "", ""])), *edits]))


def _resized(
    source: Source, file: ast.File, of: ast.Name, cluster: Cluster
) -> tuple[list[str], list[tuple[int, int, str]]]:
    """The text of a copy of a cluster whose levels have these counts, and the edit by which a job has it. Raises
    ParcError (E0801) for one that stands in another file."""
    item = next((i for i in file.items if isinstance(i, ast.Cluster) and i.name.id == of.id), None)
    if item is None:
        message = f"the cluster `{of.id}` stands in another file, and has another number of devices"
        raise fail("E0801", message, of.span, help="write it into this file, or give it a parameter for the number")
    new = _free(file, ast.Cluster, f"{of.id}_{cluster.devices}")
    levels = [s for s in item.body if isinstance(s, ast.Level)]
    counts = {s.name.id: level.count for s, level in zip(levels, cluster.levels, strict=False)}
    edits = [(*_at(item.name.span, item), new)]
    edits += [(*_at(s.count.span, item), str(counts[s.name.id])) for s in levels if s.name.id in counts]
    lines = edited(source.text[item.span.start : item.span.end], edits).splitlines()
    return lines, [(of.span.start, of.span.end, new)]


def _at(span: Span, item: ast.Item) -> tuple[int, int]:
    return span.start - item.span.start, span.end - item.span.start
