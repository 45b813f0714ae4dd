"""A run over many mutants: resumable, with the first of each kind of failure made small and kept."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from tests.fuzz.cell import Cell, Ended, Finding, cell, cells

TRIES = 400
PATIENCE = 90.0
"""How often and how long (seconds) a failing text is made smaller."""

SHARED = "/dev/shm"
"""A folder in memory, where nobody waits for a disk."""

_WORD = re.compile(r"\w+|\s+|[^\w\s]")


@dataclass(frozen=True)
class Target:
    """What is mutated. `draw`: a mutant; `case`: what is done with it; `suffix`: of its file;
    `warm`: loads what its cases need, if that is not what all commands about jobs need."""

    name: str
    suffix: str
    draw: Callable[[Random], str]
    case: Callable[[str, Path], Callable[[Cell], None]]
    warm: Callable[[], None] | None = None


@dataclass
class Totals:
    """What a run found so far. `stages`: how far the mutants came; `spent`: CPU seconds by stage;
    `failures`: how often each kind failed."""

    target: str
    seed: int
    done: int = 0
    cpu: float = 0.0
    slowest: float = 0.0
    peak: int = 0
    commit: str = ""
    stages: dict[str, int] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)

    def add(self, ended: Ended) -> None:
        """Count a case."""
        self.done += 1
        self.cpu += ended.cpu
        self.slowest = max(self.slowest, ended.cpu)
        self.peak = max(self.peak, ended.peak)
        self.stages[ended.stage] = self.stages.get(ended.stage, 0) + 1
        for stage, seconds in ended.spent.items():
            self.spent[stage] = self.spent.get(stage, 0.0) + seconds
        for note in ended.notes:
            self.notes[note] = self.notes.get(note, 0) + 1
        if ended.finding is not None:
            key = str(ended.finding)
            self.failures[key] = self.failures.get(key, 0) + 1

    def __str__(self) -> str:
        failed = sum(self.failures.values())
        head = (
            f"{self.target}: {self.done:,} mutants from seed {self.seed}: {failed} failures of {len(self.failures)} "
            f"kinds; {self.cpu:.0f} s of CPU, {1000 * self.cpu / max(1, self.done):.0f} ms each, at most "
            f"{self.slowest:.1f} s and {self.peak / 2**20:.0f} MiB"
        )
        ways = ", ".join(f"{stage} {n:,}" for stage, n in Counter(self.stages).most_common())
        notes = ", ".join(f"{note} {n:,}" for note, n in Counter(self.notes).most_common())
        spent = ", ".join(f"{stage or 'begin'} {s:.1f}" for stage, s in Counter(self.spent).most_common())
        lines = [head, f"  how far: {ways}", f"  seconds: {spent}"] + ([f"  {notes}"] if notes else [])
        lines += [f"  {n:6,} x {key}" for key, n in Counter(self.failures).most_common()]
        return "\n".join(lines)


def campaign(
    target: Target, count: int, seed: int, end: float | None, resume: Path | None, found: Path, jobs: int
) -> Totals:
    """Judge the mutants 0..count of a seed, until `time.monotonic()` is at the end. `resume` keeps the totals, to go on
    from."""
    totals = Totals(target.name, seed)
    if resume is not None and resume.exists():
        totals = Totals(**json.loads(resume.read_text()))
        if (totals.target, totals.seed) != (target.name, seed):
            raise SystemExit(f"{resume} is of `{totals.target} --seed {totals.seed}`")
    totals.commit = commit()
    seen, done = set(totals.failures), totals.done
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=SHARED if os.access(SHARED, os.W_OK) else None) as name:
        folder = Path(name)
        furnish(folder)

        def cases() -> Iterator[tuple[int, Callable[[Cell], None]]]:
            for number in range(done, count):
                if end is not None and time.monotonic() > end:
                    return
                yield number, _drawn(target, seed, number, folder)

        last = time.monotonic()
        for number, ended in cells(cases(), jobs):
            totals.add(ended)
            if ended.finding is not None and str(ended.finding) not in seen:
                seen.add(str(ended.finding))
                report(target, seed, number, ended.finding, folder, found)
            if time.monotonic() - last > 30:
                last = time.monotonic()
                if resume is not None:
                    save(totals, resume)
    if resume is not None:
        save(totals, resume)
    return totals


def furnish(folder: Path) -> None:
    """What the examples read is found beside each mutant."""
    (folder / "data").symlink_to(Path(__file__).resolve().parents[2] / "examples" / "data")


def _drawn(target: Target, seed: int, number: int, folder: Path) -> Callable[[Cell], None]:
    def run(cell: Cell) -> None:
        cell.stage("mutant")
        target.case(text_of(target, seed, number), folder)(cell)

    return run


def text_of(target: Target, seed: int, number: int) -> str:
    """The mutant of this number."""
    return target.draw(Random(f"{target.name} {seed} {number}"))


def report(target: Target, seed: int, number: int, finding: Finding, folder: Path, found: Path) -> Path:
    """Write a failing mutant, made small, and what happens to it, into a folder. Prints where."""
    text = text_of(target, seed, number)
    small, finding = shrunk(target, text, finding, folder)
    stem = re.sub(r"\W+", "_", str(finding))[:80].strip("_")
    found.mkdir(parents=True, exist_ok=True)
    path = found / f"{stem}{target.suffix}"
    path.write_bytes(small.encode("utf-8", "surrogatepass"))
    path.with_name(f"{stem}.txt").write_text(
        f"{finding}\nmade by: python -m tests.fuzz {target.name} --seed {seed} --only {number}   (commit {commit()})\n"
        f"shown by: python -m tests.fuzz {target.name} --file {path}\n\n{finding.detail}\n",
        errors="replace",
    )
    print(f"{finding}: {path}", flush=True)
    return path


def shrunk(target: Target, text: str, finding: Finding, folder: Path) -> tuple[str, Finding]:
    """A smaller text that fails alike, and how."""
    end, tries = time.monotonic() + PATIENCE, TRIES
    best = finding

    def fails(parts: list[str]) -> bool:
        nonlocal tries, best
        tries -= 1
        again = cell(target.case("".join(parts), folder)).finding
        if again is None or again.key != finding.key:
            return False
        best = again
        return True

    for cut in (lambda t: t.splitlines(keepends=True), _WORD.findall):
        parts = cut(text)
        size = max(1, len(parts) // 2)
        while size and tries > 0 and time.monotonic() < end:
            at = 0
            while at < len(parts) and tries > 0 and time.monotonic() < end:
                fewer = parts[:at] + parts[at + size :]
                if fewer and fails(fewer):
                    parts = fewer
                else:
                    at += size
            size //= 2
        text = "".join(parts)
    return text, best


def save(totals: Totals, path: Path) -> None:
    """Write the totals, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(asdict(totals), indent=1) + "\n")
    os.replace(temporary, path)


def record(what: str, seed: int, count: int, failures: int, note: str) -> None:
    """Add a line to the file of long runs."""
    with (Path(__file__).parent / "totals.csv").open("a", encoding="utf-8", newline="") as file:
        row = f"{datetime.now(UTC):%Y-%m-%d}", what, seed, count, failures, commit(), note
        csv.writer(file, lineterminator="\n").writerow(row)


def commit() -> str:
    """The commit of the working tree, where it is one of git."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
        )
    except OSError:
        return ""
    return done.stdout.strip()
