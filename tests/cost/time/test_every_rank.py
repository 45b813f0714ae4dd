"""Strategies drawn at random: classes of devices against every device played by itself, to the picosecond."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest

import parc
from compiler.cost.price.calibration import of_cluster
from compiler.cost.price.kinds import Kind
from compiler.cost.price.pricer import PICOSECONDS
from compiler.cost.time.simulate import Simulation
from compiler.cost.time.slow import Variation
from compiler.cost.time.timeline import Piece
from compiler.program import FunctionPhase
from dsl.diagnostics import ParcError
from dsl.source import Source
from tests.cost.time.oracle import every_rank
from tests.memory.test_offload import compiled as offloaded
from tests.memory.test_offload import on_cluster, text

EXAMPLES = Path(__file__).parents[3] / "examples"
SCHEDULES = {
    "gpipe": "gpipe(microbatches = {m}, over = b)",
    "one_f_one_b": "one_f_one_b(microbatches = {m}, over = b)",
    "interleaved": "interleaved(microbatches = {m}, over = b, chunks = 2)",
    "zero_bubble": "zero_bubble(microbatches = {m}, over = b)",
}


@dataclass(frozen=True)
class Case:
    """A strategy as text, parameters, who is slow, and how well the devices do."""

    strategy: str
    params: dict[str, int]
    slow: dict[int, float]
    links: dict[str, float]
    cal: dict[str, float]


def draw(seed: int, schedule: str = "") -> Case:
    """2 to 32 devices; axes in any order, so that any of them spans servers."""
    r = random.Random(seed)
    schedule = schedule or r.choice([*SCHEDULES, ""])
    pp = r.choice([2, 3, 4]) if schedule else 1
    degrees = {"dp": r.choice([1, 2, 4]), "tp": r.choice([1, 2, 4]), "cp": r.choice([1, 1, 2])}
    order = r.sample(list(degrees), 3)
    micro = pp * r.choice([1, 2])
    lines = ["strategy drawn for gpt {"]
    mesh = [f"pp = {pp}"] * bool(schedule) + [f"{a} = {degrees[a]}" for a in order]
    lines += [f"  mesh ({', '.join(mesh)})", "  data_parallel(dp)", "  context_parallel(cp)", "  megatron(tp)"]
    lines.append(f"  optimizer_parallel(dp, {r.choice([0, 1, 2, 3, 3])})")
    lines += ["  recompute block"] * r.choice([0, 1])
    if schedule:
        lines.append(f"  pipeline block on pp, schedule {SCHEDULES[schedule].format(m=micro)}")
    elif r.choice([0, 1]):
        lines.append(f"  microbatches {micro} over b")
    devices = pp * degrees["dp"] * degrees["tp"] * degrees["cp"]
    slow = {r.randrange(devices): r.choice([1.25, 1.5, 3.0]) for _ in range(r.choice([1, 2, 3]))}
    cal = {
        "prefetch": r.choice([0.0, 1.0]),
        "overlap": r.choice([0.0, 1.0]),
        "ahead": r.choice([0.0, 0.3, 1.0]),
        "hidden": r.choice([0.0, 0.5]),
        "hidden_gather": r.choice([0.0, 0.01, 0.5]),
        "slowdown": r.choice([0.0, 0.2]),
        "host": r.choice([0.0, 1e-5]),
        "blocking_sends": r.choice([0.0, 1.0]),
        "scattered": r.choice([0.0, 1.0]),
        "reentrant": r.choice([0.0, 1.0]),
    }
    # The cluster has as many devices as these parameters say; layers need not divide by stages.
    params = {"dp": devices, "layers": r.choice([2 * pp, 2 * pp + 1, 12]), "hidden": r.choice([64, 256]), "batch": 96}
    return Case("\n".join([*lines, "}", ""]), params, slow, r.choice([{}, {"pod": 4.0}, {"server": 2.0}]), cal)


def check(case: Case) -> None:
    """Raises ParcError where the strategy is none (two sizes that do not divide)."""
    text = (EXAMPLES / "gpt.par").read_text() + case.strategy
    compiled = parc.compile(Source("drawn.par", text), params=case.params, strategy="drawn")
    s = Simulation.of(compiled)
    cal = of_cluster(s.cluster).changed(**case.cal)
    for slow in ({}, case.slow):
        pricer = s.pricer(cal, Variation(slow, case.links))
        ranks = every_rank(s, pricer, range(s.program.devices), slow)
        partition = s.partition(slow)
        found = s.run(cal, Variation(slow, case.links))
        assert round(found.step_seconds * PICOSECONDS) == max(ranks)
        played = s.play_varied(pricer, slow, partition)
        assert [played.ends[c] for c in partition] == list(ranks)
        assert 0 <= found.bubble < 1 and sum(c.count for c in found.classes) == s.program.devices
        if not slow:
            assert max(partition) + 1 == s.program.groups


def attempt(seeds: range, schedule: str = "") -> int:
    """How many of the cases are strategies; all of those agree."""
    done = 0
    for seed in seeds:
        try:
            check(draw(seed, schedule))
        except ParcError:
            continue
        done += 1
    return done


@pytest.mark.parametrize("schedule", [*SCHEDULES, ""])
def test_classes_end_as_every_device_does(schedule: str) -> None:
    assert attempt(range(4), schedule) >= 2


TWO_VALUES = """\
use std.devices (a100_80)
use std.layers (layer_norm, mlp)
use std.optimizers (adamw)

