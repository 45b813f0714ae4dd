"""Whatever a file holds, `parc check` ends soon and in little memory, with a coded error and never a traceback."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from dsl.codes import CODES
from parc.cli import cli
from tests.dsl.hostile import CASES
from tests.dsl.hostile_models import FINE, MODELS
from tests.dsl.hostile_runner import MEGABYTES, PATIENCE, Ending, check, parse_all

# Each of these is a process; the others run in one (or by night).
PROCESSES = (
    "nested parentheses",
    "huge integer",
    "fifty megabytes",
    "a million parameters",
    "junk",
    "surrogates",
    "many statements",
    "a state called w",
    "w is no tensor",
    "dim of 2^62",
    "repeat of 10^12",
    "lists of lists",
    "recursion of two",
    "2^90 operations",
    "2^100 tactics",
    "conditionals in tests",
    "200 functions deep",
    "20,000 statements",
    "mesh of 10^12",
    "cluster of 10^40",
    "10^9 layers in 2 stages",
    "2^20 micro-batches",
)
# Odd, but files like any other.
VALID = frozenset(FINE) | {
    "many parameters",
    "many statements",
    "long comment",
    "many newlines",
    "blank lines",
    "spaces",
    "spaces in comments",
    "carriage returns",
    "old line ends",
    "tabs",
    "byte order mark",
    "words",
    "empty",
    "ends in a number",
}


def bounded(ending: Ending, fine: bool = False) -> None:
    """It ended within the bounds: well, or with coded errors and the exit status that they stand for."""
    assert "Traceback" not in ending.said and "internal error" not in ending.said, ending.said
    assert ending.seconds <= PATIENCE and ending.megabytes <= MEGABYTES
    if fine:
        assert ending.status == 0, ending.said
        return
    assert ending.codes and set(ending.codes) <= set(CODES), ending.said
    assert ending.status == (4 if any(c.startswith("E09") for c in ending.codes) else 1)
    assert len(ending.said) < 10_000


def text_of(name: str) -> str:
    """The file of a case."""
    if name in CASES:
        return CASES[name]()
    return {**MODELS, **FINE}[name]


def _check(name: str, folder: Path) -> None:
    (folder / "main.par").write_bytes(text_of(name).encode("utf-8", "surrogatepass"))
    bounded(check("main.par", folder), fine=name in VALID)


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_ends_in_bounds(name: str, tmp_path: Path) -> None:
    _check(name, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("name", [n for n in (*CASES, *MODELS, *FINE) if n not in PROCESSES])
def test_every_process_ends_in_bounds(name: str, tmp_path: Path) -> None:
    _check(name, tmp_path)


# --- files that use others ----------------------------------------------------------------------------


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def _circle(folder: Path) -> None:
    _write(folder, {"main.par": 'use "a.par"\n', "a.par": 'use "b.par"\n', "b.par": 'use "main.par"\n'})


def _itself(folder: Path) -> None:
    _write(folder, {"main.par": 'use "../project/main.par"\n'})


def _chain(folder: Path) -> None:
    _write(folder, {f"a{i}.par": f'use "a{i + 1}.par"\n' for i in range(500)})
    _write(folder, {"main.par": 'use "a0.par"\n', "a500.par": "param x = 1\n"})


def _tree(folder: Path) -> None:
    """Each file uses the two next ones: 2^90 ways to the last."""
    for i in range(90):
        _write(folder, {f"a{i}.par": f'use "a{i + 1}.par"\nuse "a{i + 2}.par"\nuse "none.par"\n'})
    _write(folder, {"main.par": 'use "a0.par"\n', "a90.par": "param x = 1\n", "a91.par": "param y = 1\n"})


def _passwords(folder: Path) -> None:
    _write(folder, {"main.par": 'use "../../etc/passwd"\n'})


def _absolute(folder: Path) -> None:
    _write(folder, {"main.par": 'use "/etc/passwd.par"\n'})


def _outside(folder: Path) -> None:
    _write(folder, {"main.par": 'use "../secret.par"\n', "../secret.par": "param x = 1\n"})


def _link_out(folder: Path) -> None:
    _write(folder, {"main.par": 'use "link.par"\n', "../secret.par": "param x = 1\n"})
    (folder / "link.par").symlink_to("../secret.par")


def _folder_link_out(folder: Path) -> None:
    _write(folder, {"main.par": 'use "sub/secret.par"\n', "../else/secret.par": "param x = 1\n"})
    (folder / "sub").symlink_to("../else")


def _link_circle(folder: Path) -> None:
    _write(folder, {"main.par": 'use "a.par"\n'})
    (folder / "a.par").symlink_to("b.par")
    (folder / "b.par").symlink_to("a.par")


def _link_to_device(folder: Path) -> None:
    _write(folder, {"main.par": 'use "zero.par"\n'})
    (folder / "zero.par").symlink_to("/dev/zero")


def _pipe(folder: Path) -> None:
    _write(folder, {"main.par": 'use "pipe.par"\n'})
    os.mkfifo(folder / "pipe.par")


def _main_is_pipe(folder: Path) -> None:
    os.mkfifo(folder / "main.par")


def _main_is_folder(folder: Path) -> None:
    (folder / "main.par").mkdir()


def _main_is_device(folder: Path) -> None:
    (folder / "main.par").symlink_to("/dev/zero")


def _used_folder(folder: Path) -> None:
    _write(folder, {"main.par": 'use "a.par"\n', "a.par/b": ""})


def _used_junk(folder: Path) -> None:
    _write(folder, {"main.par": 'use "a.par"\n'})
    (folder / "a.par").write_bytes(os.urandom(100_000))


def _used_large(folder: Path) -> None:
    _write(folder, {"main.par": 'use "a.par"\n', "a.par": "# more\n" * 8_000_000})


def _unreadable_name(folder: Path) -> None:
    _write(
        folder, {"main.par": f'use "{"a" * 3000}.par"\nuse "a\\n.par"\nuse "..\\\\a.par"\nuse ".par"\nuse "a.par/"\n'}
    )


def _missing(folder: Path) -> None:
    _write(folder, {"main.par": 'use "maine.par"\nuse std.layerz\nuse nothing.here\nuse std\n'})


def _many(folder: Path) -> None:
    _write(folder, {"main.par": "".join(f'use "a{i}.par"\n' for i in range(10_000))})


FILES: dict[Callable[[Path], None], set[str]] = {
    _circle: {"E0104"},
    _itself: {"E0104"},
    _chain: {"E0906"},
    _tree: {"E0013"},
    _passwords: {"E0014"},
    _absolute: {"E0014"},
    _outside: {"E0014"},
    _link_out: {"E0014"},
    _folder_link_out: {"E0014"},
    _link_circle: {"E0013"},
    _link_to_device: {"E0014"},
    _pipe: {"E0013"},
    _main_is_pipe: {"E0013"},
    _main_is_folder: {"E0013"},
    _main_is_device: {"E0013"},
    _used_folder: {"E0013"},
    _used_junk: {"E0012"},
    _used_large: {"E0901"},
    _unreadable_name: {"E0013", "E0014"},
    _missing: {"E0013", "E0015"},
    _many: {"E0013"},
}


LONG = {_chain, _tree, _link_to_device, _pipe, _main_is_pipe, _main_is_device, _used_junk, _used_large, _many}
"""What might take long, or much memory: in processes of their own."""


def told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Ending:
    """As `check` tells it, in this process."""
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(cli, ["check", "main.par"])
    codes = re.findall(r"^error\[(E\d{4})\]", done.stderr, re.MULTILINE)
    return Ending(done.exit_code, tuple(codes), 0.0, 0.0, done.output)


@pytest.mark.parametrize("make", FILES, ids=lambda m: m.__name__[1:])
def test_used_files(make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    make(folder)
    ending = check("main.par", folder) if make in LONG else told(folder, monkeypatch)
    bounded(ending)
    assert set(ending.codes) == FILES[make], ending.said
    assert "root:" not in ending.said


# --- all of them in one process -----------------------------------------------------------------------


def test_every_text_is_read_or_refused() -> None:
    """As above, without the cost of a process for each, and `parc fmt`'s work too."""
    ends = parse_all(sorted(CASES))
    assert [n for n, codes, _ in ends] == sorted(CASES)
    # wrong only in what they mean: two of them
    assert {n for n, codes, _ in ends if not codes} == VALID & set(CASES) | {"arguments", "long list"}
    assert all(set(codes) <= set(CODES) for _, codes, _ in ends)
    assert [(n, s) for n, _, s in ends if s > PATIENCE] == []
