"""What must hold of any cost: closed formulas of schedules, whom a wait is laid to, what more of something costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.cost.kernels.work import Copy, WorkNode
from compiler.cost.price.calibration import of_cluster
from compiler.cost.price.pricer import COMM, COMPUTE, Priced
from compiler.cost.time.simulate import Simulation
from compiler.cost.time.slow import Variation
from compiler.cost.time.step import play
from compiler.cost.time.task import Task
from compiler.cost.time.tasks import Cut, Segment
from compiler.cost.time.timeline import Timeline
from compiler.driver import compile_job
from compiler.evaluate import evaluate
from compiler.settings import EFFICIENCIES
from dsl.source import Source
from parc import api
from parc.estimate import Estimate

EXAMPLES = Path(__file__).parents[3] / "examples"


def pipelined(stages: int, micro: int, schedule: str, host: float = 0.0) -> Timeline:
    """16 equal layers of products and hardly anything else, on links that cost nothing. host: seconds for a kernel."""
    text = f"""use std.devices (a100_80)
use std.optimizers (sgd)
cluster pod() {{
  device gpu = a100_80
  level server = {stages} gpu over 1000000 GB/s, 0 us
}}
model m() {{
  dim b = {micro * 512}, d = 4096, f = 4096
  input x : f32[b,d]
  h = x
  repeat 16 as block {{
    weight w[d,f], v[f,d]
    h = (h @ w) @ v
  }}
  loss mean(h)
}}
strategy s for m {{
  mesh (pp = {stages})
  pipeline block on pp, schedule {schedule}
}}
job j {{
  train m() on pod using s
  optimizer sgd(lr = 0.1)
}}
"""
    s = Simulation.of(compile_job(evaluate(Source("m.par", text))))
    plain = {"host": host, "fixed": 0.0, "launch": 0.0, "alpha": 0.0, "hidden": 0.0, "hidden_gather": 0.0}
    # Numbers of its own, whatever fits find: with them gradients of activations and of weights take alike long.
    even = {"product": 0.8, "ramp": 140.0, "vector": 0.81, "core": 0.35, "fusion": 0.82}
    return s.run(of_cluster(s.cluster).changed(**plain, **even))


@pytest.mark.parametrize(("stages", "micro"), [(2, 2), (2, 8), (4, 4), (4, 9), (4, 16), (8, 16)])
@pytest.mark.parametrize(
    ("schedule", "parts"),
    [
        ("gpipe(microbatches = {m})", 1),
        ("one_f_one_b(microbatches = {m})", 1),
        ("interleaved(microbatches = {m}, chunks = 2)", 2),
        ("zero_bubble(microbatches = {m})", 3),
    ],
)
def test_bubbles_are_those_of_the_closed_formulas(stages: int, micro: int, schedule: str, parts: int) -> None:
    """Of the passes (p-1)/v / (m + (p-1)/v): v = chunks (Narayanan et al. 2021, section 2.2), and 3 where F, B and W
    take as long as each other and W fills the rest (Qi et al. 2024, "ZB-H1")."""
    found = pipelined(stages, micro, schedule.format(m=micro))
    late = (stages - 1) / parts
    passes = 1 - found.update_seconds / found.step_seconds
    assert found.bubble / passes == pytest.approx(late / (micro + late), rel=0.02)


def test_stages_wait_for_the_hosts_of_those_before_them() -> None:
    """Kernels that the host has not dispatched have made nothing that could be sent: of one micro-batch stages are busy
    one after the other, whoever is slow."""
    late, early = (pipelined(4, 1, "gpipe(microbatches = 1)", host) for host in (1.0, 0.0))
    assert early.bubble == pytest.approx(0.75, rel=0.02)
    assert late.bubble > 0.65 and late.step_seconds > early.step_seconds  # updates have a host as well, side by side


def exposed(*tasks: tuple[Priced, int, tuple[int, ...]]) -> dict[str, int]:
    """What is waited for, by axes, of tasks (price, picoseconds, what they wait for) in one segment."""
    made = tuple(
        Task(WorkNode("x", Copy(0, "hbm", "host")), priced, priced.stream, ps, deps, (), priced.blocking, priced.axes)
        for priced, ps, deps in tasks
    )
    return play(Segment(Cut(), made, 0), COMM + 2).exposed


def test_a_wait_is_laid_to_the_messages_that_run_then() -> None:
    """A kernel waits for `b`, which waited for its link, on which `a` was sent."""
    a, b = Priced(COMM, 10, axes="a"), Priced(COMM, 3, axes="b")
    found = exposed((Priced(COMPUTE, 5), 5, ()), (a, 10, ()), (b, 3, ()), (Priced(COMPUTE, 1), 1, (2,)))
    assert found == {"a": 5, "b": 3}


def test_a_wait_is_laid_to_what_its_message_needed_itself() -> None:
    """`b` goes over another link with what `a` brought; the kernel goes first for a while."""
    a, b = Priced(COMM, 6, axes="a"), Priced(COMM + 1, 5, axes="b")
    found = exposed((Priced(COMPUTE, 4), 4, ()), (a, 6, ()), (b, 5, (1,)), (Priced(COMPUTE, 1), 1, (2,)))
    assert found == {"a": 2, "b": 5}
    # A message that blocks, behind one that does not.
    assert exposed((a, 6, ()), (Priced(COMM, 2, True, "b"), 2, ())) == {"a": 6, "b": 2}


def estimate(example: str, **params: int) -> Estimate:
    return api.cost(EXAMPLES / f"{example}.par", params={k: str(v) for k, v in params.items()})


@pytest.mark.parametrize(
    ("example", "params"),
    [
        ("gpt", {"layers": 8, "hidden": 256}),
        ("gpt", {"layers": 8, "hidden": 256, "dp": 2, "tp": 2, "pp": 2, "microbatches": 4, "zero": 1}),
        ("gpt", {"layers": 16, "hidden": 256, "dp": 4, "zero": 3, "seq": 64}),
        ("llama", {"layers": 8, "hidden": 256, "batch": 8, "dp": 2, "tp": 2, "cp": 2}),
    ],
)
def test_more_work_takes_more_time_and_memory(example: str, params: dict[str, int]) -> None:
    """Twice the layers take about twice the time; twice of anything else no less than before."""
    before = estimate(example, **params)
    cluster = before.compiled.job.cluster
    assert cluster is not None
    once = of_cluster(cluster).fixed
    for name, default in (("layers", 2), ("batch", 16), ("seq", 32), ("hidden", 64)):
        after = estimate(example, **{**params, name: 2 * params.get(name, default)})
        longer = (after.timeline.step_seconds - once) / (before.timeline.step_seconds - once)
        assert longer >= 1 and after.peak > before.peak, name
        more = after.timeline.flops_model / before.timeline.flops_model
        if name == "batch":
            assert more == pytest.approx(2)
        if name == "layers":
            assert 1.5 < longer < 2.15 and 1.5 < more <= 2


def test_a_device_alone_waits_for_nobody() -> None:
    found = estimate("gpt").timeline
    assert found.exposed == 0 and found.bubble == 0 and not found.traffic and len(found.classes) == 1


@pytest.mark.parametrize(("dp", "level"), [(2, "server"), (4, "pod")])
@pytest.mark.parametrize("slow", [{}, {1: 2.0}])
def test_what_stages_add_up_together_crosses_the_level_between_them(
    dp: int, level: str, slow: dict[int, float]
) -> None:
    """Stages of 4 devices share a server of 8; those of 8 have one each."""
    params = {"layers": "4", "pp": "2", "dp": str(dp), "tp": "2", "microbatches": "2"}
    t = api.cost(EXAMPLES / "gpt.par", params=params, variation=Variation(slow)).timeline
    between = {e.stream for e in t.events if e.kind == "collective"}
    assert between == {f"comm:{level}"}
    assert {link.level for s in t.spent for link in s.links if link.axes == "stages"} == {level}


def test_what_takes_longest_is_told_of_the_device_that_ends_last() -> None:
    """A slow one: its kernels take as much longer as it is slower, messages do not."""
    s = Simulation.of(estimate("pangu_200b").compiled)
    alike, slow = s.run(), s.run(None, Variation({3: 1.5}))
    assert slow.classes[slow.slowest].ranks == ((3, 1),)
    before = {c.name: c.seconds for c in alike.top}
    factors = {c.kind: c.seconds / before[c.name] for c in slow.top if c.name in before}
    assert factors == pytest.approx({"product": 1.5, "vector": 1.5, "collective": 1.0}, rel=1e-4)
    for t in (alike, slow):
        assert sum(t.candidates.values()) == pytest.approx(t.step_seconds, rel=1e-3)


def test_the_slowest_device_that_may_be_stated_has_a_cost() -> None:
    """Every number at the bound where it hurts most: nothing overflows."""

    def worst(name: str) -> str:
        of = EFFICIENCIES[name]
        return f"efficiency {name} {1e-12 if of.positive else min(of.most, 1e24):g} {of.unit}"

    numbers = "\n  ".join(worst(name) for name in sorted(EFFICIENCIES))
    text = f"""use std.optimizers (adam)
