"""The memory of a class with its buffers' lifetimes, and what of it lives from one action to another."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from compiler.cost.lifetimes import Lives, Traced
from compiler.cost.memory import ClassMemory
from compiler.cost.replay import Buffer
from compiler.liveness import rounds
from compiler.ops.effects import Load

Key = tuple[str, int]
"""(function, chunk)."""

Variant = tuple[str, int, frozenset[str]]
"""A function, its chunk, and the accumulators that it is the first to set in the step."""


class Skipped(NamedTuple):
    """Rounds that are left out: the functions of one, and how many."""

    steps: tuple[Key, ...]
    rounds: int

    def calls(self, keys: Collection[Key]) -> int:
        """How often one of the functions runs."""
        return self.rounds * sum(key in keys for key in self.steps)


_ORDER = {"P": 0, "S": 1, "F": 2, "B": 3, "W": 4, "E": 5, "U": 6}


@dataclass(eq=False, slots=True)
class Bundle:
    """A saved buffer of each micro-batch: the slots that share it, and the functions that make it and that load it for
    the last time."""

    origin: Key
    death: Key
    names: set[str]
    bytes: int
    memory: str


class TracedMemory(ClassMemory):
    """Keeps the traces of the replays."""

    replay = Traced

    def lives(self, variant: Variant) -> Lives:
        """What an action does; the schedule must have come by it (`timeline`)."""
        replay = self.replays[variant]
        assert isinstance(replay, Traced)
        return replay.found

    def timeline(self, group: int) -> list[tuple[Variant, Skipped]]:
        """The group's actions in order, each with those before it that are left out: of the rounds of a loop, the first
        two and the last stand for all."""
        nothing = Skipped((), 0)
        found: list[tuple[tuple[str, int, frozenset[str]], Skipped]] = []
        accumulated: set[str] = set()
        for steps, n in rounds(self.program, self.cls, group):
            for i in range(min(n, 3)):
                skipped = Skipped(steps, n - 3) if i == 2 and n > 3 else nothing
                for kind, chunk in steps:
                    found.append(((kind, chunk, self.touched[kind, chunk] - accumulated), skipped))
                    self.effect(kind, chunk, accumulated)
                    accumulated |= self.touched[kind, chunk]
                    skipped = nothing
        return found

    def bundles(self, group: int) -> list[Bundle]:
        """What the group's functions save."""
        loads = {
            i.op.name: key
            for key, f in self.functions.items()
            for i in f.body.instrs
            if isinstance(i.op, Load) and i.op.last
        }
        of: dict[str, Bundle] = {}
        seen: set[Key] = set()
        for variant in sorted((v for v, _ in self.timeline(group)), key=lambda v: _ORDER[v[0]]):
            if variant[:2] in seen:
                continue
            seen.add(variant[:2])
            lives = self.lives(variant)
            known = {b: of[next(iter(names))] for b, names in lives.given.items() if not b.static}
            for name, b in lives.saved.items():
                if name not in of and not b.static:
                    bundle = known.setdefault(b, Bundle(variant[:2], loads[name], set(), b.bytes, b.memory))
                    bundle.names.add(name)
                    bundle.death = max(bundle.death, loads[name], key=lambda key: _ORDER[key[0]])
                    of[name] = bundle
        return list(dict.fromkeys(of.values()))


def bundle_of(bundles: list[Bundle], lives: Lives) -> dict[Buffer, Bundle]:
    """The buffers of an action that are bundles: those that it was given, and those that it saves."""
    of = {name: bundle for bundle in bundles for name in bundle.names}
    found = {b: of[n] for n, b in lives.saved.items() if n in of}
    for b, names in lives.given.items():
        found.update((b, of[n]) for n in names if n in of)
    return found
