"""Checkpoints: from the strategy that saved them to another."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Unpack

from parc.api.compiling import compile, load_program, sizes
from parc.api.options import Options, is_program, name_of

if TYPE_CHECKING:
    from compiler.weight_format import PackedWeight
    from parc.api.options import File
    from runtime.checkpoints.converting import Conversion
    from runtime.checkpoints.laying_out import Layout
    from runtime.checkpoints.publishing import Publication

    Path = str | os.PathLike[str]


def convert(
    checkpoint: Path, file: File, output: Path | None, *, from_job: str | None = None, **options: Unpack[Options]
) -> Conversion:
    """Make a checkpoint for a job of another, whatever strategies and devices the two have: the same numbers.

    Args:
        checkpoint: a checkpoint, or a folder of some, of which the last is meant, or the folder of a published model
            (`config.json` and safetensors); without `output` a `.par` or `.npu` file will do, of whose job nothing has
            been saved yet.
        file: a `.par` file, or a lowered `.npu`: whose checkpoint it is to be.
        output: the folder that it becomes; None: it is only told what would be written and moved.
        from_job: the job of a `.par` file in place of a checkpoint, if it has several.
        options: see `Options`; of `file`, and `params` also of a `.par` file that is the same.

    Raises:
        ParcError: for what is wrong with the files; E0770 to E0773; E0933 for too many devices that write.
    """
    import pathlib

    from parc.importing.weights import weights_for
    from parc.machine import require_writers
    from runtime.checkpoints.converting import convert, plan_checkpoint, plan_programs

    stored: tuple[PackedWeight, ...] = ()
    if is_program(name_of(file)):
        program = load_program(file, **options)
        require_writers(program, None, None)
    else:
        compiled = compile(file, **options)
        program, stored = compiled.program, compiled.training.model.stored
        require_writers(program, compiled.job.span, sizes(file, options))
    given = os.fspath(checkpoint)
    if output is None and (given.endswith(".par") or is_program(given)):
        same = os.path.realpath(given) == os.path.realpath(name_of(file))
        own: Options = (
            {} if is_program(given) else {"job": from_job, "params": options.get("params", {}) if same else {}}
        )
        one = load_program(given, **own)
        require_writers(one, None, None)
        return plan_programs(one, program)
    found = weights_for(given, stored)
    if output is None:
        return plan_checkpoint(found, program)[0]
    return convert(found, program, pathlib.Path(output))


def publish(checkpoint: Path, config: File, output: Path, *, layout: Layout | None = None) -> Publication:
    """Write the weights of a checkpoint as files of Hugging Face: `config.json` and safetensors under the names of its
    family, which transformers reads.

    Args:
        checkpoint: a checkpoint of a job that `init` has made, or a folder of some, of which the last is meant.
        config: the `config.json` that the job was made of; it is copied.
        output: the folder that is made.
        layout: `gptq`, `awq` or `compressed-tensors`: how matrices that rest in fewer bits are laid out; None: all are
            whole.

    Raises:
        ParcError: for what is wrong with the configuration (E1001 to E1005), or with the files: E0770 to E0773.
    """
    import pathlib

    from dsl.files import load
    from dsl.source import Source
    from parc.importing.importing import public_names
    from runtime.checkpoints.publishing import publish
    from runtime.checkpoints.reading import Checkpoint

    source = config if isinstance(config, Source) else load(config)
    found = Checkpoint.latest(pathlib.Path(checkpoint))
    return publish(found, public_names(source), source.text.encode(), pathlib.Path(output), layout=layout)
