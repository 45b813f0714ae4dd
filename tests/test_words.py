"""Words have one meaning: no two public classes share a name, and what the glossary speaks of is there."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from parc import api

ROOT = Path(__file__).parent.parent
PACKAGES = ("dsl", "compiler", "runtime", "parc")
TREE = ROOT / "dsl" / "ast"
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
ENTRY = re.compile(r"^\| (\*\*.+?) \| (.+) \| (.*) \|$", re.MULTILINE)


def classes(package: str) -> Iterator[tuple[str, str]]:
    """Name and module of each public class at the top of a module; not of the syntax tree's."""
    for file in sorted((ROOT / package).rglob("*.py")):
        if TREE in file.parents:
            continue
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield node.name, str(file.relative_to(ROOT))


def test_class_names_have_one_meaning() -> None:
    found = defaultdict(list)
    for package in PACKAGES:
        for name, file in classes(package):
            found[name].append(file)
    assert {name: files for name, files in found.items() if len(files) > 1} == {}


def test_the_glossary_has_entries_and_explains_each_word_once() -> None:
    words = [word for entry in ENTRY.findall(GLOSSARY) for word in re.findall(r"\*\*(.+?)\*\*", entry[0] + entry[1])]
    assert len(words) > 50
    assert sorted({w for w in words if words.count(w) > 1}) == []


def meant() -> list[str]:
    """What the glossary says is ours: the names and paths before the semicolons of its last column."""
    places = [entry[2].split(";")[0] for entry in ENTRY.findall(GLOSSARY)]
    return sorted({name for place in places for name in re.findall(r"`(.+?)`", place)})


def test_most_words_have_a_place_in_code() -> None:
    places = [entry[2] for entry in ENTRY.findall(GLOSSARY)]
    assert sum("`" in p for p in places) > 0.9 * len(places) and len(meant()) > 50


NAME = re.compile(r"`((?:dsl|compiler|runtime|parc|tests|benchmarks|docs)(?:/[\w./-]*|\.[\w.]+))`")


def shown() -> list[str]:
    """The paths and full names in the pages for newcomers."""
    pages = [ROOT / "docs" / "onboarding.md", *sorted((ROOT / "docs" / "recipes").glob("*.md"))]
    names = {name for page in pages for name in NAME.findall(page.read_text())}
    return sorted(n for n in names if "NAME" not in n)


@pytest.mark.parametrize("name", sorted({*meant(), *shown()}))
def test_what_the_pages_name_is_there(name: str) -> None:
    if "/" in name:
        assert (ROOT / name).exists()
        return
    parts = name.split(".")
    files = [n for n in range(1, len(parts)) if (ROOT / Path(*parts[:n]).with_suffix(".py")).exists()]
    assert files, "a module is named by its path"
    thing: object = importlib.import_module(".".join(parts[: files[0]]))
    for part in parts[files[0] :]:
        assert hasattr(thing, part) or part in getattr(thing, "__annotations__", {})
        thing = getattr(thing, part, None)


OTHER_WORDS = {"The", "A", "An", "What", "How", "Why", "Whether", "Which", "Where", "Everything", "All", "Of"}


def functions() -> list[str]:
    """The public functions of parc."""
    return sorted(name for name in api.__all__ if inspect.isfunction(getattr(api, name)))


@pytest.mark.parametrize("name", functions())
def test_docstrings_of_the_api_begin_with_a_verb_and_say_what_is_raised(name: str) -> None:
    function = getattr(api, name)
    doc = inspect.getdoc(function) or ""
    assert doc and doc.split()[0] not in OTHER_WORDS
    source = inspect.getsource(function)
    assert "Raises" in doc or not ("raise " in source or "**options" in source), "errors"
