"""More devices than key heads: `split h, r` splits query heads where key heads do not divide."""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest

import parc
from compiler.evaluate import evaluate_file
from dsl.diagnostics import ParcError
from dsl.source import Source
from runtime.prove import prove

EXAMPLE = Path(__file__).parents[2] / "examples" / "llama.par"
MODEL = """use std.layers (cross_entropy, embedding, grouped_attention, linear, swiglu)
use std.optimizers (adamw)
use std.tactics

model m {
  dim b = 4, s = 8, d = 16, v = 16
  input tokens, targets : int32[b,s] in 0..v
  x = embedding(tokens, over v, over d)
  repeat 2 as block {
    x = x + grouped_attention(x, HEADS, KV, std = 0.3)
    x = x + swiglu(x, 16, std = 0.3)
  }
  loss cross_entropy(linear(x, over v, std = 0.3) as head, targets, over v)
}

strategy plan for m {
  mesh (tp = 4)
  RULE
}

job fit {
  train m using plan
  optimizer adamw(lr = 1e-2)
}
"""


def source(heads: int, kv: int, rule: str) -> Source:
    return Source("m.par", MODEL.replace("HEADS", str(heads)).replace("KV", str(kv)).replace("RULE", rule))


@pytest.mark.parametrize("rule", ["tensor_parallel(tp)", "megatron(tp)", "ulysses(tp)"])
@pytest.mark.parametrize("heads, kv, dim", [(8, 2, "r"), (4, 1, "r"), (8, 4, "h")])
def test_tactics_split_query_heads_where_key_heads_are_too_few(rule: str, heads: int, kv: int, dim: str) -> None:
    compiled = parc.compile(source(heads, kv, rule), double=True)
    assert prove(compiled.training, compiled.program).ok
    layouts = {s.name: s for s in compiled.program.classes[0].states if s.role == "weight"}
    wq = layouts["block.grouped_attention.wq"]
    split = {d.name for d, axes in zip(wq.type.dims, wq.layout.dims) if axes}
    assert split == (set() if rule.startswith("ulysses") else {dim})


def test_the_help_proposes_what_works() -> None:
    """`r`, which products treat as they treat `h`; not the size of a head, which scores sum over."""
    with pytest.raises(ParcError) as caught:
        parc.compile(source(8, 2, "split h, f, v on tp"))
    (found,) = caught.value.diagnostics
    assert found.code == "E0540" and "`split h, r, f, v on tp`" in (found.help or "")
    assert parc.compile(source(8, 2, "split h, r, f, v on tp"))


def test_the_help_proposes_the_other_order_and_no_padding_of_too_few() -> None:
    with pytest.raises(ParcError) as caught:
        parc.compile(source(8, 2, "split r, h, f, v on tp"))
    (found,) = caught.value.diagnostics
    assert found.code == "E0540" and "`split h, r, f, v on tp`" in (found.help or "")
    assert "pad" not in (found.help or "")  # 2 key heads, 4 devices
    with pytest.raises(ParcError) as caught:
        parc.compile(source(2, 2, "split h, f, v on tp"))
    assert all(d.code == "E0540" and "pad" not in (d.help or "") for d in caught.value.diagnostics)


@pytest.mark.parametrize("rule", ["split h, k on tp", "split h, s on tp", "split h, d on tp", "split h, v on tp"])
def test_no_other_dim_stands_in(rule: str) -> None:
    """Those behind it in the rule that do not run along with it: the rule does not fit."""
    with pytest.raises(ParcError) as caught:
        parc.compile(source(8, 2, rule))
    assert "E0540" in {d.code for d in caught.value.diagnostics}


def test_llama_3() -> None:
    """The example with the sizes of Llama 3 8B has as many parameters as that (Hugging Face's transformers says so)."""
    sizes = {"layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "width": 14336, "vocab": 128256}
    overrides = {n: str(v) for n, v in (sizes | {"theta": 500000, "eps": 1e-5}).items()}
    job = evaluate_file(Source(str(EXAMPLE), EXAMPLE.read_text()), overrides).job
    assert sum(prod(d.size for d in w.value.type.dims) for w in job.model.weights) == 8_030_261_248
