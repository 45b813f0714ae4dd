"""Codes E03xx: the model and its graph, optimizers, devices and clusters, jobs."""

from __future__ import annotations

from dsl.codes.code import Code


def _model(body: str, functions: str = "", job: str = "train m()\noptimizer sgd(lr = 0.1)") -> str:
    """A whole file around the body of a model with dims b, d and an input x[b, d]."""

    def indented(text: str) -> str:
        return "".join(f"  {line}\n" for line in text.split("\n"))

    return (
        f"use std.optimizers (sgd)\nuse std.devices (a100_80)\n{functions}"
        f"model m() {{\n  dim b = 4, d = 8\n  input x : f32[b, d]\n{indented(body)}}}\n"
        f"job fit {{\n{indented(job)}}}\n"
    )


_FIT = "weight w[d]\nloss sum(x * w)"
_LEVEL = "level server = 8 npu over 30 GB/s, 1 us\n"
_CLUSTER = "cluster pod() {\n  device npu = a100_80\n  " + _LEVEL + "}\n"
_ON_POD = "train m() on pod\noptimizer sgd(lr = 0.1)"


def _stack(name: str) -> str:
    """The cluster with this software."""
    return _CLUSTER.replace("us\n}", f"us\n  stack {name}\n}}")


CODES: tuple[Code, ...] = (
    Code(
        "E0301",
        "a carried tensor changes its type",
        "What a `repeat` assigns of the outer variables goes from iteration to iteration, so it must leave an\n"
        "iteration with the dims and the dtype that it came with.",
        _model("weight w[d]\ny = x\nrepeat 3 as block {\n  y = sum(y * w, over d)\n}\nloss sum(y)"),
        _model("weight w[d]\ny = x\nrepeat 3 as block {\n  y = y * w\n}\nloss sum(y)"),
    ),
    Code(
        "E0302",
        "a statement where it cannot stand",
        "Inputs, `loss` and `metric` stand in models, outside of `repeat`; `state` in optimizers; `return` at the\n"
        "end of functions; weights in models and functions. Parameters of models are numbers.",
        _model("weight w[d]\nrepeat 3 as block {\n  loss sum(x * w)\n}"),
        _model("weight w[d]\nloss sum(x * w)"),
    ),
    Code(
        "E0303",
        "the model has no loss",
        "A model ends in `loss …`, a scalar: what training makes smaller.",
        _model("weight w[d]\ny = sum(x * w)"),
        _model("weight w[d]\nloss sum(x * w)"),
    ),
    Code(
        "E0304",
        "the model has two losses",
        "A model has one loss. Several parts are added up: `loss a + 0.1 * b`.",
        _model("weight w[d]\nloss sum(x * w)\nloss sum(w * w)"),
        _model("weight w[d]\nloss sum(x * w) + sum(w * w)"),
    ),
    Code(
        "E0305",
        "a loss or metric is no scalar",
        "`loss` and `metric` take scalars, tensors without dims; the loss is a float. `mean(x)` makes a scalar of a\n"
        "tensor.",
        _model("weight w[d]\nloss x * w"),
        _model("weight w[d]\nloss mean(x * w)"),
    ),
    Code(
        "E0306",
        "the label of a loop is also a dim",
        "The weights in `repeat n as block` are stacked along a dim `block`; no other dim may have this name.",
        _model("y = x\nrepeat 3 as d {\n  weight w[b]\n  y = y * w\n}\nloss sum(y)"),
        _model("y = x\nrepeat 3 as layer {\n  weight w[b]\n  y = y * w\n}\nloss sum(y)"),
    ),
    Code(
        "E0307",
        "a function returns nothing, or too early",
        "A function ends with `return …`; in the branches of an `if` there may be one each. Nothing may follow it.",
        _model("weight w[d]\nloss total(x * w)", "fn total(x) {\n  y = sum(x)\n}\n"),
        _model("weight w[d]\nloss total(x * w)", "fn total(x) {\n  return sum(x)\n}\n"),
    ),
    Code(
        "E0308",
        "a weight is never used",
        "A declared weight that nothing reads would get no gradient.",
        _model("weight w[d], u[d]\nloss sum(x * w)"),
        _model("weight w[d], u[d]\nloss sum(x * w * u)"),
    ),
    Code(
        "E0309",
        "a repeat cannot change a static value",
        "The body of a `repeat` is evaluated once for all iterations; only tensors are carried.",
        _model("weight w[d]\nn = 1\ny = x\nrepeat 3 as block {\n  n = n + 1\n  y = n * y * w\n}\nloss sum(y)"),
        _model("weight w[d]\nn = 1\ny = x\nrepeat 3 as block {\n  y = n * y * w\n}\nloss sum(y)"),
    ),
    Code(
        "E0310",
        "a repeat without effect",
        "What a `repeat` hands on are the variables from before it that its body assigns; here there are none.",
        _model("weight w[d]\nrepeat 3 as block {\n  y = x * w\n}\nloss sum(x * w)"),
        _model("weight w[d]\ny = x\nrepeat 3 as block {\n  y = y * w\n}\nloss sum(y)"),
    ),
    Code(
        "E0311",
        "unknown initialiser",
        "Initialisers: zeros, ones, constant(value), normal(standard deviation), uniform(low, high).",
        _model("weight w[d] ~ gaussian(0.1)\nloss sum(x * w)"),
        _model("weight w[d] ~ normal(0.1)\nloss sum(x * w)"),
    ),
    Code(
        "E0312",
        "an optimizer must update its weight and states",
        "An optimizer assigns `w` and each of its states, and they keep their dims.",
        _model(_FIT, "optimizer mine(lr) {\n  m = lr * g\n}\n", "train m()\noptimizer mine(lr = 0.1)"),
        _model(_FIT, "optimizer mine(lr) {\n  w = w - lr * g\n}\n", "train m()\noptimizer mine(lr = 0.1)"),
    ),
    Code(
        "E0313",
        "an incomplete device or cluster",
        "A device has `compute` and `memory`. A cluster has a device, then levels from the inside to the outside,\n"
        "each made of what stands before it, and perhaps `host` and `nvme` memory.",
        _model(_FIT, _CLUSTER.replace("8 npu", "8 gpu"), _ON_POD),
        _model(_FIT, _CLUSTER, _ON_POD),
    ),
    Code(
        "E0314",
        "an incomplete job",
        "A job has one `train` or `infer`, training also an optimizer; everything else is optional, and nothing is\n"
        "there twice.",
        _model(_FIT, job="train m()"),
        _model(_FIT, job="train m()\noptimizer sgd(lr = 0.1)"),
    ),
    Code(
        "E0315",
        "unknown software",
        "`stack NAME` in a cluster says which software runs on it. Devices of the standard library have numbers for\n"
        "some (`parc devices` lists them), one of your own for what it states: `efficiency NAME product 0.7`.",
        _model(_FIT, _stack("megatron_2012"), _ON_POD),
        _model(_FIT, _stack("megatron_2021"), _ON_POD),
    ),
    Code(
        "E0316",
        "software without numbers for this device",
        "Other devices have numbers for the software, this one has none. This is a warning: what the device states in\n"
        "general is used, which is within 27 % in nine of ten cases. `parc devices NAME` lists what a device knows.",
        _model(_FIT, _stack("megatron_core"), _ON_POD),
        _model(_FIT, _stack("megatron_2021"), _ON_POD),
    ),
    Code(
        "E0317",
        "nothing to train",
        "`frozen` leaves weights for the others to be trained: at least one is not frozen, and the loss's derivative\n"
        "reaches it (it does not pass `stop_gradient`, nor what makes integers of numbers).",
        _model(_FIT, job="train m()\noptimizer sgd(lr = 0.1)\nfrozen w"),
        _model("weight v[d], w[d]\nloss sum(x * v * w)", job="train m()\noptimizer sgd(lr = 0.1)\nfrozen w"),
    ),
    Code(
        "E0318",
        "a weight that training does not have",
        "A model may ask whether it is `training`, and compute something else elsewhere; its weights are those of\n"
        "training: one that is declared only where `training` is false would never be trained.",
        _model("weight w[d]\ny = sum(x * w)\nif not training {\n  weight v[d]\n  y = sum(x * v)\n}\nloss y"),
        _model("weight v[d], w[d]\ny = sum(x * w * v)\nif not training {\n  y = sum(x * v)\n}\nloss y"),
    ),
    Code(
        "E0338",
        "nothing to infer",
        "A job that says `infer` computes what its model puts out, and nothing that only the loss needs:\n"
        "`output NAME` says what that is.",
        _model("weight w[d]\ny[b] = x @ w\nloss sum(y)", job="infer m()"),
        _model("weight w[d]\ny[b] = x @ w\noutput y\nloss sum(y)", job="infer m()"),
    ),
    Code(
        "E0339",
        "rows of which nobody asks",
        "`touched(g)` says in an optimizer which rows of its weight the step has taken (`true` for a weight of\n"
        "which no rows are taken). It is asked of the gradient `g` as it comes in.",
        _model(
            _FIT,
            "optimizer mine(lr) {\n  w = w - lr * where(touched(2 * g), g, 0.0)\n}\n",
            "train m()\noptimizer mine(lr = 0.1)",
        ),
        _model(
            _FIT,
            "optimizer mine(lr) {\n  w = w - lr * where(touched(g), g, 0.0)\n}\n",
            "train m()\noptimizer mine(lr = 0.1)",
        ),
    ),
)
