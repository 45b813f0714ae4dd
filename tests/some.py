"""Some of a list, or pairs of two lists, by default; all of them with `-m nightly`. And what all cores do of a list."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from os import cpu_count
from typing import TypeVar

import pytest

T, R = TypeVar("T"), TypeVar("R")

OBJECTS = 50_000
"""How many more objects there are before cycles among them are looked for, as the command has it: more often (Python's
own 700) takes a fifth of the time of a test that compiles."""


def by_all_cores(judge: Callable[[T], R], items: Sequence[T], chunk: int = 4) -> list[R]:
    """What comes of each item, in their order, from fresh processes, so many items at once to each."""
    with ProcessPoolExecutor(cpu_count(), get_context("spawn"), gc.set_threshold, (OBJECTS,)) as pool:
        return list(pool.map(judge, items, chunksize=chunk))


def one_in(every: int, items: Iterable[object], always: Collection[object] = ()) -> list[object]:
    """Parameters of one item each (a tuple: one for each name): by default the first and every so many behind it, and
    those of `always`, by what they are called."""
    found = []
    for number, item in enumerate(items):
        values = item if isinstance(item, tuple) else (item,)
        some = number % every == 0 or str(values[0]) in always
        found.append(pytest.param(*values, marks=() if some else pytest.mark.nightly))
    return found


def some_pairs(first: Collection[str], second: Sequence[str], every: int, always: Collection[str] = ()) -> list[object]:
    """Parameters (one of `first`, one of `second`): every so many of each row, in another place in each, so that all
    columns have some too. always: what of `second` is taken with each of `first`."""
    return [
        pytest.param(a, b, id=f"{a}-{b}", marks=() if b in always or (2 * i + j) % every == 0 else pytest.mark.nightly)
        for i, a in enumerate(first)
        for j, b in enumerate(second)
    ]
