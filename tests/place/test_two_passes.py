"""`two passes`: a loss that needs the whole batch, with micro-batches: under every layout as the serial program."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest

import parc
from compiler.driver import compile_job, joined
from compiler.graph import Node
from compiler.model import EVALUATE
from compiler.ops.effects import Recv, Send
from compiler.program import ROUNDS, Program
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from tests.place.test_whole_batch import COUNTED
from tests.stages.build import judged

TOWERS = """\
use std.layers (batch_norm, dropout, linear, log_softmax, relu_mlp)
use std.optimizers (adamw)
use std.tactics

fn unit(x, d) {
  return x * rsqrt(sum(x * x, over d) + 1e-6)
}

fn contrast(x[b,d], other[b,d], heat) {
  dim o = b
  partner = rename(unit(other, over d), b -> o)
  scores[b,o] = heat * (unit(x, over d) @ partner)
  own = where(iota(b) == iota(o), log_softmax(scores, over o), 0.0)
  return -mean(sum(own, over o))
}

model towers {
  dim b = 16, p = 6, q = 5, d = 4, k = 1
  input pictures : f32[b,p]
  input sounds : f32[b,q]
  weight heat[k] ~ constant(3.0)
  i = linear(pictures, over d, std = 0.3) as image
  repeat 2 as block {
    i = i + dropout(relu_mlp(i, 16, std = 0.3), 0.2)
  }
  t = linear(sounds, over d, std = 0.3) as text
  metric apart = max(abs(i - t))
  loss contrast(i, t, sum(heat)) + contrast(t, i, sum(heat)) + 0.1 * mean(i * i)
}

strategy plan for towers {
  mesh (AXES)
  RULES
  microbatches N over b, two passes
}

job align {
  train towers using plan
  optimizer adamw(lr = 1e-3)
}
"""

LAYOUTS = {
    "one": ("one = 1", ""),
    "dp": ("dp = 2", "data_parallel(dp)"),
    "zero_1": ("z1 = 2", "data_parallel(z1)\n  optimizer_parallel(z1, 1)"),
    "zero_2": ("z2 = 2", "data_parallel(z2)\n  optimizer_parallel(z2, 2)"),
    "zero_3": ("z3 = 2", "fsdp(z3)"),
    "tp": ("tp = 2", "split f on tp"),
    "columns": ("cl = 2", "split d on cl"),
    "recompute": ("", "recompute block"),
    "recompute_all": ("", "recompute"),
}


def under(*layouts: str, n: int = 4, text: str = TOWERS) -> Source:
    """The towers under these."""
    axes = ", ".join(a for a, _ in (LAYOUTS[x] for x in layouts) if a) or "one = 1"
    rules = "\n  ".join(r for _, r in (LAYOUTS[x] for x in layouts) if r)
    return Source("towers.par", text.replace("AXES", axes).replace("RULES", rules).replace("N over", f"{n} over"))


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout: str, n: int) -> None:
    source = under(layout, n=n)
    parc.check(source, double=True)
    assert parc.verify(source, double=True, steps=2).ok


PAIRS = [p for p in combinations(LAYOUTS, 2) if "one" not in p and sum("recompute" in x for x in p) < 2]


@pytest.mark.parametrize("pair", PAIRS[::4], ids="+".join)
def test_pairs(pair: tuple[str, str]) -> None:
    assert parc.verify(under(*pair), double=True, steps=1).ok


@pytest.mark.nightly
@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_all_pairs(pair: tuple[str, str]) -> None:
    assert parc.verify(under(*pair), double=True, steps=1, executor="private").ok


def test_every_device_by_itself_and_in_evaluation() -> None:
    assert parc.verify(under("dp"), double=True, steps=2, executor="private").ok
    assert parc.verify(under("dp"), double=True, steps=1, entry="evaluate").ok


def test_the_loss_is_that_of_the_whole_batch() -> None:
    """However many micro-batches there are: it compares with all samples."""
    losses = [parc.run(under("dp", n=n), steps=2).losses for n in (1, 2, 8)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[0] == pytest.approx(losses[2], rel=1e-5)


def test_nothing_but_embeddings_is_kept_of_the_first_pass() -> None:
    """A buffer of the batch's embeddings for each side of each comparison; what is saved is of one micro-batch."""
    (cls,) = parc.compile(under("dp")).program.classes
    assert [f.phase for f in cls.functions] == ["P", "S", "F", "B", "E", "U"]
    whole = [s for s in cls.states if s.role == "statistic" and s.type.dims]
    assert whole and all(sorted(d.size for d in s.type.dims) == [4, 16] for s in whole)


