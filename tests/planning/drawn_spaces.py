"""Jobs that are drawn, by a seed: a model, a cluster of two levels, what is known of its devices; whose space has so
many candidates, and so few structures that all of them are priced in seconds."""

from __future__ import annotations

import random
from dataclasses import replace

from compiler.evaluate import evaluate_file
from compiler.model import Job
from dsl.data import dataclass
from dsl.source import Source
from parc.planning.dims import splittable
from parc.planning.planning import with_implementations
from parc.planning.recomputes import recomputes
from parc.planning.search import MEMORY, STEP
from parc.planning.space import STAGES, PlanSpace
from parc.planning.work import cluster_work
from tests.planning.drawn_models import KINDS

FILE = """
use std.layers ({uses})
use std.optimizers ({optimizer})

device chip {{
  {device}
  {memory}, {bandwidth} GB/s
}}

cluster pod {{
  device npu = chip
  level server = {inside} npu over {inner} GB/s, {latency} us
  level pod = {outside} server over {outer} GB/s, {far} us{topology}
}}

model net {{
  {text}
}}

job fit {{
  train net on pod
  optimizer {optimizer}(lr = 1e-3)
  precision {precision}
}}
"""

PODS = ((2, 2), (2, 2), (4, 2), (2, 4), (2, 3), (3, 2), (4, 3), (2, 6), (6, 2), (4, 4), (2, 8), (8, 2))
"""Devices of a server, servers."""

BATCHES = {
    True: (6, 8, 12, 16, 18, 20, 24, 24, 30, 32, 36, 40, 48, 48, 60, 72),
    False: (4, 6, 8, 12, 48, 60, 120, 144, 240, 360, 480, 720, 1260, 2520, 5040),
}
"""Of models with a loop, whose stages run so many micro-batches at most one by one; and of others, whose only choices
besides axes are few."""

STATED: dict[str, tuple[object, ...]] = {
    "efficiency product": (0.6, 0.9),
    "efficiency ramp": (64, 200),
    "efficiency core": (0.7,),
    "efficiency vector": (0.8,),
    "efficiency launch": ("2 us",),
    "efficiency host": ("1 us", "10 us"),
    "efficiency fusion": (0.9, 1),
    "efficiency inner": (0.8,),
    "efficiency outer": (0.7,),
    "efficiency inner_half": ("1 MB",),
    "efficiency outer_half": ("2 MB",),
    "efficiency bucket": ("100 KB", "25 MB"),
    "efficiency slowdown": (0.1,),
    "efficiency jitter": (0.02,),
    "efficiency hidden": (0.5, 1),
    "efficiency hidden_gather": (0.5, 1),
    "efficiency fixed": ("100 us",),
    "efficiency fused_attention": (1,),
    "efficiency ahead": (0.5, 1),
    "efficiency balanced": (1,),
    "efficiency reentrant": (1,),
    "efficiency prefetch": (0, 1),
    "efficiency overlap": (0.5, 1),
    "efficiency ring": (0.5, 1),
    "efficiency exchange": (0.5,),
    "efficiency distinct": (1,),
    "efficiency scattered": (1,),
    "efficiency blocking_sends": (1,),
    "efficiency wire": (2,),
    "efficiency gradient_wire": (2, 4),
    "footprint copy": (2,),
    "footprint gradient": (2, 4),
    "footprint gradient_f16": (2,),
    "footprint reserve": (0.05,),
    "footprint context": ("1 MB",),
}
"""What a device may state of itself, and values."""

ORDER = (
    *("layers", "stack", "towers", "images", "tied", "gpt", "towers", "layers", "two_loops", "tied"),
    *("images", "stack", "towers", "layers", "tied", "experts", "images", "towers", "tables", "gpt"),
)
"""Kinds of models, over and over: what is priced soon is there more often."""

UNLIMITED, ROOM = 10**15, "memory ROOM"
"""Bytes that are enough for all; and what stands in a text until they are known."""

STRUCTURES = {False: 80, True: 160}
"""So many of them at most, of models without a loop and with one. (Of fewer there are no 500 candidates.)"""


