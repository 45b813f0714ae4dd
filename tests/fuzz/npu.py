"""Mutants of lowered programs: what the verifier finds legal runs, on both executors alike, and is found equal to the
program that it was made of only if it computes the same."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from tests.fuzz.cell import Cell
from tests.fuzz.npu_mutants import Parts, mutant
from tests.fuzz.once import once
from tests.fuzz.work import much, much_apart

if TYPE_CHECKING:
    from compiler.driver import Compiled
    from compiler.program import Program

NO_ROOM = "no room"
MOST_DEVICES = 32
"""How many devices are run one by one."""

QUICK = 1.0
"""CPU seconds of a run, beyond which it is not run again, device by device."""

ROUNDING, DOUBLE = 1e-3, 1e-6
"""Relative difference that rounding explains, in the program's own types and in float64."""

COARSE = 1e-3
"""Tolerances of narrow types (bf16: 6%), which hide what is smaller: `verify --double` is for them."""

_BATCHES = 77
"""Seed of the batches with which two programs are compared: others than those of a proof."""


@dataclass(frozen=True)
class Original:
    """A program that mutants are made of, and the job that it was lowered from, if it is known."""

    name: str
    text: str
    compiled: Callable[[], Compiled] | None = None


@dataclass(frozen=True)
class Corpus:
    """What is mutated, how often each, and what parts come from."""

    originals: tuple[Original, ...]
    weights: tuple[float, ...]
    parts: Parts


def corpus() -> Corpus:
    """All golden programs, drawn ones, those of the catalogue of errors and of other tests."""
    from compiler.driver import compile_job
    from compiler.evaluate import evaluate
    from compiler.text import show
    from dsl.codes import CODES
    from dsl.diagnostics import ParcError
    from dsl.source import Source
    from tests.golden.cases import CASES
    from tests.program.samples import LAYERS, PIPELINE
    from tests.property.draw_strategy import draw

    found = [Original(f"golden {c.name}", c.path.read_text(encoding="utf-8"), cache(c.compile)) for c in CASES]
    found += [Original("pipeline", PIPELINE), Original("layers", LAYERS)]
    found += [Original(c.code, c.mended) for c in CODES.values() if c.code.startswith("E06")]
    for seed in range(24):
        with contextlib.suppress(ParcError):
            compiled = compile_job(evaluate(Source("drawn.par", draw(seed).text)))
            text = show(compiled.program)
            if len(text) < 20_000:
                found.append(Original(f"draw {seed}", text, lambda compiled=compiled: compiled))
    texts = [o.text for o in found]
    return Corpus(tuple(found), tuple(1 / (300 + len(t)) for t in texts), Parts.of(texts))


def drawn(made: Corpus, rng: Random) -> str:
    """A mutant. Its first line is a comment: the number of its original."""
    i = rng.choices(range(len(made.originals)), made.weights)[0]
    return f"# {i}\n" + mutant(made.originals[i].text, made.parts, rng)


def case(text: str, folder: Path, made: Corpus) -> Callable[[Cell], None]:
    """What is done with a text, in a cell."""

    def run(cell: Cell) -> None:
        path = folder / f"{os.getpid()}.npu"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            with once():
                _judge(cell, text, str(path), _original(text, made))
        finally:
            with contextlib.suppress(OSError):
                path.unlink()

    return run


def _original(text: str, made: Corpus) -> Original | None:
    number = text.partition("\n")[0].removeprefix("# ")
    return made.originals[int(number)] if number.isdecimal() and int(number) < len(made.originals) else None


def _judge(cell: Cell, text: str, path: str, original: Original | None) -> None:
    from compiler.text import parse_program, show
    from dsl.files import load
    from parc import api

    cell.stage("load")
    program = None
    with contextlib.suppress(Exception):  # the command tells
        program = api.load_program(load(path))
    if program is not None and much(program, len(text)):
        cell.note("too much to be run")
        cell.command("check", path)
        return
    code, said = cell.command("run", path, "--steps", "2", "--json")
    if code:
        found = json.loads(said)["diagnostics"]
        if any(not d["code"] for d in found):
            cell.wrong("no code", "run", said)
        if len(text) % 8 == 0:  # as people see it
            cell.command("run", path, "--steps", "2")
    if program is None:
        return
    cell.stage("text")
    if show(parse_program(show(program))) != show(program):  # nan is not equal to itself
        cell.wrong("not stable", "text", show(program))
    if any(e.name != "train_step" for e in program.entries[:1]):
        return
    limits = {d["code"] for d in found} if code else set()
    large = program.devices > MOST_DEVICES or cell.took > QUICK or much_apart(program)
    if any(c.startswith("E09") for c in limits) or large:
        return
    _executors(cell, program, text, limits)
    if not code and original is not None:
        _equal(cell, program, text, original)


