"""Training and evaluating, on emulated devices or by an engine, and the proof."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Unpack

from parc.api.compiling import compile, evaluate, load_program, sizes, warn
from parc.api.options import Backend, Executor, Options, is_program, name_of

if TYPE_CHECKING:
    from compiler.driver import Compiled
    from compiler.program import InputDecl
    from dsl.diagnostics import Diagnostic
    from parc.api.options import File
    from parc.keeping import Keeping
    from parc.profiling import Profile
    from parc.small import Small
    from parc.training import Progress, RunResult
    from runtime.distribute import Array
    from runtime.executor import Executor as Executing
    from runtime.prove import Proof
    from runtime.torch.engine import Engine


def run(
    file: File,
    steps: int = 20,
    *,
    progress: Callable[[Progress], None] | None = None,
    told: Callable[[Diagnostic], None] | None = None,
    engine: Engine | None = None,
    profiled: Callable[[Profile], None] | None = None,
    keeping: Keeping | None = None,
    outputs: Callable[[Mapping[str, Array]], None] | None = None,
    backend: Backend = "numpy",
    **options: Unpack[Options],
) -> RunResult:
    """Train a `.par` file, or a lowered `.npu`, on emulated devices; or evaluate as many batches (`entry="evaluate"`),
    or compute the outputs of as many, of a job that infers.

    A job with a cluster says what a step takes there, by the cost model.

    Args:
        file: a path, or a `Source`.
        steps: how many updates, or batches.
        progress: hears of each step.
        told: hears of an error before what helps is looked for, where that takes seconds.
        engine: runs the program in place of the emulator.
        profiled: hears what ran when, in the end, of an engine that is `timed`.
        keeping: the checkpoints that it makes, and that it begins with (`parc.keeping`); steps count from the first
            step of all then, whoever took it.
        outputs: hears of what each step puts out, by name.
        backend: what computes in the emulator; `fast`: chains of element-wise work as C, by the system's compiler.
        options: see `Options`.

    Raises:
        ParcError: for what is wrong; E0701 if its devices, or E0910 if this machine have no memory for it; E0731 if
            there is no C compiler for `fast`; E0770 to E0775 for checkpoints.
    """
    from parc.keeping import Keeping

    with engine or nullcontext():
        return _run(file, steps, progress, told, engine, profiled, keeping or Keeping(), outputs, backend, options)


def emulator(backend: Backend) -> Callable[..., Executing]:
    """The emulator with all devices as one array, computing so."""
    from functools import partial

    from runtime.stacked import Emulator

    if backend == "numpy":
        return Emulator
    from runtime.native import NativePlanner

    return partial(Emulator, planner=NativePlanner())


def _run(
    file: File,
    steps: int,
    progress: Callable[[Progress], None] | None,
    told: Callable[[Diagnostic], None] | None,
    engine: Engine | None,
    profiled: Callable[[Profile], None] | None,
    keeping: Keeping,
    outputs: Callable[[Mapping[str, Array]], None] | None,
    backend: Backend,
    options: Options,
) -> RunResult:
    from parc.training import run

    executor: Callable[..., Executing] = emulator(backend) if engine is None else engine.executor
    profiler = None
    if engine is not None and profiled is not None:
        from parc.profiling import Profiler

        profiler = Profiler(engine)
        executor = profiler.executor
    from parc.machine import Asked, require_machine

    here = ["stacked" if engine is None else "private"]
    if engine is not None and engine.place is not None:
        here = []  # the devices are not all on this machine
    if is_program(name_of(file)):
        program = load_program(file, **options)
        require_machine(Asked(program, here))
        found = run(program, steps, progress=progress, executor=executor, keeping=keeping, outputs=outputs)
        if profiler is not None and profiled is not None:
            profiled(profiler.profile(found.name))
        return found
    compiled = compile(file, **options)
    keeping = replace(keeping, stored=compiled.training.model.stored)
    require_machine(Asked(compiled.program, here, None, compiled.job.span, sizes(file, options)))
    simulated = simulation = None
    if compiled.job.cluster is not None:
        from compiler.cost.time.simulate import Simulation
        from dsl.diagnostics import ParcError

        simulation = Simulation.of(compiled)
        try:
            simulated = compiled.job.cluster.device.name, simulation.seconds()
        except ParcError as error:  # what is too long to be priced may be short enough to be run
            if not all(d.limit for d in error.diagnostics):
                raise
            simulation = None
    from parc.memory import capacities
    from parc.room import require_room

    require_room(compiled, told=told)
    room, every = capacities(compiled.job), _filled(compiled)
    found = run(
        compiled.program, steps, compiled.job.data, room, progress, simulated, executor, every, keeping, outputs
    )
    if profiler is not None and profiled is not None:
        profiled(profiler.profile(found.name, simulation))
    return found


def _require_equal_alone(file: File, options: Options) -> None:
    """Raise ParcError (E0430) unless each implementation computes what its scope does, by itself."""
    from dsl.diagnostics import ParcError
    from parc.by_hand import tried_by_hand

    _, found = tried_by_hand(file, evaluate(file, **options), options)
    errors = [d for d in found if d.severity == "error"]
    if errors:
        raise ParcError(*errors)


def _filled(compiled: Compiled) -> list[InputDecl]:
    """The inputs that the job's data fill."""
    from compiler.program import InputDecl

    return [InputDecl.of(i) for i in compiled.job.data_inputs(compiled.training.entry)]


