"""Checkpoints whose matrices rest in fewer bits."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Unpack

from parc.api.compiling import compile, sizes
from parc.api.options import Options

if TYPE_CHECKING:
    from parc.api.options import File
    from runtime.compress.compressing import Compression, Method

    Path = str | os.PathLike[str]


def compress(
    checkpoint: Path, file: File, output: Path, *, method: Method = "gptq", steps: int = 8, **options: Unpack[Options]
) -> Compression:
    """Make a checkpoint for a job that infers and stores weights in fewer bits, of one that has them as they are.

    Args:
        checkpoint: a checkpoint, by whatever strategy; a folder of some, of which the last is meant; or the folder of a
            published model.
        file: the path of a `.par` file, or a `Source`: its job's strategy says what is stored, and how.
        output: the folder that is made.
        method: `nearest` rounds each number by itself; `gptq` by the inputs that the layers have on the job's data;
            `awq` scales these inputs first, where the ops before let that be, and rounds each number by itself.
        steps: batches that it is calibrated with, and as many others on which the loss is told.
        options: see `Options`.

    Raises:
        ParcError: for what is wrong; E0770 to E0773; E0910 if this machine has no memory for it; E0931 for loops that
            would not end.
    """
    import pathlib

    from parc.importing.weights import weights_of
    from parc.machine import require_compressing
    from runtime.compress.compressing import compress

    compiled = compile(file, **options)
    watched = method != "nearest" or compiled.job.serial.model.scored
    require_compressing(compiled.job, watched, sizes(file, options))
    return compress(weights_of(os.fspath(checkpoint)), compiled, pathlib.Path(output), method, steps)