def test_texts_can_be_read_back() -> None:
    source = under("zero_2", "tp")
    program = parc.emit(source)
    for stage in ("training", "placed"):
        text = parc.emit(source, stage)  # type: ignore[arg-type]
        assert parc.emit(Source(f"towers.{stage}", text)) == program
    assert parc.fmt(source.text) == source.text


TWICE = COUNTED.replace("microbatches n over b", "microbatches n over b, two passes")


@pytest.mark.parametrize(
    "loss",
    [
        "max(each)",
        "max(each) + mean(x)",
        "-max(-each)",
        "sqrt(mean(each * each))",
        "mean(each) * mean(each * m)",
        "sum(each * m) / (1.0 + sum(each))",
        "mean((each - mean(each)) * (each - mean(each)))",
        "mean(each * cumsum(m, over b))",
        "mean(each * cumsum(each, over b))",
        "mean(each * flip(each, over b)) + sum(each * m) / sum(m)",
    ],
)
@pytest.mark.parametrize("dp", [1, 2])
def test_losses_that_are_refused_without(loss: str, dp: int) -> None:
    source = Source("c.par", TWICE.replace("sum(each * each * m) / sum(m)", loss))
    for n in (2, 4):
        parc.check(source, double=True, params={"dp": dp, "n": n})
        assert parc.verify(source, double=True, params={"dp": dp, "n": n}).ok


def test_batch_norm_over_the_whole_batch() -> None:
    """All that comes behind it is computed by each micro-batch; its states, too, are those of the whole batch."""
    text = (
        "use std.layers (batch_norm)\nuse std.optimizers (sgd)\n"
        "model m {\n  dim b = 8, y = 2, x = 2, c = 4, k = 3\n  input image : f32[b,y,x,c]\n  weight w[c] ~ ones\n"
        "  weight v[c,k]\n  h = batch_norm(image * w)\n  z[b,y,x,k] = tanh(h) @ v\n  loss mean(z * z * z + z)\n}\n"
        "strategy s for m {\n  mesh (dp = 2)\n  split b on dp\n  microbatches 2 over b, two passes\n}\n"
        "job fit {\n  train m using s\n  optimizer sgd(lr = 0.1)\n}\n"
    )
    assert parc.verify(Source("m.par", text), double=True, steps=2).ok


@pytest.mark.parametrize("layout", ["columns", "tp"])
def test_states_in_layers_lie_in_the_first_pass_as_in_the_second(layout: str) -> None:
    layer = "    i = i + dropout(relu_mlp(i, 16, std = 0.3), 0.2)\n"
    state = (
        "    state seen[d]\n    i = i + 0.1 * cast(seen, compute)\n"
        "    seen = 0.9 * seen + 0.1 * cast(mean(i, over b), master)\n"
    )
    assert layer in TOWERS
    source = under(layout, text=TOWERS.replace(layer, layer + state))
    assert parc.verify(source, double=True, executor="private").ok


def test_where_nothing_is_needed_it_is_an_error() -> None:
    with pytest.raises(ParcError) as caught:
        parc.check(Source("c.par", TWICE.replace("sum(each * each * m) / sum(m)", "mean(each)")))
    (found,) = caught.value.diagnostics
    assert found.code == "E0542" and "`two passes` changes nothing" in found.message
    parc.check(Source("c.par", TWICE.replace("sum(each * each * m) / sum(m)", "mean(each)")), params={"n": 1})


HEADS = "place one on at[1]\n  place two on at[1]"
STAGES = {
    "towers": ("at = 2", "place text on at[1]"),
    "towers_and_head": ("at = 2", f"place text on at[1]\n  {HEADS}"),
    "head_alone": ("at = 3", "place text on at[1]\n  place one on at[2]\n  place two on at[2]"),
    "data_parallel": ("at = 2, z = 2", f"place text on at[1]\n  fsdp(z)\n  {HEADS}"),
    "split": ("at = 2, tp = 2", "place image on at[1]\n  split f, d on tp\n  offload optimizer to host"),
    "gpipe": ("pp = 3", "pipeline block on pp, schedule gpipe, cuts [1, 3]"),
    "one_f_one_b": ("pp = 2", "pipeline block on pp, schedule one_f_one_b\n  place text on pp[1]\n  recompute"),
    "zero_bubble": ("pp = 2, z = 2", "pipeline block on pp, schedule zero_bubble\n  optimizer_parallel(z, 2)"),
    "row": ("pp = 3", "pipeline image, block, one on pp, schedule one_f_one_b, cuts [2, 4]\n  place two on pp[2]"),
    "beside": (
        "pp = 2, at = 2",
        "pipeline block on pp, schedule one_f_one_b\n  place image on at[0]\n  place block on at[0]\n"
        f"  place text on at[1]\n  {HEADS}",
    ),
}


