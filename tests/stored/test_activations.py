"""`store activations as int8`: products of integers, proved under strategies, equal to what is computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.cost.kernels.program import features
from compiler.cost.kernels.work import Product
from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate
from compiler.graph import Dim, Type
from compiler.model import INFER
from compiler.ops.contract import Contract
from compiler.text import show
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc.api.compiling import compile
from parc.api.compressing import compress
from runtime.backend import LocalValue, Position
from runtime.numpy import CallContext
from runtime.numpy.backend import Numpy
from runtime.prove import prove_evaluation
from runtime.stacked import Emulator
from tests.stored.models import lowered
from tests.stored.test_compress import folder
from tests.stored.test_stored import STRATEGIES, proved

__all__ = ["folder"]  # the fixture: a model that was trained on 8 devices

INTEGERS = "  store weights as int8 in block\n  store activations as int8\n"
MEGATRON = "  mesh (tp = 2)\n  megatron(tp)\n" + INTEGERS


@pytest.mark.parametrize("strategy", ["zero", "all"])
def test_it_is_proved(strategy: str) -> None:
    """By integers in f64, where no rounding decides; a row's scale is of all its inputs, on however many devices."""
    proved(STRATEGIES[strategy] + INTEGERS)


def test_messages_are_of_8_bits_and_sums_of_the_type_of_computation() -> None:
    """What is gathered are words; what was added up is scaled first, and reduced as any product's result."""
    text = show(lowered(MEGATRON, "f16").program)
    lines = [line.split(" = ", 1) for line in text.splitlines() if " = " in line]
    gathered = [made for made, by in lines if by.startswith("all_gather") and "d=" in made and "block" in made]
    assert len(gathered) == 2 and all(".words" in made and "uint32" in made and "d=16" in made for made in gathered)
    reduced = [made for made, by in lines if by.startswith("reduce_scatter") and " sum " in by and "block" in made]
    assert len(reduced) == 2 and all("f16" in made for made in reduced)
    assert sum("reduce_scatter" in by and " max " in by for _, by in lines) == 2  # a number for each row


ALONE = """\
use std.tactics (tensor_parallel)

model net() {
  dim b = 6, d = 16, f = 12, g = 8
  input x : compute[b,d]
  weight w[d,f], u[f,g]
  y = x @ w
  z[b,g] = where(y > 0.0, y, 0.0) @ u
  output z
}
strategy plan for net {
  mesh (tp = 3)
  split f on tp
  store weights as int8
  store activations as int8
}
job serve {
  infer net() using plan
  precision f32
}
"""


def by_hand(x: Any, words: Any, scale: Any) -> Any:
    """A product as those have it who describe it: one row, one output, one number at a time."""
    bytes_of = words.T.copy().view(np.uint8).reshape(words.shape[1], -1).T.astype(np.int64) - 128
    out = np.zeros((len(x), words.shape[1]), np.float32)
    for i, row in enumerate(x):
        step = np.float32(max(abs(v) for v in row)) / np.float32(127)
        numbers = [int(np.rint(v / step)) if step else 0 for v in row]
        assert max(map(abs, numbers)) <= 127
        for j in range(out.shape[1]):
            total = sum(a * int(b) for a, b in zip(numbers, bytes_of[:, j]))
            out[i, j] = np.float32(total) * step * scale[j]
    return out


def test_it_is_what_is_computed_by_hand() -> None:
    c = compile_job(evaluate(Source("net.par", ALONE)))
    assert verify(c.program) == ()
    rng = np.random.default_rng(1)
    words = {n: rng.integers(0, 2**32, s, np.uint32) for n, s in (("w.words", (4, 12)), ("u.words", (3, 8)))}
    scales = {n: rng.uniform(0.001, 0.1, s).astype(np.float32) for n, s in (("w.scale", 12), ("u.scale", 8))}
    x = (rng.standard_normal((6, 16)) * np.exp(rng.standard_normal((6, 1)) * 5)).astype(np.float32)
    x[2] = 0
    x[3, 1:] = np.arange(15) + 0.5  # halves: to the even number
    x[3, 0] = 127
    got = Emulator(c.program, initial={**words, **scales}).call(INFER, {"x": x}).outputs["z"]
    y = by_hand(x, words["w.words"], scales["w.scale"])
    want = by_hand(np.maximum(y, 0), words["u.words"], scales["u.scale"])
    assert (want[2] == 0).all() and (got[2] == 0).all()
    assert np.abs(got - want).max(1).tolist() <= (4e-7 * np.abs(want).max(1) + 1e-30).tolist()
    found = prove_evaluation(c.training, c.program, 2)
    assert found.ok


@pytest.mark.parametrize("size", [100, 2**20])
def test_products_of_integers_are_exact(size: int) -> None:
    """Whatever of f32, f64 and int32 they are computed in; beyond 32 bits modulo 2^32."""
    dims = {n: Dim(n, s) for n, s in (("b", 3), ("d", 300), ("f", 5))}
    types = [Type("int32", tuple(dims[n] for n in names)) for names in ("bd", "df", "bf")]
    x, w = (np.random.default_rng(2).integers(-size, size, t.shape, np.int32) for t in types[:2])
    ins, outs = [LocalValue.whole(t) for t in types[:2]], [LocalValue.whole(types[2])]
    found = Numpy().plan(Contract(("b", "f")), ins, outs, Position())(CallContext(), x, w)
    want = x.astype(object) @ w.astype(object)
    assert np.array_equal(found, want.astype(np.int64).astype(np.int32))


