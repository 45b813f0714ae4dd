"""The help of a wrong implementation is the line that mends it."""

from __future__ import annotations

import pytest

from compiler.evaluate import evaluate
from dsl.diagnostics import ParcError
from dsl.source import Source

TEXT = """
use std.layers (gelu, mlp)
use std.optimizers (sgd)

fn two_dims(x[b,s/r,d/c], r, c) {
  weight w1[d/r,f/c], b1[f/c], w2[f/r,d/c], b2[d/c]
  u[b,s/r,f/c] = all_gather(x, c, over d) @ all_gather(w1, r, over d) + b1
  y[b,s/r,d/c] = all_gather(gelu(u), c, over f) @ all_gather(w2, r, over f) + b2
  return y
}

model net {
  dim b = 2, s = 4, d = 8
  input x : f32[b,s,d]
  loss mean(mlp(x, 16))
}

strategy plan for net {
  mesh (r = 2, c = 2)
  split s on r for activations
  implement mlp by two_dims(r, c)
}

job fit {
  train net using plan
  optimizer sgd(lr = 0.1)
}
"""

WRONG = {
    "no_gather": ("all_gather(x, c, over d) @", "x @", "E0203", "`all_gather(x, c, over d)` makes it whole"),
    "smaller_weight": ("b1[f/c]", "b1[f/c/r]", "E0203", "`all_gather(b1, r, over f)` makes it whole"),
    "two_axes": ("all_gather(x, c, over d) @", "all_reduce(x, (r, c)) @", "E0001", "`all_reduce(all_reduce(x, r), c)`"),
    "gathers": ("all_gather(x, c, over d) @", "all_gather(x, (r, c)) @", "E0001", "one for each of `r`, `c`"),
    "another_word": ("all_gather(x, c, over d) @", "gather(x, c, over d) @", "E0103", "did you mean `all_gather`?"),
    "no_word": ("all_gather(x, c, over d) @", "collect(x, c, over d) @", "E0103", "messages are `all_reduce`, "),
    "right": ("", "", "", ""),
    "order": (
        "  u[b,s/r,f/c] = ",
        "  z[f/c/r] = shard(shard(all_gather(b1, c, over f), r, over f), c, over f)\n  u[b,s/r,f/c] = ",
        "E0422",
        "write `f/r/c`: the first axis cuts the whole",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_advice(name: str) -> None:
    before, after, code, help = WRONG[name]
    assert before in TEXT
    source = Source("job.par", TEXT.replace(before, after))
    if not code:
        evaluate(source)
        return
    with pytest.raises(ParcError) as error:
        evaluate(source)
    found = error.value.diagnostics[0]
    assert found.code == code
    assert help in (found.help or "")
