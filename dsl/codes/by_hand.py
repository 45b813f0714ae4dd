"""Codes E042x and E043x: implementations, what a strategy says by hand."""

from __future__ import annotations

from dsl.codes.code import Code

_RIGHT = """\
weight w1[d, f/tp], w2[f/tp, d]
u[b, s, f] = x @ w1
part[b, s, d] = relu(u) @ w2
y = all_reduce(part, tp)
return y"""

_WHOLE = """\
weight w1[d, f], w2[f, d]
u = x @ w1
y[b, s, d] = relu(u) @ w2"""
_IF = """\
if b * s * d * f > 60000000 {
y = y + y - y
}
return y"""
_SCAN = """\
scan over s as step {
y = y * 1.0
}"""

_ZIGZAG = ("implement block", "split s on tp zigzag\n  implement block")
_CUT = """\
whole = all_gather(x, tp, over s -> n)
mine = rename(shard(whole, tp, over n), n -> s)"""


def _file(*changes: tuple[str, str], body: str = _RIGHT) -> str:
    """A whole file around the body of an implementation, with changes; a model with dims b, s, d, f, a loop `block`."""
    lines = "".join(f"  {line}\n" for line in body.split("\n"))
    text = f"""\
use std.optimizers (sgd)

model net() {{
  dim b = 8, s = 4, d = 16
  input x : f32[b, s, d]
  y = x
  repeat 4 as block {{
    y = y + mlp(y, 32)
  }}
  loss mean(y * y)
}}
fn mlp(x[b, s, d], width) {{
  dim f = width
  weight w1[d, f], w2[f, d] ~ normal(0.1)
  u[b, s, f] = x @ w1
  h = relu(u)
  out[b, s, d] = h @ w2
  return out
}}
fn by_hand(x[b, s, d], tp) {{
{lines}}}
strategy plan for net {{
  mesh (tp = 2)
  implement block.mlp by by_hand(tp)
}}
job fit {{
  train net() using plan
  optimizer sgd(lr = 0.1)
}}
"""
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


