"""What a model puts out, as a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from dsl.replacing import replacing
from runtime.checkpoints.manifest import SavedTensor
from runtime.checkpoints.shard_file import DTYPES, STORED, Array, blocks

FORMATS = (".npz", ".safetensors")


def write_outputs(path: Path, batches: Sequence[Mapping[str, Array]]) -> list[str]:
    """Write the outputs of all batches, by name, each with a first dim that counts the batches; their names.

    The end of the path's name says the format: one of `FORMATS`. Raises OSError.
    """
    names = list(batches[0]) if batches else []
    arrays = {name: np.stack([batch[name] for batch in batches]) for name in names}
    with replacing(path) as file:
        if path.name.endswith(".npz"):
            np.savez(file, allow_pickle=False, **arrays)
        else:
            for block in _safetensors(arrays):
                file.write(block)
    return names


def _safetensors(arrays: Mapping[str, Array]) -> Iterator[memoryview]:
    """A file of whole arrays, as numpy holds them, piece by piece."""
    own = {STORED[dtype]: dtype for dtype in DTYPES}
    tensors = {name: SavedTensor("", own[x.dtype.newbyteorder("<")], x.shape, "") for name, x in arrays.items()}
    parts = [(name, tuple((0, n) for n in x.shape)) for name, x in arrays.items()]
    yield from blocks(parts, tensors, lambda name, spans: arrays[name])
