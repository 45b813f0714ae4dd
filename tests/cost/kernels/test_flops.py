"""What a model needs to compute is one number, however its strategy spreads it, and more than once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from compiler.cost.kernels.flops import model_flops, program_flops
from compiler.cost.kernels.seats import Seats, occupied
from compiler.driver import compile_job, run_passes
from compiler.evaluate import evaluate
from compiler.graph import Node, Value
from compiler.model import Model
from compiler.ops.call import Call
from compiler.ops.contract import Contract
from compiler.ops.repeat import Repeat
from compiler.passes.differentiate import differentiate
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc import api
from tests.property.draw_strategy import draw

CASES = Path(__file__).parent / "cases"
EXAMPLES = Path(__file__).parents[3] / "examples"

MODEL = """\
use std.optimizers (sgd)

model net {{
  dim b = 8, d = 6, f = 9
  input x : f32[b,d]
  input t : f32[b,d]
  weight w1[d,f] ~ normal(0.1)
  weight w2[f,d] ~ normal(0.1)
  y[b,d] = relu(x @ w1) @ w2
  loss sum((y - t) * (y - t), over (b, d))
}}

device npu {{
  compute f32 1 TFLOP/s
  memory 1 GB, 100 GB/s
}}

cluster pod {{
  device npu = npu
  level server = 4 npu over 10 GB/s, 1 us
}}

strategy s for net {{
  mesh (p = 2, q = 2)
{rules}}}

job fit {{
  train net on pod using s
  optimizer sgd(lr = 0.1)
  precision f32
}}
"""
FORWARD = 2 * 2 * 8 * 6 * 9
NEEDED = 2 * FORWARD + FORWARD // 2
"""Forward, gradients of both weights, and that of what is between them: nobody needs that of `x`."""


@pytest.mark.parametrize(
    "rules, computed",
    [
        ("", 4 * NEEDED),  # all devices alike
        ("split b on p", 2 * NEEDED),
        ("split b on p\nsplit d on q", NEEDED),
        ("split b on p\nsplit b on q\nmicrobatches 2 over b", NEEDED),
        ("split b on p\nsplit f on q pad", NEEDED * 10 / 9),
    ],
)
def test_products_that_devices_compute_alike_are_needed_once(rules: str, computed: float) -> None:
    text = MODEL.format(rules="".join(f"  {line}\n" for line in rules.splitlines()))
    t = api.cost(Source("net.par", text)).timeline
    assert t.flops_model == NEEDED
    assert t.flops_hardware == pytest.approx(computed)
    assert t.mfu == pytest.approx(NEEDED / (t.step_seconds * 4e12))
    assert t.hfu == pytest.approx(computed / (t.step_seconds * 4e12))


@pytest.mark.parametrize(
    "name, options",
    [
        ("resnet", {"sp": 2}),  # borders of bands
        ("resnet", {"dp": 2, "sp": 4, "sx": 2, "microbatches": 2}),
        ("recsys", {"dp": 4}),
        ("gpt", {"pp": 2, "tp": 2, "dp": 2, "microbatches": 4, "zero": 3}),
        ("towers", {"dp": 2}),
    ],
)
def test_what_a_model_needs_does_not_depend_on_the_strategy(name: str, options: dict[str, int]) -> None:
    file = EXAMPLES / f"{name}.par"
    serial, split = api.cost(file).timeline, api.cost(file, params=options).timeline
    assert split.flops_model == serial.flops_model <= split.flops_hardware * (1 + 1e-12)


@pytest.mark.parametrize("name", ["gpt", "llama", "resnet", "recsys", "towers"])
def test_what_a_model_needs_does_not_depend_on_recompute(name: str) -> None:
    """Nor where the first layer needs no gradient of its input, or a stage makes again what another made."""
    text = (EXAMPLES / f"{name}.par").read_text()
    again = re.sub(r"(\nstrategy [^\n]*\n  mesh[^\n]*\n)", r"\1  recompute\n", text, count=1)
    assert again != text
    plain, made = (api.cost(Source(f"{name}.par", t)).timeline for t in (text, again))
    assert made.flops_model == plain.flops_model and made.flops_hardware > 1.1 * plain.flops_hardware


def test_one_sample_per_device_is_as_much_work() -> None:
    """A product of one row and one column is no work for the matrix unit, but still what the model needs."""
    file = EXAMPLES / "recsys.par"
    whole = api.cost(file, params={"batch": 8}).timeline
    assert api.cost(file, params={"batch": 8, "dp": 8}).timeline.flops_model == whole.flops_model


@pytest.mark.parametrize("case", sorted(CASES.glob("flops_*.par")), ids=lambda path: path.stem)
def test_the_checks_of_a_case_hold(case: Path) -> None:
    """A prologue that every stage computes; pieces of one row and one column."""
    api.check(case)


class Unrolled:
    """Every iteration written out: what each step is made from, and its FLOPs. seats: of buffers with empty ones."""

    def __init__(self, seats: Mapping[Value, Seats]) -> None:
        self.seats = seats
        self.steps: list[tuple[tuple[int, ...], float]] = []

    def step(self, operands: Iterable[int], flops: float = 0.0) -> int:
        self.steps.append((tuple(operands), flops))
        return len(self.steps) - 1

    def run(self, nodes: Sequence[Node], env: dict[Value, int]) -> None:
        for node in nodes:
            operands = [env[v] for v in node.inputs]
            if isinstance(node.op, Repeat):
                made = self.loop(node.op, operands)
            elif isinstance(node.op, Call):
                inner = dict(zip(node.op.body.inputs, operands, strict=True))
                self.run(node.op.body.nodes, inner)
                made = [inner[v] for v in node.op.body.outputs]
            else:
                types = [v.type for v in (*node.inputs, *node.outputs)]
                flops = 0.0
                if isinstance(node.op, Contract):
                    left, right, out = types
                    rows = any(d.size > 1 and out.has(d.name) and not right.has(d.name) for d in left.dims)
                    columns = any(d.size > 1 and out.has(d.name) and not left.has(d.name) for d in right.dims)
                    flops = node.op.flops(types[:2]) if rows or columns else 0.0
                    flops *= min((float(self.seats[v].share) for v in node.inputs if v in self.seats), default=1.0)
                made = [self.step(operands, flops)] * len(node.outputs)
            env.update(zip(node.outputs, made, strict=True))

    def loop(self, op: Repeat, operands: Sequence[int]) -> list[int]:
        carried = list(operands[: op.carries])
        stacks: list[list[int]] = [[] for _ in op.body.outputs[op.carries :]]
        for _ in range(op.count):
            env = dict(zip(op.body.inputs, (*carried, *operands[op.carries :]), strict=True))
            self.run(op.body.nodes, env)
            found = [env[v] for v in op.body.outputs]
            carried = found[: op.carries]
            for stack, piece in zip(stacks, found[op.carries :], strict=True):
                stack.append(piece)
        return [*carried, *map(self.step, stacks)]

    def needed(self, outputs: Iterable[int]) -> float:
        wanted, total = set(outputs), 0.0
        for at in range(len(self.steps) - 1, -1, -1):
            if at in wanted:
                operands, flops = self.steps[at]
                wanted.update(operands)
                total += flops
        return total


def written_out(model: Model) -> float:
    """FLOPs of a model's products, of loops written out, less what no output needs."""
    total = 0.0
    graphs = differentiate(model)
    seats = occupied((graphs.forward, graphs.backward))
    for graph in (graphs.forward, graphs.backward):
        unrolled = Unrolled(seats)
        env = {v: unrolled.step(()) for v in graph.inputs}
        unrolled.run(graph.nodes, env)
        total += unrolled.needed(env[v] for v in graph.outputs)
    return total


