"""What a run begins with and leaves behind besides its figures: checkpoints."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.model import TRAIN_STEP
from compiler.program import Program
from dsl.data import dataclass
from dsl.diagnostics import fail
from runtime.distribute import Array
from runtime.executor import Executor

if TYPE_CHECKING:
    from compiler.weight_format import PackedWeight
    from runtime.checkpoints.saving import Saving


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that is on the disk: its folder, the updates before it, the bytes of its files, and how long the run
    waited for it."""

    folder: str
    step: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Keeping:
    """saving: where a run is saved. resume: the checkpoint that it goes on from, or a folder of some, of which the last
    is meant. given: one whose weights it begins with, whoever saved it (`SCOPE=…`: those of a scope alone). told: hears
    of each that is saved. stored: weights that the job's model has in fewer bits."""

    saving: Saving | None = None
    resume: str | None = None
    given: str | None = None
    told: Callable[[Saved], None] = lambda saved: None
    stored: tuple[PackedWeight, ...] = ()


def scope_of(given: str) -> tuple[str | None, str]:
    """`SCOPE=CHECKPOINT`: the scope whose weights are meant (None: all), and the checkpoint."""
    scope, sign, folder = given.partition("=")
    named = sign and folder and all(part.isidentifier() for part in scope.split(".")) and not os.path.exists(given)
    return (scope, folder) if named else (None, given)


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a run begins with: arrays in place of initial ones, updates and batches that went before, and where from."""

    arrays: dict[str, Array] | None = None
    steps: int = 0
    data: int = 0
    folder: str | None = None


class Keeper:
    """Saves a run of a program as `Keeping` says."""

    def __init__(self, keeping: Keeping, program: Program) -> None:
        """Raises ParcError: E0775 where nothing is trained that could be saved or gone on with."""
        self.keeping, self.program = keeping, program
        if (keeping.saving or keeping.resume) and program.entries[0].name != TRAIN_STEP:
            message = f"`{program.name}` trains nothing that could be saved or gone on with"
            raise fail("E0775", message, help="`--from CHECKPOINT` takes the weights of a job that trains")

    def begin(self) -> Beginning:
        """Raises ParcError: E0770 to E0774; E0773 where nothing could be saved in the end."""
        from runtime.checkpoints.reading import Checkpoint, resumed, taken
        from runtime.checkpoints.saving import ready, whole

        k = self.keeping
        if k.saving is not None:
            ready(k.saving.folder)
        if k.resume is None and k.given is None:
            return Beginning()
        if k.resume is not None:
            anew = k.saving is not None and k.saving.folder == Path(k.resume) and not whole(k.saving.folder)
            if anew:  # the command that goes on whenever it is started again
                return Beginning()
            found = Checkpoint.latest(Path(k.resume))
            moment = found.manifest.moment
            return Beginning(resumed(found, self.program), moment.step, moment.data, str(found.folder))
        assert k.given is not None
        from parc.importing.weights import weights_for
        from runtime.checkpoints.scoped import taken_in

        scope, folder = scope_of(k.given)
        given = weights_for(folder, k.stored)
        if scope is not None:
            return Beginning(taken_in(given, self.program, scope), folder=str(given.folder))
        return Beginning(taken(given, self.program), given.manifest.moment.step, 0, str(given.folder))

    def after(self, run: Executor, data: int, last: bool) -> Saved | None:
        """Save the run if it is time; data: batches that were read."""
        saving = self.keeping.saving
        if saving is None or not (last or (saving.every and data % saving.every == 0)):
            return None
        from compiler.shards import ShardMap
        from runtime.checkpoints.manifest import RunPoint
        from runtime.checkpoints.saving import digest, save

        start, p = time.perf_counter(), self.program
        moment = RunPoint(p.name, digest(p), p.devices, run.steps, data, p.seed)
        shards = ShardMap(p)
        folder = save(saving, moment, shards, run)
        found = Saved(str(folder), moment.step, shards.bytes, time.perf_counter() - start)
        self.keeping.told(found)
        return found
