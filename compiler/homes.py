"""Where the stages of a program are: data, for whoever needs to know, and no arithmetic on their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from dsl.data import dataclass


@dataclass(frozen=True)
class Homes:
    """groups: of each stage, in the order in which values pass through them, the group of devices that it is on.

    A group's stages are its chunks, counted in that order. ways: how many there are through the model. The stages of
    the second are copies of those of the first, on other groups, and stand behind them; each has an equal part of the
    micro-batches, in their order.
    """

    groups: tuple[int, ...] = (0,)
    ways: int = 1

    @staticmethod
    def dealt(groups: int, stages: int) -> Homes:
        """Round and round: stage v is on group v % groups."""
        return Homes(tuple(v % groups for v in range(stages)))

    def __len__(self) -> int:
        """Number of stages."""
        return len(self.groups)

    @cached_property
    def _stages(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for stage, group in enumerate(self.groups):
            found.setdefault(group, []).append(stage)
        return found

    @cached_property
    def _chunks(self) -> tuple[int, ...]:
        chunk = {stage: c for stages in self._stages.values() for c, stage in enumerate(stages)}
        return tuple(chunk[stage] for stage in range(len(self.groups)))

    @cached_property
    def chunks(self) -> int:
        """The most that a group has."""
        return max((len(s) for s in self._stages.values()), default=1)

    @property
    def way(self) -> int:
        """Number of stages of one way."""
        return len(self.groups) // self.ways

    def copies(self, stage: int) -> range:
        """All stages that are as this one, of every way."""
        return range(stage % self.way, len(self.groups), self.way)

    def span(self, stage: int, microbatches: int) -> range:
        """Which of the micro-batches go through a stage."""
        each = microbatches // self.ways
        first = stage // self.way * each
        return range(first, first + each)

    def of(self, group: int) -> Sequence[int]:
        """The stages of a group, by chunk."""
        return self._stages.get(group, ())

    def stage(self, group: int, chunk: int) -> int:
        """The stage that is a group's chunk; IndexError if there is none."""
        return self.of(group)[chunk]

    def group(self, stage: int) -> int:
        """The group that a stage is on; IndexError if there is no such stage."""
        if stage < 0:
            raise IndexError(stage)
        return self.groups[stage]

    def chunk(self, stage: int) -> int:
        """Which chunk of its group a stage is."""
        return self._chunks[stage]
