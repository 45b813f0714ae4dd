"""What a certificate says of the memory in loops, found again: each entry is a strategy of its own, which is compiled
as a whole. What its backward pass has in memory is traced, and of that counts what a first turn of the loop makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from compiler.cost.memory.systems import Systems, TracedSystemMemory
from compiler.driver import compile_job
from compiler.graph import Graph
from compiler.memory.lifetimes import Traced, TracedSpan
from compiler.memory.tiers import FIRST
from compiler.model import Job
from compiler.ops.repeat import Repeat
from compiler.origin import Role
from compiler.program import FunctionPhase
from compiler.schedules import actions
from compiler.walk import walk
from dsl.diagnostics import ParcError
from parc.certifying.counting import StatedSpace, before_back
from parc.certifying.floors import Floors
from parc.certifying.layers import Build, LayerRules
from parc.certifying.links import Lie
from parc.certifying.paces import PacedKey, built, stated_key
from parc.certifying.stated import StatedPart, Unfounded

BYTES = ("backward", "weights", "shards", "between", "stacks")
FIELDS = ("inside", "recompute", "along", "heads", "tables", "by", "rows", "replicas", "zero", "split")

Room = Mapping[str, float]
"""By `BYTES`."""


def stated_rooms(stated: StatedPart, space: StatedSpace, build: Build) -> dict[PacedKey, Room]:
    """All entries, each held to its strategy."""
    found: dict[PacedKey, Room] = {}
    for entry in stated["rooms"].each():
        split = entry["split"].truth()
        first = "stages" if split and entry["replicas"].whole(1) > 1 else ""
        key = stated_key(entry, space, first, 2 if split else 1)
        if key in found:
            raise Unfounded(f"{entry.path} stands there twice", entry.path)
        if extra := sorted(entry.items().keys() - {*FIELDS, *BYTES}):
            raise Unfounded(f"{entry.path} has `{extra[0]}`, which no bound asks for", entry.path)
        try:
            room = _measured(built(entry, key, space, build), space, key.split, entry.path)
        except ParcError as error:
            raise Unfounded(f"{entry.path} cannot be: {error}", entry.path) from None
        for name in BYTES:
            entry[name].be(room[name])
        found[key] = room
    return found


def _measured(job: Job, space: StatedSpace, split: bool, path: str) -> Room:
    """Of the first stage."""
    compiled = compile_job(job)
    systems, classes = Systems(compiled), compiled.program.classes
    memory, labels = TracedSystemMemory(systems, classes[0]), {*space.labels}
    stacks = {s.name for s in classes[0].states if labels & {*s.type.names}}
    room = dict.fromkeys(BYTES, 0.0)
    memory.effect(FunctionPhase.FORWARD, 0, set())
    for phase in (FunctionPhase.BACKWARD, FunctionPhase.WEIGHTS)[: 2 if split else 1]:
        before = {*memory.replays}
        memory.effect(phase, 0, set())
        (replay,) = (of for key, of in memory.replays.items() if key not in before)
        assert isinstance(replay, Traced)
        ops = [n.op for n in memory.functions[phase, 0].body.nodes if isinstance(n.op, Repeat)]
        bodies = [op.body for op in ops if op.label in labels]
        if len(bodies) != 1 or any(labels & {*v.type.names} for n, _ in walk(bodies[0]) for v in n.outputs):
            raise Unfounded(f"{path} is of no single loop, each of whose turns makes as much", path)
        turn = _first_turn(replay, bodies[0])
        begins = min((of.born for of in turn), default=0)
        given = [b for b, slots in replay.found.given.items() if slots & stacks and b.memory == FIRST and not b.static]
        if any(times[0][1] <= begins for b in given if (times := replay.found.alive.get(b))):
            raise Unfounded(f"{path} is of a loop before which something is let go that it keeps", path)
        room["weights" if phase is FunctionPhase.WEIGHTS else "backward"] = float(_fullest(turn))
        if split and phase is FunctionPhase.BACKWARD:
            layers = space.layers - space.layers // 2  # of the first of two stages
            left = {b: None for name, b in replay.saved.items() if name in stacks}
            left = {b: None for b in left if b.memory == FIRST and b.role == Role.SAVED and not b.static}
            room["between"] = sum(b.bytes for b in left) / layers
            mine = (b.bytes for b in left if b in replay.spans and replay.spans[b].born < begins)
            room["stacks"] = sum(mine) / layers
    for cls in classes:
        added = systems.added(cls)
        pieces = [s for s in cls.states if s.role is Role.GRADIENT and s.memory == FIRST and s.name not in added]
        room["shards"] += round(sum(systems.shards.bytes(s, "gradients") for s in pieces))
    return room


def _first_turn(replay: Traced, body: Graph) -> list[TracedSpan]:
    """The buffers of device memory that a loop makes as it turns for the first time, and holds for nobody else."""
    every = [*replay.ended, *replay.spans.values()]
    turns = {serial for of in every for at, serial in of.nest if at == id(body)}
    if not turns:
        return []
    mine = [of for of in every if (id(body), min(turns)) in of.nest and of.buffer.memory == FIRST]
    return [of for of in mine if not of.buffer.slots and not of.buffer.accumulator]


def _fullest(turn: Sequence[TracedSpan]) -> int:
    """Bytes of all that are there at once, at the most: what is let go at an instruction is still there at it."""
    changes = [(of.born, 0, of.buffer.bytes) for of in turn]
    changes += [(of.died, 1, -of.buffer.bytes) for of in turn if of.died >= 0]
    now = most = 0
    for _, _, size in sorted(changes):
        now += size
        most = max(most, now)
    return most


def room_of(
    rooms: Mapping[PacedKey, Room],
    space: StatedSpace,
    mesh: Mapping[str, int],
    m: int,
    zero: int,
    again: int,
    schedule: str,
    rules: LayerRules,
) -> Room | None:
    """Of a candidate: of the very same rows, replicas, stage of ZeRO, and of passes in as many parts."""
    if len(space.labels) != 1:
        return None
    replicas, split = space.of_kind(mesh, "data"), schedule == "zero_bubble"
    inside = tuple((n, size) for n, size in mesh.items() if space.kind(n) not in ("stages", "data"))
    rows = space.batch // (m * replicas * space.of_kind(mesh, "experts"))
    first = "stages" if split and replicas > 1 else ""
    return rooms.get(PacedKey(inside, again, rules, rows, replicas, zero, first, 2 if split else 1, split, False))


def with_room(
    floors: Floors, room: Room, lie: Lie, m: int, zero: int, schedule: tuple[str, int], saved: float
) -> float:
    """Bytes of a device in the first turn of its loop, as it goes back for the first time (in two halves: whenever it
    goes back). saved: what all layers keep of a micro-batch."""
    (name, chunks), stages, times = schedule, lie.stages, 1 + floors.cluster["reserve"]
    pieces = room["shards"] * floors.cluster["reserve"]  # of gradients, which lie in a pool without reserve
    if stages == 1:
        return float(floors.bytes(lie, zero) + (saved + room["backward"]) * times - pieces)
    if floors.loops != 1:
        return 0.0
    counts, each, found = floors.counts(stages * chunks), saved / floors.layers, 0.0
    for own, held in _at_once(room, counts, stages, chunks, m, name, each):
        states = floors.bytes(lie, zero, (own,))
        found = max(found, states + held * times - pieces)
    return found


def _at_once(
    room: Room, counts: Sequence[int], stages: int, chunks: int, m: int, schedule: str, each: float
) -> Iterator[tuple[int, float]]:
    """Of stages: their layers, and bytes of a backward pass in its loop, with what all micro-batches hold then. counts:
    layers of each chunk; each: bytes that a layer keeps of a micro-batch."""
    if schedule != "zero_bubble":
        for k in range(2):
            mine = counts[k::stages]
            kept = sum(mine[c] for c in before_back(stages, chunks, m, schedule, k))
            yield sum(mine), kept * each + room["backward"]
        return
    for k in {0, 1, stages - 2, stages - 1}:
        for forward, between, phase in turns_of_halves(stages, m, k):
            held = counts[k] * (forward * each + between * room["between"])
            if phase is FunctionPhase.BACKWARD:
                yield counts[k], held + counts[k] * room["stacks"] + room["backward"]
            else:
                yield counts[k], held + room["weights"]


@cache
def turns_of_halves(stages: int, m: int, stage: int) -> frozenset[tuple[int, int, FunctionPhase]]:
    """As each part of a backward pass begins: micro-batches that wait for the first part (its own among them), and for
    the second; and which part it is."""
    forward = between = 0
    found: list[tuple[int, int, FunctionPhase]] = []
    for kind, _, _ in actions("zero_bubble", stages, 1, m, stage):
        if kind is FunctionPhase.FORWARD:
            forward += 1
            continue
        if kind is FunctionPhase.UPDATE:
            continue
        found.append((forward, between, kind))
        forward, between = (forward - 1, between + 1) if kind is FunctionPhase.BACKWARD else (forward, between - 1)
    return frozenset(found)
