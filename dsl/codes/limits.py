"""Codes E09xx: what is refused for its size, so that no input takes long or much memory."""

from __future__ import annotations

from dsl import limits
from dsl.codes.code import Code

_DOUBLING = "fn f0(x) {\n  return x\n}\n" + "".join(
    f"fn f{i}(x) {{\n  return f{i - 1}(x) + f{i - 1}(x)\n}}\n" for i in range(1, 16)
)

_LARGE = (
    "use std.optimizers (sgd)\nmodel m(n) {{\n  dim d = n, e = 2048\n  input x : f32[d]\n  weight w[d,e]\n"
    "  loss mean((x @ w) * 1e-3)\n}}\njob fit {{\n  train m({})\n  optimizer sgd(lr = 0.1)\n}}\n"
)

_STAGES = (
    "use std.optimizers (sgd)\nmodel m {{\n  dim b = 4096, d = 4, e = 4\n  input x : f32[b,d]\n"
    "  repeat 1024 as block {{\n    weight w[d,e]\n    x = rename(x @ w, e -> d)\n  }}\n  loss mean(x)\n}}\n"
    "strategy st for m {{\n  mesh (pp = {0})\n  pipeline block on pp, schedule interleaved(microbatches = 4096)\n}}\n"
    "job fit {{\n  train m using st\n  optimizer sgd(lr = 0.1)\n}}\n"
)

_REPLICAS = (
    "# --slow 5=1.5\nuse std.optimizers (sgd)\ndevice chip {{\n  compute f32 1 TFLOP/s\n  memory 8 GB, 100 GB/s\n}}\n"
    "cluster pod {{\n  device npu = chip\n  level room = {0} npu over 10 GB/s, 1 us\n}}\n"
    "model m {{\n  dim b = {0}, d = 4\n  input x : f32[b,d]\n  weight w[d]\n  loss mean(x * w)\n}}\n"
    "strategy st for m {{\n  mesh (dp = {0})\n  split b on dp\n}}\n"
    "job fit {{\n  train m on pod using st\n  optimizer sgd(lr = 0.1)\n}}\n"
)

_SMALL_DEVICE = (
    "use std.optimizers (sgd)\ndevice chip {{\n  compute f32 1 TFLOP/s\n  memory {} MB, 100 GB/s\n}}\n"
    "cluster pod {{\n  device npu = chip\n  level room = 1 npu over 10 GB/s, 1 us\n}}\n"
    "model m {{\n  dim b = 2, d = 1024, e = 1024\n  input x : f32[b,d]\n  weight w[d,e]\n  loss mean(x @ w)\n}}\n"
    "job fit {{\n  train m on pod\n  optimizer sgd(lr = 0.1)\n}}\n"
)

_MANY_DIMS = (
    "use std.optimizers (sgd)\nmodel m {{\n  dim {}\n  weight w[{}]\n  loss mean(w)\n}}\n"
    "job fit {{\n  train m\n  optimizer sgd(lr = 0.1)\n}}\n"
)

