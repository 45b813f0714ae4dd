"""Tables fit the terminal, and lose nothing by it."""

from __future__ import annotations

import os
import pty
import re
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parc.cli.tables import _GAP, _LONGEST, PIPED, _least, _parts, facts, table

ROOT = Path(__file__).parent.parent.parent

HEAD = ["takes longest", "kind", "calls", "time"]
ROWS = [
    ["block.layer_norm.out.whole over tp", "collective", "128", "176.7 ms"],
    ["accumulation of gradients", "vector", "32", "506.1 ms"],
]


def test_what_fits_is_plain() -> None:
    assert table(HEAD, ROWS, left=2, width=66) == (
        "takes longest                       kind        calls      time\n"
        "block.layer_norm.out.whole over tp  collective    128  176.7 ms\n"
        "accumulation of gradients           vector         32  506.1 ms"
    )


def test_long_cells_are_wrapped() -> None:
    assert table(HEAD, ROWS, left=2, width=58) == (
        "takes longest               kind        calls      time\n"
        "block.layer_norm.out.whole  collective    128  176.7 ms\n"
        "over tp\n"
        "accumulation of gradients   vector         32  506.1 ms"
    )
    assert table(HEAD, ROWS, left=2, width=54) == (
        "takes longest              kind        calls      time\n"
        "block.layer_norm.out.      collective    128  176.7 ms\n"
        "whole over tp\n"
        "accumulation of gradients  vector         32  506.1 ms"
    )


def test_many_columns_stand_below_each_other() -> None:
    roles = [f"role{i}" for i in range(9)]
    shown = table(["devices", "peak", *roles], [["0..1", "3.8 MiB", *["1.5 KiB"] * 9]], left=1, width=40)
    assert shown.split("\n\n")[0] == ("devices     peak    role0    role1\n0..1     3.8 MiB  1.5 KiB  1.5 KiB") and all(
        part.startswith("devices  ") for part in shown.split("\n\n")
    )


def test_what_something_is_goes_on_below_itself() -> None:
    assert facts([("mesh", "pp = 2"), ("error", "word " * 30), ("nothing", "")]) == (
        f"mesh     pp = 2\nerror    {' '.join(['word'] * 22)}\n         {' '.join(['word'] * 8)}\nnothing"
    )


def test_colour_takes_no_room() -> None:
    plain = table(["", "verdict"], [["loss", "equal"]])
    assert (
        table(["", "verdict"], [["loss", "\x1b[32mequal\x1b[0m"]]).replace("\x1b[32m", "").replace("\x1b[0m", "")
        == plain
    )


words = st.text("abc", min_size=1, max_size=12)
cells = st.lists(words, min_size=1, max_size=8).map(" ".join) | st.lists(words, min_size=1, max_size=8).map(".".join)
numbers = st.sampled_from(["1.5 KiB", "12,345 s", "99.9%", "0", ""])


@given(st.data(), st.integers(1, 7), st.integers(0, 5), st.integers(20, 130), st.integers(0, 3))
def test_nothing_is_lost_and_nothing_sticks_out(
    data: st.DataObject, count: int, many: int, width: int, left: int
) -> None:
    head, *rows = [[data.draw(cells | numbers) for _ in range(count)] for _ in range(many + 1)]
    shown = table(head, rows, left=left, width=width)
    columns = list(zip(head, *rows))
    keys = columns[:left]
    least = [max(map(_least, column)) for column in columns]
    room = sum(least[: len(keys)]) + _GAP * len(keys) + max(least[left:], default=0)
    assert all(len(line) <= max(width, room) for line in shown.split("\n"))
    told = re.sub(r"\s", "", "".join(sorted(shown)))
    for row in (head, *rows):  # every letter of every cell is there
        for cell in row:
            assert all(told.count(c) >= cell.count(c) for c in "abc")
    parts = len(_parts(head, rows, left, width))
    expected = sum(len(c.replace(" ", "")) for row in (head, *rows) for i, c in enumerate(row) if i >= left)
    expected += parts * sum(len(c.replace(" ", "")) for row in (head, *rows) for c in row[:left])
    assert len(re.sub(r"\s", "", shown)) == expected


@given(cells)
def test_cells_can_be_narrow(cell: str) -> None:
    assert _least(cell) <= _LONGEST


def on_terminal(columns: int, *args: str) -> str:
    """What a command writes to a terminal of so many columns."""
    end, terminal = pty.openpty()
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    settings = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    settings |= {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "TERM": "xterm"}
    command = [sys.executable, "-m", "parc", *args]
    done = subprocess.Popen(command, stdout=terminal, stderr=subprocess.DEVNULL, env=settings, cwd=ROOT)
    os.close(terminal)
    shown = b""
    while True:
        try:
            more = os.read(end, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not more:
            break
        shown += more
    os.close(end)
    assert done.wait() in (0, 1)
    return shown.decode().replace("\r\n", "\n")


COMMANDS = [
    ["cost", "examples/pangu_200b.par", "-D", "tp=4"],
    ["cost", "examples/gpt.par", "--strategy", "serial", "--strategy", "hybrid", "-D", "dp=2", "-D", "tp=2"],
    ["verify", "examples/gpt.par", "--steps", "1", "--tolerance", "1e-30", "-D", "dp=2"],
    ["run", "examples/gpt.par", "--steps", "1", "-D", "pp=2", "-D", "dp=2"],
    ["explain", "examples/gpt.par", "block.attention.wq", "-D", "dp=2", "-D", "tp=2"],
    ["check", "examples/walls.par"],
    ["devices"],
    ["devices", "h100"],
]


@pytest.mark.parametrize("args", COMMANDS, ids=lambda args: args[0])
def test_tables_fit_a_terminal_of_80_columns(args: list[str]) -> None:
    """Sentences are the terminal's to wrap; what is aligned is ours."""
    shown = on_terminal(80, *args)
    aligned = [line for line in shown.split("\n") if re.search(r"\S  +\S", line.strip()) and ".par:" not in line]
    assert len(shown.split("\n")) > 5 and [line for line in aligned if len(line) > 80] == []


def test_piped_output_has_a_width_of_its_own() -> None:
    """Whatever the terminal that the command was started from."""
    shown = set()
    for columns in ("40", "200"):
        settings = {**os.environ, "COLUMNS": columns, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "parc", "explain", "examples/gpt.par", "block.attention.wq", "-D", "dp=2"]
        done = subprocess.run(command, capture_output=True, text=True, env=settings, cwd=ROOT)
        assert done.returncode == 0
        shown.add(done.stdout)
    assert len(shown) == 1 and max(map(len, shown.pop().split("\n"))) <= PIPED
