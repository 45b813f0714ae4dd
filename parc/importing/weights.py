"""Folders of published models, by their configuration."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dsl.files import load
from parc.importing.importing import public_names
from runtime.checkpoints.public import CONFIG, PublicModel
from runtime.checkpoints.reading import Checkpoint, WeightSource

if TYPE_CHECKING:
    from compiler.weight_format import PackedWeight


def weights_of(given: str) -> WeightSource:
    """What a folder has: a checkpoint (or the last of several), or a published model with its `config.json`.

    Raises ParcError: E0770 where it is neither, and for what is wrong with it.
    """
    folder = Path(given)
    return Checkpoint.latest(folder) if not is_public(folder) else public_model(folder)


def weights_for(given: str, stored: Sequence[PackedWeight]) -> WeightSource:
    """The same, for a job that has these weights in fewer bits: what is whole there is rounded as it is read, each
    number by itself. Raises ParcError."""
    found = weights_of(given)
    if not stored:
        return found
    from runtime.compress.source import fitted

    return fitted(found, stored)


def tokenizer_beside(given: str | None) -> str | None:
    """The path of the `tokenizer.json` of a published model's folder, if it is one and has one."""
    if given is None or not is_public(Path(given)):
        return None
    path = Path(given) / "tokenizer.json"
    return str(path) if os.path.isfile(path) else None


def is_public(folder: Path) -> bool:
    """Whether a folder is that of a published model, and no checkpoint."""
    return os.path.isfile(folder / CONFIG)


def public_model(folder: Path) -> PublicModel:
    """Raises ParcError: E1001 to E1005 for its configuration, E0770, E0761, E0772 for its files."""
    return PublicModel(folder, public_names(load(folder / CONFIG)))
