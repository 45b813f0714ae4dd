"""Codes E06xx: text of lowered programs, the verifier. Their examples are lowered programs (`.npu`)."""

from __future__ import annotations

from dsl.codes.code import Code
from dsl.codes.lowered import ENTRIES, FUSED, ONE, TWO

_CUT = """\
program layers
mesh (pp=2 place)
stages 2
input x: f32[d=4]

stage 0: devices 0 {
  loop block: 1 of 2 from 0
  weight w: f32[block=1, d=4] = ones
  fn F {
    %x: f32[d=4] = input x
    send %x as y to 1
  }
  fn B {
    %g: f32[d=4] = recv y.grad from 1
  }
  fn U {
    %w: f32[block=1, d=4] = read w
    %square: f32[block=1, d=4] = mul %w, %w
    %part: f32[] = reduce %square sum over (block, d)
    %sum: f32[] = stage_reduce %part sum as norm among (0, 1)
    %new: f32[block=1, d=4] = div %w, %sum
    write %new to w
  }
  schedule {
    F[0]
    B[0]
    U
  }
}

stage 1: devices 1 {
  loop block: 1 of 2 from 1
  weight w: f32[block=1, d=4] = ones
  fn F {
    %y: f32[d=4] = recv y from -1
  }
  fn B {
    %g: f32[d=4] = full 1.0
    send %g as y.grad to -1
  }
  fn U {
    %w: f32[block=1, d=4] = read w
    %square: f32[block=1, d=4] = mul %w, %w
    %part: f32[] = reduce %square sum over (block, d)
    %sum: f32[] = stage_reduce %part sum as norm among (0, 1)
    %new: f32[block=1, d=4] = div %w, %sum
    write %new to w
  }
  schedule {
    F[0]
    B[0]
    U
  }
}
"""


def _code(code: str, title: str, explanation: str, old: str, new: str, base: str = ONE) -> Code:
    """A code whose failing example is the base program with `new` in place of `old`."""
    if base.count(old) < 1:
        raise AssertionError(f"{code}: the example has no {old!r}")
    return Code(code, title, explanation, base.replace(old, new, 1), base)