def products(c: Compiled) -> dict[str, Product]:
    parts = [p for of in features(c.program).parts for p in of.values()]
    return {n.name: n.work for p in parts for n, _ in p.each() if isinstance(n.work, Product)}


def test_kernels_read_8_bits_and_scale_as_they_write() -> None:
    """The products are as many as in 16 bits, and what goes in has a byte for each number."""
    rules = "  mesh (tp = 2)\n  tensor_parallel(tp)\n"
    before, after = products(lowered(rules, "f16")), products(lowered(rules + INTEGERS, "f16"))
    assert len(before) == len(after)
    one = after["block.mlp.dot.sum"]
    assert one.dtype == "int8" and after["block.attention.scores"].dtype == "f16"
    assert one.bytes == 8 * 64 + 64 * 64 + 2 * 8 * 64  # inputs, half of the weight, and results of 16 bits


REFUSED = [
    ("store weights as int8(group = 32)", "", "E0474", "a scale for each 32 of its inputs"),
    ("store weights as int8(zeros = true)", "", "E0474", "zero points"),
    ("store weights as int4", "", "E0542", "no weight in `net` rests as `int8`"),
    ("", "", "E0542", "no weight in `net` rests as `int8`"),
    ("store weights as int8", " in block.attention.softmax", "E0542", "no weight in `block.attention.softmax`"),
]


@pytest.mark.parametrize(("weights", "where", "code", "words"), REFUSED)
def test_what_cannot_be_is_refused(weights: str, where: str, code: str, words: str) -> None:
    with pytest.raises(ParcError) as error:
        lowered(f"  mesh (dp = 1)\n  {weights}\n  store activations as int8{where}")
    (found,) = error.value.diagnostics
    assert found.code == code and words in found.message and found.span is not None


def told_of(text: str) -> tuple[str, str]:
    with pytest.raises(ParcError) as error:
        compile_job(evaluate(Source("net.par", text)))
    d = error.value.diagnostics[0]
    return d.code, d.message


def test_other_formats_jobs_and_sizes_are_refused() -> None:
    assert told_of(ALONE.replace("activations as int8", "activations as int4"))[0] == "E0470"
    assert told_of(ALONE.replace("activations as int8", "activations as paged(slots = 4)"))[0] == "E0470"
    code, message = told_of(ALONE.replace("d = 16", "d = 18"))
    assert code == "E0474" and "inputs of `w`, 18, no dim is a multiple of 4" in message
    code, message = told_of(ALONE.replace("d = 16", "d = 132108"))
    assert code == "E0474" and "more than 132,104" in message
    text = "use std.optimizers (sgd)\n" + ALONE.replace("weight w[d,f]", "weight c[g], w[d,f]")
    text = text.replace("output z", "loss mean(z * c)").replace("infer net", "train net")
    text = text.replace("  precision", "  frozen w, u\n  optimizer sgd(lr = 0.1)\n  precision")
    code, message = told_of(text)
    assert code == "E0474" and "this one trains" in message


def test_a_trained_model_loses_next_to_nothing(folder: Path) -> None:
    """Told with the loss of whole weights and activations, on held-out data; weights are calibrated with whole ones."""
    text = (folder / "writer.par").read_text()
    rule = "mesh (tp = 1)\n  store weights as int4(group = 64)"
    assert rule in text
    found = {}
    for name, more in (("weights", ""), ("both", "  store activations as int8\n")):
        file = folder / f"{name}.par"
        file.write_text(text.replace(rule, f"mesh (tp = 1)\n  store weights as int8\n{more}"))
        found[name] = compress(folder / "saved", file, folder / name, job="write", strategy="alone", steps=2)
    weights, both = found["weights"], found["both"]
    assert weights.loss == both.loss and weights.made is not None and both.made is not None and both.loss is not None
    assert both.made != weights.made and abs(both.made / both.loss - 1) < 0.01
    made = compile(folder / "both.par", job="write", strategy="alone")
    assert made.job.model.exact is not None


def test_compressed_for_scopes_by_hand_it_loses_next_to_nothing(folder: Path) -> None:
    """Calibrated with whole activations, smoothed with each device's rounding; the loss told is that of pieces."""
    text = (folder / "writer.par").read_text()
    hand = "mesh (tp = 2)\n  tensor_parallel(tp)\n  implement block.mlp by tensor_parallel_mlp(tp)\n" + INTEGERS
    file = folder / "by_hand.par"
    used = "use std.implementations (tensor_parallel_mlp)\n"
    file.write_text(used + text.replace("mesh (tp = 1)\n  store weights as int4(group = 64)", hand))
    losses = {}
    for method in ("gptq", "smooth"):
        made = folder / f"by_hand_{method}"
        found = compress(folder / "saved", file, made, method=method, steps=2, job="write", strategy="alone")
        assert found.loss is not None and found.made is not None and abs(found.made / found.loss - 1) < 0.01
        losses[method] = found.made
    assert len(set(losses.values())) == 2
