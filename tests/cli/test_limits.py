"""What is too large for this machine, or for whoever goes through it one by one, is refused by numbers: in a process of
its own, with little address space, in little time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHILD = """
import resource, sys
space, seconds = int(sys.argv[1]) << 20, int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (space, space))
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
from parc.cli import cli
try:
    cli(sys.argv[3:])
finally:
    # not `ru_maxrss`: that begins with the peak of the process that started this one, and a test's may be large
    peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    sys.stderr.write(f"\\npeak {peak}")
"""


@dataclass(frozen=True)
class Done:
    """exit code; codes of the errors; everything that was said; MiB that the process had at most."""

    exit: int
    codes: tuple[str, ...]
    says: str
    peak: float


def run(words: Sequence[str], space: int = 1024, seconds: int = 10) -> Done:
    """A command in `space` MiB of addresses and `seconds` of CPU time; what goes beyond ends with a signal."""
    command = [sys.executable, "-c", CHILD, str(space), str(seconds), *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode >= 0, f"ended by signal {-done.returncode}"
    found = json.loads(done.stdout)
    errors = [d for d in found["diagnostics"] if d["severity"] == "error"]
    peak = re.search(r"peak (\d+)", done.stderr)
    assert peak is not None and found["exit"] == done.returncode
    says = "\n".join(f"{d['message']}\n{d['help']}" for d in errors)
    return Done(done.returncode, tuple(d["code"] for d in errors), says, int(peak[1]) / 1024)


TRAINED = "job fit {\n  train m on pod using st\n  optimizer sgd(lr = 0.1)\n}\n"
ALONE = "job fit {\n  train m\n  optimizer sgd(lr = 0.1)\n}\n"
POD = """device chip {
  compute f32 16 TFLOP/s
  memory 32 GB, 1.2 TB/s
}
cluster pod {
  device npu = chip
  level server = devices npu over 30 GB/s, 1 us
}
"""


def stages(pp: int, microbatches: int) -> str:
    """A deep network of small layers, one on each stage."""
    return f"""use std.layers
use std.optimizers
param devices = {pp}
param microbatches = {microbatches}
model m {{
  dim b = microbatches, d = 8
  input x : f32[b,d]
  repeat {pp} as block {{
    x = x + mlp(x, 8)
  }}
  loss mean(x * x)
}}
{POD}strategy st for m {{
  mesh (pp = devices)
  pipeline block on pp, schedule one_f_one_b(microbatches = microbatches)
}}
{TRAINED}"""


def replicas(devices: int, microbatches: int) -> str:
    """Data parallelism, and gradients that are accumulated."""
    return f"""use std.optimizers (sgd)