def on_stages(name: str, rules: str = "") -> str:
    """Towers of which each stage has a part."""
    axes, own = STAGES[name]
    text = TOWERS.replace("AXES", axes).replace("RULES", own + rules).replace("N over", "4 over")
    text = text.replace("loss contrast(i, t, sum(heat)) +", "loss contrast(i, t, sum(heat)) as one +")
    return text.replace("contrast(t, i, sum(heat)) +", "contrast(t, i, sum(heat)) as two +").replace(
        "repeat 2", "repeat 4"
    )


ALWAYS = ("towers_and_head", "zero_bubble", "beside")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in ALWAYS else pytest.mark.nightly) for n in STAGES])
def test_stages(name: str) -> None:
    """Each computes in the first pass what it computes in the second, and hands it on."""
    judged(on_stages(name))


def test_what_all_stages_read_is_made_where_training_makes_it() -> None:
    """In an evaluation, whose second pass makes nothing of it: one program has both, with weights in one place."""
    text = TOWERS.replace("relu_mlp(i, 16, std = 0.3), 0.2)", "relu_mlp(i, 16, std = 0.3), 0.2) + 0.1 * t")
    tower = "  t = linear(sounds, over d, std = 0.3) as text\n"
    text = text.replace(tower, "").replace("  i = linear", tower + "  i = linear").replace("AXES", "pp = 2")
    text = text.replace("RULES", "pipeline block on pp, schedule one_f_one_b").replace("N over", "4 over")
    text = re.sub("  metric .*\n  loss .*\n", "  loss sqrt(0.1 + mean(i * i) * mean(i * i) * sum(heat))\n", text)
    compiled = judged(text)
    alone = compile_job(compiled.job, EVALUATE)
    assert not verify(joined([compiled.program, alone.program]))
    readers = [["text.w" in {s.name for s in c.states} for c in p.classes] for p in (compiled.program, alone.program)]
    assert readers == [[True, False]] * 2


def test_a_stage_has_its_own_weights_only() -> None:
    """Towers on places of their own: what they make of the whole batch is all that goes from one to the other."""
    text = on_stages("towers", "\n  place image on at[0]\n  place block on at[0]")
    program = parc.compile(Source("towers.par", text.replace("  metric apart = max(abs(i - t))\n", ""))).program
    weights = [{s.name.partition(".")[0] for s in c.states if s.role == "weight"} for c in program.classes]
    assert weights == [{"heat", "image", "block"}, {"heat", "text"}]
    sent = [type(n.op).__name__ for c in program.classes for f in c.functions if f.phase != "U" for n in f.body.nodes]
    assert sent.count("StageReduce") == 8 and not {"Send", "Recv"} & {*sent}


def test_messages_of_the_first_pass_that_go_wrong_are_found() -> None:
    program = parc.compile(Source("towers.par", on_stages("gpipe"))).program
    assert not verify(program)

    def with_sends(change: Callable[[Node], Node]) -> Program:
        classes = []
        for cls in program.classes:
            functions = [
                replace(f, body=replace(f.body, nodes=tuple(map(change, f.body.nodes)))) if f.phase == "P" else f
                for f in cls.functions
            ]
            classes.append(replace(cls, functions=tuple(functions)))
        return program.with_classes(tuple(classes))

    def turned(node: Node) -> Node:
        return replace(node, op=replace(node.op, to=-node.op.to)) if isinstance(node.op, Send) else node

    def backwards(node: Node) -> Node:
        if isinstance(node.op, Recv):
            return replace(node, op=replace(node.op, source=-node.op.source))
        return turned(node)

    assert {d.code for d in verify(with_sends(turned))} == {"E0630"}
    assert {d.code for d in verify(with_sends(backwards))} == {"E0630"}


VISITED = "\n  place text on pp[1]\n  place one on pp[0]\n  place two on pp[0]"


