"""Codes E04xx: strategy, layout, placement."""

from __future__ import annotations

from dsl.codes.code import Code


def _file(rules: str, *, on: str = "", before: str = "", mesh: str = "") -> str:
    """A whole file around the rules of a strategy, for a model with dims b, d, f and a loop `block` of 4.

    Without a `mesh` it has the axes dp and tp, if they are named, of two devices each.
    """
    mesh = mesh or ", ".join(f"{axis} = 2" for axis in ("dp", "tp") if axis in rules) or "dp = 1"
    lines = "".join(f"  {line}\n" for line in rules.split("\n"))
    return f"""\
use std.devices (a100_80)
use std.optimizers (sgd)
use std.tactics (tensor_parallel)

model net() {{
  dim b = 8, d = 16, f = 32
  input x : f32[b, d]
  y = x
  repeat 4 as block {{
    y = y + mlp(y, 32)
  }}
  loss mean(y)
}}
fn mlp(x[b, d], width) {{
  dim f = width
  weight w1[d, f], w2[f, d]
  u[b, f] = x @ w1
  out[b, d] = relu(u) @ w2
  return out
}}
cluster server(devices) {{
  device gpu = a100_80
  level node = devices gpu over 300 GB/s, 2 us
}}
{before}strategy plan for net {{
  mesh ({mesh})
{lines}}}
job fit {{
  train net(){on} using plan
  optimizer sgd(lr = 0.1)
}}
"""


def _infer(rules: str) -> str:
    """The same file with a job that infers."""
    text = _file(rules)
    return (
        text[: text.index("job fit")].replace("  loss mean(y)", "  output y")
        + "job serve {\n  infer net() using plan\n}\n"
    )


def _taken(path: str) -> str:
    """The same with a function that has a weight called `scale`, called as this."""
    text = _infer("store weights as int8").replace("relu(u) @ w2", f"scaled(relu(u)) as {path} @ w2")
    text = text.replace("  out[b, d] = scaled", "  v = scaled").replace(" @ w2", "\n  out[b, d] = v @ w2")
    body = "  weight scale[f] ~ ones\n  y[b, f] = x * scale\n  return y\n"
    return text.replace("cluster server", f"fn scaled(x[b, f]) {{\n{body}}}\ncluster server")


_WHOLE = """
fn whole_of(x[l, r, c]) {
  return cumsum(x, over l)
}

optimizer whole(lr) {
  w = w - lr * whole_of(g)
}
"""


def _visited(schedule: str, orders: str) -> str:
    """The head is back on the first place, with an order for two chunks or a schedule."""
    rules = f"pipeline block on pp, schedule {schedule}(microbatches = 2)\nplace head on pp[0]{orders}"
    text = _file(rules, mesh="pp = 2").replace("  loss mean(y)", "  loss mean(mlp(y, 8) as head)")
    return text


_ORDERS = """\
pipeline block on pp, schedule by_hand(microbatches = 2)
order pp[0] {
  F[0..2] B[0..2]
}
order pp[1] {
  F[0..2] B[0..2]
}"""

_SEEN = (
    "    y = y + mlp(y, 32)\n",
    "    y = y + mlp(y, 32)\n    state seen[d]\n    y = y + seen\n    seen = 0.9 * seen + mean(y, over b)\n",
)
_WAYS = "pipeline block on pp, schedule by_hand(microbatches = 2), chunks [[0, 1], [1, 0]]"
_BOTH = """
order pp[0] {
  F[0] F1[1] B1[1] B[0]
}
order pp[1] {
  F1[1] F[0] B[0] B1[1]
}"""

