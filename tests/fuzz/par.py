"""Mutants of `.par` files: what `check` finds legal is compiled, run, proved and priced."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from tests.fuzz.cell import Cell
from tests.fuzz.once import once
from tests.fuzz.par_mutants import Pool, mutant
from tests.fuzz.work import much, much_apart

if TYPE_CHECKING:
    from compiler.driver import Compiled

ROOT = Path(__file__).resolve().parents[2]
LATER = ("E07", "E08", "E09")
"""Families of codes that may come up after `check` was content: of runs, of prices, limits."""

NEAR = 1000.0
"""How many tolerances a difference may be that a mutant's numbers enlarge; beyond it, it is none of rounding."""

SOME = 8
"""One in so many lowered programs is run, too."""

EFFORT = 3_000
"""Nodes that `verify --small` evaluates at most while it looks for small sizes: half a second. What users have is
bounded by a number, too, and takes up to 30 s by intent."""

COMMANDS = (
    ("check", "{path}"),
    ("compile", "{path}", "-o", "{npu}"),
    ("run", "{path}", "--steps", "2", "--json"),
    ("cost", "{path}"),
    ("run", "{npu}", "--steps", "2", "--json"),
    ("verify", "{path}", "--json"),
)
"""What is done with each mutant, as long as it is legal."""

MORE = (
    ("trace", "{path}", "-o", "{out}"),
    ("report", "{path}", "-o", "{out}"),
    ("export", "torch", "{path}", "-o", "{out}"),
    ("compile", "{path}", "--emit", "placed", "-o", "{out}"),
    ("compile", "{path}", "--entry", "evaluate", "-o", "{out}"),
    ("run", "{path}", "--evaluate", "--steps", "1"),
    ("verify", "{path}", "--executor", "private", "--steps", "1"),
    ("verify", "{path}", "--small", "--steps", "1"),
    ("diff", "{path}", "{npu}", "--exit-code"),
)
"""One of these is done with each mutant that is proved."""

