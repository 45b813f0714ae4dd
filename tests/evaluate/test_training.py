"""`training` and `output` in models: what they mean, what is refused, and that both entries have the same weights."""

from __future__ import annotations

import numpy as np
import pytest

import parc
from compiler.evaluate import evaluate
from compiler.model import EVALUATE, TRAIN_STEP, Job
from dsl.diagnostics import ParcError
from dsl.source import Source

FILE = """\
use std.layers (dropout, mlp)
use std.optimizers (sgd)

model m {
  dim b = 4, d = 6
  input x : f32[b,d]
BODY
}

job fit {
  train m
  optimizer sgd(lr = 0.0)
}
"""


def source(*lines: str) -> Source:
    return Source("m.par", FILE.replace("BODY", "\n".join(f"  {line}" for line in lines)))


def job(*lines: str) -> Job:
    return evaluate(source(*lines))


def refused(code: str, *lines: str) -> str:
    with pytest.raises(ParcError) as error:
        parc.check(source(*lines))
    assert {d.code for d in error.value.diagnostics} == {code}
    return str(error.value)


def test_dropout_is_the_identity_in_evaluation() -> None:
    found = job("y = dropout(mlp(x, 8), 0.5)", "loss mean(y * y)")
    assert found.evaluated is not None
    assert any(n.op.mnemonic == "random" for n in found.model.graph)
    assert not any(n.op.mnemonic == "random" for n in found.evaluated.graph)
    assert found.model.step is not None and found.evaluated.step is None
    plain = job("y = mlp(x, 8)", "loss mean(y * y)")
    assert plain.evaluated is None
    assert [n.op for n in found.evaluated.graph] == [n.op for n in plain.model.graph]


def test_a_rate_of_0_asks_nothing() -> None:
    assert job("y = dropout(mlp(x, 8), 0.0)", "loss mean(y * y)").evaluated is None


def test_random_numbers_of_the_model_are_those_of_the_step() -> None:
    text = source("weight w[d]", "y = uniform(b, d) * x * w", "output y", "loss mean(y)")
    assert parc.verify(text, 2, entry=EVALUATE, at_step=7).ok
    program = parc.compile(text, entry=EVALUATE).program
    assert program.entries[0].inputs == ("x", "step")


def test_weights_have_the_names_that_training_gave_them() -> None:
    """A call in training only takes the first name; the second keeps its own, though it is the first in evaluation."""
    lines = ("more = 0.0", "if training {", "  z = mlp(x, 8)", "  more = mean(z)", "}", "y = mlp(x, 8)")
    found = job(*lines, "loss mean(y * y) + 0.1 * more")
    assert found.evaluated is not None
    names = [w.name for w in found.model.weights]
    assert [n for n in names if n.startswith("mlp_1.")] and [n for n in names if n.startswith("mlp.")]
    assert {w.name for w in found.evaluated.weights} == {n for n in names if n.startswith("mlp_1.")}
    assert found.model_of(TRAIN_STEP) is found.model and found.model_of(EVALUATE) is found.evaluated


def test_a_loop_that_computes_in_training_only() -> None:
    given = source("y = x", "repeat 3 as block {", "  y = dropout(y, 0.5)", "}", "weight w[d]", "loss mean(y * w)")
    parc.check(given)
    assert parc.verify(given, entry=EVALUATE).ok and parc.verify(given).ok


def test_a_weight_of_training_only() -> None:
    given = source("weight v[d], w[d]", "y = x * w", "if training {", "  y = y * v", "}", "loss mean(y)")
    assert parc.verify(given, entry=EVALUATE).ok
    states = parc.compile(given, entry=EVALUATE).program.classes[0].states
    assert [s.name for s in states if s.role == "weight"] == ["w"]


def test_outputs_may_differ() -> None:
    lines = ("weight w[d]", "y = x * w", "if not training {", "  output y", "}", "output x", "loss mean(y)")
    found = parc.compile(source(*lines)), parc.compile(source(*lines), entry=EVALUATE)
    assert [c.program.entries[0].outputs for c in found] == [("loss", "x"), ("loss", "y", "x")]
    run = parc.run(source(*lines), 1, entry=EVALUATE)
    assert {n: v.shape for n, v in run.outputs.items()} == {"x": (4, 6), "y": (4, 6)}
    assert np.array_equal(run.outputs["y"] == 0, run.outputs["x"] == 0)


def test_the_name_is_free_for_others() -> None:
    found = job("training = 2.0", "weight w[d]", "loss mean(x * w) * training")
    assert found.evaluated is None


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        (
            "E0318",
            ("y = x", "if not training {", "  weight v[d]", "  y = x * v", "}", "weight w[d]", "loss mean(y * w)"),
        ),
        ("E0102", ("weight w[d]", "y = x * w", "output y, y", "loss mean(y)")),
        ("E0102", ("weight w[d]", "y = x * w", "output y", "metric y = mean(y)", "loss mean(y)")),
        ("E0101", ("weight w[d]", "output z", "loss mean(x * w)")),
        ("E0210", ("weight w[d]", "z = 3", "output z", "loss mean(x * w)")),
        ("E0302", ("weight w[d]", "y = x", "repeat 2 as l {", "  y = y * w", "  output y", "}", "loss mean(y)")),
    ],
)
def test_refused(code: str, lines: tuple[str, ...]) -> None:
    refused(code, *lines)


def test_it_is_known_in_models_only() -> None:
    text = FILE.replace("lr = 0.0", "lr = 1.0 if training else 0.0").replace("BODY", "weight w[d]\nloss mean(x * w)")
    with pytest.raises(ParcError, match="no `training` here"):
        evaluate(Source("m.par", text))