def batches(file: File, steps: int, *, at_step: int = 0, **options: Unpack[Options]) -> Iterator[Mapping[str, Array]]:
    """Read the batches that `run` takes, of the job's data or made up: whole arrays by the names of its inputs.

    Args:
        file: a path, or a `Source`.
        steps: how many.
        at_step: how many steps went before; the batches are those that would have followed.
        options: see `Options`.

    Raises:
        ParcError: for what is wrong with the file or its data.
    """
    from runtime.data import open_data
    from runtime.readable import whole

    if is_program(name_of(file)):
        program, data, every = load_program(file, **options), None, None
    else:
        compiled = compile(file, **options)
        program, data, every = compiled.program, compiled.job.data, _filled(compiled)
    reader = open_data(data, program.inputs, every)
    for step in range(at_step, at_step + steps):
        yield whole(reader.batch(program.seed, step))


def verify(
    file: File,
    steps: int = 2,
    *,
    tolerance: float | None = None,
    exact: bool = False,
    executor: Executor = "stacked",
    at_step: int = 0,
    small: Small | None = None,
    told: Callable[[Diagnostic], None] | None = None,
    engine: Engine | None = None,
    backend: Backend = "numpy",
    **options: Unpack[Options],
) -> Proof:
    """Prove a job: run the lowered and the serial program, compare loss, gradients, weights and optimizer state: `.ok`.

    With `entry="evaluate"` loss, metrics and outputs are compared, of a job that infers its outputs. `.blind`
    and `.unreached` say what was not compared, and `.vacuous` why equality says nothing, if it does.

    Args:
        file: the path of a `.par` file, or a `Source`.
        steps: how many updates.
        tolerance: a relative error in place of what rounding explains.
        exact: take whole numbers and compare to the bit, which fits linear models.
        executor: all devices as one array (`stacked`), or each by itself with messages between them (`private`).
        at_step: how many updates went before, as far as counters of steps know.
        small: what `shrink` made of the job, to be proved in its place.
        told: as in `run`.
        engine: runs the program in place of an emulator, which takes the same steps beside it: its losses are
            compared, too.
        backend: as in `run`, of the executor `stacked`.
        options: see `Options`.

    Raises:
        ParcError: as `run` does.
    """
    with engine or nullcontext():
        return _verify(file, steps, tolerance, exact, executor, at_step, small, told, engine, backend, options)


def _verify(
    file: File,
    steps: int,
    tolerance: float | None,
    exact: bool,
    executor: Executor,
    at_step: int,
    small: Small | None,
    told: Callable[[Diagnostic], None] | None,
    engine: Engine | None,
    backend: Backend,
    options: Options,
) -> Proof:
    from dataclasses import replace

    from compiler.driver import compile_job, decoding_program
    from parc.machine import Asked, require_machine
    from parc.room import require_room
    from runtime.data import open_data
    from runtime.prove import prove, prove_evaluation
    from runtime.prove.decoding import prove_decoding
    from runtime.rank.executor import RankExecutor
    from runtime.stacked import Emulator

    if engine is None:
        here: list[str] = [executor]
    else:  # the emulator beside it, and the processes, unless they are on other machines, too
        here = ["stacked", "private"] if engine.place is None else ["stacked"]
    compiled = compile(file, **options) if small is None else small.compiled
    if compiled.job.strategy.implementations:  # of a small job, too: they may be tried with more devices
        _require_equal_alone(file, options)
    if small is not None and (entry := options.get("entry", compiled.training.entry)) != compiled.training.entry:
        compiled = compile_job(compiled.job, entry)
    require_machine(Asked(compiled.program, here, compiled.training, compiled.job.span, sizes(file, options)))
    if small is None:
        own: Options = {**options, "double": False}
        require_room(compiled, (lambda: compile(file, **own)) if options.get("double") else None, told)
    chosen: Callable[..., Executing] = RankExecutor if executor == "private" else emulator(backend)
    if engine is not None:
        chosen = engine.executor
    program = compiled.program
    reader = open_data(None if exact else compiled.job.data, program.inputs, _filled(compiled))
    proof = (prove if compiled.training.trains else prove_evaluation)(
        compiled.training,
        program,
        steps,
        None if exact else lambda step: reader.batch(program.seed, step),
        tolerance=tolerance,
        exact=exact,
        executor=chosen,
        first=at_step,
        beside=Emulator if engine is not None else None,
    )
    decoding = compiled.job.decoding
    if decoding is None or not compiled.decodes:
        return proof
    entries = decoding_program(compiled.job)
    require_machine(Asked(entries, here, None, compiled.job.span, sizes(file, options)))
    rows = prove_decoding(compiled.training, entries, decoding, tolerance=tolerance, exact=exact, executor=chosen)
    return replace(proof, rows=(*proof.rows, *rows))


def shrink(file: File, **options: Unpack[Options]) -> Small:
    """Shrink a job to the smallest sizes in which its strategy is the same, for `verify`. Raises ParcError."""
    from parc.small import small

    warn(evaluate(file, **options).job, options)
    return small(sizes(file, options))
