"""Memory that is used again: only when nothing refers to it."""

from __future__ import annotations

import numpy as np

from runtime.numpy.pool import SMALLEST, ArrayPool

COUNT = SMALLEST  # float64: eight times the least size


def address(x: np.ndarray) -> int:
    return int(x.__array_interface__["data"][0])


def test_memory_is_used_again_when_the_array_is_gone() -> None:
    pool = ArrayPool()
    first = pool.empty((COUNT,), np.float64)
    at = address(first)
    del first
    again = pool.empty((2, COUNT // 2), np.float64)
    assert address(again) == at and again.shape == (2, COUNT // 2) and again.flags.writeable


def test_views_keep_the_memory() -> None:
    pool = ArrayPool()
    x = pool.empty((4, COUNT), np.float32)
    x[...] = 7
    view = np.broadcast_to(np.swapaxes(x.reshape(2, 2, COUNT)[:, 1], 0, 1)[None], (3, COUNT, 2))
    del x
    other = pool.empty((4, COUNT), np.float32)
    other[...] = 1
    assert (view == 7).all()


def test_live_arrays_never_overlap() -> None:
    pool, rng = ArrayPool(), np.random.default_rng(0)
    live: list[tuple[np.ndarray, int]] = []
    for number in range(200):
        if live and rng.random() < 0.5:
            live.pop(int(rng.integers(len(live))))
        x = pool.empty((int(rng.integers(1, 4)), int(rng.integers(COUNT // 2, COUNT))), np.int32)
        x[...] = number
        live.append((x, number))
    assert all((x == number).all() for x, number in live)
    assert sum(len(blocks) for blocks in pool.blocks.values()) < 200  # memory was used again


def test_small_arrays_are_not_kept() -> None:
    pool = ArrayPool()
    assert pool.empty((3, 0, 2), np.float32).shape == (3, 0, 2) and pool.empty((), np.int32).shape == ()
    assert not pool.blocks


def test_what_a_round_does_not_use_is_let_go() -> None:
    pool = ArrayPool()
    kept = pool.empty((COUNT,), np.float32)
    kept[...] = 3
    pool.next_round()
    pool.empty((COUNT * 9,), np.float32)
    pool.next_round()
    assert [len(b) for b in pool.blocks.values()] == [1]
    pool.next_round()
    assert not pool.blocks and (kept == 3).all()