@dataclass(frozen=True, slots=True)
class DrawnSpace:
    """A job that was drawn. share: of all strategies, by size, the devices have room for so many; memory is found from
    that once all are priced."""

    kind: str
    text: str
    minimise: str
    share: float

    def source(self, memory: int = UNLIMITED) -> Source:
        """Its file, with so many bytes."""
        return Source("job.par", self.text.replace(ROOM, f"memory {memory} B"))

    def job(self, memory: int = UNLIMITED) -> Job:
        """Its job, without a strategy."""
        return evaluate_file(self.source(memory)).job


def drawn_space(seed: int, least: int, most: int) -> DrawnSpace:
    """The first of all that a seed leads to whose space has so many candidates that no number speaks against."""
    rng = random.Random(seed)
    kind = ORDER[seed % len(ORDER)]
    while True:
        found = _drawn(rng, kind)
        job = found.job()
        split = splittable(job)
        assert job.cluster is not None
        space = PlanSpace(job.cluster.devices, split, split.sizes[split.batch], ((),), cluster_work(job).domains)
        if _number(space) > most:  # which is known sooner than the whole
            continue
        space = replace(space, recomputes=recomputes(job, split))
        if _number(space) > most or structures(space) > STRUCTURES[KINDS[kind].looped]:
            continue
        space = with_implementations(space, job)
        if least <= _number(space) <= most and structures(space) <= STRUCTURES[KINDS[kind].looped]:
            return found


def _number(space: PlanSpace) -> int:
    return sum(map(space.legal, space.meshes()))


def _drawn(rng: random.Random, kind: str) -> DrawnSpace:
    of = KINDS[kind]
    inside, outside = rng.choice(PODS[:6] if of.looped else PODS)
    sizes = {name: rng.choice(values) for name, values in of.sizes.items()}
    sizes["batch"] = rng.choice(BATCHES[of.looped])
    half, fast = rng.random() < 0.4, rng.choice((0.01, 0.1, 1, 10, 100))
    inner = rng.choice((0.1, 1, 10, 100))
    stated = rng.sample(sorted(STATED), rng.choice((0, 0, 3, 6, 10)))
    vector = round(fast * rng.choice((0.02, 0.1, 1)), 6)
    device = [f"compute f32 {fast} TFLOP/s", f"compute vector f32 {vector} TFLOP/s"]
    if half:
        device += [f"compute bf16 {2 * fast} TFLOP/s"]
    device += [f"{name} {rng.choice(STATED[name])}" for name in stated]
    if rng.random() < 0.3:
        device += [f"cores {rng.choice((8, 32))}", "tile 128, 128, 64", f"launch {rng.choice((1, 5))} us"]
    topology = rng.choice(("", "", "", "\n  topology server full_mesh", "\n  topology server ring"))
    optimizer = "rowwise_adagrad" if kind == "tables" else rng.choice(("adamw", "adamw", "sgd", "adam", "adagrad"))
    text = FILE.format(
        uses=of.uses,
        optimizer=optimizer,
        device="\n  ".join(device),
        memory=ROOM,
        bandwidth=rng.choice((1, 10, 100, 1000)),
        inside=inside,
        inner=inner,
        latency=rng.choice((0, 0.1, 1)),
        outside=outside,
        outer=round(inner * rng.choice((0.05, 0.1, 0.5, 1)), 6),
        far=rng.choice((0, 1, 5)),
        topology=topology,
        text=of.text.format(**sizes),
        precision="bf16, master f32" if half else "f32, master f32",
    )
    return DrawnSpace(kind, text, rng.choice((STEP, STEP, STEP, MEMORY)), rng.choice((0.1, 0.3, 0.6, 1, 1)))


def structures(space: PlanSpace) -> int:
    """About how many ways there are to lay the model out and to lower it: micro-batches, sizes of axes and the order of
    stages change little."""
    found = set()
    for mesh in space.meshes():
        roles, stages = tuple(role.name for role, _ in mesh.axes), mesh.size(STAGES)
        for rules, ways in space.bunches(mesh):
            cut = {(name == "zero_bubble", stages * chunks) for name, chunks in ways.schedules}
            found |= {
                (roles, replace(rules, zero=zero), order, mesh.microbatches > 1) for zero in ways.zero for order in cut
            }
    return len(found)
