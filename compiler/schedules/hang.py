"""Does every group get what it waits for? Simulation of all groups' action lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from compiler.homes import Homes
from compiler.program import FunctionPhase
from compiler.schedules.actions import Action
from compiler.schedules.turns import Turns
from dsl.data import dataclass


class Edge(NamedTuple):
    """Action `to_kind` of virtual stage `to` on a micro-batch receives what `kind` of `stage` sent for the same one."""

    stage: int
    kind: FunctionPhase
    to: int
    to_kind: FunctionPhase


@dataclass(frozen=True, slots=True)
class Hang:
    """What each stuck group wants to run, and the action that it waits for (group, action): first group first."""

    waiting: tuple[tuple[int, Action, int, Action], ...]

    def __str__(self) -> str:
        group, action, other, wanted = self.waiting[0]
        more = f" ({len(self.waiting)} groups are stuck)" if len(self.waiting) > 1 else ""
        return f"stage {group} waits before {action} for {wanted} of stage {other}{more}"


def find_hang(
    lists: Sequence[Iterable[Action]], edges: Iterable[Edge], rendezvous: bool = False, homes: Homes | None = None
) -> Hang | None:
    """How the groups get stuck, if they do. `homes`: where the stages are (default: dealt round and round).

    Receives block until the value is there. Sends do not block; with `rendezvous` they do, until it is received (an
    action first receives everything, runs, then sends everything, in the order of the edges; values for the own
    group are never waited for). Linear in the number of actions.
    """
    found = list(edges)
    if homes is None:
        most = max((max(e.stage, e.to) for e in found), default=0) + 1
        homes = Homes.dealt(len(lists), -(-most // len(lists)) * len(lists))
    return _rendezvous([list(mine) for mine in lists], found, homes) if rendezvous else _buffered(lists, found, homes)


class DoneActions:
    """Which actions of a group are done: of a function so many micro-batches in order, and `early` ones."""

    def __init__(self) -> None:
        self.counts: dict[tuple[FunctionPhase, int], int] = {}
        self.early: set[Action] = set()

    def add(self, action: Action) -> None:
        key, count = action[:2], self.counts.get(action[:2], 0)
        if action.mb != count:
            self.early.add(action)
            return
        count += 1
        while self.early and (later := Action(*key, count)) in self.early:
            self.early.remove(later)
            count += 1
        self.counts[key] = count

    def __contains__(self, action: Action) -> bool:
        return action.mb < self.counts.get(action[:2], 0) or action in self.early


def _buffered(lists: Sequence[Iterable[Action]], edges: list[Edge], homes: Homes) -> Hang | None:
    n = len(lists)
    needs: dict[tuple[FunctionPhase, int], list[tuple[int, FunctionPhase, int]]] = defaultdict(list)  # by (kind, stage)
    for e in edges:
        needs[e.to_kind, e.to].append((homes.group(e.stage), e.kind, homes.chunk(e.stage)))
    done = [DoneActions() for _ in lists]
    turns: Turns[int, tuple[int, Action]] = Turns()
    doing: dict[int, Action] = {}
    stages = [homes.of(g) or (g,) for g in range(n)]

    def run(g: int) -> Iterator[tuple[int, Action]]:
        for action in lists[g]:
            doing[g] = action
            stage = stages[g][action.chunk] if action.kind.of_chunk else g
            for other, kind, chunk in needs.get((action.kind, stage), ()):
                need = Action(kind, chunk, action.mb)
                while need not in done[other]:
                    yield other, need
            done[g].add(action)
            turns.arrived((g, action))

    hanging = turns.play({g: run(g) for g in range(n)})
    stuck = tuple((g, doing[g], *need) for g, need in hanging)
    return Hang(stuck) if stuck else None


@dataclass(frozen=True, slots=True)
class _Message:
    """One side's step: a send or a receive of an edge's value for a micro-batch, before or after an action."""

    action: Action
    edge: Edge
    sends: bool


def _rendezvous(lists: Sequence[Sequence[Action]], edges: list[Edge], homes: Homes) -> Hang | None:
    n = len(lists)
    remote = [e for e in edges if homes.group(e.stage) != homes.group(e.to)]
    receives: dict[tuple[FunctionPhase, int], list[Edge]] = defaultdict(list)
    sends: dict[tuple[FunctionPhase, int], list[Edge]] = defaultdict(list)
    for e in remote:
        receives[e.to_kind, e.to].append(e)
        sends[e.kind, e.stage].append(e)
    steps: list[list[_Message]] = []
    for g, mine in enumerate(lists):
        row: list[_Message] = []
        for action in mine:
            key = (action.kind, (homes.of(g) or (g,))[action.chunk] if action.kind.of_chunk else g)
            row += [_Message(action, e, False) for e in receives.get(key, ())]
            row += [_Message(action, e, True) for e in sends.get(key, ())]
        steps.append(row)
    at = [0] * n
    ready = list(range(n))
    while ready:
        g = ready.pop()
        while at[g] < len(steps[g]):
            step = steps[g][at[g]]
            other = homes.group(step.edge.to if step.sends else step.edge.stage)
            if at[other] >= len(steps[other]):
                break
            theirs = steps[other][at[other]]
            if theirs.edge != step.edge or theirs.sends == step.sends or theirs.action.mb != step.action.mb:
                break
            at[g] += 1
            at[other] += 1
            ready.append(other)
    stuck = []
    for g in range(n):
        if at[g] < len(steps[g]):
            step = steps[g][at[g]]
            e = step.edge
            peer, kind = (e.to, e.to_kind) if step.sends else (e.stage, e.kind)
            stuck.append((g, step.action, homes.group(peer), Action(kind, homes.chunk(peer), step.action.mb)))
    hang = Hang(tuple(stuck)) if stuck else None
    # Values of the own group are never waited for, but they must have been made.
    local = [e for e in edges if homes.group(e.stage) == homes.group(e.to)]
    return hang or (_buffered(lists, local, homes) if local else None)
