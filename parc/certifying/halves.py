"""What is said to be kept between the halves of a backward pass, found again: each of these strategies is compiled as a
whole, and of its last stage counts what is there of samples when the first half has ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compiler.cost.memory.systems import Systems
from compiler.driver import compile_job
from compiler.memory.tiers import FIRST
from compiler.model import Job
from compiler.origin import Role
from compiler.program import FunctionPhase
from dsl.diagnostics import ParcError
from parc.certifying.counting import StatedSpace
from parc.certifying.floors import Floors
from parc.certifying.layers import Build, LayerRules
from parc.certifying.links import Lie
from parc.certifying.rooms import turns_of_halves
from parc.certifying.rows import SampleDims
from parc.certifying.sides import single
from parc.certifying.stated import StatedPart, Unfounded

BYTES = ("layer", "behind")


class HeldHalves:
    """Those that were found to be right, by what layers are: of so many rows, bytes of a layer, and of all else on the
    last stage."""

    def __init__(self, space: StatedSpace, floors: Floors, build: Build) -> None:
        self.space, self.floors, self.build = space, floors, build
        self.known: dict[Any, list[tuple[int, float, float]]] = {}

    def hold(self, entry: StatedPart, mesh: Mapping[str, int], m: int, rules: Mapping[str, Any]) -> None:
        """What is said of a strategy that was tried, if something is."""
        of = entry["between"]
        if of.none:
            return
        stages = self.space.of_kind(mesh, "stages")
        if rules["schedule"] != "zero_bubble" or stages < 2 or rules["zero"] > 1 or rules["offload"]:
            raise Unfounded(f"{of.path} is of no strategy of which it is asked", of.path)
        if extra := sorted(of.items().keys() - {*BYTES}):
            raise Unfounded(f"{of.path} has `{extra[0]}`, which no bound asks for", of.path)
        try:
            looped, behind = _left(self.build(mesh, m, rules), self.space, stages)
        except ParcError as error:
            raise Unfounded(f"{of.path} cannot be: {error}", of.path) from None
        each = looped / self.floors.counts(stages)[-1]
        of["layer"].be(each)
        of["behind"].be(float(behind))
        kind = rules["along"], rules["heads"], rules["rows"], rules["by"]
        rows, key = self._of(mesh, m, rules["recompute"], kind)
        self.known.setdefault(key, []).append((rows, each, float(behind)))

    def _of(self, mesh: Mapping[str, int], m: int, again: int, kind: LayerRules) -> tuple[int, Any]:
        """Rows that a device has of a micro-batch; all else that layers are."""
        space = self.space
        inside = tuple((n, size) for n, size in mesh.items() if space.kind(n) not in ("stages", "data"))
        rows = space.batch // (m * space.of_kind(mesh, "data") * space.of_kind(mesh, "experts"))
        return rows, (inside, again, kind)

    def bytes(
        self, mesh: Mapping[str, int], lie: Lie, m: int, zero: int, again: int, kind: LayerRules, saved: float
    ) -> float:
        """That a device of a candidate needs at least. saved: what all layers keep of a micro-batch until it first goes
        back."""
        rows, key = self._of(mesh, m, again, kind)
        known, floors, stages = self.known.get(key, []), self.floors, lie.stages
        if not known or stages < 2 or floors.loops != 1:
            return 0.0
        alone = single(self.space, dict(key[0]), rows, kind)
        counts, found, times = floors.counts(stages), 0.0, 1 + floors.cluster["reserve"]
        for its, layer, behind in known:
            if its % rows or (alone and its != rows):
                continue
            share = rows / its
            for k in {0, 1, stages - 2, stages - 1}:
                states = floors.bytes(lie, zero, (counts[k],))
                outside = behind if k == stages - 1 else 0.0
                for ahead, between, _ in turns_of_halves(stages, m, k):
                    held = counts[k] * (ahead * saved / floors.layers + between * layer * share)
                    found = max(found, states + (held + between * outside * share) * times)
        return found


def _left(job: Job, space: StatedSpace, stages: int) -> tuple[int, int]:
    """Bytes of samples that the last stage keeps of a micro-batch behind the first half: of its layers, and of all
    else."""
    compiled = compile_job(job)
    systems = Systems(compiled)
    cls = next(c for c in compiled.program.classes if stages - 1 in c.groups)
    samples = SampleDims(compiled.program.with_classes((cls,)), job.strategy.microbatch_dim or "")
    memory = systems.memory(cls)
    memory.effect(FunctionPhase.FORWARD, 0, set())
    before = {*memory.replays}
    memory.effect(FunctionPhase.BACKWARD, 0, set())
    (replay,) = (of for key, of in memory.replays.items() if key not in before)
    loops = {s.name for s in cls.states if {*space.labels} & {*s.type.names}}
    kept = {True: dict[int, int](), False: dict[int, int]()}
    for name, buffer in replay.saved.items():
        there = buffer.memory == FIRST and buffer.role == Role.SAVED and not buffer.static
        if there and samples.kept_for_samples(name):
            kept[name in loops][id(buffer)] = buffer.bytes
    return sum(kept[True].values()), sum(kept[False].values())
