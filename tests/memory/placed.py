"""Plays an allocation on a real run: every buffer that a device makes gets its address from the plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compiler.memory.fullest import traced
from compiler.memory.offsets import Allocation, Pool, allocation
from compiler.memory.peak import memory_use
from compiler.ops.effects import Accumulate
from compiler.program import Program
from runtime.data.synthetic import synthetic
from runtime.rank.buffers import HeldArray, RankBuffer
from runtime.rank.executor import RankExecutor
from runtime.rank.interpreter import Rank

Where = tuple[str, int, int]
"""(function, chunk, micro-batch)."""


class Made(RankBuffer):
    """A buffer of a run: which action made it where in the program, and what became of it."""

    device: Tracked
    action: Where
    site: tuple[int, int]
    slots: set[str]
    accumulator: str

    def drop(self) -> None:
        super().drop()
        if self.holders == 0:
            self.device.log.append(("free", self))


class Tracked(Rank):
    log: list[tuple[str, Any]]

    def start(self) -> None:
        self.log, self.action, self.site, self.made = [], ("", 0, 0), 0, 0

    def run(self, action: str, chunk: int, micro: int) -> Any:
        self.action = (action, chunk, micro)
        self.log.append(("begin", self.action))
        yield from super().run(action, chunk, micro)
        self.log.append(("end", self.action))

    def new(self, array: Any, dtype: str, memory: str = "hbm") -> HeldArray:
        held = super().new(array, dtype, memory)
        if getattr(self, "action", ("", 0, 0))[0]:
            b = held.buffer
            b.__class__ = Made
            assert isinstance(b, Made)
            b.device, b.action, b.site, b.slots, b.accumulator = self, self.action, (self.site, self.made), set(), ""
            self.made += 1
            self.log.append(("make", b))
        return held

    def _instr(self, instr: Any, *rest: Any) -> Any:
        self.site, self.made = id(instr), 0
        yield from super()._instr(instr, *rest)

    def _loop(self, instr: Any, *rest: Any) -> Any:
        self.site, self.made = id(instr), 0
        yield from super()._loop(instr, *rest)

    def _save(self, name: str, held: HeldArray) -> None:
        super()._save(name, held)
        b = self.saved[name, self.micro].buffer
        if isinstance(b, Made):
            b.slots.add(name)

    def _accumulate(self, name: str, *rest: Any) -> None:
        super()._accumulate(name, *rest)
        b = self.states[name].buffer
        assert isinstance(b, Made)
        b.accumulator = name

    def end_step(self) -> None:
        self.action = ("", 0, 0)
        super().end_step()


class TrackedExecutor(RankExecutor):
    device = Tracked


class _Player:
    """Gives addresses in one memory of one device, and looks that no two buffers share a byte."""

    def __init__(self, plan: Allocation, memory: str, touched: Mapping[tuple[str, int], frozenset[str]]) -> None:
        self.plan, self.memory, self.touched = plan, memory, touched
        self.live: dict[Made, tuple[int, int]] = {}
        self.accumulated: frozenset[str] = frozenset()
        self.places: dict[tuple[tuple[str, str, int], int], int] = {}  # (pool, micro-batch) -> number of the place
        self.top = 0

    def begin(self, action: Where) -> None:
        kind, chunk, micro = action
        self.variant = kind, chunk, self.touched[kind, chunk] - self.accumulated
        for key, pool in self.plan.pools.items():
            if (key[0], key[2]) == (kind, chunk):
                used = {n for (k, _), n in self.places.items() if self.plan.pools[k].offset == pool.offset}
                free = [n for n in range(pool.count) if n not in used]
                assert free, f"no place is free in the pool {key} for {action}"
                self.places[key, micro] = free[0]

    def end(self, action: Where) -> None:
        kind, chunk, micro = action
        self.accumulated |= self.touched[kind, chunk]
        for key in [k for k in self.places if (k[0][1], k[0][2], k[1]) == (kind, chunk, micro)]:
            assert not any(self._inside(key, span) for span in self.live.values()), f"{action} leaves saved values"
            del self.places[key]

    def _inside(self, key: tuple[tuple[str, str, int], int], span: tuple[int, int]) -> bool:
        pool = self.plan.pools[key[0]]
        start = pool.offset + self.places[key] * pool.stride
        return start <= span[0] < start + pool.stride

    def make(self, b: Made) -> None:
        start = self._address(b)
        span = start, start + b.size
        assert self.plan.static <= start and span[1] <= self.plan.size
        self.top = max(self.top, span[1])
        for other, (low, high) in self.live.items():
            assert span[1] <= low or high <= span[0], f"{b.action} {b.site} on {other.action} {other.site}"
        if b.size:
            self.live[b] = span

    def free(self, b: Made) -> None:
        self.live.pop(b, None)

    def _address(self, b: Made) -> int:
        if b.accumulator:
            return self.plan.accumulators[b.accumulator]
        if b.slots:
            key, pool = self._pool(b)
            return pool.offset + self.places[key, b.action[2]] * pool.stride + pool.within[next(iter(b.slots))]
        workspace = self.plan.workspaces[self.variant]
        if b.site not in workspace.turning:
            return workspace.fixed[b.site]
        first, stride, count = workspace.rings[workspace.turning[b.site]]
        used = {low for low, _ in self.live.values()}
        free = [at for at in range(first, first + stride * count, stride) if at not in used]
        assert free, f"no place is free in the ring of {b.action} {b.site}"
        return free[0]

    def _pool(self, b: Made) -> tuple[tuple[str, str, int], Pool]:
        for key, pool in self.plan.pools.items():
            if b.slots <= pool.within.keys() and key[2] == b.action[1]:
                return key, pool
        raise AssertionError(f"no pool for {b.slots}")


def plan(program: Program, group: int) -> dict[str, Allocation]:
    return allocation(traced(program, group), group)


def placed(program: Program) -> dict[int, dict[str, Allocation]]:
    """The allocations of all groups, each played on a step of all devices."""
    run = TrackedExecutor(program)
    for devices in run.devices.values():
        for d in devices:
            assert isinstance(d, Tracked)
            d.start()
    run.step(synthetic(program.inputs, 0, 0))
    use = memory_use(program)
    found = {}
    for group, devices in run.devices.items():
        found[group] = plan(program, group)
        touched = {
            f.key: frozenset(i.op.name for i in f.body.nodes if isinstance(i.op, Accumulate))
            for f in devices[0].cls.functions
        }
        assert found[group].keys() == use[group].keys()
        for memory, made in found[group].items():
            assert made.peak == use[group][memory].bytes <= made.size
            for d in devices:
                assert isinstance(d, Tracked)
                player = _Player(made, memory, touched)
                for what, thing in d.log:
                    if what in ("begin", "end") or thing.memory == memory:
                        getattr(player, what)(thing)
                assert player.top or made.size == made.static
    return found
