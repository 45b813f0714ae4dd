"""`offload`: what rests in other memories changes no bit, takes the memory that is predicted, and the time of its link.

Every case is proved against the same strategy without the rule, on both executors, and its memory is counted in numpy's
own arrays, in every memory."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from compiler.cost.time.simulate import Simulation
from compiler.driver import Compiled, compile_job, joined
from compiler.evaluate import evaluate
from compiler.memory.occupancy import occupancy
from compiler.memory.peak import memory_use
from compiler.memory.servers import worst_server
from compiler.model import EVALUATE, TRAIN_STEP
from compiler.origin import Role
from compiler.program import Program
from compiler.text import parse_program, show
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc.memory import capacities, elsewhere, of_program, of_stack
from runtime.data.synthetic import synthetic
from runtime.prove.proof import prove
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.memory.measured import exact

TEXT = """
use std.devices (a100_80)
use std.layers (layer_norm, mlp)
use std.optimizers (adamw, lamb, sgd)
use std.tactics (tensor_parallel)

param host = 32

cluster box(devices) {
  device gpu = a100_80
  level node = devices gpu over 300 GB/s, 2 us
  host memory 1 MiB, 200 GB/s over host * 1 GB/s
  nvme capacity 1 TB, 20 GB/s over 3 GB/s
}

model deep(layers = 4, hidden = 8) {
  dim b = 8, d = hidden
  input x : f32[b,d]
  weight first[d] ~ ones
  weight second[d] ~ ones
  h = tanh(cast(x, compute) * first) * second
  repeat layers as block {
    h = h + mlp(layer_norm(h), 4 * hidden)
  }
  loss mean(h * h)
}

optimizer changes(lr) {
  state before ~ zeros
  step = g - 0.5 * before
  before = g
  w = w - lr * step
}

optimizer swapped(lr) {
  state a, c ~ zeros
  old = a
  a = c + g
  c = old
  w = w - lr * (a - c)
}

optimizer shares(lr) {
  state m ~ zeros
  m = mean(g) + m
  w = w - lr * m
}

strategy plan for deep {
  mesh (MESH)
  RULES
}

