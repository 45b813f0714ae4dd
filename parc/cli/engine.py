"""Options of commands that run programs: on emulated devices, or by an engine with a process per device."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dsl.diagnostics import fail
from parc.api.options import BACKENDS
from parc.cli.common import LONGEST, NumberRange

if TYPE_CHECKING:
    from runtime.torch.engine import Engine

F = TypeVar("F", bound=Callable[..., Any])

ENGINES = ("emulator", "torch")
DEVICES = ("cpu", "cuda", "npu")


def engine_options(function: F) -> F:
    """`--engine`, `--device`, `--patience`; the command calls `engine_of`."""
    patience = click.option(
        "--patience",
        type=NumberRange(1, LONGEST),
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="With `--engine torch`: how long a device waits for another one.",
    )
    return engine_named(patience(function))


def engine_named(function: F) -> F:
    """`--engine`, `--device`."""
    for option in (
        click.option(
            "--device",
            type=click.Choice(DEVICES),
            default="cpu",
            show_default=True,
            help="With `--engine torch`: what each process computes on.",
        ),
        click.option(
            "--engine",
            type=click.Choice(ENGINES),
            default="emulator",
            show_default=True,
            help="Emulated devices, or PyTorch with a process per device (started here, or by torchrun).",
        ),
    ):
        function = option(function)
    return function


def backend_option(function: F) -> F:
    """`--backend`; the command calls `check_backend`."""
    return click.option(
        "--backend",
        type=click.Choice(BACKENDS),
        default="numpy",
        show_default=True,
        help="What computes on emulated devices: numpy, or, for chains of element-wise work, C (`cc`, `gcc`, `clang`).",
    )(function)


def check_backend(backend: str, engine: str, executor: str = "stacked") -> None:
    """Raises click.UsageError where something else computes."""
    if backend != "numpy" and (engine != "emulator" or executor != "stacked"):
        other = f"--engine {engine}" if engine != "emulator" else f"--executor {executor}"
        raise click.UsageError(f"`--backend {backend}` is for the emulator of all devices at once, not `{other}`")


def engine_of(engine: str, device: str, patience: float, timed: bool = False) -> Engine | None:
    """The engine that was asked for; E0711 if it is to be timed and cannot.

    A process but the first of a run that somebody else has started does its part here and ends: what is found is told
    by the first.
    """
    if engine == "emulator":
        if timed:
            help = "`--engine torch` runs the program on processes; `parc trace` writes what the cost model predicts"
            raise fail("E0711", "the emulator measures nothing: `--profile` needs an engine", help=help)
        return None
    from runtime.torch.engine import Engine
    from runtime.torch.follower import follow
    from runtime.torch.launch import require_torch

    found = Engine(device, patience, timed, command=True)
    if found.place is not None and found.place.rank:
        require_torch()
        code = follow(found.place, patience, device, launched=True)
        sys.stderr.flush()
        sys.exit(code)
    return found