CODES: tuple[Code, ...] = (
    _code(
        "E0601",
        "something else was expected here",
        "The text of a program has one declaration or instruction per line:\n"
        "`%result: type = op %operand, %operand attributes`. The message says what could stand at this place.",
        "contract %x, %w",
        "contract x, w",
    ),
    _code(
        "E0602",
        "illegal character or malformed string",
        'Names that are not plain words (letters, digits, `_`, `.`) stand in double quotes: %"odd name".',
        "program fit",
        'program "fit',
    ),
    _code(
        "E0603",
        "unknown op",
        "The op's name is none of the compiler's. Elementwise functions are ops of their own: add, mul, exp, where …",
        "= contract %x, %w",
        "= kontract %x, %w",
    ),
    _code(
        "E0604",
        "an attribute of the wrong kind",
        "Each op's attributes are names, numbers, dims or lists of these, as the message says.",
        "sum over (b, f)",
        "sum over (1, 2)",
    ),
    _code(
        "E0605",
        "sizes and axes that do not fit",
        "Types show the sizes of one device's piece and the axes that split each dim: `f=3/tp of 5` is a dim of 5 in\n"
        "pieces of 3 along tp. `of` is left out where the pieces fill the dim. Axes stand in the mesh, once.",
        "%z: f32[b=2/mb/dp, f=3/tp of 5]",
        "%z: f32[b=2/mb/dp, f=2/tp of 5]",
    ),
    _code(
        "E0606",
        "devices that do not follow from the mesh",
        "The stages are numbered along the place axes; their devices follow from the mesh, major to minor. They are\n"
        "written out to be read, and checked so that a text that has been edited does not lie.",
        "stage 0: devices 0..3",
        "stage 0: devices 0..7",
    ),
    _code(
        "E0608",
        "too much",
        "Numbers have at most 100 digits, sizes and counts 64 bits, names 32,768 characters, brackets 32 levels,\n"
        "loops 20, meshes 10^9 devices.",
        "dp=2, tp=2",
        "dp=20000000000000000000, tp=2",
    ),
    _code(
        "E0610",
        "an unknown value",
        "Instructions use what stands before them in the same function. The body of a loop sees its parameters and\n"
        "its own values only: what it needs from outside is handed in with `with`.",
        "= sub %w, %step",
        "= sub %w, %stop",
    ),
    _code(
        "E0611",
        "a name defined twice",
        "Values have names of their own within a function, loops included.",
        "%dy: f32[b=2/mb/dp, f=3/tp of 5] = full 1.0",
        "%x: f32[b=2/mb/dp, d=4] = load x last\n    %dy: f32[b=2/mb/dp, f=3/tp of 5] = full 1.0",
    ),
    _code(
        "E0612",
        "a type that does not follow from the op",
        "The dims and the element type of a result follow from those of the operands. Collectives change neither.",
        "%step: f32[d=4, f=3/tp of 5] = mul",
        "%step: f32[d=4, f=3/tp of 6] = mul",
    ),
    _code(
        "E0613",
        "a malformed layout",
        "An axis splits one dim or has a pending reduction, not both; place axes split no tensors; nothing is split\n"
        "in micro-batches after the last one; pending reductions are `sum` or `max`, in the mesh's order.",
        "pending(mb sum, dp sum) = contract",
        "pending(dp sum, mb sum) = contract",
    ),
    _code(
        "E0614",
        "layouts that do not fit the op",
        "An axis walks one loop of an op: it splits that dim in every operand and result that has it; operands\n"
        "without the dim are the same on all devices of the axis. What an op needs whole cannot be split.",
        "%step: f32[d=4, f=3/tp of 5] = mul",
        "%step: f32[d=2/dp, f=3/tp of 5] = mul",
    ),
    _code(
        "E0615",
        "a pending reduction that is lost",
        "Where a split dim is summed, each device holds a part of the sum: the sum is pending. It may pass through\n"
        "ops that are linear in it, and ends in all_reduce or reduce_scatter. A program that drops it computes\n"
        "wrong numbers.",
        "= sub %w, %step",
        "= sub %w, %g",
    ),
    _code(
        "E0616",
        "padding that reaches a result",
        "Where a dim does not divide, the last pieces have unused elements. They hold anything; before a reduction\n"
        "over the dim, mask_pad makes them neutral: 0 for sums, -inf for maxima.",
        "reduce %z sum",
        "reduce %y sum",
    ),
    _code(
        "E0617",
        "a collective that does not fit the layout",
        "all_reduce and reduce_scatter need a pending reduction on their axes, all_gather and all_to_all a dim whose\n"
        "minor-most axes they are, shard and only_first a value that is the same along them.",
        "all_reduce %g sum over dp",
        "all_reduce %g sum over tp",
    ),
    _code(
        "E0618",
        "a collective over micro-batches or stages",
        "Micro-batches run one after the other, stages run different functions: neither takes part in collectives.\n"
        "Sums over micro-batches are taken by `accumulate`, values go between stages by send and recv.",
        "%loss: f32[] pending(mb sum) = all_reduce %sum sum over (dp, tp)",
        "%loss: f32[] = all_reduce %sum sum over (dp, mb, tp)",
    ),
    _code(
        "E0619",
        "a value that is not in the memory where it is read",
        "A value lies in one memory, the devices' own where none is stated: `%w: f32[d=4] in host`. Messages take\n"
        "place in the devices' own, effects in that of their buffer, computations in the devices' own, or in that of\n"
        "the hosts, which compute them then; rows of a table may be read and renewed where it rests. `move %w from\n"
        "host to hbm` makes the value that lies elsewhere. A buffer `in host cache 64` is a table of which rows alone\n"
        "are needed, and its cache has whole sets of 32.",
        "    %y: f32[b=2/mb/dp, f=3/tp of 5] = contract %x, %w\n",
        "    %far: f32[d=4, f=3/tp of 5] in host = move %w from hbm to host\n"
        "    %y: f32[b=2/mb/dp, f=3/tp of 5] = contract %x, %far\n",
    ),
    _code(
        "E0620",
        "an effect on the wrong buffer or in the wrong function",
        "F, B and W read weights, accumulate gradients and losses, save and load; U reads and writes what lives\n"
        "across steps. Every buffer is declared, every input of the data as well.",
        "= input x",
        "= input z",
    ),
    _code(
        "E0621",
        "an effect that contradicts a declaration",
        "What is read, written, saved or loaded has the type and the layout that the buffer is declared with.",
        "weight w: f32[d=4, f=3/tp of 5]",
        "weight w: f32[d=2/dp, f=3/tp of 5]",
    ),
    _code(
        "E0622",
        "an accumulator that does not add up",
        "A gradient, loss or metric is a sum over micro-batches: what is accumulated is pending over mb, and\n"
        "something is accumulated into each.",
        "    accumulate %dw into w.grad\n",
        "",
    ),
    _code(
        "E0623",
        "a buffer that is not renewed once",
        "U writes each weight, optimizer state, counter and report exactly once.",
        "    write %w.new to w\n",
        "",
    ),
    _code(
        "E0624",
        "a read of new contents",
        "A value that `read` gives is the buffer itself. In U everything reads the old contents: writes stand\n"
        "behind the last reader.",
        "    %w.new: f32[d=4, f=3/tp of 5] = sub %w, %step\n    write %w.new to w\n",
        "    write %step to w\n    %w.new: f32[d=4, f=3/tp of 5] = sub %w, %step\n",
    ),
    _code(
        "E0625",
        "a saved value that does not come back",
        "What a forward saves is loaded by a later action of the same chunk; the last load, and no other, says `last`.",
        "= load x last",
        "= load x",
    ),
    _code(
        "E0626",
        "an effect inside a loop",
        "Loops are pure: buffers are read before a loop and given to it, results are written after it.",
        "    %y: f32[b=2/mb/dp, f=3/tp of 5] = contract %x, %w\n",
        "    %y: f32[b=2/mb/dp, f=3/tp of 5] = contract %x, %w\n"
        "    %q: f32[b=2/mb/dp, d=4] = repeat again 2 (\n"
        "      %c: f32[b=2/mb/dp, d=4] = %x,\n"
        "    ) {\n"
        "      %more: f32[d=4, f=3/tp of 5] = read w\n"
        "      yield %c\n"
        "    }\n",
    ),
    _code(
        "E0630",
        "a message without its other end",
        "Every send to stage +n has, in that stage, a recv of the same name from stage -n, with the same type and\n"
        "layout.",
        "recv y from -1",
        "recv z from -1",
        TWO,
    ),
    _code(
        "E0631",
        "stages that do not reduce together",
        "All stages that a stage_reduce names take part in it, with the same key, in the same order.",
        "sum as norm among",
        "max as norm among",
        TWO,
    ),
    _code(
        "E0632",
        "an update that stages do not agree on",
        "Each stage holds its own iterations of a loop that is cut. What it makes of them by itself is its own part:\n"
        "a sum or a maximum over all iterations comes of a stage_reduce among all stages, in which every part counts\n"
        "once. What is written to a buffer that several stages hold is made of what all of them have.",
        "div %w, %sum",
        "div %w, %part",
        _CUT,
    ),
    _code(
        "E0640",
        "a schedule that leaves micro-batches out",
        "Each function of each chunk runs once per micro-batch; U once, at the end. Ranges exclude their end.",
        "for i in 0..2 {",
        "for i in 0..1 {",
    ),
    _code(
        "E0641",
        "a schedule out of order",
        "The backward of a micro-batch comes after its forward, the weights' gradients (W) after the backward.",
        "{ F[i] B[i] }",
        "{ B[i] F[i] }",
    ),
    _code(
        "E0642",
        "a schedule that hangs",
        "The stages wait for each other in a circle. With 1F1B a stage runs as many forwards ahead as there are\n"
        "stages after it.",
        "    for i in 0..4 { F[i] B[i] }\n",
        "    F[0..4]\n    B[0..4]\n",
        TWO,
    ),
    _code(
        "E0650",
        "a program without a proper frame",
        "Axes, inputs, buffers and functions have names of their own; every group of devices belongs to one class;\n"
        "the number of stages is a multiple of the groups'; loops stay within their iterations.",
        "  loss loss: f32[]\n",
        "  loss loss: f32[]\n  loss loss: f32[]\n",
    ),
    _code(
        "E0651",
        "entries that do not share their states",
        "What lives across steps is there once for all entries of a program: they declare it alike, and where one of\n"
        "them renews it, the others read it on no other devices.",
        "  weight w: f32[d=4, f=3/tp of 5] = ones\n  loss",
        "  weight w: f32[d=4, f=3/tp of 5] = zeros\n  loss",
        ENTRIES,
    ),
    _code(
        "E0652",
        "a fused region that cannot run as one",
        "`fuse { … }` is around neighbouring element-wise instructions and reductions computed block by block:\n"
        "what they make and read inside only is never in memory. So each reads what is made in the region, none needs\n"
        "more than a block of rows, and neither messages nor buffers are among them.",
        "    %g.sum: f32[d=4, f=3/tp of 5] = all_reduce %g sum over dp\n    fuse {\n",
        "    fuse {\n      %g.sum: f32[d=4, f=3/tp of 5] = all_reduce %g sum over dp\n",
        FUSED,
    ),
    _code(
        "E0670",
        "an initialiser that is none",
        "What lives across steps says how it begins: `= zeros`, `ones`, `constant(x)`, `normal(deviation)`,\n"
        "`uniform(low, high)`, with finite numbers; integers begin as zeros, ones or a constant of their type.\n"
        "All else is empty when a step begins, and has none.",
        "weight w: f32[d=4, f=3/tp of 5] = ones",
        "weight w: f32[d=4, f=3/tp of 5] = uniform(1.0)",
    ),
    _code(
        "E0671",
        "a range that data cannot have",
        "Integers of the data may have a range, `in 0..10`: it has at least one number, and none that the type lacks.\n"
        "Where only one end is stated the other is 0, or two above. Floats and bools have none.\n"
        "Of a state it is `within 0..10`.",
        "input x: f32[b=8, d=4]",
        "input x: f32[b=8, d=4] in 0..10",
    ),
    _code(
        "E0673",
        "a name that cannot be printed",
        "Names reach terminals, logs and files of other programs: they have no control characters, no letters without\n"
        "ink, none that change the direction of the text, and no lone halves of surrogate pairs.",
        "program fit",
        'program "fit\\u001b[2J"',
    ),
    _code(
        "E0674",
        "a tensor that is declared in two ways",
        "Copies and parts of one tensor, in whichever stages they are, have one role, whole type and initialiser:\n"
        "else they would differ from the start. A program has one loss; it, metrics and reports are single numbers.",
        "loss loss: f32[]\n",
        "loss loss: f32[b=1]\n",
    ),
)