cluster pod() {
  device gpu = a100_80
  level server = 4 gpu over 300 GB/s, 1 us
}

fn first_part(x[b,s,d]) {
  return mlp(x, 64), layer_norm(mlp(x, 32))
}

fn second_part(y[b,s,d], z) {
  return layer_norm(mlp(y, 64)) * mlp(z, 128), y - z
}

model net {
  dim b = 8, s = 32, d = 64
  input x : f32[b,s,d]
  y, z = first_part(x) as first
  y, z = second_part(y, z) as second
  y, z = second_part(y, z) as third
  w = mlp(y * z, 64) as last
  loss mean(w * w + z)
}

strategy plan for net {
  mesh (at = 2, tp = 2)
  split f on tp
  place first on at[0]
  place second on at[1]
  place third on at[0]
  RULE
}

job fit {
  train net on pod using plan
  optimizer adamw(lr = 1e-3)
}
"""


@pytest.mark.parametrize("scattered", [0.0, 1.0])
@pytest.mark.parametrize("rule", ["", "microbatches 4 over b", "place last on at[1]"])
def test_what_comes_together_is_gathered_together(rule: str, scattered: float) -> None:
    """Several values from stages that end one after the other, each of which the devices gather."""
    compiled = parc.compile(Source("two.par", TWO_VALUES.replace("RULE", rule)))
    s = Simulation.of(compiled)
    cal = of_cluster(s.cluster).changed(scattered=scattered)
    found = s.run(cal, Variation({}, {}))
    every = every_rank(s, s.pricer(cal, Variation({}, {})), range(s.program.devices), {})
    assert round(found.step_seconds * PICOSECONDS) == max(every)


@pytest.mark.nightly
@pytest.mark.parametrize("start", range(100, 200, 10))
def test_many_more(start: int) -> None:
    assert attempt(range(start, start + 10)) >= 5


@pytest.mark.parametrize("ahead", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("link", [0.05, 3])
def test_what_is_fetched_ahead_begins_no_sooner_than_it_may(ahead: int, link: float) -> None:
    """So many more iterations' weights are in the devices' memory: those of later ones have no room yet."""
    rules = f"split b on dp; offload weights, optimizer to host prefetch {ahead}"
    found = on_cluster(text(rules)).replace("layers = 4, hidden = 8", "layers = 12, hidden = 64")
    s = Simulation.of(offloaded(found.replace("param host = 32", f"param host = {link}")))
    cal = of_cluster(s.cluster)
    ranks = every_rank(s, s.pricer(cal, Variation({}, {})), range(s.program.devices), {})
    assert round(s.run(cal).step_seconds * PICOSECONDS) == max(ranks)


@pytest.mark.parametrize("ahead", [0, 1, 2, 3])
def test_no_more_is_on_its_way_than_has_room(ahead: int) -> None:
    """What an iteration reads is fetched when the one so many before it begins, however fast the link is: behind all
    kernels of the one before that."""
    found = on_cluster(text(f"split b on dp; offload weights to host prefetch {ahead}"))
    found = found.replace("layers = 4, hidden = 8", "layers = 12, hidden = 64").replace("host = 32", "host = 100")
    recorded = Simulation.of(offloaded(found)).record(10_000)
    (forward,) = (pieces for (_, key, _), pieces in recorded.items() if key[0] == FunctionPhase.FORWARD)
    rows: dict[tuple[str, str], list[Piece]] = {}
    for piece in sorted(forward, key=lambda p: p.start):
        rows.setdefault((piece.kind, piece.name), []).append(piece)
    each = {key: mine for key, mine in rows.items() if len(mine) == 12}
    fetched = [mine for (kind, _), mine in each.items() if kind == Kind.COPY]
    products = [mine for (kind, _), mine in each.items() if kind == Kind.PRODUCT]
    assert fetched and products
    for mine in fetched:
        for i in range(ahead + 1, 12):
            assert mine[i].start >= max(of[i - ahead - 1].end for of in products)
    early = any(mine[i].start < max(of[i - 1].end for of in products) for mine in fetched for i in range(1, 12))
    assert early == (ahead > 0)
