"""Branches on devices of their own that meet again: no hang, and equal to the serial program, whoever has the loss."""

from __future__ import annotations

from random import Random

import pytest

import parc
from dsl.diagnostics import ParcError
from dsl.source import Source

TOWERS = """\
use std.layers (linear)
use std.optimizers (sgd)

fn tower(x[b,p], d) {
  return linear(x, over d)
}

fn product(x, y) {
  return mean(x * y)
}

model two(hidden = 4) {
  dim b = 4, p = 4, d = hidden
  input xs, ys : f32[b,p]
  i = tower(xs, over d) as image
  t = tower(ys, over d) as text
  loss product(i, t) as meet
}

strategy apart for two {
  mesh (tower = 2)
  place image on tower[0]
  place text on tower[1]
}

job fit {
  train two using apart
  optimizer sgd(lr = 0.1)
}
"""


@pytest.mark.parametrize("executor", ["stacked", "private"])
@pytest.mark.parametrize("dp", [1, 2])
@pytest.mark.parametrize("loss", [None, 0, 1, 2], ids=["anywhere", "first", "second", "third"])
def test_towers_that_meet_in_a_product(loss: int | None, dp: int, executor: parc.api.Executor) -> None:
    text = TOWERS.replace("mesh (tower = 2)", f"mesh (tower = {max(2, (loss or 0) + 1)}, dp = {dp})\n  split b on dp")
    if loss is not None:
        text = text.replace("  place text", f"  place meet on tower[{loss}]\n  place text")
    source = Source("towers.par", text)
    parc.check(source)
    proof = parc.verify(source, executor=executor)
    assert proof.ok and proof.devices == max(2, (loss or 0) + 1) * dp


LOOPS = """\
use std.layers (mlp)
use std.optimizers (adam)

model deep {{
  dim b = 8, d = 4
  input x : f32[b,d]
  weight first[d]
  h = x * first
  repeat 2 as low {{
    h = tanh(mlp(h, 8))
  }}
  repeat 3 as high {{
    h = h + mlp(h, 8)
  }}
  loss mean(h * h)
}}

strategy by_hand for deep {{
  mesh (at = 3, dp = 2)
  split b on dp
{rules}
  microbatches {count} over b
}}

job fit {{
  train deep using by_hand
  optimizer adam(lr = 1e-3, clip = 1.0)
}}
"""


def owners(source: Source, weight: str) -> set[int]:
    """Groups of devices that have the weight."""
    classes = parc.compile(source, double=True).program.classes
    return {g for c in classes if any(s.name == weight for s in c.states) for g in c.groups}


@pytest.mark.parametrize("executor", ["stacked", "private"])
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (2, 1), (1, 1)])
def test_loops_run_where_they_are_placed(low: int, high: int, count: int, executor: parc.api.Executor) -> None:
    source = Source("t", LOOPS.format(rules=f"  place low on at[{low}]\n  place high on at[{high}]", count=count))
    assert parc.verify(source, double=True, executor=executor).ok
    assert (owners(source, "low.mlp.w1"), owners(source, "high.mlp.w1")) == ({low}, {high})


NESTED = TOWERS.replace("return linear(x, over d)", "return scaled(linear(x, over d) as one) as two")
NESTED += "\nfn scaled(x[b,d]) {\n  weight w[d]\n  return x * w\n}\n"


@pytest.mark.parametrize("turned", [False, True])
def test_the_innermost_place_counts(turned: bool) -> None:
    rules = ["  place image on tower[0]", "  place image.two on tower[1]"]
    text = NESTED.replace("  place image on tower[0]", "\n".join(reversed(rules) if turned else rules))
    source = Source("t", text)
    assert parc.verify(source, double=True).ok
    assert (owners(source, "image.one.w"), owners(source, "image.two.w")) == ({0}, {1})


@pytest.mark.parametrize(
    ("rules", "code", "help"),
    [
        ("  place low.mlp on at[1]", "E0410", "it is in the loop `low`"),
        ("  place first on at[1]", "E0410", "weights and data are where they are used"),
        ("  place low on at[1]\n  place low on at[2]", "E0415", None),
    ],
)
def test_a_place_without_effect_is_refused(rules: str, code: str, help: str | None) -> None:
    with pytest.raises(ParcError) as caught:
        parc.compile(Source("t", LOOPS.format(rules=rules, count=1)))
    (found,) = caught.value.diagnostics
    assert found.code == code and found.span is not None and (found.help or "").startswith(help or "")


