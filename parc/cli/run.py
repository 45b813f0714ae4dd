"""`parc run`: train on emulated devices, or by an engine."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from parc import api
from parc.api.options import texts
from parc.cli.common import (
    Command,
    Output,
    check_program,
    choice,
    color,
    entry_of,
    evaluate_option,
    file_argument,
    job_options,
    read_source,
    set_threads,
    threads_option,
)
from parc.cli.engine import backend_option, check_backend, engine_of, engine_options
from parc.cli.keeping import OutputFile, from_option, keeping_of, outputs_option, save_options
from parc.cli.tables import amount, plural, seconds, table
from parc.cli.writing import check_apart, check_output, write_output
from parc.units import percent

if TYPE_CHECKING:
    from parc.keeping import Keeping
    from parc.profiling import Profile
    from parc.training import Progress, RunResult
    from runtime.torch.engine import Engine


@click.command("run", cls=Command)
@file_argument
@click.option("--steps", type=click.IntRange(1), default=20, show_default=True, help="Training steps, or batches.")
@evaluate_option
@save_options
@from_option
@outputs_option
@click.option(
    "--profile",
    metavar="OUT",
    help="With `--engine torch`: write what ran when, as `parc trace` does, and show it beside the prediction.",
)
@engine_options
@backend_option
@threads_option
@job_options
def command(
    out: Output,
    file: str,
    steps: int,
    evaluate: bool,
    save: str | None,
    every: int | None,
    keep: int | None,
    resume: str | None,
    given: str | None,
    output: str | None,
    profile: str | None,
    engine: str,
    device: str,
    patience: float,
    backend: api.Backend,
    threads: int,
    params: tuple[tuple[str, str], ...],
    job: str | None,
    strategy: str | None,
) -> None:
    """Run FILE (`.par`, or a lowered `.npu`) on emulated devices, or with PyTorch: train its model, or use it.

    Prints the loss, the time of a step here and on the job's cluster, the memory that each device needs, what it sends.
    With `--evaluate` nothing is trained: every batch meets the weights as they begin. So it is with a job that says
    `infer`, which computes the model's outputs alone. Checkpoints: docs/checkpoints.md.
    """
    set_threads(threads)
    check_program(out, file, params=params, job=job, strategy=strategy)
    check_backend(backend, engine)
    chosen_engine = engine_of(engine, device, patience, profile is not None)
    chosen = choice(out, params, job, strategy) | entry_of(evaluate)
    keeping = keeping_of(out, save, every, keep, resume, given)
    carry_out(out, file, steps, chosen, keeping, output, profile, chosen_engine, backend)


def carry_out(
    out: Output,
    file: str,
    steps: int,
    chosen: api.Options,
    keeping: Keeping,
    output: str | None,
    profile: str | None = None,
    engine: Engine | None = None,
    backend: api.Backend = "numpy",
) -> None:
    """Run the file and tell of it. output: the file for what the model puts out; profile: that for what ran when."""
    source = read_source(out, file, program=True)
    values = texts(chosen.get("params")).values()
    check_apart(output=output, profile=profile)
    for path in (profile, output):
        check_output(path, source, values)
    profiles: list[Profile] = []
    profiled = None if profile is None else profiles.append
    outputs = None if output is None else OutputFile(output)
    with _progress(out, steps, "evaluating" if chosen.get("entry") == "evaluate" else "training") as progress:
        found = api.run(
            source,
            steps,
            progress=progress,
            told=out.begin,
            engine=engine,
            profiled=profiled,
            keeping=keeping,
            outputs=None if outputs is None else outputs.take,
            backend=backend,
            **chosen,
        )
    if found.data == "synthetic":
        out.say("note: the batches are made-up numbers; a job's `data` names real ones")
    if found.began is not None:
        after = f"goes on after step {found.first}" if keeping.resume is not None else "began with its weights"
        out.say(f"note: {found.began}: the run {after}")
    elif keeping.resume is not None:
        out.say(f"note: `{keeping.resume}` has nothing to go on from yet: the run began with step 1")
    out.result = asdict(replace(found, outputs={name: _summary(x) for name, x in found.outputs.items()}))
    out.data(_shown(found, color(sys.stdout)))
    if outputs is not None:
        out.say(f"wrote {', '.join(outputs.write())} of {plural(len(outputs.batches), 'batch')} to {output}")
    for p in profiles:
        assert profile is not None
        from parc.report.measured import Measured

        write_output(profile, Measured(p).text())
        out.result["profile"] = p.as_json() | {"output": profile}
        out.data("\n" + _profile(p, profile, _unit(found), color(sys.stdout)))


def _shown(run: RunResult, style: bool) -> str:
    steps = plural(run.steps, _unit(run))
    here = f"a {_unit(run)}: {seconds(run.step_seconds)} here"
    if run.simulated_step_seconds is not None:
        here += f", {seconds(run.simulated_step_seconds)} on {run.devices:,} {run.device} (simulated)"
    parts = [f"{run.name}: {_losses(run)}{steps} on {plural(run.devices, 'device')}\n{here}"]
    if run.metrics:
        head = ["metric", "first", "last"]
        parts.append(table(head, [[n, f"{v[0]:.6g}", f"{v[-1]:.6g}"] for n, v in run.metrics.items()], style))
    if run.outputs:
        head = ["output", "type", "least", "mean", "largest"]
        found = [(name, _summary(x)) for name, x in run.outputs.items()]
        rows = [[n, s["type"], *(f"{s[k]:.6g}" for k in ("least", "mean", "largest"))] for n, s in found]
        parts.append(table(head, rows, style, left=2))
    roles = list(dict.fromkeys(role for m in run.memory for role in m.roles))
    memory = [[m.devices, m.memory, amount(m.peak), *(amount(m.roles.get(r, 0)) for r in roles)] for m in run.memory]
    parts.append(table(["devices", "memory", "peak", *roles], memory, style, left=2))
    if run.caches:
        cached = [
            [c.table, *(f"{n:,}" for n in (c.rows, c.asked, c.fetched, c.returned)), percent(c.hits)]
            for c in run.caches
        ]
        parts.append(table(["rows kept of", "each device", "asked for", "fetched", "returned", "hits"], cached, style))
    if run.traffic:
        sent = [[t.op, ", ".join(t.axes) or "stages", f"{t.calls:g}", amount(t.bytes)] for t in run.traffic]
        parts.append(table(["communication", "over", "calls", "sent per device and step"], sent, style, left=2))
    return "\n\n".join(parts)


def _unit(run: RunResult) -> str:
    """What is run time and again."""
    return "step" if run.entry == "train_step" else "batch"


def _losses(run: RunResult) -> str:
    if not run.losses:
        return ""
    if run.entry == "train_step":
        return f"loss {run.losses[0]:.6g} -> {run.losses[-1]:.6g} in "
    return f"loss {sum(run.losses) / len(run.losses):.6g}, mean of "


def _profile(profile: Profile, output: str, what: str, style: bool) -> str:
    """Predicted : measured, by kind, and messages, of a step or a batch."""
    from parc.report.trace import devices

    counted, whose = profile.counted, profile.players[profile.shown]
    first = " (the first is left out)" if counted.start else ""
    here = f"measured on {profile.about}: mean of {plural(len(counted), what)}{first} of device {whose.first}"
    if profile.prediction is None:
        of = "predicted: nothing, the program has no cluster"
    else:
        cluster = profile.prediction.cluster
        of = f"predicted by `parc cost` for {devices(whose)} of the cluster `{cluster}`, "
        of += "of which the ratio says nothing unless that is here"
    whole = profile.kinds[-1]
    rows = [
        [what if k is whole else k.kind, _time(k.predicted), _share(k.predicted, whole.predicted), seconds(k.measured),
         _share(k.measured, whole.measured), _ratio(k.predicted, k.measured)]
        for k in profile.kinds
    ]  # fmt: skip
    head = [f"of a {what}", "predicted", "share", "measured", "share", "measured : predicted"]
    parts = [f"{here}\n{of}\n{output}: what ran when", table(head, rows, style)]
    if profile.messages:
        sent = [
            [m.name, f"{m.calls:g}", _time(m.predicted), seconds(m.measured), _ratio(m.predicted, m.measured)]
            for m in profile.messages
        ]
        head = ["messages, hidden or not", "sent", "predicted", "measured", "measured : predicted"]
        parts.append(table(head, sent, style))
    return "\n\n".join(parts)


def _time(found: float | None) -> str:
    return "–" if found is None else seconds(found)


def _share(part: float | None, whole: float | None) -> str:
    return percent(part / whole) if part is not None and whole else "–"


def _ratio(predicted: float | None, measured: float) -> str:
    return f"{measured / predicted:.3g}" if predicted else "–"


def _summary(output: Any) -> dict[str, Any]:
    """What a table has room for of an output."""
    with warnings.catch_warnings():  # infinities of both signs have no mean, and that is said
        warnings.simplefilter("ignore", RuntimeWarning)
        numbers = {"least": output.min(), "mean": output.mean(dtype="float64"), "largest": output.max()}
    return {"type": f"{output.dtype}[{', '.join(map(str, output.shape))}]"} | {k: float(v) for k, v in numbers.items()}


@contextmanager
def _progress(out: Output, steps: int, what: str) -> Iterator[Callable[[Progress], None]]:
    """A bar where somebody watches, else a line now and then."""
    if out.json:
        yield lambda now: None
    elif not sys.stderr.isatty():
        every = max(1, steps // 10)
        width = len(str(steps))

        def line(now: Progress) -> None:
            if now.step == 1 or now.step == steps or now.step % every == 0:
                loss = "" if now.loss is None else f"loss {now.loss:<8.6g}  "
                out.say(f"step {now.step:{width}}/{steps}  {loss}{_clocks(now)}")

        yield line
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        from parc.cli.bars import PassesColumn

        columns = (
            TextColumn("{task.fields[what]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TextColumn("{task.fields[clocks]}"),
            TimeRemainingColumn(),
            PassesColumn(),
        )
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            out.end_bar = bar.stop
            task = bar.add_task("", total=steps, what=what, loss="", clocks="")

            def show(now: Progress) -> None:
                said, loss = (what, f"loss {now.loss:.6g}") if now.loss is not None else ("inferring", "")
                bar.update(task, completed=now.step, what=said, loss=loss, clocks=_clocks(now))

            yield show


def _clocks(now: Progress) -> str:
    """The real clock, and that of the cluster if there is one."""
    here = f"{seconds(now.seconds)} here"
    return here if now.simulated_seconds is None else f"{here}, {seconds(now.simulated_seconds)} simulated"
