"""`store activations as int8` in scopes that are written by hand: a row is what one device sums over there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate, evaluate_file
from compiler.model import DECODING, INFER
from compiler.text import parse_program, show
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc.by_hand import tried_by_hand
from runtime.compress.compressing import rounded_inputs
from runtime.prove import prove_evaluation
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.some import one_in
from tests.stored.models import MODEL
from tests.stored.test_activations import INTEGERS, by_hand

TP = "  mesh (tp = 2)\n  tensor_parallel(tp)\n"
CP = "  mesh (cp = 2)\n  split s on cp\n"
WIDE = "  mesh (outer = 2, inner = 2)\n"
SCOPES = {
    "tensor_parallel_mlp": TP + "  implement block.mlp by tensor_parallel_mlp(tp)\n",
    "sequence_parallel_mlp": "  mesh (tp = 2)\n  megatron(tp)\n  implement block.mlp by sequence_parallel_mlp(tp)\n",
    "overlapped_mlp": "  mesh (tp = 4)\n  megatron(tp)\n  implement block.mlp by overlapped_mlp(tp)\n",
    "two_level_mlp": WIDE + "  implement block.mlp by two_level_mlp(inner, outer)\n",
    "gathered_attention": CP + "  implement block.attention by gathered_attention(cp)\n",
    "ulysses_attention": CP + "  implement block.attention by ulysses_attention(cp)\n",
    "ring_attention": CP + "  implement block.attention by ring_attention(cp)\n",
}


def text_of(name: str, rules: str, precision: str = "f64", decode: bool = False) -> str:
    model = MODEL.replace(", 2)\n", ", 4)\n").replace("STRATEGY", rules).replace("PRECISION", precision)
    return f"use std.implementations ({name})\n" + (
        model if decode else model.replace("  decode over s, prefill 2\n", "")
    )


@pytest.mark.parametrize("name", one_in(3, SCOPES))
def test_what_the_library_has_by_hand_is_proved(name: str) -> None:
    """By integers in f64, where no rounding decides, also where positions go round a ring of devices."""
    source = Source("net.par", text_of(name, SCOPES[name] + INTEGERS))
    c = compile_job(evaluate(source))
    shown = show(c.program)
    assert verify(c.program) == () and parse_program(shown) == c.program and shown.count(".sum: int32") >= 6
    assert all(tried.equal for tried in tried_by_hand(source, evaluate_file(source), {})[0])
    assert prove_evaluation(c.training, c.program, 1).ok
    initial = {w.name: np.zeros(w.value.type.shape, np.float64) for w in c.job.model.weights}
    assert initial.keys() == {w.name for w in c.job.serial.model.weights}


def test_positions_by_themselves() -> None:
    """Both entries of a job that decodes, on devices one by one as on all at once."""
    text = text_of("tensor_parallel_mlp", SCOPES["tensor_parallel_mlp"] + INTEGERS, decode=True)
    for entry in (INFER, *DECODING):
        c = compile_job(evaluate(Source("net.par", text)), entry)
        assert verify(c.program) == () and prove_evaluation(c.training, c.program, 1).ok
    assert "reduce_scatter" not in show(c.program) or " max " not in show(c.program)


ALONE = """\
fn ff(x[..., d], wide, narrow) {
  dim f = wide, g = narrow
  weight w[d,f], u[f,g]
  y = x @ w
  return where(y > 0.0, y, 0.0) @ u
}
fn pieces(x[..., d], tp) {
  weight w[d,f/tp], u[f/tp,g]
  y = x @ w
  return all_reduce(where(y > 0.0, y, 0.0) @ u, tp)
}
model net() {
  dim b = 6, d = 16, g = 8
  input x : compute[b,d]
  z[b,g] = ff(x, 24, 8)
  output z
}
strategy plan for net {
  mesh (tp = 3)
  implement ff by pieces(tp)
  store weights as int8
  store activations as int8
}
job serve {
  infer net() using plan
  precision f32
}
"""


def compiled(text: str = ALONE) -> Compiled:
    return compile_job(evaluate(Source("net.par", text)))


@pytest.mark.parametrize("executor", [Emulator, RankExecutor])
def test_it_is_what_is_computed_by_hand(executor: Any) -> None:
    """Each device has a row of its own of what it has: of 24 hidden numbers 8, with a step for each of the 3."""
    c = compiled()
    rng = np.random.default_rng(1)
    words = {n: rng.integers(0, 2**32, s, np.uint32) for n, s in (("ff.w.words", (4, 24)), ("ff.u.words", (6, 8)))}
    scales = {n: rng.uniform(0.001, 0.1, s).astype(np.float32) for n, s in (("ff.w.scale", 24), ("ff.u.scale", 8))}
    x = (rng.standard_normal((6, 16)) * np.exp(rng.standard_normal((6, 1)) * 5)).astype(np.float32)
    x[2] = 0
    got = executor(c.program, initial={**words, **scales}).call(INFER, {"x": x}).outputs["z"]
    y = np.maximum(by_hand(x, words["ff.w.words"], scales["ff.w.scale"]), 0)
    u, scale = words["ff.u.words"], scales["ff.u.scale"]
    want = sum(by_hand(y[:, 8 * i : 8 * i + 8], u[2 * i : 2 * i + 2], scale) for i in range(3))
    whole = by_hand(y, u, scale)
    close = 4e-7 * np.abs(want).max(1, keepdims=True) + 1e-30
    assert (np.abs(got - want) <= close).all() and not (np.abs(got - whole) <= close).all()
    assert prove_evaluation(c.training, c.program, 2).ok
    assert rounded_inputs(c.job)["ff.u"][()].tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert set(rounded_inputs(c.job)["ff.w"][()]) == {0}


LAYERS = "  mesh (tp = 2)\n  tensor_parallel(tp)\n  implement block[1..2].mlp by tensor_parallel_mlp(tp)\n"


def test_some_layers_by_hand_have_weights_in_8_bits() -> None:
    c = compiled(text_of("tensor_parallel_mlp", LAYERS + "  store weights as int8 in block\n"))
    assert prove_evaluation(c.training, c.program, 1).ok and show(c.program).count("dequantise") >= 6


IN_8_BITS = "  store weights as int8 in block\n  store activations as int8 in "
FOUR = "  mesh (tp = 2, ep = 2)\n  tensor_parallel(tp)\n  implement block[1].mlp by tensor_parallel_mlp(tp)\n"
MIXED = {
    "by hand": (LAYERS + IN_8_BITS + "block", [0, 1, 0, 0]),
    "by hand, not all": (LAYERS + IN_8_BITS + "block[0..3]", [0, 1, 0, None]),
    "in two ways": (
        FOUR + "  implement block[2..3].mlp by tensor_parallel_mlp(ep)\n" + IN_8_BITS + "block",
        [0, 1, 1, 0],
    ),
    "pipeline": (
        FOUR.replace("ep", "pp") + "  pipeline block on pp\n" + IN_8_BITS + "block[1..4].mlp",
        [None, 1, 0, 0],
    ),
    "none": ("  mesh (tp = 2)\n" + IN_8_BITS + "block[0].mlp", [0, None, None, None]),
}


def of_four(rules: str, decode: bool = False) -> str:
    return text_of("tensor_parallel_mlp", rules + "\n", decode=decode).replace("repeat 2", "repeat 4")


@pytest.mark.parametrize("name", one_in(2, MIXED))
def test_layers_that_differ(name: str) -> None:
    """The serial program takes of each layer what its rules say; the last piece of a row, by layer, is told."""
    rules, want = MIXED[name]
    c = compiled(of_four(rules))
    assert verify(c.program) == () and prove_evaluation(c.training, c.program, 1).ok
    found = rounded_inputs(c.job)["block.mlp.w2"]
    assert [found[(i,)].max() if (i,) in found else None for i in range(4)] == want


def test_layers_that_differ_are_not_those_of_others() -> None:
    """Without what is by hand, or with all layers rounded, it is another model; both entries are proved."""
    text = of_four(MIXED["by hand, not all"][0], decode=True)
    entries = {e: compile_job(evaluate(Source("net.par", text)), e) for e in (INFER, *DECODING)}
    assert all(prove_evaluation(c.training, c.program, 1).ok for c in entries.values())
    (rule,) = [line for line in text.splitlines() if "implement " in line]
    for changed in (text.replace(rule + "\n", ""), text.replace("block[0..3]", "block")):
        other = compile_job(evaluate(Source("net.par", changed)), INFER)
        assert changed != text and not prove_evaluation(other.training, entries[INFER].program, 1).ok


def test_what_cannot_be_is_refused() -> None:
    """Pieces that fill no words, and weights that travel."""
    said = [
        (
            ALONE.replace("24", "20").replace("= 3", "= 2"),
            "E0474",
            "a piece of `ff.u` has 10 of `f`, which are no words",
        ),
        (ALONE.replace("x @ w\n  return all_reduce", "x @ shift(w, tp, 0)\n  return all_reduce"), "E0474", "`shift`"),
    ]
    for text, code, words in said:
        with pytest.raises(ParcError) as error:
            compiled(text)
        (found, *_) = error.value.diagnostics
        assert found.code == code and words in found.message and found.span is not None, found