CODES: tuple[Code, ...] = (
    Code(
        "E0901",
        "the file is too large",
        f"A source file has at most {limits.MAX_BYTES // 2**20} MiB, a lowered program {limits.MAX_LOWERED // 2**20}.",
        "# long\n" * (limits.MAX_BYTES // 7 + 1),
        "# long\n",
    ),
    Code(
        "E0902",
        "brackets are nested too deeply",
        f"At most {limits.MAX_BRACKETS} brackets and braces are open at one place.",
        "param deep = " + "(" * 100 + "1" + ")" * 100 + "\n",
        "param deep = " + "(" * 10 + "1" + ")" * 10 + "\n",
    ),
    Code(
        "E0903",
        "the expression is too deep",
        f"At most {limits.MAX_DEPTH} operations stand below one another in an expression. A sum is as deep as it has\n"
        "terms, since it is added up from the left.",
        "param total = 1" + " + 1" * 200 + "\n",
        "param total = 1" + " + 1" * 20 + "\n",
    ),
    Code(
        "E0904",
        "the file has too many tokens",
        f"A source file has at most {limits.MAX_TOKENS:,} tokens and comments.",
        "param x = 1\n" * (limits.MAX_TOKENS // 5 + 1),
        "param x = 1\n",
    ),
    Code(
        "E0905",
        "a name or a string is too long",
        f"Names have at most {limits.MAX_NAME} characters, strings at most {limits.MAX_STRING:,}.",
        "param " + "x" * 300 + " = 1\n",
        "param x = 1\n",
    ),
    Code(
        "E0906",
        "the file asks for too much",
        "A model has at most 50,000 operations (the body of a `repeat` counts once), all that is evaluated 20,000\n"
        "calls, and a file uses at most 100 files.",
        _DOUBLING + "check f15(1) > 0\n",
        _DOUBLING + "check f5(1) > 0\n",
    ),
    Code(
        "E0907",
        "nested too deeply",
        "At most 120 expressions, statements and calls are open at one moment, and 20 loops.",
        "".join(f"fn f{i}(x) {{\n  return f{i + 1}(x) + 1\n}}\n" for i in range(60))
        + "fn f60(x) {\n  return x\n}\ncheck f0(1) > 0\n",
        "".join(f"fn f{i}(x) {{\n  return f{i + 1}(x) + 1\n}}\n" for i in range(60))
        + "fn f60(x) {\n  return x\n}\ncheck f50(1) > 0\n",
    ),
    Code(
        "E0908",
        "a size beyond the bounds",
        "A dim has a size of at most 2^40, a tensor at most 64 dims and 2^56 elements, a `repeat` at most 10^9\n"
        "iterations, a cluster or a mesh at most 10^9 devices, a pipeline at most 4,096 stages\n"
        "(and an axis of `place` as many places). What devices and clusters state is 0 or from 10^-12 to 10^24 in\n"
        "base units: bytes, seconds, FLOP/s.",
        "use std.optimizers (sgd)\nmodel m(n) {\n  dim d = n\n  weight w[d]\n  loss sum(w)\n}\n"
        "job fit {\n  train m(2 ** 62)\n  optimizer sgd(lr = 0.1)\n}\n",
        "use std.optimizers (sgd)\nmodel m(n) {\n  dim d = n\n  weight w[d]\n  loss sum(w)\n}\n"
        "job fit {\n  train m(2 ** 6)\n  optimizer sgd(lr = 0.1)\n}\n",
    ),
    Code(
        "E0909",
        "a value is too large",
        "Integers have at most 256 bits, lists at most 4,096 values.",
        "param n = 10 ** 100\n",
        "param n = 10 ** 10\n",
    ),
    Code(
        "E0910",
        "this machine has too little memory for it",
        "The emulator holds the values of all devices, and a proof those of the serial program as well. What that\n"
        "takes is told from the lowered program, before anything is allocated, and held against what there is: free\n"
        "memory, the limits of the control group, and those of the process (`ulimit -v`). What rests on the servers'\n"
        "disks lies in a file in the folder for temporary files, where there must be room for it. `parc check`,\n"
        "`compile`, `cost` and `report` need no such memory, and `parc verify --small` proves the same strategy in\n"
        "the smallest sizes.",
        _LARGE.format(2**32),
        _LARGE.format(2**6),
    ),
    Code(
        "E0931",
        "a schedule is too long to be gone through",
        "A pass of a stage on a micro-batch is an action. What a step costs, the memory it takes, and that nobody\n"
        "waits forever are told without going through all of them, but for those before stages come into a rhythm:\n"
        "a price takes 1,000,000 at most, a check of interleaved stages 4,000,000. A trace and a page draw 500,000 at\n"
        "most, and a step is run of 20,000,000 at most, with 10^9 instructions of all iterations of its loops.",
        _STAGES.format(512),
        _STAGES.format(8),
    ),
    Code(
        "E0932",
        "a tensor has more axes than an array can have",
        "The emulator's arrays have an axis for each dim of a tensor, one for each axis of the mesh and one for\n"
        "micro-batches. numpy has 64 at most (32 before numpy 2).",
        _MANY_DIMS.format(", ".join(f"q{i} = 1" for i in range(64)), ",".join(f"q{i}" for i in range(64))),
        _MANY_DIMS.format("q0 = 1", "q0"),
    ),
    Code(
        "E0933",
        "too many devices to be told apart",
        "Devices that are alike are priced as one, however many they are. With slow ones among them (`--slow 5=1.5`)\n"
        "those that wait for slow ones are looked for device by device, among 2,000,000 at most. A checkpoint has\n"
        "files of each device that has a part of it to itself, of 100,000 at most.",
        _REPLICAS.format(10**8),
        _REPLICAS.format(8),
    ),
    Code(
        "E0951",
        "no strategy fits",
        "`parc plan` looks for strategies that fit into the devices' memory, as `parc cost` counts it: the cluster's\n"
        "software with all that it keeps. None of the space does, or none of those that were tried in time.",
        _SMALL_DEVICE.format(1),
        _SMALL_DEVICE.format(100),
    ),
)
