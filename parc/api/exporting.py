"""Programs for other systems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

from parc.api.compiling import compile_with, joined_entries, load_program
from parc.api.options import SYSTEMS, Entry, Options, System, is_program, name_of

if TYPE_CHECKING:
    from parc.api.options import File


def export(file: File, system: System = "torch", *, entries: Sequence[Entry] = (), **options: Unpack[Options]) -> str:
    """Write the program of a `.par` or `.npu` file for another system: `torch`, a file that needs PyTorch alone.

    entries: what it can be asked to do, first of all what it does by itself; if left out, `entry` of the options, or
    all that a `.npu` has.

    Raises `ParcError`; ValueError for a system that there is none of; TypeError as `load_program`.
    """
    from parc.exporting.torch.file import export_torch

    if system not in SYSTEMS:
        raise ValueError(f"there is no system `{system}` to export to: {', '.join(SYSTEMS)}")
    if not entries and is_program(name_of(file)) and options.get("entry"):
        return export_torch(load_program(file, **options))
    if is_program(name_of(file)):
        return export_torch(load_program(file, entries or None, **options))
    chosen: list[Options] = [{**options, "entry": entry} for entry in dict.fromkeys(entries)] or [options]
    made = [compile_with(file, each, lists=False) for each in chosen]  # `autograd` adds gradients up
    return export_torch(joined_entries(made) if entries else made[0].program)
