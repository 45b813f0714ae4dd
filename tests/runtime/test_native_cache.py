"""What is compiled: kept by its content, loaded only where nobody else can have put it; and the command."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import runtime.native.build as build
from dsl.diagnostics import ParcError
from parc.cli import cli
from runtime.native import NativePlanner
from runtime.native.build import library, toolchain
from tests.runtime import models
from tests.runtime.cc import needs_compiler, own_cache

__all__ = ["own_cache"]

pytestmark = needs_compiler


ONE = "int number(void) { return %d; }\n"


def kept(cache: Path, text: str) -> Path:
    """Where it is kept, or would be."""
    key = toolchain().key(text)[: build.HALF]
    return next(cache.glob(f"{key}*.so"), cache / f"{key}{'0' * build.HALF}.so")


def number(text: str) -> int:
    found = library(text).number
    found.restype = ctypes.c_int
    return int(found())


def test_what_is_kept_is_only_the_users(cache: Path) -> None:
    assert number(ONE % 41) == 41
    file = kept(cache, ONE % 41)
    assert cache.stat().st_mode & 0o777 == 0o700 and file.stat().st_mode & 0o777 == 0o700
    assert not [f for f in cache.iterdir() if f.suffix != ".so" or len(f.stem) != 64]  # nothing is left behind


def test_a_file_that_others_can_write_to_is_not_loaded(cache: Path) -> None:
    assert number(ONE % 1) == 1
    other = kept(cache, ONE % 1)
    # What somebody else could have put there says 2 under the name of a text that says 3.
    assert number(ONE % 2) == 2
    two = kept(cache, ONE % 2)
    name = f"{toolchain().key(ONE % 3)[: build.HALF]}{two.stem[build.HALF :]}.so"  # as it would be called
    (cache / name).write_bytes(two.read_bytes())
    (cache / name).chmod(0o777)
    assert number(ONE % 3) == 3 and kept(cache, ONE % 3).stat().st_mode & 0o777 == 0o700
    link = cache / f"{toolchain().key(ONE % 4)[: build.HALF]}{other.stem[build.HALF :]}.so"
    link.symlink_to(other)
    assert number(ONE % 4) == 4 and not link.is_symlink() and other.exists()


def test_a_damaged_file_is_made_again(cache: Path) -> None:
    damaged = kept(cache, ONE % 5)
    damaged.write_bytes(b"no library")
    damaged.chmod(0o700)
    assert number(ONE % 5) == 5
    whole = kept(cache, ONE % 7)
    assert not whole.exists() and number(ONE % 7) == 7
    whole = kept(cache, ONE % 7)
    size = whole.stat().st_size
    os.truncate(whole, size // 4)  # what a crash of the machine leaves: to load it would end this process
    whole.rename(cache / f"{whole.stem[: build.HALF]}{'1' * build.HALF}.so")
    again = "import sys; from tests.runtime.test_native_cache import ONE, number; sys.exit(number(ONE % 7))"
    ended = subprocess.run([sys.executable, "-c", again], cwd=Path(build.__file__).parents[2], check=False)
    assert ended.returncode == 7
    assert [f.stat().st_size for f in cache.glob(f"{whole.stem[: build.HALF]}*.so")] == [size]


@pytest.mark.parametrize("mode", [0o777, 0o500])
def test_a_folder_that_is_not_safe_is_not_used(mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if mode == 0o500 and os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    folder = tmp_path / "parc" / "kernels"
    folder.mkdir(parents=True)
    folder.chmod(mode)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build._cache_folder.cache_clear()
    try:
        assert build._cache_folder() != folder and number(ONE % 6) == 6
        assert not list(folder.iterdir())
    finally:
        build._cache_folder.cache_clear()
        folder.chmod(0o700)


def test_another_processor_or_compiler_has_other_files(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = toolchain()
    key = tools.key("x")
    assert key == tools.key("x") != tools.key("y")
    monkeypatch.setattr(build, "_processor", lambda: "another")
    assert tools.key("x") != key


# --- the command ----------------------------------------------------------------------------------------


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    args = ["run", models.GPT, "--steps", "2", "-D", "dp=2", "-D", "batch=32", "--json"]
    fast, plain = (CliRunner().invoke(cli, [*args, *more]) for more in (["--backend", "fast"], []))
    assert fast.exit_code == plain.exit_code == 0
    proof = CliRunner().invoke(cli, ["verify", models.GPT, "-D", "dp=2", "--backend", "fast", "--steps", "1"])
    assert proof.exit_code == 0
    for other in (["--executor", "private"], ["--engine", "torch"]):
        refused = CliRunner().invoke(cli, ["verify", models.GPT, "--backend", "fast", *other])
        assert refused.exit_code == 2 and "--backend fast" in refused.stderr


def test_no_compiler_is_an_error_and_numpy_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    args = ["run", models.GPT, "--steps", "1"]
    found = CliRunner().invoke(cli, [*args, "--backend", "fast"])
    assert found.exit_code == 1 and "error[E0731]" in found.stderr and "no-such-compiler" in found.stderr
    assert CliRunner().invoke(cli, args).exit_code == 0
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "")
    build._toolchain.cache_clear()
    try:
        with pytest.raises(ParcError, match="E0731"):
            NativePlanner()
    finally:
        build._toolchain.cache_clear()
