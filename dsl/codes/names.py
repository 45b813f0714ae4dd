"""Codes E01xx: names, `use`, parameters."""

from __future__ import annotations

from dsl.codes.code import Code

_TWICE = "fn twice(x) {\n  return 2 * x\n}\n"
_JOB = (
    "use std.optimizers (sgd)\nmodel line() {\n  dim b = 4\n  input x : f32[b]\n  weight w[b]\n  loss sum(x * w)\n}\n"
    "job fit {\n  train line()\n  optimizer sgd(lr = 0.1)\n}\n"
)

CODES: tuple[Code, ...] = (
    Code(
        "E0101",
        "unknown name",
        "Nothing of this name is known here. A function or model sees its parameters, what it has assigned before,\n"
        "its dims, and the parameters of the file; it does not see the variables of its caller.",
        "param layers = 8\nparam half = layer // 2\n",
        "param layers = 8\nparam half = layers // 2\n",
    ),
    Code(
        "E0102",
        "a name is defined twice",
        "Two definitions of one kind have the same name, perhaps through `use`, or the name belongs to the language.\n"
        "Definitions of different kinds (a strategy and a tactic) may share a name.",
        "param layers = 8\nparam layers = 9\n",
        "param layers = 8\nparam heads = 9\n",
    ),
    Code(
        "E0103",
        "there is no such definition",
        "There is no function (model, cluster, strategy, …) of this name in the file, among those that it uses, or\n"
        "built in. Names of the standard library must be imported: `use std.layers (gelu)`.",
        "check sqroot(4) == 2\n",
        "check sqrt(4) == 2\n",
    ),
    Code(
        "E0104",
        "files use each other in a circle",
        "A file cannot use itself, directly or through others. Move what both need into a third file.",
        'use "main.par"\n',
        "use std.layers\n",
    ),
    Code(
        "E0105",
        "the used file does not define this",
        "`use MODULE (names)` takes definitions and parameters that stand in that file itself; what it uses in turn\n"
        "is not passed on.",
        "use std.layers (atention)\n",
        "use std.layers (attention)\n",
    ),
    Code(
        "E0106",
        "a parameter cannot be set like this",
        "`-D name=value` sets a parameter that the file itself declares (`param name = …`), to a value of the same\n"
        "kind: an integer, a float, a quantity of the same dimension, a string.",
        "# -D lyers=24\nparam layers = 8\n",
        "# -D layers=24\nparam layers = 8\n",
    ),
    Code(
        "E0107",
        "the value is none of the parameter's choices",
        "`param p = value in {…}` and `param p = value in low..high` bound the values of a parameter; a range does\n"
        "not include its second number.",
        "param tp = 3 in {1, 2, 4, 8}\n",
        "param tp = 4 in {1, 2, 4, 8}\n",
    ),
    Code(
        "E0108",
        "parameters need each other",
        "The default of a parameter may use other parameters, in any order, but not in a circle.",
        "param a = b + 1\nparam b = a + 1\n",
        "param a = b + 1\nparam b = 1\n",
    ),
    Code(
        "E0109",
        "unknown argument",
        "What is called has no parameter of this name.",
        _TWICE + "check twice(y = 2) == 4\n",
        _TWICE + "check twice(x = 2) == 4\n",
    ),
    Code(
        "E0110",
        "an argument is missing",
        "A parameter without a default needs an argument.",
        _TWICE + "check twice() == 4\n",
        _TWICE + "check twice(2) == 4\n",
    ),
    Code(
        "E0111",
        "an argument too many",
        "There are more arguments than parameters, or a parameter is given twice.",
        _TWICE + "check twice(2, 3) == 4\n",
        _TWICE + "check twice(2) == 4\n",
    ),
    Code(
        "E0112",
        "recursion",
        "Functions and tactics cannot call themselves, directly or through others, so that evaluation always ends.\n"
        "`repeat` is the loop of the language.",
        "fn f(x) {\n  return f(x - 1)\n}\ncheck f(2) == 1\n",
        "fn f(x) {\n  return x - 1\n}\ncheck f(2) == 1\n",
    ),
    Code(
        "E0113",
        "there is no such job",
        "The job that the command line or a `check` speaks of is not in the file; or the file has no job, or several\n"
        "of which one must be chosen.",
        _JOB + "check fitt.memory.peak <= 30 GiB\n",
        _JOB + "check fit.memory.peak <= 30 GiB\n",
    ),
    Code(
        "E0114",
        "a name of another kind",
        "The name is defined, but as something else than what is needed here: a cluster where a device is expected,\n"
        "a function where a value is.",
        _TWICE + "check twice == 4\n",
        _TWICE + "check twice(2) == 4\n",
    ),
    Code(
        "E0134",
        "a number is left open",
        "`auto` stands for a number that `parc plan` finds: of a parameter (`param tp = auto in {1, 2, 4}`), of a\n"
        "size of the mesh, of micro-batches, chunks, or a stage of ZeRO. `parc plan FILE` writes the file with\n"
        "numbers in its place; `-D tp=2` sets a parameter that is left open. All other commands need the number.",
        "param n = auto in {1, 2}\ncheck n > 0\n",
        "param n = 2 in {1, 2}\ncheck n > 0\n",
    ),
)
