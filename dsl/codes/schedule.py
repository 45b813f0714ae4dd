"""Codes E05xx: pipeline, schedule, micro-batches."""

from __future__ import annotations

from dsl.codes.code import Code

_PIPE = "pipeline block on pp, schedule gpipe(microbatches = 2)"
_ROOT = "sqrt(mean(z * z))"
_TWO_PASSES = "microbatches 2 over b, two passes"
_PROLOGUE = "  weight e[d,k], f[k,d]\n  p[b,d] = (x @ e) @ f\n"

_SCAN = """\
use std.optimizers (sgd)

model net() {
  dim b = 4, s = 8, d = 4
  input x : f32[b, s, d]
  weight w[d] ~ ones
  h = zeros(b, d)
  scan over s as cell {
    h = tanh(h * w + x)
  }
  loss mean(h * h)
}
strategy plan for net {
  mesh (p = 2)
  RULE
}
job fit {
  train net() using plan
  optimizer sgd(lr = 0.1)
}
"""

_TABLE = """\
use std.optimizers (rowwise_adagrad)

model net() {
  dim b = 8, u = 100, d = 4
  input user : int32[b] in 0..u
  input x : f32[b, d]
  weight table[u, d] ~ normal(0.1)
  loss mean((take(table, user, over u) - x) ** 2)
}
strategy plan for net {
  mesh (dp = 2)
  split b on dp
  RULE
}
job fit {
  train net() using plan
  optimizer rowwise_adagrad(lr = 0.1)
}
"""

_HOSTS = """\
use std.devices (a100_80)

cluster pod {
  device gpu = a100_80
  level box = 2 gpu over 300 GB/s, 2 us
  host memory 512 GiB, 200 GB/s over 25 GB/s
  COMPUTE
}
""" + _TABLE.replace("using", "on pod using").replace("RULE", "run update on host")

_STATE = """\
use std.optimizers (sgd)

model net() {
  dim b = 8, d = 4
  input x : f32[b, d]
  weight w[d] ~ ones
  state seen[d]
  h = x * w + seen
  seen = NEW
  loss mean(h * h)
}
strategy plan for net {
  mesh (dp = 2)
  split b on dp
  microbatches 2 over b
}
job fit {
  train net() using plan
  optimizer sgd(lr = 0.1)
}
"""

_STATE_OF_STAGES = """\
use std.optimizers (sgd)

model net() {
  dim b = 8, d = 4
  input x : f32[b, d]
  OUTSIDE
  repeat 4 as block {
    INSIDE
    weight w[d] ~ ones
    h = tanh(x * w + last)
    last = h
    x = h
  }
  loss mean(x * x)
}
strategy plan for net {
  mesh (pp = 2)
  pipeline block on pp, schedule gpipe(microbatches = 2)
}
job fit {
  train net() using plan
  optimizer sgd(lr = 0.1)
}
"""


def _file(rules: str, *, loss: str = "mean(z)", devices: int = 2, batch: int = 8, c: int = 8, more: str = "") -> str:
    """A whole file around the rules of a strategy, for a model with a loop `block` of 8 and two towers."""
    lines = "".join(f"  {line}\n" for line in rules.split("\n"))
    return f"""\
use std.devices (a100_80)
use std.optimizers (sgd)

model net() {{
  dim b = {batch}, c = {c}, d = 4, k = 7
  input x : f32[b, d]
  input q : f32[c, d]
  y = left(x)
  z = right(y)
{more}  repeat 8 as block {{
    z = tanh(scale(z))
    repeat 2 as again {{
      z = sin(z)
    }}
  }}
  loss {loss} + mean(q)
}}
fn left(x[b, d]) {{
  weight g[d] ~ ones
  return x * g
}}
fn right(x[b, d]) {{
  weight g[d] ~ ones
  return x * g
}}
fn scale(x[b, d]) {{
  weight g[d] ~ ones
  return x * g
}}
cluster server(devices) {{
  device gpu = a100_80
  level node = devices gpu over 300 GB/s, 2 us
}}
strategy plan for net {{
  mesh (pp = {devices})
{lines}}}
job fit {{
  train net() using plan
  optimizer sgd(lr = 0.1)
}}
"""


def _update(step: str) -> str:
    """A whole file around the step of an optimizer, for gains of a loop that is cut into two stages."""
    return f"""\
fn turned(x[r, c]) {{
  return flip(x, over r)
}}
optimizer mine(lr) {{
  w = w - lr * {step}
}}
model net() {{
  dim b = 8, d = 4
  input x : f32[b, d]
  repeat 4 as block {{
    weight g[d] ~ ones
    x = tanh(x * g)
  }}
  loss mean(x)
}}
strategy plan for net {{
  mesh (pp = 2)
  pipeline block on pp, schedule gpipe(microbatches = 2)
}}
job fit {{
  train net() using plan
  optimizer mine(lr = 0.1)
}}
"""


