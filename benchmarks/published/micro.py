"""Parts of a step against published measurements of them: `python -m benchmarks.published.micro [CSV] [--rows]`.

The best products of many accelerators, all-reduces inside a server, all-to-alls of experts, layers with experts forward
and backward with their memory, attention with heads or positions split. Predictions come from the functions that price
a step, or, where a part is more than one kernel or message, from a job with it: of layers, the difference of four and
two. The device's general numbers hold, or, of layers, those of the software that was measured. Nothing is fitted here,
but that what training reaches of products on devices without published steps is scaled by the best products of all
(`accelerators.py`).
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import parc
from benchmarks.published import machines
from benchmarks.published.accelerators import SUSTAINED, power
from benchmarks.published.facts import FOLDER, UNITS, Row, Unsupported
from benchmarks.published.score import table
from compiler.cost.kernels.work import Collective, Product
from compiler.cost.memory.systems import Systems
from compiler.cost.price.calibration import of_cluster
from compiler.cost.price.collectives import collective_seconds, distinct
from compiler.cost.price.compute import product_seconds
from compiler.cost.price.pricer import PICOSECONDS, Pricer
from compiler.cost.time.simulate import Simulation
from dsl.source import Source

MICRO = FOLDER / "micro.csv"

SERVER = 8
"""Devices of a server, of all machines of the table."""


@dataclass(frozen=True, slots=True)
class Part:
    """A line of the table. row: accelerator, devices and precision, as rows of training steps state them; sizes:
    numbers and words by name; measured: in `unit`."""

    kind: str
    case: str
    row: Row
    sizes: Mapping[str, str]
    measured: float
    unit: str

    def size(self, name: str) -> int:
        return int(self.sizes[name])


def load(path: Path = MICRO) -> list[Part]:
    """The parts of a table in its order."""
    with path.open(newline="", encoding="utf-8") as file:
        return [_part(cells) for cells in csv.DictReader(file)]


def _part(cells: Mapping[str, str]) -> Part:
    sizes = dict(word.split("=") for word in cells["sizes"].split())
    return Part(cells["kind"], cells["case"], Row(cells), sizes, float(cells["measured"]), cells["unit"])


# --- what a part becomes ----------------------------------------------------------------------------------------------

NOTHING = """model part {
  dim b = 64, d = 64, c = 64
  input x : bf16[b,d]
  weight w[d,c] ~ normal(0.02)
  loss sum(cast(x @ w, master), over (b, c))
}
"""


def text(row: Row, model: str, mesh: Mapping[str, int], splits: Sequence[str] = (), uses: str = "") -> str:
    """A `.par` file of a model on as many of the row's accelerators as the mesh has."""
    device, defined = machines.device(row)
    cluster = machines.cluster(row, device)
    lines = [
        f"use std.devices ({device})" if device != "measured" else "",
        f"use std.layers ({uses})" if uses else "",
        "use std.optimizers (sgd)",
        f"{defined}{model}\n{cluster}strategy measured for part {{",
        f"  mesh ({', '.join(f'{axis} = {n}' for axis, n in mesh.items())})",
        *(f"  {line}" for line in splits),
        "}",
        "job step {",
        "  train part on pod using measured",
        "  optimizer sgd(lr = 0.1)",
        "  precision bf16, master f32",
        "}",
    ]
    return "\n".join(lines) + "\n"


