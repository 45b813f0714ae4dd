"""Latent attention keeps latents: products are taken in the other order where that leaves much less."""

from __future__ import annotations

from compiler.driver import compile_job, decoding_program
from compiler.evaluate import evaluate
from compiler.incremental.derive import incremental
from compiler.model import INFER
from compiler.verify import verify
from dsl.source import NOWHERE, Source
from runtime.prove.decoding import Course, prove_decoding
from runtime.rank.executor import RankExecutor
from tests.incremental.serial import apart, model_of
from tests.incremental.test_derive import LIMIT
from tests.incremental.test_strategies import MODEL

SPLITS = ((8,), (1,) * 8, (3, 5), (4, 1, 1, 1, 1))
LATENT = "  repeat 2 as block {{\n    x = x + latent_attention(x, {heads}, 4, {latent}, 4, 2, {values})\n  }}\n  y = x"
BY_HAND = """\
  dim t = s, l = 3, h = 4, k = 5
  weight wd[d,l], wk[l,h,k], wv[l,h,d], wq[d,h,k] ~ normal(0.5)
  low = x @ wd
  key[b,t,h,k] = rename(low @ wk, s -> t)
  value[b,h,t,d] = rename(low @ wv, s -> t)
  q[b,s,h,k] = x @ wq
  scores[b,h,s,t] = q @ key
  seen = iota(s) >= iota(t)SEEN
  mixed[b,h,s,d] = softmax(scores, over t, keep = seen) @ value
  y[b,s,d] = x + sum(mixed, over h)"""


def kept(body: str, length: int = 1) -> dict[str, str]:
    found = incremental(model_of(body), "s", length, NOWHERE).states
    return {s.name: str(s.value.type) for s in found if s.value.type.dims}


def test_latents_are_kept() -> None:
    for heads, latent, values in ((6, 3, 4), (8, 4, 2)):
        body = LATENT.format(heads=heads, latent=latent, values=values)
        assert sorted(kept(body).values()) == [f"f64[block=2, b=2, t=8, {d}]" for d in ("kr=2", f"lk={latent}")]
        assert kept(body) == kept(body, 4)
        assert max(apart(model_of(body), split) for split in SPLITS) <= LIMIT


def test_keys_are_kept_where_it_does_not_pay() -> None:
    """Of latents as wide as half of the keys and values, and of what is no latent at all."""
    assert any("h=2, k=4" in type for type in kept(LATENT.format(heads=2, latent=6, values=4)).values())
    plain = kept("  y = x + attention(x, 2)")
    assert list(plain.values()) == ["f64[b=2, t=8, h=2, k=4]"] * 2


def test_written_by_hand_and_with_a_window() -> None:
    for seen, size in (("", 8), (" and iota(s) - iota(t) < 3", 3)):
        body = BY_HAND.replace("SEEN", seen)
        assert list(kept(body).values()) == [f"f64[b=2, t={size}, l=3]"]
        assert max(apart(model_of(body), split) for split in SPLITS) <= LIMIT


def test_a_reader_that_needs_keys_keeps_them() -> None:
    body = BY_HAND.replace("SEEN", "").replace("seen = iota", "scores = scores + sum(tanh(key), over k)\n  seen = iota")
    assert "f64[b=2, t=8, h=4, k=5]" in kept(body).values()
    assert apart(model_of(body), (3, 1, 1, 1, 1, 1)) <= LIMIT


def test_under_a_strategy() -> None:
    """Heads are cut, latents are not; positions are."""
    model = MODEL.replace("grouped_attention(rms_norm(x), 4, 2)", "latent_attention(rms_norm(x), 8, 4, 4, 4, 2, 4)")
    model = model.replace("    x = x + recurrent(x + shift(x, s, by = 1))\n", "").replace("repeat 4", "repeat 2")
    model = model.replace("grouped_attention,", "latent_attention,")
    plan = "  mesh (cp = 2, tp = 2)\n  tensor_parallel(tp)\n  split t on cp\n"
    job = evaluate(Source("net.par", model.replace("STRATEGY", plan)))
    program = decoding_program(job)
    assert verify(program) == () and job.decoding is not None
    lies = [str(s.layout) for s in program.classes[0].states if s.type.has("lk") and s.type.has("t")]
    assert len(lies) == 1 and "cp" in lies[0] and "tp" not in lies[0]
    whole = compile_job(job, INFER)
    (row,) = prove_decoding(whole.training, program, job.decoding, Course(1, 4), executor=RankExecutor)
    assert row.ok and row.error < 1e-9
