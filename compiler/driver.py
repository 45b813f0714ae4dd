"""Runs the passes (`compiler.passes.pipeline.PASSES`) over a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from compiler.loop_pieces import in_words
from compiler.model import AHEAD, DECODE, DECODING, ENTRIES, INFER, MOVE, PREFILL, Job, Model, Training
from compiler.origin import Role
from compiler.passes.inference import inference
from compiler.passes.pipeline import NAMES, PASSES, Pass, Work
from compiler.passes.place.place import Placed, Undivided
from compiler.passes.sparse import Unlisted
from compiler.passes.split import SplitGraphs
from compiler.passes.stage import Staged
from compiler.program import LASTING, DeviceClass, Entry, Program, StateDecl
from dsl.data import dataclass
from dsl.diagnostics import ParcError, fail

Watch = Callable[[Pass, Work], None]
"""Hears of each pass when it has run."""


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """What the passes made of a job: each stage once.

    training: the serial one, of the model as it is written, before anything was set apart for micro-batches
    (`placed.training` is what was lowered): the proof compares with that. split: the placed graphs as they are lowered,
    `placed` and `staged` as they were.
    """

    job: Job
    training: Training
    placed: Placed
    staged: Staged
    split: SplitGraphs
    program: Program

    @property
    def decodes(self) -> bool:
        """Whether its job has the entries of new positions besides: it is one that infers, and is asked for that."""
        return self.job.decoding is not None and self.training.entry == INFER


def compile_job(
    given: Job | Training | Placed, entry: str | None = None, watch: Watch | None = None, lists: bool = True
) -> Compiled:
    """All passes, or those behind the stage that is given: the program has one entry, what the job is for if none is
    named. Raises ParcError with all that is wrong. lists: gradients of tables may stay lists of rows.

    A placed graph has no serial one behind it: its own stands in the place of `training`; no proof compares with it.
    """
    try:
        w = run_passes(given, entry=entry, watch=watch, lists=lists)
    except ParcError as error:
        pieces = given.model.pieces if isinstance(given, Job) else ()
        raise ParcError(*(in_words(d, pieces) for d in error.diagnostics)) from None
    serial = w.serial
    if isinstance(given, Job) and given.written is not None:
        serial = run_passes(given.serial, "update", entry).serial
    return Compiled(w.job, serial, w.placed, w.staged, w.split, w.program)


def decoding_program(job: Job, last: bool = False) -> Program:
    """The program of the entries of new positions, `prefill` and `decode`. last: a prefill puts out what is at its last
    position only, which is what goes on from there. Raises ParcError."""
    assert job.decoding is not None
    job = replace(job, decoding=replace(job.decoding, last=last))
    return joined([compile_job(job, entry).program for entry in DECODING])


def joined(programs: Sequence[Program]) -> Program:
    """One program of the entries of several, which were made of one job.

    A state that an entry neither reads nor renews lies where those have it that do: nowhere of its own.
    """
    inputs = {i.name: i for p in programs for i in p.inputs}
    entries = tuple(e for p in programs for e in p.entries)
    places = [_places(e) for e in entries]
    found = []
    for i, entry in enumerate(entries):
        others = [p for k, p in enumerate(places) if k != i]
        found.append(replace(entry, classes=tuple(_without_strays(c, others) for c in entry.classes)))
    return replace(programs[0], inputs=tuple(inputs.values()), entries=tuple(found))


def _places(entry: Entry) -> dict[str, set[tuple[str, int]]]:
    """By the names of states that live across steps: the buffers and groups in which they lie."""
    found: dict[str, set[tuple[str, int]]] = {}
    for cls in entry.classes:
        for s in cls.states:
            if s.role in LASTING:
                found.setdefault(s.logical, set()).update((s.name, g) for g in cls.groups)
    return found


def _without_strays(cls: DeviceClass, others: Sequence[Mapping[str, set[tuple[str, int]]]]) -> DeviceClass:
    """The class without states that nothing in it touches and that other entries have elsewhere."""
    touched = frozenset[str]().union(*(f.reads | f.writes for f in cls.functions))

    def strays(s: StateDecl) -> bool:
        if s.role is not Role.STATE or s.name in touched:
            return False
        return any(s.logical in p and not p[s.logical].issuperset((s.name, g) for g in cls.groups) for p in others)

    states = tuple(s for s in cls.states if not strays(s))
    return cls if len(states) == len(cls.states) else replace(cls, states=states)


def run_passes(
    given: Job | Training | Placed,
    last: str = PASSES[-1].name,
    entry: str | None = None,
    watch: Watch | None = None,
    lists: bool = True,
) -> Work:
    """The passes behind what is given up to the one called `last`.

    What placing finds to be needed of whole batches is set apart, and all is done again; so it is where gradients turn
    out to be no lists of rows (lists: they may be). Raises ParcError with all that is wrong.
    """
    work, at = _begun(given, entry)
    while at < len(PASSES):
        step = PASSES[at]
        if (step.trains and not work.trains) or (step.name == "sparse" and not lists):
            at += 1
            continue
        try:
            step.run(work)
        except Undivided as found:
            known = len(work.whole) + len(work.parts) + len(work.twice)
            work.whole |= dict.fromkeys(found.whole)
            work.parts |= dict.fromkeys(found.parts)
            work.twice |= found.twice
            work.beside |= found.beside
            assert isinstance(given, Job), "a training graph's text has whole batches set apart"
            assert len(work.whole) + len(work.parts) + len(work.twice) > known, (found.whole, found.parts)
            at = 0
            continue
        except Unlisted as found:
            assert isinstance(given, Job), "a training graph's text has the lists that there can be"
            assert not found.why.keys() <= work.unlisted.keys(), found.why
            work.unlisted |= found.why
            at = 0
            continue
        if watch is not None:
            watch(step, work)
        if step.name == last:
            break
        at += 1
    return work


def _begun(given: Job | Training | Placed, entry: str | None) -> tuple[Work, int]:
    """What there is already, and the first pass that is to run."""
    if isinstance(given, Job):
        return Work(job=_asked(given, entry or given.entry), entry=entry or given.entry), 0
    training = given if isinstance(given, Training) else given.training
    work = Work(job=training.job, entry=training.entry)
    work.training = work.serial = training
    if isinstance(given, Placed):
        work.placed = given
    return work, NAMES.index("place" if isinstance(given, Training) else "stage")


def _asked(job: Job, entry: str) -> Job:
    """The job as this entry needs it: to infer, its model is what computes the outputs; to decode, what computes them
    at new positions.

    Raises ParcError: E0101 for an entry that it does not have, E0338 for a model without outputs, E0780 to E0782 for
    one that cannot be decoded.
    """
    if entry in (*DECODING, AHEAD, MOVE) and job.decoding is not None:
        from compiler.incremental.derive import incremental
        from compiler.incremental.moved import moved
        from compiler.incremental.moved_pages import moved_pages
        from compiler.incremental.paged import paged, paging

        by, pieces = job.decoding, job.strategy.pieces()
        length, called = by.length(entry), {PREFILL: "first", AHEAD: "ahead"}.get(entry, "next")
        first, last = entry == PREFILL, by.last and entry == PREFILL

        def derived(model: Model) -> Model:
            of = by.dim, length, by.span, called, not first, pieces, last, by.rows, entry == AHEAD
            plain = incremental(model, *of)
            moves = entry == MOVE and by.rows is not None
            if by.pages is None:
                return moved(plain, by.rows) if moves and by.rows is not None else plain
            form = paging(model, by.pages, by.dim, by.rows)
            found = paged(plain, form, by.pages, by.rows is not None)
            return moved_pages(found, form) if moves else found

        written = job.written and (job.written[0], job.written[1] and derived(job.written[1]))
        try:
            return replace(job, evaluated=derived(job.model_of(INFER)), written=written)
        except ParcError as error:
            if written is None:
                raise
            from compiler.incremental.refusals import by_hand

            raise by_hand(error, job.strategy.implementations, by.dim) from None
    if job.kind == "infer" and entry != INFER:
        has = ", ".join((INFER, *(DECODING if job.decoding else ())))
        help = f"it has {has}; a job that trains has {', '.join(ENTRIES)}"
        if entry in DECODING:
            help = "say along which dim: `decode over s`"
        raise fail("E0101", f"the job `{job.name}` infers: it has no entry `{entry}`", job.span, help=help)
    if entry == INFER and job.decoding is not None:
        _asked(job, DECODE)  # whoever only infers hears of it, too
    if job.kind == "infer" or entry != INFER:
        return job
    return replace(job, evaluated=inference(job.model_of(entry), job.span))
