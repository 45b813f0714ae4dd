"""Models with states, and strategies for them."""

from __future__ import annotations

from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate_file
from compiler.model import TRAIN_STEP, Precision
from dsl.source import Source

DOUBLE = Precision("f64", "f64")

HEAD = "use std.layers\nuse std.optimizers\nuse std.states\nuse std.tactics\n\n"

CACHES = """\
fn remembered(x[b,s,d], seen) {
  dim t = 6, k = 3, h = d // k
  state keys : compute[b,t,h,k] ~ normal(0.5)
  state values : compute[b,t,h,k] ~ normal(0.5)
  weight wq[d,h,k], wk[d,h,k], wv[d,h,k], wo[h,k,d] ~ normal(0.3)
  q[b,s,h,k] = x @ wq
  keys = push(keys, x @ wk, seen, over s, over t)
  values = push(values, x @ wv, seen, over s, over t)
  shares = softmax(sum(q * keys, over k), t)
  mixed[b,s,h,k] = shares @ values
  y[b,s,d] = mixed @ wo
  return y
}

model net {
  dim b = 8, s = 4, d = 12
  input x : compute[b,s,d]
  state seen : int32
  h = x
  repeat 4 as block {
    h = h + remembered(layer_norm(h), seen)
  }
  seen = seen + s
  loss mean(h * h)
}
"""
"""Each layer of a rolled loop renews a part of its own, at a place that all of them read."""

MANY = """\
model net {
  dim b = 8, d = 4, s = 2
  dim page = 3, n = 2, slot = 4, row = page * slot, all = n * slot
  input x : compute[b,s,d]
  input table : int32[b,n] in 0..page
  weight w[d] ~ ones
  state seen[d]
  state pool : compute[b,row,d] ~ normal(0.1)
  state one, two : compute[b,d] ~ normal(0.3)
  state total : compute[b,d] ~ normal(0.3)
  state flag : bool[b,d]
  state at : int32
  old = one
  one = two
  two = old
  if training {
    seen = 0.9 * seen + 0.1 * mean(mean(cast(x, master), over b), over s)
  }
  y = x * w + cast(seen, compute)
  flag = mean(y, over s) > 0.5 and not flag
  pool = scatter(pool, y, paged(table, iota(s, start = at) % all, over n, slot), over row)
  context = take(pool, paged(table, iota(all), over n, slot), over row)
  at = at + s
  h = mean(y, over s) + mean(where(written(at, over all), context, 0.0), over all) + where(flag, one, two)
  repeat 3 as block {
    total = 0.5 * total + h
    h = tanh(total)
  }
  output h, total
  loss mean(h * h) + mean(one * two) + mean(total)
}
"""
"""A statistic of data, a pool with a table of pages, two states that change places, one that a loop carries, flags, and
a position."""

ACROSS = """\
model net {
  dim b = 4, d = 8, e = 6
  input x : compute[b,d]
  weight w[d,e] ~ normal(0.5)
  state mixed : compute[e,d] ~ normal(0.5)
  state sums[e]
  u[b,e] = x @ w
  mixed[e,d] = 0.5 * mixed + 0.1 * (u @ x)
  sums = sums + cast(sum(u, over b), master)
  z[b,e] = x @ mixed
  loss mean(z * u) + 0.01 * cast(mean(sums), compute)
}
"""
"""What is made of the whole batch goes into states."""

TURNS = """\
model net {
  dim b = 4, d = 6
  input x : compute[b,d]
  weight w[d] ~ ones
  state one, two, three : compute[b,d] ~ normal(0.5)
  y = x * w
  repeat 2 as round {
    old = one
    one = two
    two = three
    three = old
    y = tanh(y + one)
  }
  loss mean(y * y) + mean(one * two)
}
"""
"""A loop that carries three states round."""

