"""Checkpoints as jobs take them that store weights in fewer bits: packed before, or rounded as they are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from compiler.origin import Role
from compiler.shards import Spans
from compiler.weight_format import BITS, SCALE, WORDS, ZERO, PackedWeight, levels
from dsl.diagnostics import fail
from runtime.checkpoints.manifest import Manifest, SavedTensor
from runtime.checkpoints.public import PublicModel
from runtime.checkpoints.reading import Owned, WeightSource
from runtime.checkpoints.shard_file import STORED
from runtime.compress.rounding import matrix, nearest, parts
from runtime.numpy import STORAGE, rounded
from runtime.numpy.base import Array, quiet
from runtime.numpy.packed import packed

INTEGERS = ("int8", "int4", "int3")
"""Formats whose bits others' layouts have, too."""


class PackedSource:
    """A checkpoint with the parts of weights that it has as a whole.

    made: parts that are known, and other weights that are not what they were; other parts' numbers are rounded each by
    itself, a weight at a time.
    """

    def __init__(
        self, found: WeightSource, stored: Sequence[PackedWeight], made: Mapping[str, Array] | None = None
    ) -> None:
        """stored: those of the job's model."""
        there = found.manifest.tensors
        self.found, self.made = found, dict(made or {})
        self.of = {name: s for s in stored if s.name in there for name in s.parts.values()}
        gone = {s.name for s in self.of.values()}
        tensors = {name: t for name, t in there.items() if name not in gone}
        for name, s in self.of.items():
            type = s.type_of(name)
            format = s.resting if name == s.parts[WORDS] else None
            tensors[name] = SavedTensor(Role.WEIGHT, type.dtype, type.shape, str(type), format)
        self._manifest = replace(found.manifest, tensors=tensors)

    @property
    def folder(self) -> Path:
        return self.found.folder

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    @property
    def without(self) -> tuple[Role, ...]:
        return self.found.without

    def arrays(self, names: Iterable[str] | None = None) -> dict[str, Array]:
        """Whole tensors by name; all of them, if none are named. Raises ParcError."""
        wanted = list(self._manifest.tensors if names is None else names)
        found = self.found.arrays([name for name in wanted if not self._own(name)])
        return {name: self._part(name) if self._own(name) else found[name] for name in wanted}

    def _own(self, name: str) -> bool:
        return name in self.of or name in self.made

    def _part(self, name: str) -> Array:
        if name not in self.made:
            s = self.of[name]
            self.made |= _as_it_rests(self.found, s) or _rounded(self.found, s)
        return self.made[name]

    def owned(self) -> Owned:
        """What each device wrote; of packed parts, those whose numbers it wrote."""
        made: dict[str, list[tuple[str, PackedWeight]]] = {}
        for part, s in self.of.items():
            made.setdefault(s.name, []).append((part, s))
        found: dict[int, list[tuple[str, Spans]]] = {}
        for rank, had in self.found.owned().items():
            found[rank] = [(name, spans) for name, spans in had if name not in made]
            for name, spans in had:
                found[rank] += [(part, of) for part, s in made.get(name, ()) if (of := _of_part(s, part, spans))]
        return found

    def parts(self) -> PackedSource:
        """What reads parts of them."""
        return self

    def read(self, parts: Sequence[tuple[str, Spans]], dtypes: Mapping[str, str]) -> dict[tuple[str, Spans], Array]:
        """These parts of tensors, in the dtypes that they are wanted in. Raises ParcError."""
        plain = [(name, spans) for name, spans in parts if not self._own(name)]
        found = dict(self.found.parts().read(plain, dtypes)) if plain else {}
        for name, spans in parts:
            if self._own(name):
                x = self._part(name)[tuple(slice(*s) for s in spans)]
                found[name, spans] = np.ascontiguousarray(x).astype(STORED[dtypes[name]])
        return found


def _of_part(s: PackedWeight, part: str, spans: Spans) -> Spans | None:
    """What of a part's elements stands for these of the weight alone; None: nothing does."""
    there = dict(zip(s.type.names, spans, strict=True))
    found = []
    for d in s.type_of(part).dims:
        size = s.type.size(d.name)
        low, high = there[d.name]
        found.append((-(-low * d.size // size), high * d.size // size))
    return tuple(found) if all(low < high for low, high in found) else None


def _rounded(found: WeightSource, of: PackedWeight) -> dict[str, Array]:
    whole = whole_weight(found, of)
    return parts(of, {at: nearest(matrix(of, whole[at]), of.format, of.type.dtype) for at in of.layers})


def _as_it_rests(found: WeightSource, of: PackedWeight) -> dict[str, Array]:
    """The parts of a weight of a published model that rests there as the job stores it, bit for bit; none where it
    rests in another way."""
    said = found.bits(of.name) if isinstance(found, PublicModel) and of.format.code in INTEGERS else None
    if said is None or said[0] != BITS[of.format.code]:
        return {}
    _, numbers, zeros, scales = said
    if not of.format.zeros and (zeros != -levels(of.format.code)[0]).any():
        return {}
    made = {of.parts[WORDS]: packed(numbers, of.type.index(of.dim), of.format.code)}
    for part, x in ((SCALE, scales), (ZERO, zeros)):
        if part in of.parts:
            coarse = tuple(d.size // (of.scale.size(d.name) if of.scale.has(d.name) else 1) for d in of.type.dims)
            one = x[tuple(slice(None, None, step) for step in coarse)]
            spread = one
            for axis, step in enumerate(coarse):
                spread = spread.repeat(step, axis)
            kept = rounded(one.astype(STORAGE[of.scale.dtype]), of.scale.dtype)
            if not (np.array_equal(spread, x) and np.array_equal(kept, one)):
                return {}
            made[of.parts[part]] = np.ascontiguousarray(kept.reshape(of.scale.shape))
    return made


def whole_weight(found: WeightSource, of: PackedWeight) -> Array:
    """A weight that is to be packed, as the job computes with it. Raises ParcError: E0772 where it is no numbers."""
    x = found.arrays([of.name])[of.name]
    with quiet():
        whole = rounded(x.astype(STORAGE[of.type.dtype]), of.type.dtype)
    bad = whole.size - np.count_nonzero(np.isfinite(whole))
    if bad:
        message = f"{bad:,} of {whole.size:,} elements of `{of.name}` in `{found.folder}` are no numbers"
        same = np.isfinite(x).all()
        help = f"they are too large for {of.type.dtype}" if same else "take a checkpoint of before they were so"
        raise fail("E0772", message, help=help)
    return whole


def fitted(found: WeightSource, stored: Sequence[PackedWeight]) -> WeightSource:
    """The checkpoint, with parts of weights that it has as a whole and a job's model does not."""
    there = found.manifest.tensors
    return PackedSource(found, stored) if any(s.name in there for s in stored) else found
