"""What becomes of a cell of the matrix, and the same kept, so that no proof is made twice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from compiler.driver import Compiled, compile_job, joined
from compiler.model import EVALUATE
from compiler.text import show
from compiler.text.stages import show_stage
from compiler.verify import verify
from dsl.diagnostics import ParcError
from runtime.prove import prove, prove_evaluation, random_batch
from runtime.stacked import Emulator
from tests.matrix.cells import SMALL, Cell

ROOT = Path(__file__).resolve().parents[2]
COMPILER, RUNTIME = ROOT / "compiler", ROOT / "runtime"
ALL = "dsl", "compiler", "runtime", "grammar.lark"
"""All that a proof hangs on."""

PROVED = "proved"
STEPS, SEED = 2, 0
"""Of each proof: the steps of training, and the seed of its data (weights have the job's)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """what: "proved", the codes of the refusal, or what is wrong; why: the message of the refusal."""

    what: str
    why: str = ""


def judge(cell: Cell) -> str:
    """ "proved", the code of the refusal, or what is wrong."""
    return outcome(cell).what


def outcome(cell: Cell) -> Outcome:
    """Compiles the cell, verifies its program and proves it."""
    try:
        compiled = cell.compile()
    except ParcError as e:
        return _refused(e)
    return _verified(compiled) or _proof(compiled)


def _refused(error: ParcError) -> Outcome:
    if any(d.span is None for d in error.diagnostics):
        return Outcome(f"without a place: {error.diagnostics[0]}")
    return Outcome(", ".join(sorted({d.code for d in error.diagnostics})), error.diagnostics[0].message)


def _verified(compiled: Compiled) -> Outcome | None:
    """What the verifier finds, if it does."""
    found = verify(compiled.program)
    return Outcome(f"verifier: {found[0]}") if found else None


def _proof(compiled: Compiled) -> Outcome:
    try:
        proof = prove(compiled.training, compiled.program, STEPS, seed=SEED)
    except ParcError as e:
        return _refused(e)
    return Outcome(PROVED if proof.ok else f"not equal: {proof.worst}")


def evaluated(cell: Cell) -> str:
    """The same of `evaluate`, as a second entry of the program, whose loss is a step's to the bit."""
    try:
        compiled = cell.compile()
    except ParcError as e:
        return _refused(e).what
    alone = compile_job(compiled.job, EVALUATE)
    both = joined([compiled.program, alone.program])
    found = verify(both)
    if found:
        return f"verifier: {found[0]}"
    proof = prove_evaluation(alone.training, alone.program, 1)
    batch = random_batch(both.inputs, 0, 0)
    first, step = Emulator(both).call(EVALUATE, batch), Emulator(both).step(batch)  # each may renew states
    same = compiled.job.evaluated is None  # what asks whether it is training is another model in evaluation
    if same and first.loss.tobytes() != step.loss.tobytes():
        return f"loss {first.loss} instead of a step's {step.loss}"
    return PROVED if proof.ok else f"not equal: {proof.worst}"


def inferred(cell: Cell) -> str:
    """The same of its model in a job that infers."""
    try:
        compiled = cell.compile_inference()
    except ParcError as e:
        return _refused(e).what
    wrong = _verified(compiled)
    if wrong is not None:
        return wrong.what
    proof = prove_evaluation(compiled.training, compiled.program, 1)
    return PROVED if proof.ok else f"not equal: {proof.worst}"


class Kept:
    """Outcomes in a file, a line each, by what they are of.

    That is the cell's text and all sources, for a run that goes on; and the serial graphs, the program and what runs
    and compares them, for one after a change of the compiler that leaves most programs as they were.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Outcome] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                key, what, why = json.loads(line)
            except ValueError:  # where the run before was interrupted
                continue
            self._known[key] = Outcome(what, why)

    def outcomes(self, cells: Iterable[Cell]) -> Iterator[tuple[Cell, Outcome]]:
        """Each cell and what becomes of it, as soon as it is known; what is new is kept."""
        for cell in cells:
            yield cell, self._outcome(cell)

    def _outcome(self, cell: Cell) -> Outcome:
        job = _digest("job", sources(*ALL), cell.source.text, repr(SMALL[cell.example]))
        if job in self._known:
            return self._known[job]
        try:
            compiled = cell.compile()
        except ParcError as e:
            return self._keep(_refused(e), job)
        wrong = _verified(compiled)
        if wrong is not None:
            return self._keep(wrong, job)
        texts = show_stage(compiled.training), show(compiled.program)
        program = _digest("program", _runs(), *texts, str(STEPS), str(SEED))
        return self._keep(self._known.get(program) or _proof(compiled), job, program)

    def _keep(self, found: Outcome, *keys: str) -> Outcome:
        with self._path.open("a", encoding="utf-8") as file:
            for key in keys:
                self._known[key] = found
                file.write(json.dumps([key, *asdict(found).values()]) + "\n")
        return found


@cache
def sources(*paths: str) -> str:
    """A digest of files, and of all sources in folders."""
    found = [p for path in paths for p in ([ROOT / path] if (ROOT / path).is_file() else _within(ROOT / path))]
    return _digest(*(f"{p.relative_to(ROOT).as_posix()}\n{p.read_text(encoding='utf-8')}" for p in found))


def _within(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".par"))


@cache
def _runs() -> str:
    """A digest of what runs and compares programs: the emulator, its kernels, the ops, and how schedules are read."""
    rooms = "runtime/numpy", "runtime/prove", "runtime/stacked", "compiler/ops", "compiler/passes/copying.py"
    order = (f"compiler/schedules/{name}.py" for name in ("actions", "rolled", "turns"))
    tops = (p.relative_to(ROOT).as_posix() for room in (COMPILER, RUNTIME) for p in sorted(room.glob("*.py")))
    return sources(*rooms, *order, *tops)


def _digest(*parts: str) -> str:
    found = sha256()
    for part in parts:
        found.update(f"{len(part)} ".encode() + part.encode())
    return found.hexdigest()[:24]