@pytest.mark.parametrize("seeds", [range(30), pytest.param(range(30, 400), marks=pytest.mark.nightly)], ids=str)
def test_no_strategy_of_a_drawn_model_computes_less_than_it_needs(seeds: range) -> None:
    """And what it needs is that of its loops written out."""
    compared = 0
    for seed in seeds:
        try:
            job = evaluate(Source("drawn.par", draw(seed).text))
            compiled = compile_job(job)
        except ParcError:
            continue
        needed = model_flops(compiled.training)
        assert needed == pytest.approx(written_out(job.model), rel=1e-12), seed
        assert needed <= sum(program_flops(compiled.program).values()), seed
        compared += 1
    assert compared > 0.6 * len(seeds)


SWAPPED = """\
use std.optimizers (sgd)

model m {{
  dim b = 4, d = 8, e = 8
  input x : f32[b,d]
  weight first[d,e], last[e,d]
  y = x
  z[b,d] = (x @ first) @ last
  repeat {count} as block {{
    weight w[d,e] ~ normal(0.3)
    weight v[e,d] ~ normal(0.3)
    u[b,d] = (y @ w) @ v
    y = z
    z = u
  }}
  loss mean(y * y)
}}

strategy s for m {{
  mesh (p = 1)
}}

job fit {{
  train m using s
  optimizer sgd(lr = 0.01)
}}
"""


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8])
def test_what_an_iteration_needs_may_come_round_again(count: int) -> None:
    """Two variables that change places: only every second iteration counts, and another one than of a loop longer by
    one."""
    job = evaluate(Source("swapped.par", SWAPPED.format(count=count)))
    assert model_flops(run_passes(job, "update").training) == written_out(job.model)


def test_what_a_model_needs_is_found_at_once_however_many_layers() -> None:
    jobs = (evaluate(Source("s.par", SWAPPED.format(count=n))) for n in (2, 4, 2_000_000))
    two, four, many = (model_flops(run_passes(job, "update").training) for job in jobs)
    assert many == two + (2_000_000 - 2) // 2 * (four - two)
