"""Names of folders and files that no system takes: told by a code, by every command that reads or writes there."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from parc.cli import cli
from tests.cli.test_contract import PACKED, WRITER, trained

LONG = "x" * 300
DEEP = "x/" * 2500

FIT = ("--job", "fit", "--steps", "1")
WAYS: dict[str, tuple[str, ...]] = {
    "E0770 go on": ("run", PACKED, *FIT, "--resume", "NAME"),
    "E0770 begin": ("evaluate", PACKED, *FIT, "--from", "NAME"),
    "E0770 convert": ("convert", "NAME", "--to", PACKED, "--job", "fit", "-o", "OUT"),
    "E0770 compress": ("compress", "NAME", PACKED, "--job", "serve", "-o", "OUT"),
    "E0770 generate": ("generate", WRITER, "--prompt", "a", "--steps", "1", "--from", "NAME"),
    "E0773 save": ("run", PACKED, *FIT, "--save", "NAME"),
    "E0773 convert": ("convert", "SAVED", "--to", PACKED, "--job", "fit", "-o", "NAME"),
    "E0773 compress": ("compress", "SAVED", PACKED, "--job", "serve", "--steps", "1", "-o", "NAME"),
    "E0785 tokenizer": ("generate", WRITER, "--prompt", "a", "--steps", "1", "--tokenizer", "NAME"),
}


@pytest.mark.parametrize("name", [LONG, DEEP], ids=["long", "deep"])
@pytest.mark.parametrize("way", WAYS)
def test_names_that_no_system_takes(way: str, name: str, tmp_path: Path) -> None:
    given = {"NAME": name, "SAVED": f"{trained()}/saved", "OUT": str(tmp_path / "out")}
    found = CliRunner().invoke(cli, [given.get(word, word) for word in WAYS[way]])
    assert found.exit_code == 1 and f"error[{way[:5]}]" in found.stderr, found.stderr[:2000]
    assert "\nTraceback" not in found.stderr and not list(tmp_path.iterdir())