job fit {
  train deep USING plan
  optimizer OPTIMIZER
  precision PRECISION
}
"""


def text(rules: str, mesh: str = "dp = 2", optimizer: str = "adamw(lr = 1e-2, clip = 1.0)", more: str = "") -> str:
    found = TEXT.replace("RULES", rules.replace("; ", "\n  ")).replace("MESH", mesh).replace("OPTIMIZER", optimizer)
    return found.replace("USING", "using").replace("PRECISION", more or "f32")


def on_cluster(text: str, devices: int = 2) -> str:
    return text.replace("train deep using", f"train deep on box({devices}) using")


def compiled(text: str, entry: str = TRAIN_STEP) -> Compiled:
    return compile_job(evaluate(Source("t.par", text)), entry)


MOVED = "offload optimizer to host"

CASES: dict[str, tuple[str, ...]] = {
    "one device": ("", "dp = 1"),
    "data": ("split b on dp",),
    "ZeRO-1": ("split b on dp; shard optimizer on dp",),
    "ZeRO-2": ("split b on dp; shard optimizer, gradients on dp; microbatches 2",),
    "ZeRO-3": ("split b on dp; shard optimizer, gradients, weights on dp; recompute block",),
    "tensors": ("tensor_parallel(tp); microbatches 2", "tp = 2", "lamb(lr = 1e-2)"),
    "a pipeline": ("pipeline block on pp, schedule one_f_one_b(microbatches = 4)", "pp = 2"),
    "a pipeline, clipped": (
        "split b on dp; pipeline block on pp, schedule one_f_one_b(microbatches = 4); shard optimizer on dp",
        "pp = 2, dp = 2",
    ),
    "uneven stages": ("pipeline block on pp, schedule gpipe(microbatches = 2), cuts [3]", "pp = 2"),
    "interleaved": ("pipeline block on pp, schedule interleaved(4, chunks = 2)", "pp = 2", "lamb(lr = 1e-2)"),
    "zero-bubble": ("pipeline block on pp, schedule zero_bubble(microbatches = 4)", "pp = 2"),
    "momentum": ("split b on dp", "dp = 2", "sgd(lr = 0.1, momentum = 0.9)"),
    "what was before": ("split b on dp", "dp = 2", "changes(lr = 0.1)"),
    "changed places": ("split b on dp", "dp = 2", "swapped(lr = 0.1)"),
    "a mean": ("split b on dp; shard optimizer on dp", "dp = 2", "shares(lr = 0.1)"),
    "a loss scale": (
        "split b on dp; shard optimizer on dp", "dp = 2", "adamw(lr = 1e-2)", "f16, master f32, loss_scale dynamic"
    ),
    "norms of uneven pieces": ("split d on tp pad", "tp = 3", "lamb(lr = 1e-2)"),
    "uneven pieces": ("split b on dp; shard optimizer on dp pad", "dp = 3"),
}  # fmt: skip


def with_rule(name: str, rule: str = MOVED) -> tuple[str, str]:
    """The texts of a case with the rule and without it."""
    rules, *rest = CASES[name]
    if "dp = 3" in rest:
        rules = rules.replace("split b on dp", "split b on dp pad")
    return text("; ".join(r for r in (rules, rule) if r), *rest), text(rules, *rest)


def same_bits(moved: Program, plain: Program) -> None:
    """Both programs learn the same, on either executor."""
    for executor in (Emulator, RankExecutor):
        runs = [executor(p) for p in (moved, plain)]
        for step in range(3):
            losses = [run.step(synthetic(moved.inputs, 0, step)).loss for run in runs]
            assert losses[0] == losses[1]
        left, right = ({**run.weights(), **run.states()} for run in runs)
        assert left.keys() == right.keys()
        for name, x in left.items():
            np.testing.assert_array_equal(x, right[name], err_msg=name)
            assert np.isfinite(x).all()


@pytest.mark.parametrize("name", CASES)
def test_switching_it_off_changes_no_bit(name: str) -> None:
    moved, plain = (compiled(t) for t in with_rule(name))
    program = moved.program
    assert verify(program) == ()
    assert parse_program(show(program)) == program
    same_bits(program, plain.program)
    states = [s for c in program.classes for s in c.states if s.role is Role.OPTIMIZER]
    assert states and all(s.memory == "host" for s in states)
    assert prove(moved.training, program).equal


ALL = "offload activations, weights, optimizer to host"


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("one device", "offload weights to host prefetch 2"),
        ("one device", "offload activations to host prefetch 0"),
        ("one device", f"{ALL} prefetch 9"),
        ("ZeRO-1", ALL),
        ("tensors", ALL.replace("host", "nvme")),
        ("ZeRO-3", f"{ALL} prefetch 2"),
        ("a pipeline, clipped", f"{ALL} prefetch 0"),
        ("interleaved", ALL),
        ("zero-bubble", "offload activations to nvme; offload weights to host in block"),
        ("a loss scale", ALL),
        ("uneven pieces", "offload activations to host in block.mlp; offload weights to nvme in block.mlp.w1"),
    ],
)
def test_weights_and_activations_change_no_bit_either(name: str, rule: str) -> None:
    """Nor is any memory another than is predicted, whatever rests there."""
    moved, plain = (compiled(t) for t in with_rule(name, rule))
    assert verify(moved.program) == ()
    assert parse_program(show(moved.program)) == moved.program
    same_bits(moved.program, plain.program)
    exact(moved.program)
    assert prove(moved.training, moved.program).equal
    roles = {s.role: s.memory for c in moved.program.classes for s in c.states if s.memory != "hbm"}
    assert {*roles} <= {Role.OPTIMIZER, Role.WEIGHT, Role.SAVED} and roles


def test_some_layers_rest_in_files_and_others_do_not() -> None:
    rule = "offload optimizer to nvme in block[0..2]"
    moved, plain = compiled(text(rule)), compiled(text(""))
    same_bits(moved.program, plain.program)
    states = [s for c in moved.program.classes for s in c.states if s.role is Role.OPTIMIZER and "w1" in s.name]
    memories = {s.memory for s in states}
    assert memories == {"hbm", "nvme"}


def test_where_weights_rest_they_do_in_all_entries() -> None:
    """They are read elsewhere when the model is evaluated, too."""
    found = [compiled(text("split b on dp; offload weights to host"), entry) for entry in (TRAIN_STEP, EVALUATE)]
    both = joined([c.program for c in found])
    assert verify(both) == ()
    run = RankExecutor(both)
    batch = synthetic(both.inputs, 0, 0)
    assert run.call(EVALUATE, batch).loss == run.step(batch).loss
    exact(found[1].program)


def largest(layers: int, rule: str) -> int:
    """Bytes of device memory in forward and backward passes."""
    found = text(f"microbatches 8; recompute block; {rule}", "dp = 1", "sgd(lr = 0.1)")
    program = compiled(found.replace("layers = 4", f"layers = {layers}").replace("hidden = 8", "hidden = 32")).program
    return max(m.peak for m in occupancy(program)[0]["hbm"].moments[:-1])


def test_a_layer_is_there_at_a_time() -> None:
    """With more layers the devices' memory grows by gradients, which stay there (and by a micro-batch's before they are
    added), but neither by weights nor by what is saved."""
    weights = 4 * (32 + 32 + 2 * 32 * 128 + 128 + 32)
    saved = 1 * 32 * 4  # the input of a layer, of a micro-batch of one
    rules = ("", "offload weights to host", "offload activations to host", ALL.replace(", optimizer", ""))
    more = [largest(24, rule) - largest(12, rule) for rule in rules]
    gradients = more[3]
    assert gradients == pytest.approx(12 * weights, rel=0.02)
    assert more[0] - more[1] == 12 * weights
    assert more[0] - more[2] == 12 * saved
    assert more[0] - gradients == 12 * (weights + saved)


AHEAD = [0, 1, 2, 9]


@pytest.mark.parametrize(("name", "ahead"), [(n, AHEAD[(i + k) % 4]) for i, n in enumerate(CASES) for k in (0, 1)])
def test_every_memory_is_as_large_as_predicted(name: str, ahead: int) -> None:
    exact(compiled(with_rule(name, f"{MOVED} prefetch {ahead}")[0]).program)


@cache
def peaks(rule: str, memory: str = "hbm", optimizer: str = "adamw(lr = 1e-2)") -> int:
    """At the fullest moment of the update."""
    program = compiled(text(f"split b on dp; {rule}", optimizer=optimizer).replace("layers = 4", "layers = 16")).program
    return occupancy(program)[0][memory].moments[-1].peak


def test_states_are_there_once_and_few_at_a_time() -> None:
    """In the host's memory are the states and nothing else: new ones lie where the old ones did. In the devices' are
    those of the iteration that is updated, and of as many as are fetched ahead."""
    weights = 8 + 8 + 16 * (8 + 8 + 8 * 32 + 32 + 32 * 8 + 8)
    assert peaks(MOVED, "host") == 4 * 2 * weights
    iteration = 2 * 4 * 8 * 32  # both states of the largest weight
    update = [peaks(f"{MOVED} prefetch {n}") for n in (0, 1, 2, 4)]
    assert update[1] - update[0] == iteration
    assert update[2] - update[1] == iteration and update[3] - update[2] == 2 * iteration
    off = peaks("")
    assert off - update[0] == 4 * 2 * weights - iteration  # without the rule they are renewed where they lie, too


def test_one_function_serves_all_weights_alike() -> None:
    program = compiled(text(MOVED, "dp = 1")).program
    found = show(program)
    assert found.count("\n  fn update") == show(compiled(text("", "dp = 1")).program).count("\n  fn update")
    assert "repeat block 4 (" in found and "ahead 1" in found


# --- time ------------------------------------------------------------------------------------------------------------


def seconds(rule: str, host: float = 32, large: bool = True) -> float:
    found = text(f"split b on dp; {rule}", optimizer="adamw(lr = 1e-2)")
    if large:
        found = found.replace("hidden = 8", "hidden = 512").replace("param host = 32", f"param host = {host}")
    return Simulation.of(compiled(on_cluster(found))).seconds()


def moved_bytes() -> int:
    return 4 * 2 * (512 + 512 + 4 * (512 + 512 + 2 * 512 * 2048 + 2048 + 512))


def test_copies_take_the_time_of_their_link() -> None:
    """Both directions at once; with nothing ahead what comes waits for what is computed."""
    slow, slower = seconds(MOVED, 2), seconds(MOVED, 1)
    assert slower - slow == pytest.approx(moved_bytes() / 2e9, rel=0.25)
    assert seconds("") < slow < seconds(f"{MOVED} prefetch 0", 2)


def test_a_server_s_devices_share_its_memory_s_bandwidth() -> None:
    """Two devices have 200 GB/s together."""
    assert seconds(MOVED, 300) == seconds(MOVED, 100) < seconds(MOVED, 90)


# --- how much there is -----------------------------------------------------------------------------------------------


def refused(text: str) -> list[str]:
    with pytest.raises(ParcError) as raised:
        job = compiled(text)
        Emulator(job.program, capacities(job.job))
    return [d.code for d in raised.value.diagnostics]


def test_the_host_s_memory_is_a_limit() -> None:
    large = on_cluster(text(f"split b on dp; {MOVED}").replace("hidden = 8", "hidden = 128"))
    assert refused(large) == ["E0701"]
    assert not of_stack(compiled(large)).fit(capacities(compiled(large).job))
    enough = large.replace("host memory 1 MiB", "host memory 100 MiB")
    job = compiled(enough)
    Emulator(job.program, capacities(job.job))
    assert of_stack(job).fit(capacities(job.job)) and of_program(job).fit(capacities(job.job))


def test_the_devices_of_a_server_have_it_together() -> None:
    """The stages of a pipeline need 3 and 1 iterations' states: of a server with both, half of all each."""
    rules = f"pipeline block on pp, schedule gpipe(microbatches = 2), cuts [3]; {MOVED}"
    job = compiled(on_cluster(text(rules, "pp = 2")))
    needs = [memory_use(job.program)[g]["host"].bytes for g in (0, 1)]
    assert needs[0] > 2.5 * needs[1]
    assert elsewhere(job) == {"host": sum(needs) // 2}
    share = -(-sum(needs) // 2)
    exactly = on_cluster(text(rules, "pp = 2")).replace("host memory 1 MiB", f"host memory {2 * share} B")
    Emulator(compiled(exactly).program, capacities(compiled(exactly).job))
    assert refused(exactly.replace(f"{2 * share} B", f"{2 * share - 2} B")) == ["E0701"]


@pytest.mark.parametrize(
    ("mesh", "sharing", "worst"),
    [
        ("pp = 4, dp = 2", 2, 7),  # a server holds one stage
        ("pp = 4, dp = 2", 4, 5),  # two stages in a row
        ("dp = 2, pp = 4", 4, 4),  # all four, once
        ("dp = 2, pp = 4", 2, 5),
        ("pp = 4, dp = 2", 8, 4),
        ("pp = 4, dp = 3", 4, 7),  # uneven: as the worst device
    ],
)
def test_servers_hold_the_groups_that_the_mesh_says(mesh: str, sharing: int, worst: int) -> None:
    rules = "pipeline block on pp, schedule gpipe(microbatches = 2)" + ("" if "3" in mesh else "; split b on dp")
    program = compiled(text(rules, mesh)).program
    assert worst_server(program, {0: 1, 1: 4, 2: 3, 3: 7}, sharing).bytes == worst


def test_the_first_rule_counts() -> None:
    program = compiled(text("split b on dp; offload optimizer to nvme in block.mlp; offload optimizer to host")).program
    there = {s.name: s.memory for s in program.classes[0].states if s.role is Role.OPTIMIZER}
    assert all(memory == ("nvme" if ".mlp." in name else "host") for name, memory in there.items())
    assert {*there.values()} == {"nvme", "host"}


def test_other_entries_have_no_optimizer() -> None:
    assert show(compiled(text(f"split b on dp; {MOVED}"), EVALUATE).program) == show(
        compiled(text("split b on dp"), EVALUATE).program
    )