_FENCE = re.compile(r"^```par\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PARAM = r"(?m)^(param {} = )[^\s]+( in .*)?$"


@dataclass(frozen=True)
class Corpus:
    """What is mutated, how often each, and what parts come from."""

    texts: tuple[str, ...]
    weights: tuple[float, ...]
    pool: Pool


def corpus() -> Corpus:
    """Examples in small sizes, golden jobs, what the documentation and the catalogue of errors show, drawn programs."""
    from dsl.codes import CODES
    from tests.golden.cases import CASES
    from tests.property.draw_strategy import draw
    from tests.test_docs import with_job

    texts, parts = [], []
    for case in CASES:
        text = case.file.read_text(encoding="utf-8")
        if case.axes:
            text = text.replace("AXES", case.axes).replace("RULES", "\n  ".join(case.rules))
        for name, value in case.params.items():
            text = re.sub(_PARAM.format(name), rf"\g<1>{value}", text)
        texts.append(text)
    heavy = set(texts)
    texts += [c.mended for c in CODES.values() if not c.code.startswith("E06")]
    for page in sorted((ROOT / "docs").rglob("*.md")):
        texts += [with_job(found) for found in _FENCE.findall(page.read_text(encoding="utf-8"))]
    texts += [draw(seed).text for seed in range(40)]
    texts = [re.sub(r"\A(# -.*\n|# \w+=.*\n)+", "", t) for t in texts]
    parts += [c.failing for c in CODES.values() if not c.code.startswith("E06")]
    for folder in ("examples", "dsl/std", "tests/evaluate/errors", "tests/matrix", "tests/cost/kernels/cases"):
        parts += [p.read_text(encoding="utf-8") for p in sorted((ROOT / folder).glob("*.par"))]
    texts = list(dict.fromkeys(t for t in texts if t.strip()))
    weights = tuple((0.2 if t in heavy else 1.0) / (300 + len(t)) ** 2 for t in texts)
    return Corpus(tuple(texts), weights, Pool.of([*texts, *parts]))


def drawn(made: Corpus, rng: Random) -> str:
    """A mutant."""
    return mutant(rng.choices(made.texts, made.weights)[0], made.pool, rng)


def case(text: str, folder: Path) -> Callable[[Cell], None]:
    """What is done with a text, in a cell."""

    def run(cell: Cell) -> None:
        import parc.small

        parc.small.EFFORT = EFFORT  # this process is the case's own
        stem = str(folder / str(os.getpid()))
        names = {"path": f"{stem}.par", "npu": f"{stem}.npu", "out": f"{stem}.out"}
        Path(names["path"]).write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            with once():
                _judge(cell, text, names)
        finally:
            for file in names.values():
                with contextlib.suppress(OSError):
                    os.unlink(file)

    return run


def _judge(cell: Cell, text: str, names: dict[str, str]) -> None:
    check, lower, run, cost, again, verify = ([word.format(**names) for word in command] for command in COMMANDS)
    code, said = cell.command(*check)
    if code:
        return
    _formatted(cell, text)
    jobs = _jobs(text)
    if not jobs:
        return
    of = ["--job", jobs[0]]
    if _later(cell, *cell.command(*lower, *of)):
        return
    _later(cell, *cell.command(*cost, *of))
    if _long(cell, text, names["path"], jobs[0]):
        return
    code, said = cell.command(*run, *of)
    if _later(cell, code, said):
        return
    ran = json.loads(said)["result"]
    if len(text) % SOME == 0:
        code, said = cell.command(*again)
        if not _later(cell, code, said) and ran["data"] == "synthetic":
            losses = json.loads(said)["result"]["losses"]
            if losses != ran["losses"]:
                cell.wrong("another loss", "run of the .npu", f"{losses} instead of {ran['losses']}")
    else:
        _read_back(cell, names, jobs[0])
    _proved(cell, [*verify, *of])
    compiled = _compiled(names["path"], jobs[0])
    more = _asked(MORE[len(text) % len(MORE)], compiled.job.kind)
    if "private" in more and much_apart(compiled.program):
        cell.note("too much to be run device by device")
        return
    _later(cell, *cell.command(*(word.format(**names) for word in more), *of))


def _long(cell: Cell, text: str, path: str, job: str) -> bool:
    """Whether there is too much to compute for it to be run here."""
    cell.stage("work")
    found = much(_compiled(path, job).program, len(text))
    if found:
        cell.note("too much to be run")
    return found


def _compiled(path: str, job: str) -> Compiled:
    from dsl.files import load
    from parc import api

    return api.compile(load(path), job=job)


def _asked(command: Sequence[str], kind: str) -> list[str]:
    """What a job that infers is asked for in place of an evaluation, which has a loss."""
    words = {"evaluate": "infer"} if kind == "infer" else {}
    return [words.get(word, word) for word in command if kind != "infer" or word != "--evaluate"]


def _read_back(cell: Cell, names: Mapping[str, str], job: str) -> None:
    """The text of the lowered program is the program, so that it need not be run, too."""
    from compiler.text import parse_located
    from dsl.files import load

    cell.stage("read")
    source = load(names["npu"])
    if parse_located(source.text, source.name)[0] != _compiled(names["path"], job).program:
        cell.wrong("another program", "the .npu", source.text)


def _later(cell: Cell, code: int, said: str) -> bool:
    """Whether the command failed. Reports codes of what `check` should have found."""
    late = sorted({c for c in _codes(said) if code == 1 and not c.startswith(LATER)})
    if late:
        cell.wrong("late", f"{late[0]}", said)
    return code != 0


def _codes(said: str) -> set[str]:
    """The codes of the errors in what a command printed, as text or as JSON."""
    if said.startswith("{\n"):
        return {d["code"] for d in json.loads(said)["diagnostics"] if d["severity"] == "error"}
    return set(re.findall(r"error\[(E\d{4})\]", said))


def _formatted(cell: Cell, text: str) -> None:
    from dsl.printer import format_source

    cell.stage("fmt")
    once = format_source(text, "text")
    twice = format_source(once, "text")
    if once != twice:
        cell.wrong("not stable", "fmt", f"{once}\n--- again:\n{twice}")


def _jobs(text: str) -> list[str]:
    from dsl import ast
    from dsl.parser import parse

    return [item.name.id for item in parse(text, "text").items if isinstance(item, ast.Job)]


def _proved(cell: Cell, verify: list[str]) -> None:
    """The proof, in float64 if it does not hold in the job's own precision."""
    for more in ([], ["--double"]):
        code, said = cell.command(*verify, *more)
        if '"result"' not in said or _later(cell, code, said if '"equal"' not in said else ""):
            return
        result = json.loads(said)["result"]
        if not result.get("tensors") or result["equal"]:
            cell.note("equal" if result.get("equal") else "not proved")
            return
        if not more:
            continue
        bad = [t for t in result["tensors"] if not t["ok"]]
        if any(t["error"] is None or t["error"] > NEAR * max(t["tolerance"] or 0.0, 1e-15) for t in bad):
            cell.wrong("not equal", f"{bad[0]['kind']}", json.dumps(bad, indent=1))
