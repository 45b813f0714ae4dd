"""Which file a `use` means: of the project or the standard library, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

import parc
from dsl import ast
from dsl.diagnostics import Diagnostic, ParcError
from dsl.files import load, load_use, project_root, standard_modules
from dsl.parser import parse
from dsl.source import Source

ONE = "param x = 1\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of a few files, with one beside it."""
    root = tmp_path / "project"
    (root / "models" / "deep").mkdir(parents=True)
    (root / "pyproject.toml").touch()
    for name in ("main.par", "models/block.par", "models/deep/inner.par", "../outside.par"):
        (root / name).write_text(ONE)
    return root


def used(source: Source, text: str, root: Path) -> Source:
    (item,) = parse(text, source.name).items
    assert isinstance(item, ast.Use)
    return load_use(item, source, root)


def refused(source: Source, text: str, root: Path) -> Diagnostic:
    with pytest.raises(ParcError) as caught:
        used(source, text, root)
    (found,) = caught.value.diagnostics
    assert found.span is not None and found.span.source == source.name
    return found


@pytest.mark.parametrize("mark", ["pyproject.toml", ".git", "parc.toml"])
def test_the_root_is_the_nearest_marked_folder(mark: str, tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    file = inner / "main.par"
    assert project_root(file) == inner  # nothing is marked: its own folder
    (tmp_path / mark).touch()
    assert project_root(file) == tmp_path
    (tmp_path / "a" / mark).touch()
    assert project_root(file) == tmp_path / "a"


def test_the_root_is_that_of_the_file_behind_a_link(project: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.par"
    link.symlink_to(project / "models" / "block.par")
    assert project_root(link) == project


def test_paths_start_at_the_using_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    main = load(project / "main.par")
    block = used(main, 'use "models/block.par"', project)
    assert block.path == str(project / "models" / "block.par")
    inner = used(block, 'use "deep/inner.par"', project)
    assert inner.path == str(project / "models" / "deep" / "inner.par")
    again = used(inner, 'use "../../main.par"', project)
    assert again.path == main.path


def test_names_are_as_the_user_would_write_them(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    main = load("main.par")
    assert (main.name, main.text, main.path) == ("main.par", ONE, str(project / "main.par"))
    block = used(main, 'use "models/../models/block.par"', project)
    assert block.name == "models/block.par"
    assert used(block, 'use "../main.par"', project).name == "main.par"


def test_links_inside_the_project_are_followed(project: Path) -> None:
    (project / "link.par").symlink_to("models/block.par")
    main = load(project / "main.par")
    assert used(main, 'use "link.par"', project).path == str(project / "models" / "block.par")


def test_one_file_by_two_names_is_loaded_once(project: Path) -> None:
    (project / "link.par").symlink_to("models/block.par")
    (project / "main.par").write_text('use "link.par"\nuse "models/block.par"\n\nparam y = x + 1\n')
    assert parc.check(project / "main.par").warnings == ()


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ('use "../outside.par"', "E0014", "outside of the project"),
        ('use "models/../../outside.par"', "E0014", "outside of the project"),
        ('use "/etc/hosts.par"', "E0014", "not a relative path"),
        ('use "C:/block.par"', "E0014", "not a relative path"),
        ('use "models\\\\block.par"', "E0014", "not a relative path"),
        ('use "http://example.com/block.par"', "E0014", "not a relative path"),
        ('use "models/block"', "E0014", "only `.par` files"),
        ('use "main.txt"', "E0014", "only `.par` files"),
        ('use ""', "E0014", "only `.par` files"),
        ('use "models/blok.par"', "E0013", "No such file"),
        ('use "models.par/x.par"', "E0013", "No such file"),
        ("use std", "E0015", "no module"),
        ("use other.layers", "E0015", "no module"),
        ("use std.layerz", "E0015", "no `std.layerz`"),
        ("use std.layers.attention", "E0015", "no `std.layers.attention`"),
    ],
)
def test_refusals(text: str, code: str, message: str, project: Path) -> None:
    found = refused(load(project / "main.par"), text, project)
    assert found.code == code and message in found.message, str(found)


def test_refusals_help(project: Path) -> None:
    main = load(project / "main.par")
    assert refused(main, 'use "models/blok.par"', project).help == "did you mean `block.par`?"
    assert refused(main, "use std.layerz", project).help == "did you mean `std.layers`?"
    assert refused(main, "use models.block", project).help == 'a file of your own is `use "models/block.par"`'
    assert "symbolic links" in (refused(main, 'use "../outside.par"', project).help or "")


def test_the_standard_library() -> None:
    modules = standard_modules()
    assert modules == sorted(modules) and {"layers", "optimizers", "devices", "tactics"} <= set(modules)
    for name in modules:
        source = used(Source("main.par", ""), f"use std.{name}", Path("."))
        assert source.name == f"<std>/{name}.par" and source.path is None
        assert parse(source.text, source.name).items


def test_a_text_without_a_file_uses_only_the_standard_library() -> None:
    found = refused(Source("<stdin>", ""), 'use "block.par"', Path("."))
    assert found.code == "E0014" and "only use modules of the standard library" in found.message


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"\xff\xfe\x00", "E0012"), (b"param x = 1 # \xe9\n", "E0012"), (b"#" * (5 * 2**20), "E0901")],
)
def test_contents(content: bytes, code: str, tmp_path: Path) -> None:
    (tmp_path / "a.par").write_bytes(content)
    with pytest.raises(ParcError) as caught:
        load(tmp_path / "a.par")
    assert [d.code for d in caught.value.diagnostics] == [code]


def test_files_that_are_none(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.par", "/dev/null", "a\0b.par", "a" * 5000):
        with pytest.raises(ParcError) as caught:
            load(path)
        assert [d.code for d in caught.value.diagnostics] == ["E0013"]
