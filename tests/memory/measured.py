"""Memory as it really is: arrays of numpy are counted while they exist, whatever the program's rules say.

A `Census` takes no part in the rules of `compiler.memory`, which both the prediction and the executor's own ledger
follow. It watches each device's arrays: their bytes count from when they are made until Python frees them, which is
when nothing refers to them any more, be it a value, a view of it, a state or a slot.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from functools import partial
from typing import Any

from compiler.memory.action import FIRST
from compiler.memory.peak import memory_use
from compiler.program import Program
from runtime.data.synthetic import synthetic
from runtime.distribute import Array
from runtime.numpy import STORAGE
from runtime.numpy.disk import DiskArray
from runtime.rank.buffers import HeldArray, Ledger
from runtime.rank.executor import RankExecutor
from runtime.rank.interpreter import Rank

HALVES = ("bf16", "f16")
"""numpy keeps them in 32 bits: half of an array's bytes count."""


class Census(Rank):
    """`census`: bytes of the arrays that exist, and the most there ever were, by memory."""

    def __init__(self, *args: Any) -> None:
        self.census = Ledger()
        self.made = 0
        super().__init__(*args)

    def new(self, array: Array, dtype: str, memory: str = FIRST) -> HeldArray:
        mine = isinstance(array, DiskArray) or (array.base is None and array.flags.owndata)
        assert mine, "memory that belongs to something else as well"
        assert array.dtype == STORAGE[dtype]
        size = array.nbytes // (2 if dtype in HALVES else 1)
        self.census.add(memory, size)
        weakref.finalize(array, partial(self.census.add, memory, -size))
        self.made += 1
        return super().new(array, dtype, memory)


class CensusExecutor(RankExecutor):
    device = Census


def exact(program: Program, steps: int = 2) -> CensusExecutor:
    """What is predicted, what the executor's ledger says and what there really is are the same: every device of every
    group, every memory, at the fullest moment of some steps and after them."""
    run = CensusExecutor(program)
    for step in range(steps):
        run.step(synthetic(program.inputs, 0, step))
    use = memory_use(program)
    assert use.keys() == run.devices.keys()
    for group, devices in run.devices.items():
        predicted = {memory: peak.bytes for memory, peak in use[group].items()}
        for d in devices:
            assert isinstance(d, Census) and d.made
            assert d.ledger.peak == predicted, f"group {group} at {d.at}: the ledger"
            assert d.census.peak == predicted, f"group {group} at {d.at}: the arrays"
            assert _present(d.census.live) == _present(d.ledger.live)
        for peak in use[group].values():
            assert sum(peak.roles.values()) == peak.bytes
    return run


def _present(live: Mapping[str, int]) -> dict[str, int]:
    return {memory: n for memory, n in live.items() if n}
