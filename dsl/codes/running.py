"""Codes E07xx: runs, data, memory. Examples that begin with `program` are lowered programs (`.npu`)."""

from __future__ import annotations

from dsl.codes.code import Code


def _job(data: str, *, seq: int = 8, vocab: int = 80, memory: str = "64 GiB") -> str:
    """A whole file that trains a small model on some text."""
    return f"""\
use std.layers (cross_entropy)
use std.optimizers (sgd)

device small {{
  compute f32 1 TFLOP/s
  memory {memory}, 100 GB/s
}}
cluster one() {{
  device npu = small
  level server = 1 npu over 30 GB/s, 1 us
}}
model bigram() {{
  dim b = 4, s = {seq}, v = {vocab}, d = 16
  input tokens, targets : int32[b, s] in 0..v
  weight table[v, d], out[v, d]
  logits[b, s, v] = take(table, tokens, over v) @ out
  loss cross_entropy(logits, targets, over v)
}}
job fit {{
  train bigram() on one()
  optimizer sgd(lr = 0.1)
{data}}}
"""


_SHORT = '  data text("main.par")\n'

_CHAIN = """\
program chain
mesh (pp=2 place)
stages 2
input x: f32[b=4]

stage 0: devices 0 {
  fn F {
    %x: f32[b=4] = input x
    send %x as y to 1
  }
  fn B {
    %g: f32[b=4] = recv y.grad from 1
  }
  schedule {
    F[0]
    B[0]
  }
}

stage 1: devices 1 {
  fn F {
    %y: f32[b=4] = recv y from -1
  }
  fn B {
    %g: f32[b=4] = full 1.0
    send %g as y.grad to -1
  }
  schedule {
    F[0]
    B[0]
  }
}
"""

_SUM = """\
program sum
mesh (dp=2)
input x: f32[b=4]

stage 0: devices 0..1 {
  loss loss: f32[]
  fn F {
    %x: f32[b=2/dp] = input x
    %part: f32[] pending(dp sum) = reduce %x sum over (b)
    %loss: f32[] = all_reduce %part sum over dp
    accumulate %loss into loss
  }
  schedule {
    F[0]
  }
}
"""