TWO = """\
model tower(layers) {
  dim b = 8, s = 4, d = 12
  input x : compute[b,s,d]
  state seen : int32
  h = x
  repeat layers as block {
    h = h + remembered(layer_norm(h), seen)
  }
  seen = seen + s
  output h
  loss mean(h * h)
}

model net {
  dim b = 8, s = 4, d = 12
  input x : compute[b,s,d]
  weight w[d] ~ ones
  h = tower(4, x = x * w) as student
  aim = tower(2, x = x) as teacher
  loss mean((h - aim) * (h - aim))
}
"""
"""Two models with states, of which both loops are cut."""

MODELS = {"two": CACHES.split("model net")[0] + TWO, "turns": TURNS, "caches": CACHES, "many": MANY, "across": ACROSS}

STRATEGIES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "alone": ("caches", "one = 1", ()),
    "data": ("caches", "dp = 2", ("split b on dp",)),
    "accumulation": ("caches", "dp = 2", ("split b on dp", "microbatches 4 over b")),
    "heads": ("caches", "dp = 2, tp = 2", ("split b on dp", "split h on tp", "microbatches 2 over b")),
    "places": ("caches", "tp = 2", ("split t on tp",)),
    "uneven": ("caches", "tp = 5", ("split t on tp for activations pad",)),
    "recompute": ("caches", "tp = 2", ("split h on tp", "recompute block", "microbatches 2 over b")),
    "recompute_all": ("caches", "dp = 2", ("split b on dp", "recompute")),
    "pipeline": (
        "caches", "pp = 2, dp = 2, tp = 2",
        ("split b on dp", "split h on tp", "shard optimizer on dp", "recompute block",
         "pipeline block on pp, schedule one_f_one_b(microbatches = 4)"),
    ),
    "gpipe": ("caches", "pp = 4", ("pipeline block on pp, schedule gpipe(microbatches = 2)",)),
    "interleaved": (
        "caches", "pp = 2, dp = 2",
        ("split b on dp", "shard optimizer, gradients, weights on dp",
         "pipeline block on pp, schedule interleaved(microbatches = 4, chunks = 2)"),
    ),
    "zero_bubble": (
        "caches", "pp = 2, tp = 2",
        ("split h on tp", "pipeline block on pp, schedule zero_bubble(microbatches = 4)"),
    ),
    "many_alone": ("many", "one = 1", ()),
    "many_accumulation": ("many", "dp = 2", ("split b on dp", "microbatches 2 over b", "recompute")),
    "many_columns": ("many", "dp = 2, tp = 2", ("split b on dp", "split d on tp", "microbatches 2 over b")),
    "many_rows": ("many", "cp = 2", ("split row on cp",)),
    "many_pages": ("many", "cp = 2", ("split n, row on cp", "recompute block")),
    "turns": ("turns", "dp = 2", ("split b on dp", "microbatches 2 over b")),
    "two": (
        "two", "pp = 2",
        ("pipeline student.block on pp, schedule one_f_one_b(microbatches = 2)", "pipeline teacher.block on pp"),
    ),
    "across_data": ("across", "dp = 4", ("split b on dp",)),
    "across_both": ("across", "dp = 2, tp = 2", ("split b on dp", "split e, d on tp")),
}  # fmt: skip
"""By name: the model, the axes, the rules."""


def text(model: str, axes: str = "one = 1", rules: tuple[str, ...] = (), precision: str = "") -> str:
    """A file."""
    lines = "".join(f"  {r}\n" for r in rules)
    precision += "  frozen teacher\n" if "as teacher" in model else ""
    return (
        f"{HEAD}{model}\nstrategy plan for net {{\n  mesh ({axes})\n{lines}}}\n\n"
        f"job fit {{\n  train net using plan\n  optimizer adamw(lr = 0.01)\n{precision}}}\n"
    )


def compiled(name: str, precision: Precision | None = DOUBLE, entry: str = TRAIN_STEP) -> Compiled:
    """A strategy's program."""
    model, axes, rules = STRATEGIES[name]
    return compile_text(text(MODELS[model], axes, rules), precision, entry)


def compile_text(given: str, precision: Precision | None = DOUBLE, entry: str = TRAIN_STEP) -> Compiled:
    """The program of a file."""
    return compile_job(evaluate_file(Source("net.par", given), precision=precision).job, entry)
