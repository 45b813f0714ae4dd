"""Parts of a checkpoint's tensors, read where they lie, whatever devices wrote them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from compiler.shards import Spans, common
from runtime.checkpoints.manifest import Manifest, SavedFile
from runtime.checkpoints.shard_file import STORED, Array, check_shard
from runtime.data.stored import DataFile, Stored
from runtime.numpy import STORAGE


class PartReader(Protocol):
    """What reads parts of tensors."""

    def read(self, parts: Sequence[tuple[str, Spans]], dtypes: Mapping[str, str]) -> dict[tuple[str, Spans], Array]:
        """These parts of tensors, in the dtypes (`STORED`) that they are wanted in. Raises ParcError."""


class SavedParts:
    """A checkpoint of which one reads parts: of each file all is checked, before the first of its parts is read."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._places: dict[str, list[tuple[SavedFile, int, Spans]]] = {}
        for file in self.manifest.files:
            for k, (name, spans) in enumerate(file.parts):
                self._places.setdefault(name, []).append((file, k, spans))
        self._opened: dict[str, list[Stored]] = {}

    def read(self, parts: Sequence[tuple[str, Spans]], dtypes: Mapping[str, str]) -> dict[tuple[str, Spans], Array]:
        """These parts of tensors, in the dtypes (`STORED`) that they are wanted in.

        Raises ParcError: E0771 for a file that is not what was written.
        """
        return {(name, spans): self.part(name, spans, dtypes[name]) for name, spans in parts}

    def part(self, name: str, spans: Spans, dtype: str) -> Array:
        """One of them."""
        made = np.empty([high - low for low, high in spans], STORED[dtype])
        same = self.manifest.tensors[name].dtype == dtype
        for file, k, there in self._places.get(name, ()):
            both = common(there, spans)
            if both is None:
                continue
            stored = self._stored(file)[k]
            at = within(both, there) or (slice(0, 1),)
            x = stored.read(np.arange(at[0].start, at[0].stop), at[1:]).reshape([high - low for low, high in both])
            if not same:
                x = rounded(x, dtype)
            made[within(both, spans)] = x
        return made

    def _stored(self, file: SavedFile) -> list[Stored]:
        """The arrays of a file, one for each of its parts."""
        found = self._opened.get(file.name)
        if found is None:
            path, tensors = self.folder / file.name, self.manifest.tensors
            begins = check_shard(path, file, tensors)
            held = DataFile.at(os.fspath(path), os.path.realpath(path))
            found = self._opened[file.name] = []
            for (name, spans), begin in zip(file.parts, begins, strict=True):
                stored, shape = STORED[tensors[name].dtype], tuple(high - low for low, high in spans)
                dtype = "bf16" if stored.kind == "V" else stored.str
                found.append(Stored.whole(held, f"{name}` of `{path}", begin, dtype, shape or (1,)))
        return found


def rounded(x: Array, dtype: str) -> Array:
    """Numbers in another dtype, as a run that begins with them rounds them."""
    return x.astype(STORAGE[dtype])


def within(spans: Spans, whole: Spans) -> tuple[slice, ...]:
    """Where a part of a tensor is in a larger part."""
    return tuple(slice(low - first, high - first) for (low, high), (first, _) in zip(spans, whole, strict=True))