CODES: tuple[Code, ...] = (
    Code(
        "E0420",
        "a scope that cannot be implemented",
        "`implement SCOPE by FN(…)` replaces the call of a function, by its path: not a loop, not a tensor, not a\n"
        "scope that renews a state, and no scope twice. What it makes are tensors. Micro-batches divide the\n"
        "batch before all else: of a piece of it that is taken by hand each of them has an equal part.",
        _file(("implement block.mlp by", "implement block by")),
        _file(),
    ),
    Code(
        "E0421",
        "an implementation of something else",
        "The parameters that are called like those of the scope's function are given what it is given; the others\n"
        "stand in `implement … by FN(…)`. Together the pieces that it returns must be what the scope gives: the\n"
        "same dims, sizes and type.",
        _file(("return y", "return rename(y, s -> t)")),
        _file(("return y", "return rename(rename(y, s -> t), t -> s)")),
    ),
    Code(
        "E0422",
        "pieces meet what is not cut as they are",
        "Along a dim, operands must have the same pieces: split over the same axes in the same order, or whole.\n"
        "`shard` takes a device's piece of what is whole, `all_gather` makes pieces whole. What a type states must\n"
        "be so.",
        _file(("w2[f/tp, d]", "w2[g, d]"), ("relu(u) @ w2", "relu(u) @ slice(w2, over g, 0..16)")),
        _file(("w2[f/tp, d]", "w2[g, d]"), ("relu(u) @ w2", "relu(u) @ shard(w2, tp, over g)")),
    ),
    Code(
        "E0423",
        "pieces of other devices",
        "`shift(x, cp, 1)` gives each device the piece of the next one. Pieces that meet must be those of one\n"
        "device, and what is returned or gathered each device's own.",
        _file(("relu(u) @ w2", "relu(shift(u, tp, 1)) @ w2")),
        _file(("relu(u) @ w2", "relu(shift(u, tp, 1)) @ shift(w2, tp, 1)")),
    ),
    Code(
        "E0424",
        "a sum that is still pending",
        "A product that is summed over a dim of which each device has a piece is a part of the sum on each of\n"
        "them. Such parts can be added and scaled. Whatever else reads them, and whoever gets the result, needs\n"
        "the sum: `all_reduce`, or `reduce_scatter` for pieces of it. What is whole counts once per device if it\n"
        "is added before.",
        _file(("return y", "return part")),
        _file(),
    ),
    Code(
        "E0425",
        "a message of what is not so",
        "`all_reduce` and `reduce_scatter` take sums that are pending over the axis, `all_gather` and `all_to_all`\n"
        "pieces along it, of the dim that they name, `shard` what is the same on every device, `shift` what\n"
        "differs from device to device.",
        _file(("return y", "return all_reduce(y, tp)")),
        _file(),
    ),
    Code(
        "E0426",
        "nothing says how a value relates to the whole",
        "What depends on `rank`, looks along a dim in pieces or mixes pieces of two dims is each device's own.\n"
        "Before it is returned or sent, its author says what it is: `as_split(x, cp, over s)`, pieces of `s`, or\n"
        "`as_sum(x, cp)`, parts of a sum. Types cannot see whether that is so; a proof on small sizes looks.",
        _file(("return y", "return where(rank(tp) == 0, y, 0.0)")),
        _file(("return y", "return all_reduce(as_sum(where(rank(tp) == 0, y, 0.0), tp), tp)")),
    ),
    Code(
        "E0427",
        "pieces do not suit this",
        "What goes along a dim position by position, such as a `scan`, needs all of its positions in their order.",
        _file(("fn by_hand(x[b, s, d]", "fn by_hand(x[b, s/tp, d]"), body=f"{_WHOLE}\n{_SCAN}\nreturn y"),
        _file(("fn by_hand(x[b, s, d]", "fn by_hand(x[b, s/tp, d]"), body=f"{_WHOLE}\nreturn y"),
    ),
    Code(
        "E0428",
        "the weights of an implementation",
        "An implementation has the weights of the scope that it replaces, under their names, and no others: each\n"
        "is declared with its dims, `weight w1[d, f/tp]`, outside of loops, and used.",
        _file(
            ("weight w1[d, f/tp], w2[f/tp, d]", "weight w1[d, f/tp], v[f/tp, d]"),
            ("relu(u) @ w2\n  y", "relu(u) @ v\n  y"),
        ),
        _file(),
    ),
    Code(
        "E0429",
        "uneven pieces",
        "Pieces in implementations are of one size: the dim must divide by the devices of the axis.",
        _file(("mesh (tp = 2)", "mesh (tp = 3)")),
        _file(("mesh (tp = 2)", "mesh (tp = 4)")),
    ),
    Code(
        "E0430",
        "an implementation computes something else",
        "`check` runs each implementation beside the scope that it replaces, by itself, on made-up numbers in f64,\n"
        "in the stated sizes or in smaller ones. Results and derivatives have to be equal: this finds what types\n"
        "do not see, such as a block that is left out, a wrong order or a wrong scale.",
        _file(("all_reduce(part, tp)", "all_reduce(part, tp) * 2.0")),
        _file(),
    ),
    Code(
        "E0431",
        "pieces and messages outside of implementations",
        "A model says what is computed, not where: `all_reduce`, `shard`, `rank` and types such as `x[b, s/cp]`\n"
        "belong into functions that a strategy puts in the place of a scope.",
        _file(("y = y + mlp(y, 32)", "y = y + by_hand(y, 2)"), ("implement block.mlp by by_hand(tp)", "split b on tp")),
        _file(("implement block.mlp by by_hand(tp)", "split b on tp")),
    ),
    Code(
        "E0432",
        "not a mesh axis of the implementation",
        "The axes of an implementation are parameters of it, and are given where it is used: `implement SCOPE by\n"
        "FN(tp)`.",
        _file(("w1[d, f/tp]", "w1[d, f/cp]")),
        _file(),
    ),
    Code(
        "E0434",
        "an implementation that was not tried",
        "A warning: by itself it takes too long to compute, in the smallest sizes too that were found in less than\n"
        "a second. `parc verify --small` looks longer, and proves the job.",
        _file(("d = 16", "d = 131072"), ("return y", _IF)),
        _file(("return y", _IF)),
    ),
    Code(
        "E0433",
        "what a loop carries changes its kind",
        "The body of a `repeat` is one for all iterations: what an iteration leaves in a variable must relate to\n"
        "the whole as what it found there. Whose pieces they are may grow with the iterations, by the same each\n"
        "time.",
        _file(("y = all_reduce(part, tp)", "y = x\nrepeat 2 as twice {\nz = y @ w1\ny[b, s, d] = relu(z) @ w2\n}")),
        _file(
            (
                "y = all_reduce(part, tp)",
                "y = all_reduce(part, tp)\nrepeat 2 as twice {\nz = x @ w1\nmore[b, s, d] = relu(z) @ w2\n"
                "y = 0.0 * y + all_reduce(more, tp)\n}",
            )
        ),
    ),
    Code(
        "E0435",
        "blocks of a zig-zag order are not even",
        "In zig-zag order each of n devices has two blocks of one length: the dim must divide by 2n.",
        _file(("implement block.mlp by by_hand(tp)", "split s on tp zigzag"), ("tp = 2", "tp = 4")),
        _file(("implement block.mlp by by_hand(tp)", "split s on tp zigzag")),
    ),
    Code(
        "E0436",
        "two orders for one dim",
        "A dim of a tensor, and all dims that are walked together with it, lie in one order. Where orders of two axes\n"
        "would meet, narrow one of the rules, with `in SCOPE`, or say the order of one axis only.",
        _file(
            ("implement block.mlp by by_hand(tp)", "split s on tp zigzag\n  split s on cp zigzag"),
            ("tp = 2", "tp = 2, cp = 2"),
            ("s = 4", "s = 8"),
        ),
        _file(
            ("implement block.mlp by by_hand(tp)", "split s on tp zigzag\n  split s on cp"),
            ("tp = 2", "tp = 2, cp = 2"),
            ("s = 4", "s = 8"),
        ),
    ),
    Code(
        "E0437",
        "an order that a split cannot have",
        "`split s on cp zigzag` says of activations how the pieces of one dim lie. What is stored (weights,\n"
        "gradients, states), data and micro-batches are in their own order, pieces in an order are even, and\n"
        "`implement` has to come behind the rule.",
        _file(("implement block.mlp by by_hand(tp)", "split s on tp zagzig")),
        _file(("implement block.mlp by by_hand(tp)", "split s on tp zigzag")),
    ),
    Code(
        "E0438",
        "pieces in two orders",
        "Pieces of a dim lie in zig-zag order, or in their own; where they meet they lie alike. `all_gather` gives\n"
        "the whole in its own order; `shard`, `reduce_scatter` and `all_to_all` make pieces as other pieces of a dim\n"
        "of that name lie.",
        _file(
            ("fn by_hand(x[b, s, d]", "fn by_hand(x[b, s/tp, d]"), _ZIGZAG, body=f"{_WHOLE}\n{_CUT}\nreturn y + mine"
        ),
        _file(("fn by_hand(x[b, s, d]", "fn by_hand(x[b, s/tp, d]"), _ZIGZAG, body=f"{_WHOLE}\nreturn y"),
    ),
)
