"""`verify --small`: the same strategy in the smallest sizes; and what is refused for this machine's memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import parc
from compiler.incremental.paged import paging
from dsl.source import Source
from parc.cli import cli
from parc.small import Small
from parc.small_facts import facts
from runtime import room
from runtime.available import available
from runtime.prove import Proof

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

LITERALS = """\
use std.layers
use std.optimizers (adamw)

model m {
  dim b = 480, s = 2048, d = 4096, v = 50257
  input tokens, targets : int32[b,s] in 0..v
  x = embedding(tokens, over v, over d)
  repeat 96 as block {
    x = x + attention(layer_norm(x), 32)
    x = x + mlp(layer_norm(x), 4 * d)
  }
  if d > 2000 {
    x = x * 0.5
  }
  loss cross_entropy(linear(x, over v), targets, over v)
}

strategy s for m {
  mesh (pp = 8, dp = 16, tp = 8)
  split b on dp
  split h, f on tp
  split v on tp pad
  shard optimizer on dp
  pipeline block on pp, schedule one_f_one_b(microbatches = 30, over = b)
}

job fit {
  train m using s
  optimizer adamw(lr = 1e-3, clip = 1.0)
  precision bf16, master f32
}
"""


def sizes(small: Small) -> dict[str, int]:
    return {a.name: a.size for a in small.compiled.job.strategy.mesh}


@pytest.mark.parametrize(
    ("name", "job", "params"),
    [
        ("walls", "misplaced", {}),
        pytest.param("llama", None, {"layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "vocab": 128256,
                                     "seq": 8192, "batch": 1024, "dp": 8, "tp": 8, "pp": 4, "microbatches": 64},
                     marks=pytest.mark.nightly),
        ("resnet", None, {"size": 224, "channels": 64, "layers": 50, "batch": 256, "dp": 64, "sp": 2}),
        ("recsys", None, {"users": 6000000, "items": 1000000, "hidden": 128, "batch": 65536, "dp": 32}),
        ("towers", None, {"hidden": 1024, "batch": 1024, "dp": 16}),
        ("lora", None, {}),
    ],
)  # fmt: skip
def test_every_example(name: str, job: str | None, params: dict[str, object]) -> None:
    file = EXAMPLES / f"{name}.par"
    small = parc.shrink(file, params=params, job=job, double=True)
    assert small.complete and small.other == 0
    assert all(n <= 4 for n in sizes(small).values())
    proof = parc.verify(file, small=small, params=params, job=job, double=True)
    assert proof.ok, proof.worst
    assert sum(r.elements for r in proof.rows) < 1_000_000


def test_sizes_that_are_literals() -> None:
    """Uneven pieces stay uneven, `if` keeps its outcome, every stage has two layers, there are inner stages."""
    small = parc.shrink(Source("t", LITERALS), double=True)
    job = small.compiled.job
    # 32 heads divide by dp and by tp, not by both; they divide 4096, too, and of 2 heads there would be one a device
    assert sizes(small) == {"pp": 3, "dp": 4, "tp": 2} and small.devices == 1024
    dims = {d.name: d.size for v in job.model.graph.inputs for d in v.type.dims}
    assert dims["v"] % 2 == 1 and dims["d"] > 2000
    assert dims["block"] % 3 == 0 and dims["block"] >= 6
    assert job.strategy.microbatches > 3 and dims["b"] % (2 * job.strategy.microbatches) == 0
    assert {s.name for s in small.shrunk} == {""}


EXPERTS = """\
use std.layers
use std.optimizers (adamw)

model m {
  dim b = 512, s = 4096, d = 2048
  input x : f32[b,s,d]
  y, odds = moe(x, experts = EXPERTS, width = 8192, active = ACTIVE, capacity = CAPACITY)
  loss mean(y * y) + 0.01 * odds
}

strategy apart for m {
  mesh (dp = 2, ep = 4)
  split e, b on ep
  split b on dp
}