device slow {{
  compute f32 1e-12 FLOP/s
  compute vector f32 1e-12 FLOP/s
  memory 1e-12 B, 1e-12 B/s
  launch 1e24 s
  link 1e-12 B/s
  {numbers}
}}
cluster pod {{
  device npu = slow
  level server = 2 npu over 1e-12 B/s, 1e24 s
  level room = 4 server over 1e24 B/s, 1e24 s
}}
model m {{
  dim b = 8, d = 64, e = 64
  input x : f32[b,d]
  h = x
  repeat 4 as block {{
    weight w[d,e]
    h = rename(h @ w, e -> d)
  }}
  loss mean(h)
}}
strategy plan for m {{
  mesh (pp = 2, dp = 2, tp = 2)
  pipeline block on pp, schedule one_f_one_b(microbatches = 2)
  split b on dp
  split d on tp
}}
job j {{
  train m on pod using plan
  optimizer adam(lr = 0.1)
}}
"""
    found = api.cost(Source("slow.par", text), variation=Variation({1: 2.0}))
    assert 1e24 < found.timeline.step_seconds < 1e200
    assert api.report(found) and len(api.trace(found.compiled).as_json()["traceEvents"]) > 10


@pytest.mark.parametrize("rules", ["", "split f on tp", "split b on tp"])
def test_loops_in_loops_take_as_much_longer_as_they_are_longer(rules: str) -> None:
    """Whatever links they leave alone, they come into a rhythm: a million iterations cost what a thousand tell."""
    text = f"""use std.devices (a100_80)
use std.optimizers (sgd)
param t = 4
cluster pod {{
  device gpu = a100_80
  level server = 2 gpu over 300 GB/s, 2 us
  level pod = 1 server over 25 GB/s, 5 us
}}
model m {{
  dim b = 256, d = 256, f = 256
  input x : f32[b,d]
  repeat t as outer {{
    repeat 3 as inner {{
      weight w[d,f], v[f,d]
      x = tanh((x @ w) @ v)
    }}
  }}
  loss mean(x)
}}
strategy s for m {{
  mesh (tp = 2)
  {rules}
}}
job j {{
  train m on pod using s
  optimizer sgd(lr = 0.1)
}}
"""

    def seconds(t: int) -> float:
        compiled = compile_job(evaluate(Source("m.par", text.replace("t = 4", f"t = {t}"))))
        return Simulation.of(compiled).run().step_seconds

    some, twice = seconds(1000), seconds(2000)
    assert seconds(10**6) == pytest.approx(some + 999 * (twice - some), rel=1e-5)
