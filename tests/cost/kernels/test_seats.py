"""What a mixture of experts needs to compute is that of the copies that its experts get, whatever room there is."""

from __future__ import annotations

import pytest

from compiler.cost.kernels.flops import model_flops
from compiler.cost.kernels.seats import occupied
from compiler.driver import compile_job, run_passes
from compiler.evaluate import evaluate
from compiler.passes.differentiate import differentiate
from compiler.walk import graph_values
from dsl.source import Source
from parc.estimate import estimate

B, S, D, F, E = 4, 16, 8, 12, 8

MIXTURE = """\
use std.layers
use std.optimizers (sgd)
use std.devices (h100)

model mixture {{
  dim b = {b}, s = {s}, d = {d}
  input x : f32[b,s,d]
  total = zeros(dtype = master)
  repeat 3 as block {{
    y, odds = moe(x, {e}, {f}{options})
    x = x + y
    total = total + odds
  }}
  loss mean(x * x) + 0.01 * total
}}

strategy apart for mixture {{
  mesh (ep = 2)
  split e, b on ep
}}

cluster pod {{
  device gpu = h100
  level server = 2 gpu over 450 GB/s, 1 us
}}

job fit {{
  train mixture on pod using apart
  optimizer sgd(lr = 0.1)
}}
"""


def flops_of(options: str) -> float:
    text = MIXTURE.format(b=B, s=S, d=D, e=E, f=F, options=options)
    return model_flops(run_passes(evaluate(Source("m.par", text)), "update").training)


@pytest.mark.parametrize("active", (1, 2, 4))
@pytest.mark.parametrize(
    "options",
    (
        "",
        ", renormalise = true, scale = 2.0",
        ", sigmoid = true, shared = 8",
        ", bounded = true",
        ", balanced = true",
        ", groups = 4, limit = 2, sigmoid = true",
        ", pieces = 4",
    ),
)
def test_empty_seats_are_no_need(active: int, options: str) -> None:
    just = flops_of(f", active = {active}, capacity = 1.0{options}")
    for capacity in (1.5, 2.0, E / active):  # the last has a seat for each position at each expert
        assert flops_of(f", active = {active}, capacity = {capacity}{options}") == pytest.approx(just, rel=1e-12)


def test_it_is_what_the_copies_need() -> None:
    router, experts = 2 * D * E, 3 * 2 * 2 * D * F  # of a position, of which there are two copies
    first = 2 * 2 * 2 * D * F  # the gradient of data is no need: of the first layer's gate and up
    per_position = 3 * 3 * (router + experts) - router - first
    assert flops_of(", active = 2, capacity = 4.0") == pytest.approx(B * S * per_position, rel=1e-12)


def test_what_is_dropped_is_not_computed() -> None:
    """Fewer seats than copies: hardware computes no fewer products than the model is said to need."""
    text = MIXTURE.format(b=B, s=S, d=D, e=E, f=F, options=", active = 4, capacity = 0.5")
    found = estimate(compile_job(evaluate(Source("m.par", text)))).timeline
    assert found.flops_model <= found.flops_hardware
    assert flops_of(", active = 4, capacity = 0.5") < flops_of(", active = 4, capacity = 1.0")


OTHERS = {
    "a table behind a table": "z = take(rows, take(table, i, over v), over v)",
    "padding": "z = take(rows, where(i > 0, i, -1), over v)",
    "counted, with positions of its own": """n = scatter_add(ones(i, dtype = int32), i, s -> v)
  z = take(rows, where(iota(s) < take(n, i, over v), i, -1), over v)""",
    "a full row beside an empty one": """n = scatter_add(ones(i, dtype = int32), i, s -> v)
  seat = where(iota(q) < n, iota(q), -1)
  found = take(rows, rename(seat, v -> u), over v) + full(1.0, b, u, q, d)
  z = take(rows, i, over v) + sum(found, over (u, q))""",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_indices_leave_nothing_empty(name: str) -> None:
    text = f"""
use std.optimizers (sgd)
model m {{
  dim b = 4, s = 64, d = 8, f = 4, v = 8, q = 64, u = 8
  input i : int32[b,s] in 0..v
  input table : int32[v] in 0..v
  weight rows[v,d], w[d,f]
  {OTHERS[name]}
  y[b,s,f] = z @ w
  loss mean(y * y)
}}
job fit {{
  train m
  optimizer sgd(lr = 0.1)
}}
"""
    job = evaluate(Source("m.par", text))
    found = differentiate(job.model)
    known = occupied((found.forward, found.backward))
    assert model_flops(run_passes(job, "update").training) == 3 * 2 * 4 * 64 * 8 * 4
    assert all(0 < s.share < 1 for s in known.values())


def test_only_values_with_these_rows_have_them() -> None:
    text = MIXTURE.format(b=B, s=S, d=D, e=E, f=F, options=", active = 2, capacity = 4.0")
    found = differentiate(evaluate(Source("m.par", text)).model)
    known = occupied((found.forward, found.backward))
    values = [v for g in (found.forward, found.backward) for v in graph_values(g)]
    assert sum(v in known for v in values) > 30  # of both passes
    for v in values:
        if v in known:
            assert known[v].dims <= set(v.type.names) and known[v].share == 2 / E