job fit {
  train m using apart
  optimizer adamw(lr = 1e-3)
}
"""


@pytest.mark.parametrize(
    ("experts", "active", "capacity", "some_left_out", "room_for_all"),
    (
        (128, 8, "1.25", True, False),
        (64, 1, "2.0", True, False),
        (16, 2, "8.0", True, True),  # nothing is ever dropped
        (8, 8, "1.0", False, True),  # each position goes to all experts
    ),
)
def test_a_choice_stays_one(experts: int, active: int, capacity: str, some_left_out: bool, room_for_all: bool) -> None:
    """Of experts, and of positions where an expert has no seats for all."""
    text = EXPERTS.replace("EXPERTS", str(experts)).replace("ACTIVE", str(active)).replace("CAPACITY", capacity)
    found = parc.api.shrink(Source("m.par", text))
    assert found.complete and found.other == 0
    values = {d.name: d.size for n in found.compiled.job.model.graph for v in n.outputs for d in v.type.dims}
    assert values["s"] < 64 and values["d"] <= 16 and values["e"] <= max(experts // 2, 8)
    assert (values["j"] < values["g"]) == some_left_out
    assert (values["slot"] == values["s"]) == room_for_all


def test_facts_see_what_divides() -> None:
    def of(text: str) -> dict[str, object]:
        found = parc.evaluate(Source("t", text)).job
        return facts(found, found)

    own = of(LITERALS)
    other = of(LITERALS.replace("v = 50257", "v = 50264"))
    assert {k for k in own if own[k] != other[k]} == {("dim", "v")}


def test_it_says_what_was_shrunk_and_what_is_not_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time without making it small and proving it again."""
    shrink, shrunk = parc.api.shrink, list[Small]()
    monkeypatch.setattr(parc.api, "shrink", lambda *args, **more: shrunk.append(shrink(*args, **more)) or shrunk[0])
    prove, made = parc.api.verify, list[Proof]()
    monkeypatch.setattr(parc.api, "verify", lambda *args, **more: made.append(prove(*args, **more)) or made[0])
    words = ["verify", str(EXAMPLES / "pangu_200b.par"), "--small", "--steps", "1", "--double"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert "hidden 16,384 -> 8" in said and "not proved" in said and "2,048 devices are 12" in said
    assert max(map(len, result.stdout.splitlines())) <= 80
    monkeypatch.setattr(parc.api, "shrink", lambda *args, **more: shrunk[0])
    monkeypatch.setattr(parc.api, "verify", lambda *args, **more: made[0])
    found = json.loads(CliRunner().invoke(cli, [*words, "--json"]).stdout)["result"]["small"]
    assert found["devices"] == 2048 and found["other_operations"] == 0
    assert {"axis": "pp", "before": 16, "after": 3} in found["axes"]


# --- memory of this machine ------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "verify"])
def test_what_needs_too_much_is_refused_by_numbers(command: str) -> None:
    result = CliRunner().invoke(cli, [command, str(EXAMPLES / "pangu_200b.par")])
    assert result.exit_code == 4 and "E0910" in result.stderr
    assert "hidden = 16384" in result.stderr and "--small" in result.stderr


def test_limits_of_the_process_count() -> None:
    """Weights of 800 MB, and half of that to have."""
    text = "import resource, sys; from parc.cli import cli; "
    text += "resource.setrlimit(resource.RLIMIT_AS, (900 << 20, 900 << 20)); cli(sys.argv[1:])"
    words = [str(EXAMPLES / "gpt.par"), "--steps", "1", "-D", "hidden=2048", "-D", "layers=4"]
    done = subprocess.run([sys.executable, "-c", text, "run", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 4 and "E0910" in done.stderr and "address space" in done.stderr, done.stderr


def test_what_is_needed_is_what_is_taken() -> None:
    """Within a factor of two of what running takes, for both executors' programs and the proof."""
    compiled = parc.compile(EXAMPLES / "gpt.par", params={"hidden": 512, "layers": 2, "dp": 2, "batch": 16})
    weights = sum(w.value.type.bytes for w in compiled.training.model.weights)
    assert 4 * weights < room.stacked(compiled.program) < 20 * weights
    assert room.private(compiled.program) > 1.5 * room.stacked(compiled.program) / 2
    assert room.serial(compiled.training) > 9 * weights
    limit = available()
    assert limit is None or limit.bytes > 0
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != 0


PAGED = """\
use std.layers (attention, layer_norm, mlp)

param places = 1024

model next() {
  dim b = 64, s = places, d = 512, v = 1000
  input tokens : int32[b,s] in 0..v
  weight table[v,d]
  x[b,s,d] = take(table, tokens, over v)
  repeat 12 as block {
    x = x + attention(layer_norm(x), 8)
    x = x + mlp(layer_norm(x), 2048)
  }
  logits[b,s,v] = layer_norm(x) @ table
  output logits
}

strategy many for next {
  mesh (dp = 2)
  split b on dp
  store caches as paged(slots = SLOTS, pages = PAGES)
}

job write {
  infer next() using many
  decode over s, prefill 4
}
"""


@pytest.mark.parametrize(
    ("slots", "pages", "form"),
    [(16, 1024, -1), pytest.param(24, 2752, 0, marks=pytest.mark.nightly), (1, 90000, 1), (1024, 2, -1)],
)
def test_pages_are_small_in_the_same_form(slots: int, pages: int, form: int) -> None:
    """One position, several or all in a page; all of the last one or some; fewer pages than all sequences can have, as
    many, or more."""
    found = parc.api.shrink(Source("net.par", PAGED.replace("SLOTS", str(slots)).replace("PAGES", str(pages))))
    job = found.compiled.job
    assert job.decoding is not None and job.decoding.pages is not None and found.other == 0
    by = paging(job.model, job.decoding.pages, "s")
    whole = by.each * by.count
    assert (by.pages * by.pieces > whole) - (by.pages * by.pieces < whole) == form and by.pieces == 2
    assert (by.slots > 1, by.each > 1, by.places % by.slots > 0) == (slots > 1, slots < 1024, 1024 % slots > 0)
    assert by.slots * by.pages * by.pieces <= 64 and by.places <= 8