def _executors(cell: Cell, program: Program, text: str, codes: set[str]) -> None:
    """Both executors give the same, or the same error."""
    from runtime.rank.executor import RankExecutor
    from runtime.stacked import Emulator

    cell.stage("stacked")
    one = _steps(Emulator, program)
    cell.stage("private")
    two = _steps(RankExecutor, program)
    if NO_ROOM in (one, two):
        return
    if isinstance(one, str) or isinstance(two, str):
        if one != two:
            a, b = (x if isinstance(x, str) else "none" for x in (one, two))
            cell.wrong("other error", f"{a} / {b}", f"stacked: {a}, private: {b}")
        return
    worst = _difference(one, two)
    if worst[0] > ROUNDING:
        wide = _wide(text)
        if wide is None:
            return
        again = [_steps(e, wide) for e in (Emulator, RankExecutor)]
        a, b = again
        if isinstance(a, str) or isinstance(b, str):
            return
        worst = _difference(a, b)
        if worst[0] > DOUBLE:
            cell.wrong("executors differ", "run", f"{worst[1]}: {worst[0]:.3g}")


def _wide(text: str) -> Program | None:
    """The same program in float64, if that is one."""
    from compiler.text import parse_program
    from compiler.verify import verify
    from dsl.diagnostics import ParcError

    try:
        program = parse_program(re.sub(r"\b(f32|bf16|f16)\b", "f64", text))
    except ParcError:
        return None
    return None if verify(program) else program


def _steps(executor: Callable[..., Any], program: Program, seed: int = 0) -> Mapping[str, Any] | str:
    """All that two steps give, by name; or the code of the error that they end with."""
    from dsl.diagnostics import ParcError
    from runtime.data.synthetic import synthetic

    found: dict[str, Any] = {}
    try:
        run = executor(program)
        for step in range(2):
            done = run.step(synthetic(program.inputs, seed, step), gradients=True)
            found[f"loss {step}"] = done.loss
            for what in (done.metrics, done.gradients, done.reports, done.outputs):
                found.update((f"{name} {step}", x) for name, x in what.items())
        found |= {**run.weights(), **run.states()}
    except ParcError as error:
        return error.diagnostics[0].code
    except MemoryError:  # several runs in a process take more than one
        return NO_ROOM
    return found


def _difference(one: Mapping[str, Any], two: Mapping[str, Any]) -> tuple[float, str]:
    """The largest relative difference, and of what."""
    import numpy as np

    worst = (0.0, "")
    for name in sorted({*one, *two}):
        if name not in one or name not in two or one[name].shape != two[name].shape:
            return np.inf, name
        a, b = (np.asarray(x, np.float64) for x in (one[name], two[name]))
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            continue  # which sum is the first to leave the numbers depends on its order
        scale = max(float(np.abs(a).max(initial=0)), float(np.abs(b).max(initial=0)))
        error = float(np.abs(a - b).max(initial=0)) / scale if scale > 1e-30 else 0.0
        worst = max(worst, (error, name))
    return worst


def _equal(cell: Cell, program: Program, text: str, original: Original) -> None:
    """`diff` and the proof say "equal" only of what computes the same, with other numbers, too."""
    from compiler.text import parse_program
    from parc import api
    from runtime.prove import prove
    from runtime.stacked import Emulator

    cell.stage("equal")
    before = parse_program(original.text)
    same = not api.diff_text(before, program)
    who, blind = "diff" if same else "proof", set[str]()
    if not same:
        if original.compiled is None or program.inputs != before.inputs or before == program:
            return
        try:
            proof = prove(original.compiled().training, program)
            same, blind = proof.ok, {b.name for b in proof.blind}  # it says that it did not compare these
            if same and max(r.tolerance for r in proof.rows) > COARSE:
                cell.note("equal as far as its precision tells")
                return
        except Exception:  # other states, other entries: no proof takes it
            return
    cell.note("equal" if same else "not equal")
    if not same:
        return
    a, b = _steps(Emulator, before, _BATCHES), _steps(Emulator, program, _BATCHES)
    if isinstance(a, str) or isinstance(b, str):
        if a != b:
            cell.wrong("false equal", who, f"{a if isinstance(a, str) else ''} / {b if isinstance(b, str) else ''}")
        return
    shared = {name for name in a.keys() & b.keys() if name.partition(" ")[0] not in blind}
    if who == "diff" and a.keys() != b.keys():
        cell.wrong("false equal", who, str(a.keys() ^ b.keys()))
    worst = _difference({n: a[n] for n in shared}, {n: b[n] for n in shared})
    if worst[0] > ROUNDING:
        cell.wrong("false equal", who, f"{worst[1]}: {worst[0]:.3g}")
