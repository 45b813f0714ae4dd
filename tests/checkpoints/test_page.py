"""The commands of docs/checkpoints.md, in their order: they print what the page shows, and do what it says."""

from __future__ import annotations

import re
import shlex
from filecmp import cmpfiles
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from parc.cli import cli
from tests.test_docs import FENCE, without_left_out

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[tuple[str, list[str], list[str]]]:
    """Each command with the lines that it prints, and those that it says beside (`! …`, in which … is any text)."""
    found: list[tuple[str, list[str], list[str]]] = []
    for block in BLOCK.findall(page):
        for line in block.splitlines():
            if line.startswith("$ parc "):
                found.append((line.removeprefix("$ parc "), [], []))
            else:
                found[-1][2 if line.startswith("! ") else 1].append(line.removeprefix("! "))
    return found


NUMBER = re.compile(r"\d+\.\d+")


def rounded(lines: list[str]) -> list[str]:
    """Losses with fewer digits: other processors round otherwise."""
    return [NUMBER.sub(lambda m: f"{float(m[0]):.3g}", line) if "loss" in line else line for line in lines]


def carry_out(page: str, folder: Path) -> None:
    """Run the commands of a page in a folder with its files."""
    for _, name, text in FENCE.findall(page):
        (folder / name).write_text(text, encoding="utf-8")
    for command, shown, said in commands(page):
        result = CliRunner().invoke(cli, shlex.split(command))
        assert result.exit_code == 0, (command, result.stderr)
        lines = [line.rstrip() for line in result.stdout.rstrip().split("\n")]
        shown = rounded(shown)
        assert without_left_out(rounded(lines), shown) == shown, command
        for line in said:
            parts = map(re.escape, line.split("…"))
            assert re.search("^" + ".*".join(parts), result.stderr, re.MULTILINE), (command, line)


def test_the_page_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(commands(PAGE)) >= 8
    carry_out(PAGE, tmp_path)
    before, after = tmp_path / "saved" / "step-00000006", tmp_path / "on_eight"
    names = sorted(p.name for p in before.iterdir())
    assert len(names) == 9 and cmpfiles(before, after, names, shallow=False) == (names, [], [])
    one = np.load(tmp_path / "logits.npz")["logits"]
    assert one.shape == (3, 8, 16, 80)
    content = (tmp_path / "logits.safetensors").read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    other = np.frombuffer(content[begin:], np.float32).reshape(one.shape)
    assert np.allclose(one, other, rtol=1e-4, atol=1e-5) and not np.array_equal(one[0], one[1])