@pytest.mark.parametrize(
    "rules",
    [
        "pipeline block on pp, schedule interleaved(chunks = 2)",
        f"pipeline block on pp, schedule one_f_one_b{VISITED}\n  recompute",
        pytest.param(f"pipeline block on pp, schedule interleaved(chunks = 2){VISITED}", marks=pytest.mark.nightly),
        pytest.param("pipeline block on pp, schedule zero_bubble, chunks [0, 1, 1, 0]", marks=pytest.mark.nightly),
    ],
)
def test_places_with_several_stages(rules: str) -> None:
    """One chunk after the other; numbers of functions tell them apart."""
    text = on_stages("gpipe").replace(STAGES["gpipe"][1], rules).replace("pp = 3", "pp = 2")
    compiled = judged(text)
    assert {f.chunk for c in compiled.program.classes for f in c.functions if f.phase == "P"} >= {0, ROUNDS}
    alone = compile_job(compiled.job, EVALUATE)
    assert not verify(joined([compiled.program, alone.program]))


def test_places_that_values_come_back_to_without_a_pipeline_are_refused() -> None:
    rules = f"place image on at[0]\n  place block on at[1]\n  place text on at[1]\n  {HEADS.replace('[1]', '[0]')}"
    with pytest.raises(ParcError) as caught:
        parc.check(Source("towers.par", on_stages("towers").replace(STAGES["towers"][1], rules)))
    assert {d.code for d in caught.value.diagnostics} == {"E0563"}


STATE = """\
use std.optimizers (sgd)
model m {
  dim b = 4, d = 4
  input x : f32[b,d]
  y = x
  repeat 2 as block {
    weight w[d] ~ ones
    state mu[d]
    y = tanh(y * w)
    if training {
      mu = 0.9 * mu + 0.1 * cast(mean(y, over b), master)
    } else {
      y = y - cast(mu, compute)
    }
  }
  loss max(y)
}
strategy plan for m {
  mesh (pp = 2)
  pipeline block on pp, schedule gpipe
  microbatches 2 over b, two passes
}
job j {
  train m using plan
  optimizer sgd(lr = 0.1)
}
"""


def test_a_stage_has_the_states_that_its_first_pass_only_reads() -> None:
    for entry in ("train", "evaluate"):
        assert parc.verify(Source("m.par", STATE), double=True, steps=1, entry=entry).ok


SIDES = """\
use std.optimizers (sgd)
fn side(z[b,d]) {
  dim f = 3
  weight p[d,f], q[f,d] ~ normal(1.0)
  t[b,f] = tanh(z) @ p
  u[b,d] = tanh(t) @ q
  return u
}
model m {
  dim b = 4, d = 4
  input x, z, s : f32[b,d]
  e = side(z) as one
  w = side(s) as two
  y = x
  repeat 2 as block {
    weight g[d] ~ ones
    y = y + tanh(y * g)READ
  }
  loss LOSS
}
strategy plan for m {
  mesh (AXES)
  pipeline block on pp, schedule gpipe
  RULES
  microbatches 2 over b, two passes
}
job j {
  train m using plan
  optimizer sgd(lr = 0.1)
}
"""
ONE = "pp = 2"
BOTH = "pp = 2, at = 2"
BESIDE = "place block on at[1]\n  place one on at[0]"


@pytest.mark.parametrize(
    ("axes", "rules", "read", "loss"),
    [
        pytest.param(ONE, "place one on pp[1]", "", "max(y) * mean(e)", id="last_stage"),
        pytest.param(ONE, "", "", "max(w) * mean(y * e)", id="no_place"),
        pytest.param(BOTH, BESIDE, " * e", "max(y) * mean(e)", id="evaluated"),
        pytest.param(BOTH, BESIDE + "\n  place two on at[0]", " * e", "exp(mean(y * e)) * mean(w)", id="two_visits"),
        pytest.param("at = 2", "place one on at[1]", " * e", "max(tanh(y * e)) + mean(w * mean(e))", id="no_pipeline"),
        pytest.param(BOTH, BESIDE, " * e", "mean(y * y) + max(e) * mean(y)", id="read_by_all"),
    ],
)
def test_gradients_go_back_to_where_the_first_pass_was(axes: str, rules: str, read: str, loss: str) -> None:
    text = SIDES if "pp" in axes else SIDES.replace("  pipeline block on pp, schedule gpipe\n", "")
    text = text.replace("AXES", axes).replace("RULES", rules).replace("READ", read).replace("LOSS", loss)
    judged(text)
