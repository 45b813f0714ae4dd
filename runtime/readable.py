"""Arrays of which one may read slices only: batches that lie in files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Readable(Protocol):
    """What can be had as an array, whole (`np.asarray`) or by slices: an array, or one in a file that is read so far as
    it is asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, key: Any, /) -> Any: ...

    def __array__(self, /) -> Array: ...


class Piecewise(ABC):
    """An input's batch of which slices are read, each checked and in the declared dtype.

    shape: the whole one's; dtype: of the pieces.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype = shape, dtype

    @abstractmethod
    def piece(self, within: Sequence[slice]) -> Array:
        """What lies in the slices, one per dim, each with both ends and without a step."""

    def __getitem__(self, key: slice | tuple[slice, ...], /) -> Array:
        """A piece: a slice for each of the first dims, without steps; IndexError for anything else."""
        given = key if isinstance(key, tuple) else (key,)
        every = (*given, *(slice(None),) * (len(self.shape) - len(given)))
        if len(every) > len(self.shape) or any(not isinstance(s, slice) or s.step not in (None, 1) for s in every):
            raise IndexError(f"a piece of {list(self.shape)} is a slice of each dim, without steps")
        ends = [s.indices(n) for s, n in zip(every, self.shape, strict=True)]
        return self.piece([slice(start, max(start, stop)) for start, stop, _ in ends])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """All of it."""
        return np.asarray(self[()], dtype)


def whole(batch: Mapping[str, Readable]) -> dict[str, Array]:
    """All arrays of a batch, read as wholes."""
    return {name: np.asarray(array) for name, array in batch.items()}
