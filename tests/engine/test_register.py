"""What processes ask of the store of a run: little, however many they are; and who counts as gone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from runtime.torch import register as module
from runtime.torch.register import Register

SILENCE, TURN = 15.0, 0.5


class Store:
    """As torch's `TCPStore`, in this process; `asked`: how many keys have been read."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.asked = 0

    def set(self, key: str, text: str) -> None:
        self.held[key] = text.encode()

    def get(self, key: str) -> bytes:
        return self.multi_get([key])[0]

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        self.asked += len(keys)
        return [self.held[k] for k in keys]

    def check(self, keys: Sequence[str]) -> bool:
        self.asked += len(keys)
        return all(k in self.held for k in keys)

    def compare_set(self, key: str, before: str, text: str) -> None:
        self.held.setdefault(key, text.encode())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "_here", lambda: "")  # hosts of their own: nobody's process is known here
    return now


def come(size: int) -> tuple[Store, list[Register]]:
    store = Store()
    found = [Register(store, rank, size, SILENCE) for rank in range(size)]
    for r in found:
        r.come()
    return store, found


def beat(found: Sequence[Register], clock: list[float], turns: int, silent: Sequence[int] = ()) -> list[int]:
    """Some turns of all but the silent; who misses the next one in the last of them."""
    missed: list[int] = []
    for turn in range(turns):
        clock[0] += TURN
        alive = [r for r in found if r.rank not in silent]
        for r in alive:
            r.show(turn + int(clock[0] * 10))
        missed = [r.rank for r in alive if r.misses_next(TURN)]
    return missed


def test_nobody_asks_for_more_the_more_they_are(clock: list[float]) -> None:
    def asked(size: int) -> int:
        store, found = come(size)
        beat(found, clock, 2)
        found[0].noticed()
        before = store.asked
        found[0].misses_next(TURN)
        assert not found[0].noticed()
        return store.asked - before

    assert asked(4) == asked(64) < 12


def test_the_one_before_misses_who_is_silent(clock: list[float]) -> None:
    _, found = come(5)
    assert beat(found, clock, 40) == []
    assert beat(found, clock, 20, silent=[2]) == [], "not yet"
    assert beat(found, clock, 20, silent=[2]) == [1]
    assert "process 2 " in found[1].at_fault() and found[4].noticed()
    assert found[4].at_fault() == found[1].at_fault()


def test_all_that_are_stopped_together_miss_nobody(clock: list[float]) -> None:
    _, found = come(3)
    beat(found, clock, 3)
    clock[0] += 10 * SILENCE
    assert not any(r.misses_next(TURN) for r in found)
    assert beat(found, clock, 3) == []


def test_who_failed_is_named_with_why(clock: list[float]) -> None:
    _, found = come(3)
    beat(found, clock, 3)
    found[1].gave_up("no memory")
    assert not found[2].noticed()
    found[1].at_fault()
    assert found[2].noticed() and found[2].at_fault().endswith("failed: no memory")