param devices = {devices}
param microbatches = {microbatches}
model m {{
  dim b = 4 * devices * microbatches, d = 8, e = 8
  input x : f32[b,d]
  weight w[d,e]
  loss mean(x @ w)
}}
{POD}strategy st for m {{
  mesh (dp = devices)
  microbatches microbatches over b
  split b on dp
}}
{TRAINED}"""


def plain(dims: str, weight: str, loss: str) -> str:
    """One device. dims: of the batch (`b`), of the weight and more."""
    return f"use std.optimizers (sgd)\nparam n = 1\nmodel m {{\n  dim {dims}\n{weight}  loss {loss}\n}}\n{ALONE}"


LONG = plain("b = 80000000, d = 4", "  input x : f32[b,d]\n  weight w[d]\n", "mean(x * w)")
LARGE = plain("d = 20000, e = 20000", "  weight w[d,e]\n", "mean(w * w)")
MANY = [f"q{i}" for i in range(65)]
DIMS = plain(", ".join(f"{q} = 1" for q in MANY), f"  weight z[{', '.join(MANY)}]\n", "mean(z)")
MEASURED = ("check", "cost")
EXECUTED = ("run", "verify")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "large.par"


def command(name: str, file: Path) -> list[str]:
    more = {"run": ["--steps", "1"], "trace": ["-o", f"{file}.json"], "report": ["-o", f"{file}.html"]}
    return [name, str(file), *more.get(name, [])]


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize("text", [stages(64, 100_000), replicas(10**8, 2), replicas(8, 10**9)], ids=["pp", "dp", "mb"])
def test_what_does_not_grow_with_the_job_is_told(name: str, text: str, file: Path) -> None:
    """100,000 micro-batches on 64 stages, 10^8 devices, 10^9 micro-batches."""
    file.write_text(text)
    done = run(command(name, file))
    assert (done.exit, done.codes) == (0, ()) and done.peak < 128


@pytest.mark.parametrize(
    ("name", "text"),
    [(name, stages(64, 20_000_000)) for name in ("trace", "run")]
    + [(name, replicas(8, 10**9)) for name in ("report", "verify")],
    ids=["trace", "run", "report", "verify"],
)
def test_steps_of_too_many_actions_are_neither_run_nor_drawn(name: str, text: str, file: Path) -> None:
    file.write_text(text)
    done = run(command(name, file))
    assert (done.exit, done.codes) == (4, ("E0931",)) and done.peak < 256
    assert "actions to be" in done.says and "the most is" in done.says and "microbatches = " in done.says, done.says


TURNS = """use std.optimizers (sgd)
param n = 1000000000
model turns() {
  dim b = 2, d = 4
  input x : f32[b,d]
  weight w[d] ~ normal(1.0)
  y = x * w
  repeat n as turn {
    y = y * 0.5
  }
  loss mean(y)
}
job fit {
  train turns()
  optimizer sgd(lr = 0.1)
}
"""


@pytest.mark.parametrize("name", ["run", "verify"])
def test_loops_that_would_not_end_are_not_begun(name: str, file: Path) -> None:
    """Checked and priced they are."""
    file.write_text(TURNS)
    assert run(command("check", file)).exit == 0
    done = run(command(name, file))
    assert (done.exit, done.codes) == (4, ("E0931",)) and done.peak < 256
    assert "1,000,000,000 times" in done.says and "smaller with less of n = 1000000000" in done.says, done.says


STORED = """use std.optimizers (sgd)
param batch = 8
param devices = 1
param wide = 64
model net {
  dim b = batch, d = 64, e = wide
  input x : f32[b,d]
  weight w[d,e]
  y = x @ w
  if not training {
    output y
  }
  loss mean(y)
}
strategy st for net {
  mesh (tp = devices)
  split e on tp
  store weights as int8
}
strategy kept for net {
  mesh (tp = devices)
  split e on tp
}
job made {
  infer net using st
}
job fit {
  train net using kept
  optimizer sgd(lr = 0.1)
}
"""


@pytest.mark.parametrize(
    ("method", "name", "size"), [("gptq", "batch", 10**8), ("nearest", "wide", 10**8), ("awq", "batch", 10**12)]
)
def test_what_compressing_needs_is_told_before_anything_is_read(
    method: str, name: str, size: int, file: Path, tmp_path: Path
) -> None:
    file.write_text(STORED)
    options = ["--job", "made", "--method", method, "-D", f"{name}={size}", "-o", str(tmp_path / "made")]
    done = run(["compress", str(tmp_path), str(file), *options])
    assert (done.exit, done.codes) == (4, ("E0910",)) and done.peak < 256, done.says
    assert "compressing the weights of `made` here takes some" in done.says and f"{name} = {size}" in done.says


def test_a_checkpoint_is_not_begun_that_too_many_devices_have_parts_of(file: Path) -> None:
    file.write_text(STORED)
    words = ["convert", str(file), "--from-job", "fit", "--to", str(file), "--job", "fit", "--plan"]
    done = run([*words, "-D", "wide=100000000", "-D", "devices=100000000"])
    assert (done.exit, done.codes) == (4, ("E0933",)) and done.peak < 256, done.says
    assert "100,000,000 devices, the most is 100,000" in done.says and "devices = " in done.says


def test_devices_that_write_nothing_are_not_gone_through(file: Path) -> None:
    file.write_text(replicas(10**8, 2))
    assert run(["convert", str(file), "--to", str(file), "--plan"]).exit == 0


@pytest.mark.parametrize("name", ["cost", "trace", "report"])
def test_long_loops_are_priced_and_drawn_at_once(name: str, file: Path) -> None:
    """Even those whose iterations take no time that can be shown."""
    file.write_text(TURNS.replace("train turns()", "train turns() on box(1)") + BOX)
    done = run([name, str(file), *(["-o", str(file.with_suffix(".out"))] if name != "cost" else [])], seconds=4)
    assert (done.exit, done.codes) == (0, ()) and done.peak < 256


def test_the_serial_program_is_not_begun_either(file: Path, tmp_path: Path) -> None:
    """`compress` goes through it, on some batches."""
    infers = TURNS.replace("  loss mean(y)", "  output y")
    infers = infers.replace("train turns()\n  optimizer sgd(lr = 0.1)", "infer turns()")
    file.write_text(infers)
    done = run(["compress", str(tmp_path), str(file), "-o", str(tmp_path / "made")])
    assert (done.exit, done.codes) == (4, ("E0931",)) and done.peak < 256


DRIFTING = """use std.optimizers (sgd)
model net() {
  dim b = 8, d = 64, e = 64
  input x : f32[b,d]
  weight w0[d] ~ ones
  h[b,d] = x * w0
  repeat 1000000000 as outer {
    weight w[d,e] ~ normal(0.1)
    h = rename(h @ w, e -> d) * 0.1 + h
  }
  loss mean(h * h)
}
device large {
  compute f32 10 TFLOP/s
  memory 160000000 GiB, 400000 GB/s
}
cluster slow(devices) {
  device card = large
  level server = devices card over 0.001 GB/s, 1 us
}
strategy z2 for net {
  mesh (dp = 2)
  split b on dp
  shard optimizer, gradients on dp
}
job fit {
  train net() on slow(2) using z2
  optimizer sgd(lr = 0.1)
}
"""


@pytest.mark.parametrize("name", ["cost", "trace", "report"])
def test_loops_without_a_rhythm_are_not_gone_through(name: str, file: Path) -> None:
    """Their messages take longer than what is computed meanwhile, and nothing waits for them."""
    file.write_text(DRIFTING)
    done = run([name, str(file), *(["-o", str(file.with_suffix(".out"))] if name != "cost" else [])])
    assert (done.exit, done.codes) == (4, ("E0931",)) and done.peak < 256, done.says


BOX = """device quick {
  compute f32 1000000000 TFLOP/s
  memory 16000 GiB, 1000000000 GB/s
}