CODES: tuple[Code, ...] = (
    Code(
        "E0401",
        "unknown mesh axis",
        "Rules speak of the axes that the strategy's `mesh` declares before them. A tactic sees only those that it is\n"
        "given as arguments.",
        _file("split b on data"),
        _file("split b on dp"),
    ),
    Code(
        "E0402",
        "unknown dim",
        "No tensor of the model has this dim. In the list of a tactic, it is enough that the model has one of them.",
        _file("split batch on dp"),
        _file("split b on dp"),
    ),
    Code(
        "E0403",
        "unknown class of tensors",
        "The classes are weights, activations, gradients and optimizer; `shard` takes all but activations.",
        _file("split f on tp for weight"),
        _file("split f on tp for weights"),
    ),
    Code(
        "E0404",
        "no such scope or tensor",
        "A path names a scope (a call or a `repeat`: `block.mlp`) or a tensor (`block.mlp.w1`) of the model. The\n"
        "second call of `mlp` in one scope is `mlp_1`; a label names it otherwise: `mlp(x) as first`.",
        _file("split f on tp in block.mpl"),
        _file("split f on tp in block.mlp"),
    ),
    Code(
        "E0405",
        "an impossible mesh",
        "A strategy has one mesh; its axes have distinct names and sizes of at least 1.",
        _file("split b on dp", mesh="dp = 0"),
        _file("split b on dp", mesh="dp = 1"),
    ),
    Code(
        "E0406",
        "the mesh does not fit the cluster",
        "The sizes of the mesh's axes must multiply to the number of devices of the cluster that the job runs on.",
        _file("split b on dp", on=" on server(8)"),
        _file("split b on dp", on=" on server(2)"),
    ),
    Code(
        "E0407",
        "an axis is used for two things",
        "An axis along which devices run different parts (of a pipeline, or by `place`) cannot split tensors, and\n"
        "one axis cannot split two dims of a tensor.",
        _file("pipeline block on dp\nsplit b on dp"),
        _file("pipeline block on dp\nsplit b on tp"),
    ),
    Code(
        "E0408",
        "a pipeline must cut a loop",
        "`pipeline` cuts a `repeat … as LABEL` of the model, or a row of loops and scopes in the order in which\n"
        "values pass through them: `pipeline stem, block, head`. There are at least as many iterations and scopes as\n"
        "stages.",
        _file("pipeline blocks on dp"),
        _file("pipeline block on dp"),
    ),
    Code(
        "E0409",
        "impossible cuts",
        "`cuts [2, 4]` lists the first iteration of every stage but the first, counted through all loops and scopes\n"
        "of the row: they increase, and every stage has at least one iteration. Only the first stage, in front of a\n"
        "loop, and the last, behind one, may do without: they have the embedding or the head alone (`cuts [0, 4, 8]`).",
        _file("pipeline block on dp, cuts [5]"),
        _file("pipeline block on dp, cuts [3]"),
    ),
    Code(
        "E0410",
        "no such place",
        "`place SCOPE on axis[i]` names a coordinate of the axis, counted from 0. The scope is one that computes\n"
        "something at the top of the model: a loop runs in one place as a whole. Without a coordinate, by\n"
        "`place SCOPE on axis`, each stage that reads it computes it, of data and weights.",
        _file("place block on dp[2]"),
        _file("place block on dp[1]"),
    ),
    Code(
        "E0411",
        "micro-batches do not divide the batch",
        "The number of micro-batches divides the size of the dim that they cut: the first dim of the first input, or\n"
        "the one after `over`. With `pad` (of a schedule: `pad = true`) the last micro-batch may be smaller; none is\n"
        "empty, which would cost as much as any.",
        _file("microbatches 3 over b"),
        _file("microbatches 4 over b"),
    ),
    Code(
        "E0412",
        "unknown schedule or memory",
        "Schedules: gpipe, one_f_one_b, interleaved, zero_bubble. Memories: host, nvme,\n"
        "of which a job has those that its cluster describes.",
        _file("pipeline block on dp, schedule onefoneb(4)"),
        _file("pipeline block on dp, schedule one_f_one_b(4)"),
    ),
    Code(
        "E0413",
        "a layout does not fit its tensor",
        "`layout block.mlp.w1[d, f/tp]` lists the dims of one tensor, each once, without the dims of loops.",
        _file("layout block.mlp.w1[f/tp]\nlayout block.mlp.w2[f/tp, d]"),
        _file("layout block.mlp.w1[d, f/tp]\nlayout block.mlp.w2[f/tp, d]"),
    ),
    Code(
        "E0414",
        "a strategy for another model",
        "`strategy NAME for MODEL` can only be used with this model, whose dims and scopes it speaks of.",
        _file("split b on dp").replace("plan for net", "plan for nett"),
        _file("split b on dp"),
    ),
    Code(
        "E0415",
        "given twice",
        "A strategy has at most one schedule and one number of micro-batches, a loop is cut once, a tensor has one\n"
        "layout, a scope one place.",
        _file("microbatches 4\nmicrobatches 2"),
        _file("microbatches 4"),
    ),
    Code(
        "E0416",
        "a mesh axis that no rule names",
        "A warning: devices along the axis hold the same and compute the same, so that they are there for nothing.\n"
        "Where a cluster has more devices than a strategy knows work for, that is what remains for them.",
        _file("split b on dp", mesh="dp = 2, tp = 2"),
        _file("split b on dp\nsplit f on tp", mesh="dp = 2, tp = 2"),
    ),
    Code(
        "E0440",
        "numbers behind what has no iterations",
        "`in block[0..4]` speaks of some iterations of the loop `block`, a `repeat` at the top of the model, by its\n"
        "path. The loop is cut there. Positions of a `scan`, and iterations of a loop in a loop, are all alike.",
        _file("recompute block.mlp[0..2]"),
        _file("recompute block[0..2].mlp"),
    ),
    Code(
        "E0441",
        "iterations that a loop does not have",
        "Iterations are counted from 0; of a range `a..b` the last is `b - 1`. It has at least one. A tactic that is\n"
        "narrowed to some iterations cannot speak of others.",
        _file("recompute block[2..5]"),
        _file("recompute block[2..4]"),
    ),
    Code(
        "E0442",
        "an update that needs all iterations of a loop side by side",
        "Where rules speak of some iterations of a loop, its weights are updated in parts. An optimizer may take\n"
        "sums, means and maxima over all of them: each part takes its own, and these are put together. What needs\n"
        "them side by side (a cumulative sum, an order, products of one iteration with another) has no parts.",
        _file("recompute block[0..2]").replace("optimizer sgd", "optimizer whole") + _WHOLE,
        _file("recompute block[0..2]").replace("optimizer sgd", "optimizer whole")
        + _WHOLE.replace("cumsum(x, over l)", "x - mean(x, over l)"),
    ),
    Code(
        "E0443",
        "an order by hand that is not whole",
        "With `schedule by_hand` each place of the axis has an order: passes (F, B, and W where there is one) of each\n"
        "of its chunks, each on each micro-batch once. `chunks [0, 1, 1, 0]` says of each stage on which place it is,\n"
        "equally many on each; `chunks [[0, 1], [1, 0]]` does of several ways, each of which has an equal part of the\n"
        "micro-batches. The actions of a loop go on by the same from one time to the next.",
        _file(_ORDERS.replace("B[0..2]", "B[0]"), mesh="pp = 2"),
        _file(_ORDERS, mesh="pp = 2"),
    ),
    Code(
        "E0444",
        "orders that hang",
        "A forward pass waits for that of the stage before on the same micro-batch, a backward pass for that of the\n"
        "stage behind. Where places wait for one another, nobody goes on. The message goes round: who waits before\n"
        "what, and for what.",
        _file(_ORDERS.replace("F[0..2] B[0..2]\n}\norder", "F[0] B[0] F[1] B[1]\n}\norder"), mesh="pp = 2"),
        _file(_ORDERS, mesh="pp = 2"),
    ),
    Code(
        "E0445",
        "an order by hand where places are visited once more",
        "Where a scope is placed so that values come back to a place (an embedding on the last, a head on the first),\n"
        "that place has a further chunk, of which an order by hand says nothing. Schedules with names find an order.",
        _visited("by_hand", _ORDERS[_ORDERS.index("\n") :]),
        _visited("one_f_one_b", ""),
    ),
    Code(
        "E0446",
        "several ways through a model that has one",
        "`chunks [[0, 1], [1, 0]]` sends each half of the micro-batches its own way, through copies of the stages on\n"
        "other places, in an order that is written by hand (DualPipe). What all micro-batches make together before\n"
        "the update (states of the model, metrics that are no sums, outputs) is on one way only.",
        _file(_WAYS.replace("by_hand", "gpipe"), mesh="pp = 2"),
        _file(_WAYS + _BOTH, mesh="pp = 2"),
    ),
    Code(
        "E0447",
        "an order by hand in which states are renewed out of turn",
        "Each micro-batch reads what the one before made of a state of the model. Where a stage has such a state, an\n"
        "order by hand comes to its micro-batches by their numbers, as the serial program does.",
        _file(_ORDERS.replace("F[0..2]", "F[1] F[0]", 1), mesh="pp = 2").replace(*_SEEN),
        _file(_ORDERS, mesh="pp = 2").replace(*_SEEN),
    ),
    Code(
        "E0470",
        "weights cannot be stored so",
        "`store weights as` int8, int4, int3, fp8 (e4m3) or sparse (2:4). Integers have a `group`, of so many inputs\n"
        "that share a scale (of int4 and int3 128, if nothing is said), and may have `zeros = true`, a zero point for\n"
        "each group; fp8 has a `group`, too. `store activations as` int8. `store caches as` int8, or paged, of so\n"
        "many `slots` (positions) in each of so many `pages`.",
        _infer("store weights as int5"),
        _infer("store weights as int4(group = 16)"),
    ),
    Code(
        "E0471",
        "a weight that a format does not fit",
        "Numbers are packed in words of 32 bits along a dim, which is a multiple of as many as fill them (int8 and\n"
        "fp8 4, int4 8, int3 and sparse 32), and groups fill the dims that products sum over. What is trained\n"
        "cannot be stored so.",
        _infer("store weights as int4(group = 12)"),
        _infer("store weights as int4(group = 16)"),
    ),
    Code(
        "E0472",
        "some layers of a loop are stored in another way",
        "The weights of all layers of a loop rest in one tensor, in one format.",
        _infer("store weights as int8 in block[0..2]"),
        _infer("store weights as int8 in block"),
    ),
    Code(
        "E0473",
        "a part of a stored weight whose name is taken",
        "What is stored of a weight `w` are `w.words` and `w.scale` (`w.zero`; of 2:4 sparsity `w.kept`): names\n"
        "that no weight, state or other value of the model has, such as `scale` in a function called `as w`.",
        _taken("w1"),
        _taken("scaled"),
    ),
    Code(
        "E0474",
        "products that cannot take 8-bit activations",
        "`store activations as int8`: what goes into products with weights that rest as int8 is rounded to 8 bits,\n"
        "with a scale for each row, and integers are added up in 32 bits. So these weights have one scale for each\n"
        "output (no `group`, no `zeros`), inputs of which a dim is a multiple of 4, 132,104 of them at most; and the\n"
        "job trains nothing. In a scope that is written by hand a row is what a device has of it, in pieces that are\n"
        "multiples of 4, and a weight is taken by products as it is, or in pieces: none that travel.",
        _infer("store weights as int8(group = 4)\n  store activations as int8"),
        _infer("store weights as int8\n  store activations as int8"),
    ),
)
