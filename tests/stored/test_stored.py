"""`store weights as …`: proved under strategies, equal to the plain model with the weights that the bits stand for."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.driver import Compiled, compile_job, joined
from compiler.evaluate import evaluate, evaluate_file
from compiler.graph import ITEMSIZE
from compiler.memory.peak import memory_use
from compiler.model import DECODING, INFER, TRAIN_STEP
from compiler.origin import Role
from compiler.packed_formats import packed_formats
from compiler.program import Program
from compiler.text import parse_program, show
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc.by_hand import tried_by_hand
from runtime.prove import prove, prove_evaluation
from runtime.prove.decoding import Course, prove_decoding
from runtime.prove.proof import random_batch
from runtime.prove.serial import initial_state, serial_gradients
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.memory.measured import exact
from tests.stored.models import MODEL, lowered, meant

FORMATS = ["int8", "int8(group = 32, zeros = true)", "int4(group = 32)", "int4(zeros = true)", "int3(group = 64)"]
FORMATS += ["fp8", "fp8(group = 16)", "sparse"]

STRATEGIES = {
    "serial": "  mesh (dp = 1)\n",
    "tensor": "  mesh (tp = 2)\n  tensor_parallel(tp)\n",
    "zero": "  mesh (dp = 2)\n  data_parallel(dp)\n  shard weights on dp\n",
    "all": "  mesh (pp = 2, dp = 2, tp = 2)\n  data_parallel(dp)\n  megatron(tp)\n"
    "  pipeline block on pp, schedule one_f_one_b(microbatches = 1, over = b)\n",
}


def rules(strategy: str, format: str, where: str = "") -> str:
    return f"{STRATEGIES[strategy]}  store weights as {format}{where}"


def told(c: Compiled) -> dict[str, tuple[str, list[str]]]:
    """How weights rest, as their strategy says."""
    of = c.training.model.stored
    return {s.parts["words"]: (str(s.resting), [n for n in s.parts.values() if n != s.parts["words"]]) for s in of}


def resting(program: Program) -> dict[str, tuple[str, list[str]]]:
    """The same, as the program shows it."""
    return {name: (str(f.format), [*f.others]) for name, f in packed_formats(program).items()}


def proved(text: str) -> None:
    """With the whole pass and with positions by themselves, in f64; what it says of its weights is read back."""
    whole, first, one = (lowered(text, "f64", entry) for entry in (INFER, *DECODING))
    program = joined([first.program, one.program])
    for p in (whole.program, program):
        assert verify(p) == () and parse_program(show(p)) == p
        assert told(whole) == resting(p) == resting(parse_program(show(p)))
    assert whole.job.decoding is not None
    found = prove_evaluation(whole.training, whole.program, 1, executor=RankExecutor)
    assert found.ok and all(row.error < 1e-9 for row in found.rows)
    (row,) = prove_decoding(whole.training, program, whole.job.decoding, Course(1, 2), executor=Emulator)
    assert row.ok and row.error < 1e-9


@pytest.mark.parametrize("format", FORMATS)
def test_it_is_proved(format: str) -> None:
    proved(rules("all", format, " in block"))


@pytest.mark.parametrize("strategy", ["tensor", "zero"])
@pytest.mark.parametrize("format", ["int4(group = 32)", "int3(group = 64)", "fp8", "sparse", "int8(zeros = true)"])
def test_it_is_the_plain_model_with_the_weights_that_are_meant(format: str, strategy: str) -> None:
    where = " in block" if format.startswith(("int3", "sparse")) else ""
    packed, plain = lowered(rules(strategy, format, where)), lowered(STRATEGIES["serial"])
    parts, _ = initial_state(packed.training)
    rng = np.random.default_rng(3)
    for of in packed.training.model.stored:  # zero points of their own, scales that differ
        for part in ("scale", "zero"):
            if part in of.parts:
                shape = parts[of.parts[part]].shape
                drawn = rng.uniform(0.002, 0.006, shape) if part == "scale" else rng.integers(100, 150, shape)
                parts[of.parts[part]] = drawn.astype(np.float64)
    weights, states = initial_state(plain.training)
    assert packed.training.model.stored
    for of in packed.training.model.stored:
        weights[of.name] = meant(of, {part: parts[name] for part, name in of.parts.items()})
    for name in weights.keys() & parts.keys():
        weights[name] = parts[name]
    inputs = [*plain.program.inputs]
    batch = random_batch(inputs, 5, 0, False)
    expected = serial_gradients(plain.training, weights, states, batch, 0).outputs["logits"]
    run = Emulator(packed.program, initial=parts)
    got = run.call(INFER, batch).outputs["logits"]
    assert np.abs(got - expected).max() <= 1e-9 * np.abs(expected).max()


def weight_bytes(format: str, strategy: str = "serial") -> int:
    program = lowered(rules(strategy, format) if format else STRATEGIES[strategy], "f16").program
    return sum(s.type.bytes for s in program.classes[0].states if s.role is Role.WEIGHT)


def test_memory_is_that_of_the_packed_numbers() -> None:
    matrices = 2 * (4 * 64 * 64 + 2 * 64 * 128) + 64 * 12
    before = weight_bytes("")
    for format, bits, scales in [
        ("int8", 8, matrices // 64 - 2 * 128 * 64 // 64 + 2 * 64),
        ("int4(group = 32)", 4, matrices // 32),
        ("fp8(group = 16)", 8, matrices // 16),
    ]:
        assert before - weight_bytes(format) == 2 * matrices - (matrices * bits // 8 + 2 * scales)
    saved = 2 * matrices - 64 * 12 * 2
    assert before - weight_bytes("sparse") <= saved * 0.5  # half of the numbers, and a bit for each
    program = lowered(rules("all", "int4(group = 32)", " in block"), "f16").program
    assert exact(program)
    used = [u["hbm"].roles[Role.WEIGHT] for u in memory_use(program).values()]
    full = [u["hbm"].roles[Role.WEIGHT] for u in memory_use(lowered(STRATEGIES["all"], "f16").program).values()]
    assert all(u < 0.5 * f for u, f in zip(used, full))
    assert ITEMSIZE["uint32"] == 4


def test_layouts_of_a_weight_are_those_of_its_parts() -> None:
    text = "  mesh (tp = 2)\n  tensor_parallel(tp)\n  layout block.mlp.w1[d/tp, f]\n  store weights as int4(group = 32)"
    program = lowered(text).program
    shown = show(program)
    assert "weight block.mlp.w1.words: uint32[block=2, d=4/tp, f=128]" in shown
    assert "weight block.mlp.w1.scale: f64[block=2, d=1/tp, f=128]" in shown
    assert verify(program) == () and prove_evaluation(lowered(text).training, program, 1).ok
    assert told(lowered(text)) == resting(program)


BY_HAND = "  implement block.mlp by tensor_parallel_mlp(tp)\n"


@pytest.mark.parametrize(
    ("more", "format"),
    [(BY_HAND, "int4(group = 32)"), (BY_HAND, "int8"), ("  split d on tp in block[1..2]\n", "int4(group = 32)")],
    ids=["by hand", "by hand, a scale for each output", "cut loops"],
)
def test_beside_what_is_written_by_hand_and_rules_for_some_layers(more: str, format: str) -> None:
    text = f"  mesh (tp = 2)\n  tensor_parallel(tp)\n{more}  store weights as {format} in block"
    used = f"use std.implementations (tensor_parallel_mlp)\n{MODEL}" if "implement" in more else MODEL
    source = Source("net.par", used.replace("STRATEGY", text).replace("PRECISION", "f64"))
    c = compile_job(evaluate(source))
    assert verify(c.program) == () and show(c.program).count(".words: uint32") >= 6
    assert told(c) == resting(c.program)
    assert all(tried.equal for tried in tried_by_hand(source, evaluate_file(source), {})[0])
    assert prove_evaluation(c.training, c.program, 1).ok


ODD = MODEL.replace("d = 64", "d = 36").replace(", 2)\n", ", 3)\n")


@pytest.mark.parametrize(
    ("rule", "code", "words"),
    [
        ("store weights as int5", "E0470", "did you mean `int"),
        ("store weights as int4(size = 3)", "E0470", "has no `size`"),
        ("store weights as int4(group = 32, group = 64)", "E0111", "twice"),
        ("store weights as int4(32)", "E0470", "takes its numbers by name"),
        ("store weights as fp8(zeros = true)", "E0470", "has no `zeros`"),
        ("store weights as int4(group = 0)", "E0470", "1 to"),
        ("store optimizer as int4", "E0403", "`optimizer`"),
        ("store weights as int4(group = 24)", "E0471", "groups of 24 inputs"),
        ("store weights as int4 in table", "E0542", "no matrix in `table`"),
        ("store weights as int4 in block[0..1]", "E0472", "some layers of a loop"),
        ("store weights as int4 in bloc", "E0404", "bloc"),
    ],
)
def test_what_cannot_be_is_refused(rule: str, code: str, words: str) -> None:
    with pytest.raises(ParcError) as error:
        lowered(f"  mesh (dp = 1)\n  {rule}")
    (found,) = error.value.diagnostics
    assert found.code == code and words in f"{found.message} {found.help}" and found.span is not None


def test_numbers_that_fill_no_words_are_refused() -> None:
    text = ODD.replace("STRATEGY", "  mesh (dp = 1)\n  store weights as int3(group = 4)").replace("PRECISION", "f32")
    with pytest.raises(ParcError, match="multiple of 32"):
        evaluate(Source("net.par", text))


FROZEN = MODEL[: MODEL.index("job serve")] + (
    "job tune {\n  train net(2, 4) using plan\n  optimizer sgd(lr = 0.1)\n  precision f64\n  frozen block\n}\n"
)


def test_frozen_weights_can_be_stored_and_trained_ones_cannot() -> None:
    """As QLoRA has it: gradients go through what rests in 4 bits. What is trained stays as it is, whatever the types; a
    rule that finds nothing else is an error."""
    text = FROZEN.replace("STRATEGY", rules("tensor", "int4(group = 32)", " in block"))
    c = compile_job(evaluate(Source("net.par", text)), TRAIN_STEP)
    assert verify(c.program) == () and prove(c.training, c.program, 2).ok
    for precision in ("f64", "bf16, master f32"):
        of = text.replace("precision f64", f"precision {precision}")
        mixed = of.replace(" in block", "", 1).replace("as int4(group = 32)", "as int4")
        weights = {w.name: w for w in evaluate(Source("net.par", mixed)).model.weights}
        assert all(weights[w].trained for w in ("table", "head"))
        assert any(w.endswith(".words") for w in weights)
        with pytest.raises(ParcError) as error:
            evaluate(Source("net.par", of.replace(" in block", " in head", 1)))
        assert [d.code for d in error.value.diagnostics] == ["E0471"]


NAMED = """\
fn scaled(x[b,d]) {
  BODY
  return y
}
model net() {
  dim b = 4, d = 32, f = 8
  input x : f32[b,d]
  weight w[f,d]
  y = scaled(x) as w
  z[b,f] = y @ w
  output z
}
strategy plan for net {
  mesh (dp = 1)
  store weights as int8
}
job serve {
  infer net() using plan
}
"""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("weight scale[d] ~ ones\n  y = x * scale", "the scale of the stored weight `w` and a weight are both"),
        (
            "words = x * 2.0\n  y = words + 1.0",
            "the words of the stored weight `w` and a value are both called `w.words`",
        ),
    ],
)
def test_parts_have_names_that_nothing_else_has(body: str, words: str) -> None:
    text = NAMED.replace("BODY", body)
    assert compile_job(evaluate(Source("net.par", text.replace("as w", "as v")))).program
    with pytest.raises(ParcError) as error:
        compile_job(evaluate(Source("net.par", text)))
    (found,) = error.value.diagnostics
    assert found.code == "E0473" and words in found.message and found.span is not None