MODES = """\
use std.layers (cross_entropy, embedding, layer_norm, linear, mlp)
use std.optimizers (adam)

model modes {
  dim b = 8, s = 4, d = 8, v = 12, p = 6, c = 5
  input words : int32[b,s] in 0..v
  input picture, sound : compute[b,s,p]
  input label : int32[b] in 0..c
  t = words_of(embedding(words, over v, over d, std = 0.5)) as text
  i = seen(picture, over d) as vision
  n = seen(sound, over d) as hearing
  x = t + i + n
  repeat 2 as fuse {
    x = x + mlp(layer_norm(x), 16)
  }
  loss cross_entropy(linear(x, over c), label, over c)
}

fn words_of(x[b,s,d]) {
  repeat 2 as reading {
    x = x + mlp(layer_norm(x), 16)
  }
  return mean(x, over s)
}

fn seen(x[b,s,p], d) {
  y = linear(x, over d, std = 0.4)
  repeat 2 as looking {
    y = y + mlp(layer_norm(y), 16)
  }
  return mean(y, over s)
}

strategy drawn for modes {
%s
}

job j {
  train modes using drawn
  optimizer adam(lr = 1e-3, eps = 1e-6, clip = 1.0)
}
"""
SCOPES = ["text", "text.reading", "vision", "hearing", "fuse", "embedding", "linear", "cross_entropy", "hearing.linear"]


def draw(seed: int) -> Source:
    """Some scopes in some places, the rest wherever it is needed."""
    rng = Random(seed)
    places = rng.choice([2, 3])
    rules = [f"mesh (at = {places}, dp = {rng.choice([1, 2])})"]
    rules += [f"place {s} on at[{rng.randrange(places)}]" for s in rng.sample(SCOPES, rng.choice([1, 2, 3]))]
    if rng.random() < 0.5:
        rules.append(f"microbatches {rng.choice([2, 4])} over b")
    if rng.random() < 0.5:
        rules += ["split b on dp", f"shard {rng.choice(['optimizer', 'optimizer, gradients, weights'])} on dp"]
    if rng.random() < 0.3:
        rules.append(f"recompute {rng.choice(['vision', 'text.reading', 'fuse'])}")
    return Source("drawn.par", MODES % "\n".join(f"  {r}" for r in rules))


def test_some_scopes_in_some_places() -> None:
    """In any order: proved."""
    for seed in range(12):
        proof = parc.verify(draw(seed), double=True, steps=1)
        assert proof.ok, (seed, proof.worst)


PADDED = """\
use std.optimizers (sgd)
fn left(x[b,d]) {
  dim e = d
  weight w[d,e] ~ normal(0.4)
  y[b,e] = x @ w
  return rename(y, e -> d)
}
model net() {
  dim b = 6, d = 4
  input data : f64[b,d]
  x = data
  repeat 2 as block {
    weight g[d] ~ uniform(0.5, 1.5)
    x = x * g
  }
  z = left(tanh(x))
  loss mean(z * z)
}
strategy s for net {
  mesh (at = 2, tp = 3)
  place block on at[0]
  place left on at[1]
  split d on tp pad
}
job fit {
  train net() using s
  optimizer sgd(lr = 0.1)
  precision f64
}
"""


def test_padding_is_masked_where_it_is_read() -> None:
    """What is sent to the next place is the value itself, once; the verifier sees the mask beside its reader."""
    from compiler.driver import compile_job
    from compiler.evaluate import evaluate
    from compiler.ops.comm import MaskPad
    from compiler.ops.effects import Recv, Send
    from compiler.verify import verify
    from runtime.prove import prove

    compiled = compile_job(evaluate(Source("padded.par", PADDED)))
    assert not verify(compiled.program) and prove(compiled.training, compiled.program).ok
    first, second = compiled.program.classes
    forward = [next(f for f in c.functions if f.phase == "F").body.nodes for c in (first, second)]
    assert sum(isinstance(i.op, Send) for i in forward[0]) == 1 == sum(isinstance(i.op, Recv) for i in forward[1])
    assert not any(isinstance(i.op, MaskPad) for i in forward[0])
    assert any(isinstance(i.op, MaskPad) for i in forward[1])
