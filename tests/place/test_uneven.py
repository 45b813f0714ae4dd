"""Uneven pieces: of a dim on several axes in any order, the last micro-batch, and under windows wider than a piece: all
are the serial program's, on both executors, and hold as many bytes as predicted."""

from __future__ import annotations

from itertools import combinations, product

import pytest

import parc
from compiler.layout import correspond, nested
from compiler.program import Program
from compiler.traffic import messages
from dsl.diagnostics import ParcError
from dsl.source import Source
from tests.memory.measured import exact
from tests.some import one_in

NET = """\
use std.layers (attention, cross_entropy, dropout, layer_norm, linear, mlp, moe)
use std.optimizers (adamw)
use std.tactics

model net(batch = 10) {
  dim b = batch, s = 5, d = 6, v = 11
  input tokens, label : int32[b,s] in 0..v
  weight table[v,d] ~ normal(0.5)
  x[b,s,d] = take(table, tokens, over v)
  repeat 3 as block {
    x = x + dropout(attention(layer_norm(x), heads = 2), 0.2)
    x = x + mlp(layer_norm(x), 7)
  }
  y = layer_norm(x) as last
  logits = linear(y, v) as head
  known = sum(cast(label > 2, master), over (b, s))
  metric top = max(abs(y))
  metric share = sum(cast(label > 2, master)) / 50.0
  loss cross_entropy(logits, label, v) + 0.1 * cast(sum(cast(y * y, master)) / (1.0 + sum(known)), compute)
}

strategy plan for net {
  mesh (AXES)
  RULES
}

job fit {
  train net() using plan
  optimizer adamw(lr = 1e-3, clip = 1.0)
}
"""

PIPE = "pipeline block on pp, schedule SCHEDULE(microbatches = 4, over = b, pad = true)"

RULES = {
    "batch": ("ub = 3", "split b on ub pad"),
    "dp": ("dp = 2", "split b on dp pad"),
    "positions": ("cp = 2", "split s on cp for activations pad"),
    "heads": ("tp = 4", "split h, f, v on tp pad"),
    "vocabulary": ("va = 2", "split v on va pad"),
    "columns": ("cl = 4", "split d on cl pad"),
    "shards": ("zs = 3", "shard optimizer, gradients, weights on zs pad"),
    "wider": ("zt = 2", "shard optimizer, gradients on zt pad"),
    "last": ("", "microbatches 4 over b pad"),
    "gpipe": ("pp = 3", PIPE.replace("SCHEDULE", "gpipe")),
    "1f1b": ("pp = 2", PIPE.replace("SCHEDULE", "one_f_one_b") + ", cuts [1]"),
    "interleaved": ("pp = 1", PIPE.replace("SCHEDULE(", "interleaved(chunks = 3, ")),
    "zero_bubble": ("pp = 3", PIPE.replace("SCHEDULE", "zero_bubble")),
    "places": ("at = 2", "place head on at[1]"),
    "recompute": ("", "recompute block"),
}
ORDERS = {"last", "gpipe", "1f1b", "interleaved", "zero_bubble", "places"}


def under(*names: str, text: str = NET) -> Source:
    axes = ", ".join(axis for name in names if (axis := RULES[name][0])) or "one = 1"
    rules = "\n  ".join(RULES[name][1] for name in names)
    return Source("net.par", text.replace("AXES", axes).replace("RULES", rules))


def proved(source: Source, executor: parc.api.Executor = "stacked") -> None:
    proof = parc.verify(source, double=True, executor=executor)
    assert proof.ok, proof.worst


@pytest.mark.parametrize("name", RULES)
def test_alone(name: str) -> None:
    """On devices with memory of their own, too, whose bytes are counted."""
    proved(under(name))
    exact(parc.compile(under(name), double=True).program, 1)


PAIRS = [p for p in combinations(RULES, 2) if len(ORDERS & {*p}) < 2]


@pytest.mark.parametrize("pair", PAIRS[::8], ids="+".join)
def test_pairs(pair: tuple[str, str]) -> None:
    proved(under(*pair), "private" if len(pair[0]) % 2 else "stacked")


@pytest.mark.nightly
@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_all_pairs_in_both_orders(pair: tuple[str, str]) -> None:
    for names in (pair, pair[::-1]):
        proved(under(*names))
        exact(parc.compile(under(*names), double=True).program, 1)


@pytest.mark.parametrize(
    "names",
    [
        "dp batch last",
        "heads vocabulary last",
        "dp wider 1f1b recompute",
        pytest.param("batch dp last", marks=pytest.mark.nightly),
        pytest.param("vocabulary heads shards", marks=pytest.mark.nightly),
    ],
)
def test_pieces_of_pieces(names: str) -> None:
    for executor in ("stacked", "private"):
        proved(under(*names.split()), executor)
    exact(parc.compile(under(*names.split()), double=True).program, 1)


def test_an_axis_that_divides_what_there_is_needs_no_pad() -> None:
    """10 samples are 4, 4 and 2 in micro-batches, and these 2 and 2 each."""
    rules = "split b on dp\n  microbatches 3 over b pad"
    proved(Source("net.par", NET.replace("AXES", "dp = 2").replace("RULES", rules)))
    with pytest.raises(ParcError) as caught:
        parc.compile(Source("net.par", NET.replace("AXES", "dp = 3").replace("RULES", rules)))
    (found,) = caught.value.diagnostics
    assert found.code == "E0540" and "`split b on dp pad`" in (found.help or "")


