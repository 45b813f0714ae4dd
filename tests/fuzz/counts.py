"""Jobs with counts of all sizes (stages, micro-batches, iterations, sizes of dims, devices, up to 10^30) under all
schedules: what a command cannot do it says at once, with the number, the limit and what mends that."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.fuzz.cell import Cell
from tests.fuzz.once import once
from tests.fuzz.par import ROOT
from tests.fuzz.work import seconds

TOLD = 2.0
"""CPU seconds within which a limit is told."""

GROWN = 200 * 2**20
"""Bytes that a process may grow by until then: a command alone begins with 30 to 50 MiB."""

LONGEST = 0.02
"""CPU seconds of a step at least, beyond which it is not run."""

COMMANDS = (
    ("check", "{path}"),
    ("cost", "{path}"),
    ("compile", "{path}", "-o", "{out}"),
    ("trace", "{path}", "-o", "{out}"),
    ("report", "{path}", "-o", "{out}"),
    ("run", "{path}", "--steps", "1"),
    ("verify", "{path}", "--steps", "1"),
)

COUNTS = (
    1, 2, 3, 4, 5, 7, 8, 12, 16, 60, 64, 100, 128, 500, 1000, 1024, 4095, 65536, 10**5, 10**6, 10**7, 10**8, 10**9,
    10**9 + 7, 2**31 - 1, 2**31, 10**12, 2**53, 10**18, 2**63 - 1, 2**63, 10**20, 10**30,
)  # fmt: skip

HEAD = """use std.layers
use std.optimizers
param n = {n}
param m = {m}
param l = {l}
param b = {b}
param t = {t}
param w = {w}
param dp = {dp}
device chip {{
  compute f32 16 TFLOP/s
  memory 32 GB, 1.2 TB/s
}}
cluster pod {{
  device npu = chip
  level server = n * dp npu over 30 GB/s, 1 us
}}
"""

MODELS = (
    "repeat l as block {\n    x = x + mlp(x, w)\n  }",
    "repeat t as outer {\n    repeat l as inner {\n      x = tanh(x)\n    }\n  }\n"
    "  repeat n as block {\n    x = x + mlp(x, w)\n  }",
    "repeat l as block {\n    x = layer_norm(x)\n  }",
)
SCHEDULES = (
    "one_f_one_b(microbatches = m)", "gpipe(microbatches = m)", "zero_bubble(microbatches = m)",
    "interleaved(microbatches = m, chunks = {c})", "by_hand(microbatches = m)",
)  # fmt: skip
ORDERS = (
    "order pp[p in 0..n] {\n    F[0..m] B[0..m]\n  }",
    "order pp[p in 0..n] {\n    for i in 0..m { F[i] B[i] }\n  }",
    "order pp[p in 0..n] {\n    F[0..n - 1 - p]\n    for i in 0..m - n + 1 + p { F[i + n - 1 - p] B[i] }\n"
    "    B[m - n + 1 + p..m]\n  }",
    "order pp[p in 0..n] {\n    F[0..m]\n    for i in 0..m { B[m - 1 - i] }\n  }",
    "order pp[p in 0..n] {\n    for i in 0..m // 2 { F[2 * i + 1] F[2 * i] }\n    B[0..m]\n  }",
    "order pp[p in 0..n] {\n    F[0..m]\n  }",
)


def drawn(rng: Random) -> str:
    """A job."""
    if rng.random() < 0.3:
        return _example(rng)
    n, m = _count(rng, 0.2), _count(rng, 0.5)
    c = rng.choice((1, 2, 2, 3, 8))
    names = {
        "n": n, "m": m, "b": m * rng.choice((1, 1, 2)) if rng.random() < 0.8 else _count(rng, 0.5),
        "l": n * c * rng.choice((1, 1, 2)) if rng.random() < 0.8 else _count(rng, 0.5),
        "t": _count(rng, 0.3), "w": _count(rng, 0.1), "dp": _count(rng, 0.1) if rng.random() < 0.3 else 1,
    }  # fmt: skip
    schedule = rng.choice(SCHEDULES).format(c=c)
    body = rng.choices(MODELS, (6, 1, 1))[0]
    order = "\n  " + rng.choice(ORDERS) if "by_hand" in schedule else ""
    how = rng.random()
    if how < 0.75:
        rules = f"pipeline block on pp, schedule {schedule}{rng.choice(('', '', ', over = b, pad = true'))}{order}"
    elif how < 0.9:
        rules = "microbatches m over b" + rng.choice(("", " pad", ", two passes"))
    else:
        rules = "place block on pp[n - 1]\n  microbatches m over b"
    split = "\n  split b on dp" if names["dp"] > 1 or rng.random() < 0.2 else ""
    return (
        HEAD.format(**names)
        + f"model one {{\n  dim b = b * dp, d = {rng.choice((8, 8, 8, 'w'))}\n  input x : f32[b, d]\n  {body}\n"
        + "  loss mean(x * x)\n}\n"
        + f"strategy st for one {{\n  mesh (pp = n, dp = dp){split}\n  {rules}\n}}\n"
        + "job fit {\n  train one on pod using st\n  optimizer sgd(lr = 0.1)\n}\n"
    )


def _example(rng: Random) -> str:
    """Schedules by hand of the examples."""
    text = (ROOT / "examples" / "schedules.par").read_text(encoding="utf-8")
    way = rng.choice(("zb_v", "dual_pipe_v", "dual_pipe", "vee"))
    n = rng.choice((2, 4, 8, 16)) if way == "dual_pipe" else 2
    m = _count(rng, 0.8) if rng.random() < 0.3 else 2 * _count(rng, 0.8)
    for name, value in (("n", n), ("m", m), ("batch", m * rng.choice((1, 1, 2))), ("layers", 4 * n)):
        text = re.sub(rf"(?m)^param {name} = \d+", f"param {name} = {value}", text)
    if rng.random() < 0.3:
        name = rng.choice(("layers", "hidden", "heads", "vocab", "seq", "n"))
        text = re.sub(rf"(?m)^param {name} = \d+", f"param {name} = {_count(rng, 0.5)}", text)
    return text.replace("on pair using zb_v", f"on pair using {way}")


def _count(rng: Random, large: float) -> int:
    """Small ones, and with this probability any."""
    return rng.choice(COUNTS) if rng.random() < large else rng.choice(COUNTS[:10])


def case(text: str, folder: Path) -> Callable[[Cell], None]:
    """What is done with a text, in a cell."""

    def run(cell: Cell) -> None:
        stem = str(folder / str(os.getpid()))
        names = {"path": f"{stem}.par", "out": f"{stem}.out"}
        Path(names["path"]).write_text(text, encoding="utf-8")
        try:
            with once():
                _judge(cell, names)
        finally:
            for file in names.values():
                with contextlib.suppress(OSError):
                    os.unlink(file)

    return run


def _judge(cell: Cell, names: dict[str, str]) -> None:
    for command in COMMANDS:
        if command[0] in ("run", "verify") and _much(cell, names["path"]):
            continue
        words = [word.format(**names) for word in command]
        begun = _reset()
        code, said = cell.command(*words)
        if code in (1, 4):
            grown = _peak() - begun
            if cell.took > TOLD:
                cell.wrong("told late", command[0], f"{cell.took:.1f} s\n{said}")
            if grown > GROWN:
                cell.wrong("told after much memory", command[0], f"{grown / 2**20:.0f} MiB\n{said}")
        if code == 4:
            _helpful(cell, command[0], said)
        if code and command[0] == "check":
            return


def _helpful(cell: Cell, command: str, said: str) -> None:
    """Limits say which number is beyond which, and what mends that."""
    error = said[said.index("error[") :].split("\n", 1)[0]
    if len(re.findall(r"\d[\d,.]*", error.split("]", 1)[1])) < 2:
        cell.wrong("limit without numbers", f"{command}, {error[6:11]}", said)
    if "help:" not in said:
        cell.wrong("limit without help", f"{command}, {error[6:11]}", said)


def _much(cell: Cell, path: str) -> bool:
    """Whether what would be run takes long because there is that much of it, and limits let it be run."""
    from dsl.diagnostics import ParcError
    from dsl.files import load
    from parc import api
    from parc.machine import Asked, require_machine

    cell.stage("work")
    try:
        program = api.compile(load(path)).program
        if seconds(program) < LONGEST:
            return False
        require_machine(Asked(program, ["stacked"]))
    except ParcError:
        return False  # the command will tell
    cell.note("too much to be run")
    return True


def _reset() -> int:
    """Bytes that this process has; its peak is counted from here."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(key: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(key))
