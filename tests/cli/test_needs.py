"""Packages that are absent, broken or old are told as such, with what mends it; bugs of parc are not blamed on them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from parc import needs

ROOT = Path(__file__).parent.parent.parent
STATED = {"click": "explain E0010", "numpy": "run FILE --steps 1", "ml_dtypes": "verify FILE --steps 1"}
"""A command that needs each."""


def start(args: str, before: str = "", folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in an interpreter in which `before` ran first, and in which modules of `folder` win."""
    words = args.replace("FILE", str(ROOT / "examples" / "gpt.par")).split()
    path = [str(p) for p in (folder, ROOT) if p]
    code = f"import sys\nsys.path[:0] = {path!r}\n{before}\nsys.argv = ['parc', *{words!r}]\n"
    code += "from parc.__main__ import main\nmain()"
    return subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)


def command(requirement: str) -> str:
    return f"{sys.executable} -m pip install '{requirement}'"


def test_what_is_stated_is_what_the_project_says() -> None:
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert list(needs.stated().values()) == lines
    assert set(needs.stated()) == {"click", "lark", "ml_dtypes", "numpy", "rich"}


@pytest.mark.parametrize("name", STATED)
def test_an_absent_package(name: str) -> None:
    done = start(STATED[name], f"sys.modules[{name!r}] = None")
    assert done.returncode == 2 and "Traceback" not in done.stderr and "bug" not in done.stderr
    assert f"Error: parc needs the package `{name}`, which {sys.executable} does not have" in done.stderr
    assert f"help: `{command(needs.stated()[name])}`" in done.stderr


@pytest.mark.parametrize("name", ["numpy", "ml_dtypes"])
def test_an_absent_package_in_json(name: str) -> None:
    done = start(f"{STATED[name]} --json", f"sys.modules[{name!r}] = None")
    told = json.loads(done.stdout)
    assert done.returncode == told["exit"] == 2 and done.stderr == ""
    (one,) = told["diagnostics"]
    assert one["code"] is None and f"`{name}`" in one["message"] and command(needs.stated()[name]) in one["help"]


BROKEN = {
    "a library that is not there": "raise ImportError('libopenblas.so.0: cannot open shared object file')",
    "built for another": "raise RuntimeError('module compiled against ABI version 0x1000009')",
    "one of its own that is absent": "import no_such_package_at_all",
    "no code": "this is no code",
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("name", STATED)
def test_a_broken_package(tmp_path: Path, name: str, how: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("from . import inner\n")
    (tmp_path / name / "inner.py").write_text(BROKEN[how] + "\n")
    done = start(STATED[name], "", tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "bug" not in done.stderr
    assert re.search(rf"Error: the package `{name}`( [\d.]+)? cannot be loaded: ", done.stderr), done.stderr
    assert "--force-reinstall" in done.stderr


def test_an_older_package_is_named_where_something_fails(tmp_path: Path) -> None:
    old = tmp_path / "rich-1.0.dist-info"
    old.mkdir()
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: rich\nVersion: 1.0\n")
    fail = "import parc.api\ndef broken(*a, **k): raise KeyError('gone')\nparc.api.check = broken"
    done = start("check FILE", fail, tmp_path)
    assert done.returncode == 3 and "internal error: KeyError" in done.stderr
    assert f"`rich` 1.0 is older than what parc needs ({needs.stated()['rich']})" in done.stderr
    assert "bug in parc" in start("check FILE", fail).stderr


def test_a_package_too_old_for_the_command_to_load(tmp_path: Path) -> None:
    old = tmp_path / "click-6.0.dist-info"
    old.mkdir()
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: click\nVersion: 6.0\n")
    done = start("--help", "import click\ndel click.Group", tmp_path)
    assert done.returncode == 2 and "`click` 6.0 is older than what parc needs" in done.stderr
    assert "Traceback" in start("--help", "import click\ndel click.Group").stderr  # of the stated version: a bug


def test_our_own_import_errors_are_ours() -> None:
    fail = "import parc.api\ndef broken(*a, **k):\n    import no_such_package\nparc.api.check = broken"
    done = start("check FILE", fail)
    assert done.returncode == 3 and "bug in parc" in done.stderr
    fail = "import parc.api\ndef broken(*a, **k):\n    import numpy\n    numpy.zeros(-1)\nparc.api.check = broken"
    done = start("check FILE", fail)
    assert done.returncode == 3 and "bug in parc" in done.stderr and "ValueError" in done.stderr


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ("1.26", "1.26.1"),
        ("8.1.7", "8.10"),
        ("0.4.0", "0.10"),
        ("13.7", "14"),
        ("1.9", "1.10.dev1"),
    ],
)
def test_versions_are_numbers(less: str, more: str) -> None:
    assert needs._numbers(less) < needs._numbers(more) and needs._numbers(less + ".0") == needs._numbers(less)