@pytest.mark.parametrize(("count", "enough"), [(6, 5), (7, 5), (9, 5), (11, 10)])
def test_no_micro_batch_is_empty(count: int, enough: int) -> None:
    """The help names as many as have all of the batch."""
    text = NET.replace("AXES", "one = 1").replace("RULES", f"microbatches {count} over b pad")
    with pytest.raises(ParcError) as caught:
        parc.check(Source("net.par", text))
    (found,) = caught.value.diagnostics
    assert (found.code, found.help) == ("E0411", f"{enough} have all of it")
    assert parc.check(Source("net.par", text.replace(f"microbatches {count}", f"microbatches {enough}")))


def test_the_schedule_says_pad_as_the_rule_does() -> None:
    """Without it the count divides, and `pad` alone says nothing."""
    refused = under("gpipe").text.replace("pad = true", "pad = false")
    for text, code in ((refused, "E0411"), (refused.replace("microbatches = 4, over = b, ", ""), "E0110")):
        with pytest.raises(ParcError) as caught:
            parc.check(Source("net.par", text))
        assert [d.code for d in caught.value.diagnostics] == [code]


IMAGE = """\
use std.layers (conv, max_pool)
use std.optimizers (sgd)

model net {
  dim b = 2, y = ROWS, x = 4, c = 2, kk = 3
  input image : f32[b,y,x,c]
  weight taps[kk,c] ~ normal(0.5)
  h = tanh(conv(image, 2, size = 5))
  h = h + conv(h, 2)
  STEP
  z = sum(window(h, y -> (o, kk), stride = STRIDE, pad = PAD, dilation = PAD) * taps, over kk)
  loss mean(z * z)
}

strategy plan for net {
  mesh (AXES)
  RULES
}

job fit {
  train net using plan
  optimizer sgd(lr = 0.1)
}
"""


def image(rows: int, axes: str, rules: str, pad: int = 1, stride: int = 1, step: str = "") -> Source:
    text = IMAGE.replace("ROWS", str(rows)).replace("AXES", axes).replace("RULES", rules).replace("PAD", str(pad))
    return Source("net.par", text.replace("STRIDE", str(stride)).replace("STEP", step))


def halos(program: Program) -> list[tuple[int, int]]:
    bodies = [f.body for c in program.classes for f in c.functions]
    return [(i.op.left, i.op.right) for b in bodies for i in b.nodes if i.op.mnemonic == "halo"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("axes", "rows", "pad"), one_in(3, product(["sp = 4", "sp = 2, ty = 3"], [4, 5, 6, 8, 11], [1, 2, 5, 9]))
)
def test_borders_of_several_neighbours(axes: str, rows: int, pad: int) -> None:
    """Wider than a piece, than all pieces; of uneven pieces, and of pieces of pieces; dilated as far."""
    rules = "\n  ".join(f"split y, o on {axis.split()[0]} pad" for axis in axes.split(", "))
    source = image(rows, axes, rules, pad)
    program = parc.compile(source, double=True).program
    assert (pad, pad) in halos(program)
    for executor in ("stacked", "private"):
        proved(source, executor)
    exact(program, 1)


@pytest.mark.parametrize(("rows", "stride", "step"), [(14, 2, ""), (14, 1, "h = max_pool(h)"), (28, 2, ""), (9, 3, "")])
def test_strides(rows: int, stride: int, step: str) -> None:
    """Where pieces belong together they are split; where they do not the rows are gathered."""
    proved(image(rows, "sp = 4", "split y, o on sp pad", stride=stride, step=step), "private")
    proved(image(rows, "sp = 3", "split y, o on sp pad\n  microbatches 2 over b", stride=stride, step=step))


def test_a_device_sends_no_more_than_its_piece_to_each_of_the_others() -> None:
    """Borders of 9 on each side of pieces of 2, over 4 devices: 6 rows, as many as the others have."""
    source = image(8, "sp = 4", "split y, o on sp", pad=9)
    row = 2 * 4 * 2 * 8  # samples, columns, channels, bytes
    program = parc.compile(source, double=True).program
    found = [m for f in program.classes[0].functions for m in messages(f.body, program.sizes) if m.op == "halo"]
    assert sorted({m.bytes / row for m in found}) == [2, 4, 6]  # of a window of 3, of 5, and of the wide one


@pytest.mark.parametrize("size", range(1, 20))
def test_pieces_of_pieces_are_as_long_as_pieces_on_all_axes(size: int) -> None:
    for a, b in ((2, 3), (3, 2), (4, 4), (5, 2)):
        assert nested(size, (a, b))[-1] == -(-size // (a * b))


def test_pieces_that_belong_together() -> None:
    assert correspond(7, 14, [4]) and correspond(6, 12, [2, 3]) and correspond(5, 5, [2])
    assert not correspond(5, 10, [2]) and not correspond(7, 14, [2, 2])