def pricer(row: Row, devices: int) -> Pricer:
    """Of whole servers of the row's accelerator; the axis `on` has neighbouring `devices` of them."""
    total = max(SERVER, devices)
    row = replace(row, facts={**row.facts, "n_dev": str(total), "source": "", "attn": "flash"})  # of no software
    job = text(row, NOTHING, {"other": total // devices, "on": devices}, ["split b on other"])
    return Simulation.of(parc.compile(Source("part.par", job))).pricer()


def passes(job: str, held: float = 1.0, **changes: float) -> dict[str, float]:
    """Seconds of the forward pass (`F`) and the backward pass (`B`) of a job that has no pipeline. held: the share of
    what products reach alone that the device's numbers have."""
    simulation = Simulation.of(parc.compile(Source("part.par", job)))
    cal = of_cluster(simulation.cluster)
    (costs,) = simulation.costs(simulation.pricer(cal.changed(product=cal.product / held, **changes)))
    return {key[0]: sum(s.duration for s in found) / PICOSECONDS for key, found in costs.items()}


# --- predictions, in the unit of the part -----------------------------------------------------------------------------


def held(row: Row) -> float:
    """What products reach in training, held back by power and heat, as a share of what they reach alone."""
    return SUSTAINED * power(machines.sheet(row))


def product(part: Part) -> float:
    """TFLOP/s; without the launch, as many were measured in a row, and not held back by power as in training."""
    work = Product(part.size("m"), part.size("n"), part.size("k"), 1, "bf16", 0)
    found = pricer(part.row, 1)
    seconds = product_seconds(work, found.machine, found.cal.changed(launch=0.0))
    return work.flops / seconds / held(part.row) / 1e12


def all_reduce(part: Part) -> float:
    """Microseconds; in f32, and nothing is cast."""
    found = pricer(part.row, part.row.whole("n_dev"))
    work = Collective("all_reduce", ("on",), part.size("MiB") * 2**20 // 4, 4, "activations", True)
    return collective_seconds(work, found.machine, found.cal) * 1e6


def nccl(part: Part) -> float:
    """Microseconds of one collective alone. Its size is that of the whole: of what all-gathers give and
    reduce-scatters take."""
    found = pricer(part.row, part.row.whole("n_dev"))
    work = Collective(part.sizes["op"], ("on",), part.size("KiB") * 2**10 // 2, 2, "activations", True)
    return collective_seconds(work, found.machine, found.cal) * 1e6


def all_to_all(part: Part) -> float:
    """GB/s: bytes of all copies of positions but for those that share a node (a device, in one node), by time. That is
    what DeepEP calls logical bandwidth: it sends a position once to each node, and passes it on there."""
    devices, active = part.row.whole("n_dev"), part.size("topk")
    found = pricer(part.row, devices)
    size = part.size("seq") * part.size("hidden") * active
    itemsize = 1 if part.row["precision"] == "fp8" else 2
    work = Collective("all_to_all", ("on",), size, itemsize, "activations", True, active)
    seconds = collective_seconds(work, found.machine, found.cal.changed(distinct=1.0))
    domains = devices // SERVER if devices > SERVER else devices
    return size * itemsize * distinct(domains, active) / seconds / 1e9


def layers(part: Part, number: int) -> tuple[str, dict[str, float]]:
    """A job of so many layers with experts, one sample per device; and what differs from the stack's numbers: with
    NCCL's all-to-all each copy goes by itself."""
    sizes = part.sizes
    options = f"active = {sizes['topk']}, capacity = 1.0, shared = {sizes['shared']}, balanced = true"
    call = f"moe(x, {sizes['experts']}, {sizes['ffn']}, {options})"
    model = (
        "model part {\n"
        f"  dim b = {part.row['n_dev']}, s = {sizes['seq']}, d = {sizes['hidden']}\n"
        "  input given : bf16[b,s,d]\n"
        "  weight scale[d] ~ ones\n"
        "  x = given * scale\n"
        f"  repeat {number} as block {{\n    y, balance = {call}\n    x = y\n  }}\n"
        "  loss sum(cast(x, master), over (b, s, d))\n}"
    )
    row = replace(part.row, facts={**part.row.facts, "family": "mcore"})
    job = text(row, model, {"dp": row.whole("n_dev")}, ["split e, b on dp"], "moe")
    return job, {"distinct": float(sizes["dispatcher"] != "a2a")}


def forward(part: Part) -> float:
    """Milliseconds of one layer."""
    return _layer(part, "F")


def backward(part: Part) -> float:
    """Milliseconds of one layer."""
    return _layer(part, "B")


def _layer(part: Part, function: str) -> float:
    few, many = (
        passes(job, held(part.row), **changes)[function] for job, changes in (layers(part, 2), layers(part, 4))
    )
    return (many - few) / 2 * 1e3


def memory(part: Part) -> float:
    """GiB at the peak of one layer, with its weights as they compute: it is measured without an optimizer."""
    job = layers(part, 1)[0].replace("precision bf16, master f32", "precision bf16, master bf16")  # no optimizer
    found = Systems(parc.compile(Source("part.par", job)), fused=True).fullest
    return found.peak.bytes / UNITS["GiB"]


ATTENTION = """model part {
  dim b = BATCH, s = SEQ, d = HEADS * SIZE
  dim h = HEADS, k = SIZE
  input given_q, given_k, given_v : bf16[b,s,d]
  weight scale[d] ~ ones
  q[b,s,h,k] = split(given_q, d -> (h, k)) / sqrt(k)
  key[b,t,h,k] = rename(split(given_k, d -> (h, k)), s -> t)
  value[b,t,h,k] = rename(split(given_v, d -> (h, k)), s -> t)
  scores[b,h,s,t] = q @ key
  mixed[b,s,h,k] = softmax(scores, over t, keep = iota(s) >= iota(t)) @ value
  y = merge(mixed, (h, k) -> d) * scale
  loss sum(cast(y, master), over (b, s, d))
}
"""


def attention(part: Part) -> float:
    """Forward passes per second. What is expressible: heads split by an all-to-all, keys and values gathered, with as
    much to do for each device. A ring whose devices have positions in order waits for the last, who sees them all."""
    if part.size("ring") > 1 and not part.size("balanced"):
        raise Unsupported("a ring that is not balanced")
    model = ATTENTION
    for name in ("batch", "seq", "heads", "size"):
        model = model.replace(name.upper(), part.sizes[name])
    mesh = {"r": part.size("ring"), "u": part.size("ulysses")}
    rules = {"r": "split s on r for activations", "u": "split h, s on u for activations"}
    used = [axis for axis in mesh if mesh[axis] > 1]
    row = replace(part.row, facts={**part.row.facts, "family": "torchtitan"})  # PyTorch, with the same kernel
    job = text(row, model, {a: mesh[a] for a in used}, [rules[a] for a in used], "softmax")
    return 1 / passes(job)["F"]


PREDICT: Mapping[str, Callable[[Part], float]] = {
    "product": product,
    "all_reduce": all_reduce,
    "nccl": nccl,
    "all_to_all": all_to_all,
    "moe_forward": forward,
    "moe_backward": backward,
    "moe_memory": memory,
    "attention": attention,
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("csv", nargs="?", type=Path, default=MICRO)
    parser.add_argument("--kind", choices=PREDICT, help="only parts of this kind")
    parser.add_argument("--rows", action="store_true", help="each part as well")
    options = parser.parse_args(arguments)
    found: dict[str, list[tuple[float, float]]] = {}
    left_out = 0
    for part in load(options.csv):
        if options.kind not in (None, part.kind):
            continue
        try:
            predicted = PREDICT[part.kind](part)
        except Unsupported:
            left_out += 1
            continue
        found.setdefault(part.kind, []).append((predicted, part.measured))
        if options.rows:
            error = predicted / part.measured - 1
            print(
                f"{part.kind:<12} {part.case:<60} {predicted:>9.4g} {part.measured:>9.4g} {part.unit:<8} {error:>+7.1%}"
            )
    print(table("part", found))
    print(f"\n{left_out} have no words in the language")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