CODES: tuple[Code, ...] = (
    Code(
        "E0501",
        "micro-batches that do not divide",
        "Every tensor with the dim that micro-batches split is split in equal parts, unless `microbatches` ends with\n"
        "`pad`: the last part may then be smaller. What a model takes `per microbatch` is of equal parts always.",
        _file("microbatches 2 over b", devices=1, c=3, loss="mean(z) + mean(rename(q, c -> b))"),
        _file("microbatches 2 over b", devices=1, c=8, loss="mean(z) + mean(rename(q, c -> b))"),
    ),
    Code(
        "E0502",
        "a value of the whole batch",
        "Micro-batches run one after the other. Sums and means over the batch are added up at the end of the step;\n"
        "sums and maxima of what depends on data alone are taken over the whole batch before the first of them, and\n"
        "metrics are made of sums and maxima at the end. Where weights are involved, what a loss needs of the whole\n"
        "batch before that (a maximum over it, a product of two means) cannot be had; nor can what needs samples side\n"
        "by side (`cumsum` over the batch). A model may say that each micro-batch has its own: `mean(x, over b per\n"
        "microbatch)`.",
        _file("microbatches 2 over b", devices=1, loss="max(z)"),
        _file("microbatches 2 over b", devices=1, loss="mean(z)"),
    ),
    Code(
        "E0540",
        "a dim that does not divide",
        "A dim is split in equal parts: over the devices of all axes that split it, and the micro-batches. Where\n"
        "uneven parts are meant, the rule says `pad`: each axis cuts what the axes before it have left into parts of\n"
        "equal length, rounded up, and the last devices then have less to do.",
        _file("split b on pp", batch=7),
        _file("split b on pp pad", batch=7),
    ),
    Code(
        "E0542",
        "a rule without effect",
        "A rule that changes nothing is not what its author believes: no tensor of its classes and scope has one of\n"
        "the dims; no dim of a weight divides by the axis of `shard`; no gradient is a sum over that of `reduce`, or\n"
        "all are split on it; `recompute` names what is not computed, `keep` what no rule computes again; earlier\n"
        "rules say all of it. A tactic may hold such rules, if others of their kind do something.",
        _file("split b on pp for weights"),
        _file("split d on pp for weights"),
    ),
    Code(
        "E0552",
        "a place on one axis only, parts in another order",
        "Where several axes of a mesh are places, what is placed or cut has one on each but the pipeline's, by a rule\n"
        "of its own or of a scope around it. Values pass through the parts of a row (`pipeline encoder, decoder`) in\n"
        "its order. Rows of several `pipeline`s in one place all begin in the first stage and end in the last: none\n"
        "may need what another makes.",
        _file(f"{_PIPE}\nplace left on dp[0]").replace("(pp = 2)", "(pp = 2, dp = 2)"),
        _file(f"{_PIPE}\nplace left on pp[0]"),
    ),
    Code(
        "E0553",
        "a pipeline through an inner loop",
        "To cut a loop that stands in another, the outer one is taken apart: each of its iterations stands by\n"
        "itself, and what is cut is the row of the inner loops. The outer one is a `repeat` at the top of the model,\n"
        "of at most 64 iterations, and the other stands directly in it.",
        _file("pipeline again on pp, schedule gpipe(microbatches = 2)").replace("repeat 8", "repeat 80"),
        _file("pipeline again on pp, schedule gpipe(microbatches = 2)"),
    ),
    Code(
        "E0554",
        "an optimizer that reads all iterations of a loop that is cut",
        "A weight of a loop is one tensor with the loop's dim first, of which each stage of a pipeline holds its own\n"
        "iterations. An optimizer may take each iteration by itself, and sums, means, norms and maxima over all of\n"
        "them, which the stages take together. What needs them side by side (a cumulative sum, an order, products of\n"
        "one iteration with another) has no stage to run on.",
        _update("turned(g)"),
        _update("(g - mean(g))"),
    ),
    Code(
        "E0559",
        "work that several devices repeat",
        "What is made from data and weights alone can be made by each stage that reads it: `place SCOPE on AXIS` says\n"
        "so in a pipeline, and of places it is what happens to what has none. For a mask that costs less than to send\n"
        "it; for an encoder, or any product, it does not. This is a warning where it is more than 1 % of the products\n"
        "of the model. Without that line one stage makes it, and hands it on; of places, `place` says which.\n"
        "Devices along any other axis repeat a product of which no dim is split there. That is told from 10 % on:\n"
        "small products are whole on purpose. A `split` of one of its dims shares it out: of experts, where the axis\n"
        "splits positions, `split e, s` (or `moe(…, pieces = n)` and `split s, p`).",
        _file(f"{_PIPE}\nplace p on pp", more=_PROLOGUE).replace("scale(z))", "scale(z)) + p"),
        _file(_PIPE, more=_PROLOGUE).replace("scale(z))", "scale(z)) + p"),
    ),
    Code(
        "E0560",
        "a scan over a split dim",
        "A `scan` goes from position to position, each of which waits for the one before. Where the dim is split, its\n"
        "pieces are gathered, and all devices along the axis do the same work. This is a warning: other parts of the\n"
        "model may well gain by the split.",
        _SCAN.replace("RULE", "split s on p"),
        _SCAN.replace("RULE", "split b on p"),
    ),
    Code(
        "E0561",
        "a state of several stages",
        "A state lies where it is renewed, and is read there. One that is declared in the loop that a pipeline cuts\n"
        "is a stack with a slice per iteration: each stage has those of its own. One that is renewed from states and\n"
        "data alone (a position that goes up) lies on every stage that reads it.",
        _STATE_OF_STAGES.replace("OUTSIDE", "state last[b, d]").replace("    INSIDE\n", ""),
        _STATE_OF_STAGES.replace("INSIDE", "state last[b, d]").replace("  OUTSIDE\n", ""),
    ),
    Code(
        "E0562",
        "a state of the whole batch",
        "A strategy never changes what is computed. Micro-batches run one after the other: a state with the dim that\n"
        "they divide is divided with it, and each renews its own part. One without that dim is read by all of them as\n"
        "it was before the step. Sums and means over the batch, added and scaled, are added up and renew it once,\n"
        "behind the last micro-batch; anything else that all of them make together no micro-batch has.",
        _STATE.replace("NEW", "sqrt(mean(h * h, over b))"),
        _STATE.replace("NEW", "mean(h * h, over b)"),
    ),
    Code(
        "E0563",
        "two passes through places that have several stages",
        "With `two passes` all micro-batches compute what the loss needs of the whole batch before the first of them,\n"
        "one after the other from stage to stage. Where values come back to places, it takes a pipeline to say in\n"
        "which order, of one way through the model.",
        _file(f"place left on pp[0]\nplace right on pp[1]\nplace block on pp[0]\n{_TWO_PASSES}", loss=_ROOT),
        _file(f"pipeline block on pp, schedule interleaved(chunks = 2)\n{_TWO_PASSES}", loss=_ROOT),
    ),
    Code(
        "E0570",
        "a distance that nothing can be fetched ahead",
        "What rests in another memory is moved to the device before it is read. `prefetch` says how many weights (or\n"
        "iterations of a loop) ahead: so many more stand in the device's memory, while those before are computed.\n"
        "`prefetch 0` moves each when it is read.",
        _file("split b on pp\noffload optimizer to host prefetch -1").replace("lr = 0.1", "lr = 0.1, momentum = 0.9"),
        _file("split b on pp\noffload optimizer to host prefetch 2").replace("lr = 0.1", "lr = 0.1, momentum = 0.9"),
    ),
    Code(
        "E0571",
        "rows that would be fetched ahead",
        "Rows of a table that rests in another memory are fetched by their numbers, which come with the data of the\n"
        "step: as soon as they are known, beside the computation. There is nothing to fetch before that.",
        _TABLE.replace("RULE", "offload rows to host prefetch 2"),
        _TABLE.replace("RULE", "offload rows to host"),
    ),
    Code(
        "E0572",
        "hosts of which nobody knows what they compute",
        "`run … on host` computes on the servers' processors. What that costs depends on how fast they are: the\n"
        "cluster says so beside their memory, `host compute 3 TFLOP/s`, of all processors of a server.",
        _HOSTS.replace("  COMPUTE\n", ""),
        _HOSTS.replace("COMPUTE", "host compute 3 TFLOP/s"),
    ),
    Code(
        "E0573",
        "what cannot run elsewhere",
        "`run` says what the servers' processors compute: `update`, the optimizer's for the weights of the scope, and\n"
        "`take`, of rows of tables that rest in their memory. All else is computed by the devices, and nothing is\n"
        "computed on disks.",
        _TABLE.replace("RULE", "run update on nvme"),
        _TABLE.replace("RULE", "run update on host"),
    ),
    Code(
        "E0575",
        "a cache of a table of which more than rows is needed",
        "`offload rows to host cache N` keeps rows of a table with the devices: those that are looked up and renewed.\n"
        "An optimizer that changes all rows moves the table as a whole; rows that the hosts look up are not kept\n"
        "elsewhere; and they lie along the table's first dim.",
        _TABLE.replace("RULE", "offload rows to host cache 32").replace("rowwise_adagrad", "adam"),
        _TABLE.replace("RULE", "offload rows to host cache 32"),
    ),
    Code(
        "E0576",
        "a cache that has no such rows",
        "A cache is of `rows`, and in sets of 32: a row stands in any place of its set, in that of the one used least\n"
        "recently. So many rows of each table are kept by each device, or all, if there are not so many.",
        _TABLE.replace("RULE", "offload rows to host cache 50"),
        _TABLE.replace("RULE", "offload rows to host cache 64"),
    ),
    Code(
        "E0577",
        "a share of rows that is none",
        "`hits` says which share of the rows looked up a device has in its cache: `parc run` measures it. The\n"
        "price goes by it; without the word all rows of a table are taken to be asked for alike often.",
        _TABLE.replace("RULE", "offload rows to host cache 64 hits 90"),
        _TABLE.replace("RULE", "offload rows to host cache 64 hits 0.9"),
    ),
)