CODES: tuple[Code, ...] = (
    Code(
        "E0701",
        "out of memory",
        "At some moment of a step what is alive on one device takes more than its memory: with the software of the "
        "cluster (its `stack`), what its allocator reserves for that and its driver takes included; or, of emulated "
        "devices, all values of the program. The message names the moment, what the memory is used for, the largest "
        "values, and changes of the strategy with which the job fits: they were compiled and simulated. `parc cost` "
        "shows the same, and how the memory is filled.",
        _job("", memory="1 KiB"),
        _job(""),
    ),
    Code(
        "E0702",
        "the schedule hangs",
        "Groups of devices wait for messages that nobody will send: each waits for another. The message says who waits "
        "for what. `parc check` and `parc run` find this before anything runs (E0641, E0642); a program that is run "
        "without them, from Python, finds out here.",
        _CHAIN.replace("    F[0]\n    B[0]\n  }\n}\n\n", "    B[0]\n    F[0]\n  }\n}\n\n", 1),
        _CHAIN,
    ),
    Code(
        "E0703",
        "devices that must hold the same hold different values",
        "A value's layout says that it is replicated along an axis, but the devices along it computed different bits. "
        "A collective is missing, or a layout is stated wrongly. `parc check` and `parc run` verify programs before "
        "they run (E0613 to E0618); one that is run without them, from Python, finds out here.",
        _SUM.replace("    %loss: f32[] = all_reduce %part sum over dp\n", "    %loss: f32[] = neg %part\n"),
        _SUM,
    ),
    Code(
        "E0704",
        "a data file cannot be read",
        "Data are read from ordinary files inside the project, by a path relative to the `.par` file; `.gz` is "
        "unpacked. Text must be UTF-8, all rows of a table must have as many cells, and its cells must be numbers.",
        _job('  data text("no_such_file.txt")\n'),
        _job(_SHORT),
    ),
    Code(
        "E0705",
        "unknown data reader, or an argument that it does not take",
        'There are `text("file", level = "char")`, `csv("file", input = "column")`, `images("file", top = 16)`, '
        '`arrays("file.safetensors", input = "tensor")`, `raw("file", input = "uint8")`, '
        '`tokens("file", dtype = "uint16")` and `synthetic()`.',
        _job('  data text("main.par", level = "letter")\n'),
        _job('  data text("main.par", level = "char")\n'),
    ),
    Code(
        "E0706",
        "the data do not fit the model's inputs",
        "A reader gives arrays of a certain kind: `text` tokens and targets `int32[b, s]`, `csv` one number per "
        "example, `images` pixels and a label. Integers must lie in the range that the input declares (`in 0..v`).",
        _job(_SHORT, vocab=10),
        _job(_SHORT, vocab=80),
    ),
    Code(
        "E0707",
        "too little data",
        "A text must be longer than one sequence, a table needs at least one row.",
        _job(_SHORT, seq=4000),
        _job(_SHORT, seq=40),
    ),
    Code(
        "E0708",
        "the wrong number of processes",
        "With `--engine torch` every device of the program is a process. Without torchrun they are started by the "
        "command itself, as many as are needed; where torchrun (or RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT in the "
        "environment) says how many there are, it must be as many as the strategy has devices.",
        "# RANK=4 WORLD_SIZE=4 MASTER_ADDR=localhost MASTER_PORT=29500\n# --engine torch\n" + _job(""),
        _job(""),
    ),
    Code(
        "E0709",
        "a process of the run is missing",
        "With `--engine torch`, a process has ended, has failed, did not come, or has not answered for as long as "
        "`--patience` says. The message names it, and says what it told before it ended, if it could; every other "
        "process says the same and ends with 1: within seconds where it has ended, else within the patience and 20 "
        "seconds. docs/torch.md says what else to look at.",
        "# RANK=0 WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=0\n# --engine torch --patience 1\n" + _job(""),
        _job(""),
    ),
    Code(
        "E0710",
        "PyTorch, or a device for it, is not there",
        "`--engine torch` needs the package `torch` (the extra `torch` of parc) in the version that the message names; "
        "`--device cuda` and `--device npu` need such a device for each process of the host, the latter the package "
        "`torch_npu`, too.",
        "# --engine torch --device npu\n" + _job(""),
        _job(""),
    ),
    Code(
        "E0711",
        "an engine that measures nothing",
        "`--profile` writes what a real run took, on the processes of an engine: `--engine torch`. Emulated devices "
        "take turns in one process, so their times say nothing of the program; `parc trace` writes what a step takes "
        "on the job's cluster, by the cost model.",
        "# --profile out.json\n" + _job(""),
        _job(""),
    ),
    Code(
        "E0731",
        "no C compiler",
        "`--backend fast` has the chains of element-wise work in a program compiled: by the compiler that the "
        "environment names (`CC`), else by `cc`, `gcc` or `clang`, with what it needs to make a shared library. What "
        "it makes is kept in the user's cache folder (`parc/kernels` in `XDG_CACHE_HOME` or `~/.cache`). Without "
        "`--backend fast` numpy computes, and needs none.",
        "# CC=no-such-compiler\n# --backend fast\n" + _job(""),
        _job(""),
    ),
    Code(
        "E0770",
        "no checkpoint",
        "`--resume`, `--from` and `parc convert` take a checkpoint: a folder that `--save` has made, or one with "
        "several, of which the last is meant. What has no `manifest.json`, which is written last, is not whole: "
        "its run was ended while it was written.",
        "# --resume nothing\n" + _job(""),
        _job(""),
    ),
    Code(
        "E0771",
        "a checkpoint that is damaged",
        "A file of a checkpoint is not what was written: a byte is another, it is cut off or gone. The message "
        "names it. Nothing of it has been taken. Each checkpoint is a folder of its own: an earlier one may be "
        "whole.",
        "# --resume saved\n" + _job("", seq=6),
        "# --resume saved\n" + _job("", seq=6) + "# the same folder, as it was written\n",
    ),
    Code(
        "E0772",
        "a checkpoint of another model",
        "Weights and states are told apart by their paths in the model, and have the shapes that its sizes give "
        "them. A job takes those of a checkpoint (`--from`, `parc convert`) that have all of its own: other "
        "strategies, other devices and other types of computation are no matter. Weights that rest in fewer bits are "
        "taken in the format that the checkpoint says they are in; whole ones, which are numbers, are packed. An "
        "optimizer's states come from training with that optimizer alone.",
        "# --from saved\n" + _job("", vocab=90),
        "# --from saved\n" + _job("", vocab=80),
    ),
    Code(
        "E0773",
        "a checkpoint cannot be written",
        "The disk is full, the folder may not be written, or there is something else of its name. What was saved "
        "before is as it was.",
        "# --save /dev/null/saved\n" + _job(""),
        "# --save saved\n" + _job(""),
    ),
    Code(
        "E0774",
        "a checkpoint of another program",
        "A run goes on from a checkpoint bit for bit, which takes the program that saved it: the same model, "
        "sizes, strategy, optimizer and seed. `parc convert` makes one for another strategy, `--from` begins anew "
        "with its weights.",
        "# --resume saved\n" + _job("  seed 2\n"),
        "# --resume saved\n" + _job("  seed 1\n"),
    ),
    Code(
        "E0775",
        "nothing that could be saved",
        "`--save` and `--resume` are for training: an evaluation changes no weights, and a job that says `infer` "
        "has no state of an optimizer. Both take weights by `--from`.",
        "# --evaluate --save saved\n" + _job(""),
        "# --save saved\n" + _job(""),
    ),
    Code(
        "E0760",
        "too much data for the reader",
        "`text`, `csv` and `images` hold a whole file in memory, unpacked. The message names what there is too much "
        "of: bytes (256 MiB, unless the reader's `limit` says otherwise), of which an archive may hold a thousand "
        "times its own size, or characters in one row or word. Files of any size are read piece by piece by `arrays`, "
        "`raw` and `tokens`.",
        _job('  data text("main.par", limit = 10 B)\n'),
        _job('  data text("main.par", limit = 1 MiB)\n'),
    ),
    Code(
        "E0761",
        "a data file that is not what it says it is",
        "The header of a `.npy` or safetensors file, or the types and sizes that `raw` and `tokens` are told, do not "
        "fit the file: it is cut off, something overlaps, its numbers are of a kind that is not read (pickled objects "
        "never are), or it has changed its size since it was opened.",
        _job('  data tokens("main.par", offset = 1000000)\n', vocab=128),
        _job('  data tokens("main.par", dtype = "uint8")\n', vocab=128),
    ),
)
