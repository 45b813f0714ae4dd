"""docs/language.md shows all of the language, in examples that are run (by tests/test_docs.py)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

import parc
from compiler.evaluate.builtins import BUILTINS
from dsl import ast
from dsl.diagnostics import ParcError
from dsl.files import standard_modules
from dsl.parser import grammar, parse
from dsl.source import Source
from dsl.units import UNITS

PAGE = (Path(__file__).parents[2] / "docs" / "language.md").read_text()
TEXTS = re.findall(r"^```par[^\n]*\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
OPERATORS = ["+", "-", "*", "/", "//", "%", "@", "**", "<", "<=", ">", ">=", "==", "!=", "and", "or"]
# Bases of others, and what stands for no construct of its own.
ABSTRACT = {ast.Syntax, ast.Expr, ast.Statement, ast.Item, ast.Definition}


NEVER_EMPTY = (ast.Setting, "values")  # the grammar allows it, nothing means it


def _nodes(value: object) -> Iterator[ast.Syntax]:
    if isinstance(value, ast.Syntax):
        yield value
        for field in fields(value):
            yield from _nodes(getattr(value, field.name))
    elif isinstance(value, tuple):
        for part in value:
            yield from _nodes(part)


def _trees() -> Iterator[ast.File]:
    for text in TEXTS:
        with suppress(ParcError):  # some examples are of syntax errors
            yield parse(text, "t")


NODES = [n for tree in _trees() for n in _nodes(tree)]
KINDS = [k for k in vars(ast).values() if isinstance(k, type) and issubclass(k, ast.Syntax) and k not in ABSTRACT]


def _optional() -> list[tuple[type[ast.Syntax], str]]:
    """What may be missing: fields with a default, but for notes that take no part in the meaning."""
    return [
        (k, f.name)
        for k in KINDS
        for f in fields(k)
        if f.default is not MISSING and f.compare and (k, f.name) != NEVER_EMPTY
    ]


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_every_node_is_shown(kind: type[ast.Syntax]) -> None:
    assert any(type(n) is kind for n in NODES)


@pytest.mark.parametrize(("kind", "field"), _optional(), ids=lambda p: getattr(p, "__name__", p))
def test_everything_optional_is_shown_present_and_absent(kind: type[ast.Syntax], field: str) -> None:
    seen = [bool(getattr(n, field)) for n in NODES if type(n) is kind]
    assert True in seen and False in seen


def test_forms_that_the_tree_does_not_tell_apart() -> None:
    assert {n.op for n in NODES if isinstance(n, ast.Binary)} == set(OPERATORS)
    assert {n.op for n in NODES if isinstance(n, ast.Unary)} == {"-", "not"}
    assert {n.value for n in NODES if isinstance(n, ast.Boolean)} == {True, False}
    assert {type(n.value) for n in NODES if isinstance(n, ast.Number)} == {int, float}
    assert {type(n.module) for n in NODES if isinstance(n, ast.Use)} == {ast.Path, ast.String}
    choices = [n.choices for n in NODES if isinstance(n, ast.Param)]
    assert None in choices and {type(c) for c in choices} >= {ast.Range, tuple}
    assert {n.kind.id for n in NODES if isinstance(n, ast.Task)} == {"train", "infer"}
    assert {len(n.before) > 1 for n in NODES if isinstance(n, ast.Arrow)} == {True, False}
    assert {len(n.dims) > 1 for n in NODES if isinstance(n, ast.Over)} == {True, False}
    assert any(isinstance(n, ast.If) and len(n.other) == 1 and isinstance(n.other[0], ast.If) for n in NODES)
    assert any(isinstance(n, ast.LayoutDecl) and any(len(axes) > 1 for _, axes in n.dims) for n in NODES)
    assert any(isinstance(n, ast.Recompute) and n.scope is None for n in NODES)
    assert any(isinstance(n, ast.Return) and len(n.values) > 1 for n in NODES)
    assert any(isinstance(n, ast.Assign) and len(n.targets) > 1 for n in NODES)


def test_every_keyword_is_shown() -> None:
    text = "\n".join(TEXTS)
    assert [w for w in sorted(grammar().keywords) if not re.search(rf"\b{w}\b", text)] == []


def test_every_builtin_is_called() -> None:
    called = {n.function.id for n in NODES if isinstance(n, ast.Call)}
    assert sorted(set(BUILTINS) - called) == []


def test_every_unit_is_named() -> None:
    named = {word for span in re.findall(r"`([^`\n]+)`", PAGE) for word in span.split()}
    assert [u for u in UNITS if not u.endswith("/s") and u not in named] == []


def _strategies() -> list[tuple[str, str]]:
    """Each strategy of an example that has a job to use it in: the example's text, the strategy."""
    found = []
    for error, text in re.findall(r"^```par( error \w+)?\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        if not error:
            items = parse(text, "t").items
            if sum(isinstance(i, ast.Job) for i in items) == 1:
                found += [(text, i.name.id) for i in items if isinstance(i, ast.Strategy)]
    return found


@pytest.mark.parametrize(("text", "strategy"), _strategies(), ids=lambda p: p if "\n" not in p else "")
def test_every_strategy_is_lowered(text: str, strategy: str) -> None:
    assert parc.check(Source("t", text), strategy=strategy).jobs


def _standard() -> dict[str, dict[str, str]]:
    """Of each module of the standard library: names -> the head of each definition, on one line."""
    found: dict[str, dict[str, str]] = {}
    for module in standard_modules():
        text = (Path(__file__).parents[2] / "dsl" / "std" / f"{module}.par").read_text()
        for item in parse(text, module).items:
            if isinstance(item, ast.Definition):
                head = text[item.span.start : item.span.end].partition(" {\n")[0].partition(" ")[2]
                head = re.sub(r",?\s*\)$", ")", re.sub(r"\(\s+", "(", re.sub(r"\s+", " ", head)))
                found.setdefault(module, {})[item.name.id] = head
    return found


@pytest.mark.parametrize("module", standard_modules())
def test_the_standard_library_is_listed(module: str) -> None:
    """Exactly what there is, in its order, with its parameters and their defaults."""
    section = PAGE[PAGE.index("## The standard library") :]
    listed = re.findall(r"^\| `([^`]+)` \|", section[section.index(f"`std.{module}`") :].split("\n\n")[1], re.MULTILINE)
    assert listed == list(_standard()[module].values())


def test_devices_are_listed_with_their_numbers() -> None:
    text = (Path(__file__).parents[2] / "dsl" / "std" / "devices.par").read_text()
    for device in text.split("\ndevice ")[1:]:
        peak, memory = (
            re.search(rf"^  {what}$", device, re.MULTILINE) for what in ("compute (bf16 .*)", "(memory .*)")
        )
        assert peak and memory
        assert f"| `{device.split(' ')[0]}` | `{peak[1]}` | `{memory[1]}` |" in PAGE