cluster box(devices) {
  device card = quick
  level server = devices card over 30 GB/s, 1 us
}
"""


@pytest.mark.parametrize("text", [stages(1024, 2048), stages(2048, 2)], ids=["square", "stages"])
def test_many_stages_are_checked_at_once(text: str, file: Path) -> None:
    """However many micro-batches there are: it took 16 s for 1,000 stages and as many."""
    file.write_text(text)
    done = run(command("check", file), seconds=4)
    assert (done.exit, done.codes) == (0, ()) and done.peak < 256


@pytest.mark.parametrize("name", ["check", "cost", "run"])
def test_a_schedule_that_is_too_long_is_no_bug(name: str, file: Path) -> None:
    text = stages(1024, 2048)
    file.write_text(
        text if name == "cost" else text.replace("one_f_one_b(", "interleaved(").replace("repeat 1024", "repeat 2048")
    )
    done = run(command(name, file))
    assert (done.exit, done.codes) == (4, ("E0931",)) and done.peak < 256
    assert (
        "1,024 stages and 2,048 micro-batches" in done.says
        and ("1,000,000" if name == "cost" else "4,000,000") in done.says
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [("run", LARGE), ("verify", LONG), ("run", replicas(10**7, 2))],
    ids=["weights", "batch", "devices"],
)
def test_what_the_machine_has_no_memory_for_is_not_begun(name: str, text: str, file: Path) -> None:
    """Weights of 1.6 GB, a batch of as much, 10^7 devices."""
    file.write_text(text)
    done = run(command(name, file))
    assert (done.exit, done.codes) == (4, ("E0910",)) and done.peak < 256
    assert "address space" in done.says


@pytest.mark.parametrize("name", ["check", "run"])
def test_tensors_have_at_most_64_dims(name: str, file: Path) -> None:
    file.write_text(DIMS)
    done = run(command(name, file))
    assert (done.exit, done.codes) == (4, ("E0908",)) and "65 dims" in done.says


@pytest.mark.parametrize("name", EXECUTED)
def test_a_batch_that_is_long_is_planned_in_no_time(name: str, file: Path) -> None:
    """Kernels over a dim that no number of equal blocks makes up: a prime."""
    file.write_text(plain("b = 1000003, d = 2", "  input x : f32[b,d]\n  weight w[d]\n", "mean(x * w * x)"))
    done = run(command(name, file), 4096, 20)
    assert done.exit in (0, 1) and not {c for c in done.codes if c}


def test_memory_that_runs_out_all_the_same_has_a_code(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was told before: an allocation that fails is E0910, not a bug."""
    file.write_text(LARGE)
    text = "import parc.machine; parc.machine.require_machine = lambda asked: None\n" + CHILD
    words = [sys.executable, "-c", text, "1024", "30", "run", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 4 and "error[E0910]" in done.stderr, done.stderr


@pytest.mark.parametrize(("name", "space", "says"), [("run", 90, "numpy takes"), ("cost", 110, "")])
def test_little_memory_is_told(name: str, space: int, says: str, file: Path) -> None:
    """Where numpy cannot be loaded (its library ends the process), and where a price takes all that there is."""
    file.write_text(stages(64, 500).replace("one_f_one_b(", "interleaved(").replace("repeat 64", "repeat 512"))
    done = run(command(name, file), space, 60)
    assert (done.exit, done.codes) == (4, ("E0910",)) and says in done.says


def test_what_is_too_large_names_the_largest_parameters(file: Path) -> None:
    text = plain("b = m * n, d = 2", "  input x : f32[b,d]\n  weight w[d]\n", "mean(x * w)")
    file.write_text(text.replace("param n = 1", "param n = 2 ** 41\nparam m = 2\nparam few = 1"))
    done = run(command("check", file))
    assert (done.exit, done.codes) == (4, ("E0908",))
    assert done.says.endswith("the largest: n = 2199023255552, m = 2")


def test_too_many_axes_name_the_parameters_that_make_dims(file: Path) -> None:
    names = [f"q{i}" for i in range(64)]
    many = (
        f"if deep > 2 {{\n  dim {', '.join(f'{n} = 1' for n in names)}\n  weight w[{','.join(names)}]\n  }} else {{\n"
    )
    model = f"model m {{\n  dim d = 1\n  {many}  weight w[d]\n  }}\n  loss mean(w)\n}}\n"
    file.write_text(f"use std.optimizers (sgd)\nparam deep = 4\nparam more = 4\n{model}{ALONE}")
    done = run(command("run", file))
    assert (done.exit, done.codes) == (4, ("E0932",))
    assert done.says.endswith("smaller with less of deep = 4 (`-D name=value`)")
