"""Options of what a run begins with and leaves behind: checkpoints, and what it puts out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from parc.cli.common import Output
from parc.cli.tables import amount, seconds

if TYPE_CHECKING:
    from parc.keeping import Keeping, Saved

F = TypeVar("F", bound=Callable[..., Any])


def save_options(function: F) -> F:
    """`--save`, `--every`, `--keep`, `--resume`; the command calls `keeping_of`."""
    for option in (
        click.option(
            "--resume", metavar="DIR", help="Go on from this checkpoint, or the last in this folder, to step N in all."
        ),
        click.option(
            "--keep", type=click.IntRange(1), metavar="K", help="Keep the last K checkpoints; all, if not said."
        ),
        click.option("--every", type=click.IntRange(1), metavar="N", help="Save every N steps, too."),
        click.option("--save", metavar="DIR", help="Save weights and states to a folder in this one, at the end."),
    ):
        function = option(function)
    return function


def from_option(function: F) -> F:
    """`--from CHECKPOINT`."""
    what = "Begin with the weights and states of this checkpoint, the last in this folder, or a published model; "
    what += "`run … --from SCOPE=CHECKPOINT`: those of a scope alone, such as a teacher."
    return click.option("--from", "given", metavar="CHECKPOINT", help=what)(function)


def say_weights(out: Output, began: str | None) -> None:
    """Whose weights a text is made with: of the checkpoint in this folder; None: those that they begin with."""
    if began is None:
        out.say("note: the weights are those that they begin with; `--from CHECKPOINT` takes trained ones")
    else:
        out.say(f"note: with the weights of {began}")


def outputs_option(function: F) -> F:
    """`-o OUT`; the command calls `OutputFile`."""
    what = "Write what the model puts out, of all batches, to this file: `.npz` or `.safetensors`."
    return click.option("-o", "--output", metavar="OUT", help=what)(function)


def keeping_of(
    out: Output, save: str | None, every: int | None, keep: int | None, resume: str | None, given: str | None
) -> Keeping:
    """What the options say. Raises click.UsageError for those that do not go together."""
    from pathlib import Path

    from parc.keeping import Keeping
    from runtime.checkpoints.saving import Saving

    for name, value in (("every", every), ("keep", keep)):
        if value is not None and save is None:
            raise click.UsageError(f"`--{name}` goes with `--save DIR`")
    for name, folder in (("save", save), ("resume", resume), ("from", given)):
        if folder is not None and not folder.strip():
            raise click.UsageError(f"the name of a folder is empty: `--{name}`")
    if resume is not None and given is not None:
        raise click.UsageError("a run goes on from a checkpoint (`--resume`), or begins with its weights (`--from`)")

    def told(saved: Saved) -> None:
        what = f"{amount(saved.bytes)} in {seconds(saved.seconds)}"
        out.say(f"saved step {saved.step} to {saved.folder}: {what}")

    saving = None if save is None else Saving(Path(save), every or 0, keep or 0)
    return Keeping(saving, resume, given, told)


class OutputFile:
    """What a model puts out of each batch, for a file."""

    def __init__(self, path: str) -> None:
        """Raises click.UsageError for a name that says no format."""
        if not path.endswith((".npz", ".safetensors")):
            raise click.UsageError(f"`-o {path}`: outputs are written to `.npz` or `.safetensors` files")
        self.path = path
        self.batches: list[Any] = []

    def take(self, outputs: Any) -> None:
        """Those of the next batch."""
        self.batches.append(outputs)

    def write(self) -> list[str]:
        """All of them; their names. Raises Unwritable, or click.UsageError where there are none."""
        import os
        from pathlib import Path

        from parc.cli.writing import Unwritable
        from runtime.checkpoints.outputs import write_outputs

        if not self.batches or not self.batches[0]:
            why = "the model puts nothing out; `output NAME` says what it is to give"
            raise click.UsageError(f"`-o {self.path}`: {why}")
        try:
            return write_outputs(Path(os.path.realpath(self.path)), self.batches)
        except OSError as error:
            raise Unwritable(self.path, error) from None
