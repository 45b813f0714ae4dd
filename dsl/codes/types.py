"""Codes E02xx: types, dims, units."""

from __future__ import annotations

from dsl.codes.code import Code


def _model(body: str, functions: str = "") -> str:
    """A whole file around the body of a model with dims b, d and an input x[b, d]."""
    lines = "".join(f"  {line}\n" for line in body.split("\n"))
    return (
        f"use std.optimizers (sgd)\n{functions}"
        f"model m() {{\n  dim b = 4, d = 8\n  input x : f32[b, d]\n  weight w[b, d]\n{lines}}}\n"
        "job fit {\n  train m()\n  optimizer sgd(lr = 0.1)\n}\n"
    )


_FIRST = "fn first(x[b, s, d]) {\n  return slice(x, s, 0..1)\n}\n"
_PAIR = "fn pair(x[b, d], y[b, e]) {\n  return x * sum(y, over e)\n}\n"

_ADAM = _model("loss sum(x * w)").replace("sgd", "adam").replace("f32[b", "compute[b")

CODES: tuple[Code, ...] = (
    Code(
        "E0202",
        "wrong dtype",
        "The operands' dtypes differ, or the operation is not defined for this one. Nothing is cast by itself:\n"
        "`cast(x, compute)` gives the dtype that the job computes in, `cast(x, master)` the one of its weights.",
        _model("loss sum(cast(x, bf16) * w)"),
        _model("loss sum(cast(x, compute) * w)"),
    ),
    Code(
        "E0203",
        "one dim, two sizes",
        "Dims are matched by name, so all dims of one name that meet in an operation must have the same size.",
        _model("dim d = 9\nloss sum(x * w)"),
        _model("dim e = 9\nloss sum(x * w)"),
    ),
    Code(
        "E0204",
        "the tensor does not have this dim",
        "The operation works along a dim that its operand does not have.",
        _model("dim e = 2\nloss sum(sum(x * w, over e))"),
        _model("dim e = 2\nloss sum(sum(x * w, over d))"),
    ),
    Code(
        "E0205",
        "a dim twice",
        "The dims of a tensor have distinct names. `rename(x, s -> t)` gives one another name first.",
        _model("loss sum(rename(x * w, b -> d))"),
        _model("loss sum(rename(x * w, b -> c))"),
    ),
    Code(
        "E0206",
        "a number is out of range",
        "A size, count, bound or stride is not one of those that make sense here; the message says which are.",
        _model("loss sum(slice(x * w, d, 0..10))"),
        _model("loss sum(slice(x * w, d, 0..8))"),
    ),
    Code(
        "E0207",
        "unknown dtype or elementwise function",
        "The dtypes are f64, f32, bf16, f16, int32, uint32 and bool; `compute` and `master` stand for the job's.",
        _model("loss sum(cast(x, fp32) * w)"),
        _model("loss sum(cast(x, f32) * w)"),
    ),
    Code(
        "E0208",
        "the result has other dims than stated",
        "The dims on the left of an assignment state what the result has. Its order may differ; the dims may not.\n"
        "`sum(x, over d)` removes one; `@` sums those that both operands have and the left side has not.",
        _model("y[b] = x * w\nloss sum(y)"),
        _model("y[b] = x @ w\nloss sum(y)"),
    ),
    Code(
        "E0209",
        "unknown dim",
        "Dims are declared (`dim f = width`), come with a parameter's pattern (`x[b, s, d]`), or come into being in\n"
        "`rename`, `split`, `merge` and the like. To speak of one that a called function made, declare it with the\n"
        "same name and size.",
        _model("loss sum(sum(x * w, over e))"),
        _model("loss sum(sum(x * w, over d))"),
    ),
    Code(
        "E0210",
        "a value of the wrong kind",
        "The operation or parameter needs another kind of value: an integer, a boolean that is known when the file is\n"
        "evaluated, a tensor.",
        'check "1" + 1 == 2\n',
        "check 1 + 1 == 2\n",
    ),
    Code(
        "E0211",
        "the arithmetic has no result",
        "Division by zero, a root of a negative number, a result beyond the range of floats.",
        "param half = 1 / 0\n",
        "param half = 1 / 2\n",
    ),
    Code(
        "E0212",
        "wrong units",
        "Quantities are added and compared only with those of the same dimension: data with data (bytes), times with\n"
        "times, data per time with data per time.",
        "check 3 GB <= 4 s\n",
        "check 3 GB <= 4 GB\n",
    ),
    Code(
        "E0213",
        "the argument does not have the pattern's dims",
        "A parameter `x[b, s, d]` takes tensors of exactly three dims, whatever they are called; `x[..., d]` those\n"
        "of at least one, the last; `x` takes any.",
        _model("loss sum(first(x * w))", _FIRST),
        _model("loss sum(first(x * w))", _FIRST.replace("b, s, d", "s, d")),
    ),
    Code(
        "E0214",
        "one local name for two dims",
        "Where patterns repeat a name, the arguments must have the same dim there.",
        _model("loss sum(pair(x, rename(w, b -> c)))", _PAIR),
        _model("loss sum(pair(x, w))", _PAIR),
    ),
    Code(
        "E0215",
        "`@` has nothing to sum",
        "Without stated dims, `@` sums over all dims that both operands have; these have none in common.",
        _model("loss sum(x @ rename(w, (b, d) -> (p, q)))"),
        _model("loss sum(x @ rename(w, b -> p))"),
    ),
    Code(
        "E0216",
        "as many names as results",
        "A function with several results is assigned to as many names: `values, indices = top_k(x, over e, k = 2)`.",
        _model("y = top_k(x * w, over d, k = 2)\nloss sum(y)"),
        _model("y, places = top_k(x * w, over d, k = 2)\nloss sum(y)"),
    ),
    Code(
        "E0217",
        "a check does not hold",
        "`check` states what must be true, of the file's parameters or of what a job needs:\n"
        "`check fit.memory.peak <= 30 GiB`; in the body of a function or a model, of its arguments and dims:\n"
        "`check active <= experts`.",
        "param hidden = 100\nparam heads = 8\ncheck hidden % heads == 0\n",
        "param hidden = 96\nparam heads = 8\ncheck hidden % heads == 0\n",
    ),
    Code(
        "E0218",
        "a master type too narrow to count steps",
        "Adam and learning rates that change need the number of the step, in the master's type: bf16 counts to 256\n"
        "and f16 to 2048, and 0.999 ** step is 1 at the first step. Keep masters in f32, or take plain descent.",
        _ADAM[:-2] + "  precision bf16, master bf16\n}\n",
        _ADAM[:-2] + "  precision bf16, master f32\n}\n",
    ),
    Code(
        "E0219",
        "an index beyond its table",
        "`take` reads rows that there are. The range that an input is declared with says which indices it may hold,\n"
        "and some of these are none of the table's rows; so may be sums with constants, and positions.\n"
        "Declare what is true of the data (`in 0..v`), and make the table so large.",
        _model("input word : int32[b] in 0..9\nloss sum(take(x * w, word, over d))"),
        _model("input word : int32[b] in 0..8\nloss sum(take(x * w, word, over d))"),
    ),
    Code(
        "E0220",
        "a dim whose size is known at run time only",
        "`dim t = count <= 64` is a dim of at most 64 positions, of which `count` count. Sums, means, maxima and\n"
        "products leave the others out; what would mix them with those that count is refused, and so is to reckon\n"
        "with `t`. It is declared in a model, outside of loops, under a name that is no other dim's.",
        _model("input n : int32 in 1..9\ndim t = n <= 8\ninput z : f32[t]\nloss sum(x * w) + mean(flip(z, over t))"),
        _model("input n : int32 in 1..9\ndim t = n <= 8\ninput z : f32[t]\nloss sum(x * w) + mean(cumsum(z, over t))"),
    ),
)
