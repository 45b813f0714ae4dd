"""A job as rows of a batch in which sequences come and go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from compiler.driver import Compiled, compile_job, joined
from compiler.graph import Type
from compiler.incremental.by_rows import rewinds
from compiler.incremental.paged import in_pages
from compiler.model import DECODING, INFER, Job, Model
from compiler.program import Program
from dsl.data import dataclass
from dsl.diagnostics import fail
from parc.generating import decoding_of, in_texts, weights_given
from runtime.executor import Executor, LocalExecutor
from runtime.generate.encoding import EncoderBatch, EncoderPorts
from runtime.generate.loop import Ports
from runtime.generate.pages import PageTable
from runtime.generate.rows import RowBatch
from runtime.generate.tokenizers import Tokenizer, tokenizer_of


def ports_of(compiled: Compiled, tokenizer: str | None) -> tuple[Ports, Tokenizer]:
    """How the job takes tokens, and what texts they are. Raises ParcError: E0783, E0785."""
    return in_texts(ports_named(compiled), compiled, tokenizer)


def ports_named(compiled: Compiled) -> Ports:
    """How the job takes tokens. Raises ParcError (E0783) for one that does not decode, or has no dim of sequences."""
    job = compiled.job
    ports = Ports.of(compiled.training.model, decoding_of(compiled), job.span)
    if len(ports.type.dims) != 2:
        help = f"`int32[b, {ports.dim}]`, `b` of one sequence or of several"
        raise fail("E0783", f"`{ports.name}` is {ports.type}: it has no dim of sequences", job.span, help=help)
    return ports


def for_rows(compiled: Compiled, ports: Ports) -> Job:
    """The job with each sequence at a position of its own."""
    job = compiled.job
    assert job.decoding is not None
    (rows,) = [d for d in ports.type.names if d != ports.dim]
    return replace(job, decoding=replace(job.decoding, rows=rows))


@dataclass(frozen=True, slots=True)
class RowsProgram:
    """The program of a job's rows; by entry, what the data are called that are the rows' positions; whether a row can
    go back to any position. pages: of which rows have none yet, where caches lie in pages; they share them where all
    that is kept lies in pages."""

    program: Program
    positions: Mapping[str, str]
    rewinds: bool
    pages: PageTable | None = None


def rows_program(compiled: Compiled, ports: Ports) -> RowsProgram:
    """The program in which each sequence is at a position of its own.

    Raises ParcError: E0782 where sequences hang on each other.
    """
    job = for_rows(compiled, ports)
    made = {entry: compile_job(job, entry) for entry in DECODING}
    positions = {entry: c.training.model.inputs[-1].value.name for entry, c in made.items()}
    program, decoding = joined([c.program for c in made.values()]), job.decoding
    models = [c.training.model for c in made.values()]
    assert decoding is not None
    if decoding.pages is None:
        return RowsProgram(program, positions, all(rewinds(m, ports.places) for m in models))
    table = PageTable.of(program, compiled.training.model, decoding)
    table.shares = all(in_pages(m) for m in models)
    return RowsProgram(program, positions, False, table)


def batch_of(
    compiled: Compiled, ports: Ports, checkpoint: str | None, executor: Callable[..., Executor], reuse: bool = True
) -> RowBatch:
    """The job's rows, on devices of its own. Raises as `rows_program`, and E0770 to E0772 for the checkpoint."""
    rows, decoding = rows_program(compiled, ports), compiled.job.decoding
    assert decoding is not None
    weights, _ = weights_given(checkpoint, rows.program, compiled.training.model)
    run = executor(rows.program, initial=weights)
    if rows.pages is not None:
        rows.pages.shares &= reuse
    return RowBatch(run, ports, decoding.prefill, rows.positions, reuse, rows.rewinds, rows.pages)


def encoder_ports(compiled: Compiled, tokenizer: str | None) -> tuple[EncoderPorts, Tokenizer]:
    """How a job that infers takes texts of which it makes vectors, and what texts are.

    Raises ParcError: E0783, E0785.
    """
    job = compiled.job
    if compiled.training.entry != INFER:
        help = "`infer MODEL(…)` in a job: with `decode over s` it makes text, without it vectors of texts"
        raise fail("E0783", f"the job `{job.name}` trains", job.span, help=help)
    ports = EncoderPorts.of(compiled.training.model, job.span)
    return ports, tokenizer_of(tokenizer, job.data, ports.high)


def shorter_ports(compiled: Compiled, ports: EncoderPorts, others: Sequence[Compiled]) -> list[EncoderPorts]:
    """How the same job takes texts with other parameters. Raises ParcError (E0783) where it makes other vectors."""
    found = []
    for other in others:
        span, model = other.job.span, other.training.model
        there = EncoderPorts.of(model, span)
        if (there.size, there.high, _held(model)) != (ports.size, ports.high, _held(compiled.training.model)):
            message = f"with other parameters `{other.job.name}` has other weights, or makes other vectors"
            raise fail("E0783", message, span, help="`--also seq=32`: a parameter that says how long texts are")
        found.append(there)
    return found


def _held(model: Model) -> dict[str, Type]:
    """What a model keeps, by name."""
    return {v.name: v.type for v in (*(w.value for w in model.weights), *(s.value for s in model.states))}


def encoder_of(
    compiled: Compiled,
    tokenizer: str | None,
    checkpoint: str | None,
    executor: Callable[..., LocalExecutor],
    others: Sequence[Compiled] = (),
) -> EncoderBatch:
    """The job's rows, on devices of its own. others: the same with parameters of other lengths, on the same weights.

    Raises ParcError: E0783, E0785, and E0770 to E0772 for the checkpoint.
    """
    ports, _ = encoder_ports(compiled, tokenizer)
    weights, _ = weights_given(checkpoint, compiled.program, compiled.training.model)
    run = executor(compiled.program, initial=weights)
    more = [(run.beside(c.program), p) for c, p in zip(others, shorter_ports(compiled, ports, others))]
    return EncoderBatch([(run, ports), *more])
