"""Fused regions: what runs as one, what is never there, and what must not be fused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.cost.kernels import group
from compiler.cost.kernels.program import features
from compiler.driver import compile_job
from compiler.evaluate import evaluate, evaluate_file
from compiler.graph import Graph
from compiler.memory.peak import memory_use
from compiler.program import Program
from compiler.regions.fused import FusedNodes, as_run, stretches
from compiler.text import parse_program, show
from compiler.text.parser import parse_located
from compiler.verify import verify
from compiler.walk import bodies
from dsl.source import Source
from runtime.rank import blocks
from runtime.rank.executor import RankExecutor
from tests.memory.measured import exact

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = {"layers": "2", "hidden": "16", "vocab": "24", "seq": "8", "batch": "8"}


def gpt(fuse: bool = True, **params: str) -> Program:
    text = (EXAMPLES / "gpt.par").read_text(encoding="utf-8")
    if not fuse:
        text = text.replace("strategy hybrid for gpt {\n", "strategy hybrid for gpt {\n  fuse off\n")
        assert "fuse off" in text
    source = Source(str(EXAMPLES / "gpt.par"), text, str(EXAMPLES / "gpt.par"))
    return compile_job(evaluate_file(source, {**SMALL, **params}).job).program


def regions(program: Program) -> Iterator[tuple[str, ...]]:
    for cls in program.classes:
        for function in cls.functions:
            for body in bodies(function.body):
                for first, last in stretches(body):
                    yield tuple(n.outputs[0].name for n in body.nodes[first : last + 1])


def inner(body: Graph) -> set[str]:
    """What stands nowhere, of the regions of a body."""
    run = {v.name for n in as_run(body).nodes for v in n.outputs}
    return {v.name for n in body.nodes for v in n.outputs} - run


def test_norms_softmax_loss_activation_and_update_are_fused() -> None:
    named = {name for region in regions(gpt()) for name in region}
    for stem in (
        "layer_norm.variance",
        "softmax.e",
        "cross_entropy.shifted",
        "gelu.erf",
        "centred.grad",
        "update.sqrt",
    ):
        assert any(stem in name for name in named), stem
    within = {name for cls in gpt().classes for f in cls.functions for b in bodies(f.body) for name in inner(b)}
    for stem in ("layer_norm.mul", "softmax.sub", "gelu.erf", "rsqrt.grad.mul_1", "update.add"):
        assert any(stem in name for name in within), stem


def test_peaks_fall_and_are_measured() -> None:
    fused, plain = gpt(), gpt(fuse=False)
    assert "fuse {" in show(fused) and "fuse" not in show(plain)
    exact(fused)
    exact(plain)
    before, after = (memory_use(p)[0]["hbm"].bytes for p in (plain, fused))
    assert after < before


def test_off_changes_rounding_alone() -> None:
    on, off = (RankExecutor(gpt(fuse)) for fuse in (True, False))
    rng = np.random.default_rng(0)
    data = {n: rng.integers(0, 24, (8, 8)).astype(np.int32) for n in ("tokens", "targets")}
    for _ in range(2):
        a, b = on.step(data), off.step(data)
        np.testing.assert_allclose(a.loss, b.loss, rtol=1e-5)
    for name, array in on.states().items():
        np.testing.assert_allclose(array, off.states()[name], rtol=2e-3, atol=2e-5, err_msg=name)


def test_what_is_fused_does_not_depend_on_sizes() -> None:
    small, large = gpt(), gpt(hidden="64", vocab="40", seq="24", batch="16")
    assert list(regions(small)) == list(regions(large))


def test_blocks_are_small_and_nothing_hangs_on_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    data = {n: rng.integers(0, 24, (8, 8)).astype(np.int32) for n in ("tokens", "targets")}
    found = []
    for size in (1, 40, 10**6):
        monkeypatch.setattr(blocks, "BLOCK", size)
        largest: list[int] = []
        cut = blocks._cut

        def watched(value: Any, part: Any, dtype: str = "", cut: Any = cut, largest: list[int] = largest) -> Any:
            made = cut(value, part, dtype)
            if len(part) and value.type.has(next(iter(part))):
                largest.append(made.type.elements)
            return made

        monkeypatch.setattr(blocks, "_cut", watched)
        executor = RankExecutor(gpt())
        found.append((executor.step(data).loss, executor.states()))
        monkeypatch.setattr(blocks, "_cut", cut)
        assert max(largest) <= max(size, 64)  # a row of the widest
    for loss, states in found[1:]:
        np.testing.assert_allclose(loss, found[0][0], rtol=1e-6)
        for name, array in states.items():
            np.testing.assert_allclose(array, found[0][1][name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_regions_of_the_forward_pass_are_one_kernel_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """One launch, and the bytes of what goes in and out."""
    kernels: list[int] = []
    part = group._Lift.part

    def watched(self: Any) -> Any:
        made = part(self)
        of = {id(i): k for k, draft in enumerate(self.drafts) for i in draft.instrs}
        for first, last in stretches(self.body):
            if not self.lifter.update:
                kernels.append(len({of[id(n)] for n in self.body.nodes[first : last + 1] if id(n) in of}))
        return made

    monkeypatch.setattr(group._Lift, "part", watched)
    features(gpt())
    assert len(kernels) > 12 and kernels.count(1) >= 0.8 * len(kernels)


PLAIN = """\
program fit
mesh (dp=2)
input x: f32[b=4, d=8]

stage 0: devices 0..1 {
  weight w: f32[d=8] = ones
  loss loss: f32[]
  fn F {
    %x: f32[b=2/dp, d=8] = input x
    %w: f32[d=8] = read w
    fuse {
      %a: f32[b=2/dp, d=8] = mul %x, %w
      %b: f32[b=2/dp, d=8] = mul %a, %a
      %c: f32[b=2/dp] = reduce %b sum over d
      %d: f32[b=2/dp] = rsqrt %c
      %e: f32[b=2/dp, d=8] = mul %a, %d
    }
    %f: f32[] pending(dp sum) = reduce %e sum over (b, d)
    %loss: f32[] = all_reduce %f sum over dp
    accumulate %loss into loss
  }
  schedule {
    F[0]
  }
}
"""

WRONG = {
    "takes away other dims": (
        "    }\n    %f: f32[] pending(dp sum) = reduce %e sum",
        "      %f: f32[] pending(dp max) = reduce %e max",
        "    %loss: f32[] = all_reduce %f sum over dp",
        "    }\n    %loss: f32[] = all_reduce %f max over dp",
    ),
    "reads a sum": (
        "    }\n    %f",
        "      %f",
        "    %loss: f32[] = all_reduce %f",
        "      %g: f32[] pending(dp sum) = mul %f, 2.0\n    }\n    %loss: f32[] = all_reduce %g",
    ),
    "no element-wise": ("    }\n", "", "    accumulate %loss", "    }\n    accumulate %loss"),
    "more than one": ("      %b:", "    }\n    %b:", "    }\n    %f:", "    %f:"),
    "no dim is left": ("%d: f32[b=2/dp] = rsqrt %c", "%d: f32[d=8] = add %w, 1.0", "", ""),
}


def test_a_region_by_hand() -> None:
    program = parse_program(PLAIN)
    assert not verify(program) and parse_program(show(program)) == program and show(program) == PLAIN
    (body,) = (f.body for f in program.classes[0].functions)
    (node,) = (n for n in as_run(body).nodes if isinstance(n.op, FusedNodes))
    assert [v.name for v in node.outputs] == ["e"] and node.op.rows == ("b",)


@pytest.mark.parametrize("why", WRONG)
def test_what_cannot_be_fused_is_told_where_it_stands(why: str) -> None:
    old, new, after, then = WRONG[why]
    text = PLAIN.replace(after, then, 1) if after else PLAIN
    text = text.replace(old, new, 1)
    program, locations = parse_located(text, "x.npu")
    found = verify(program, locations)
    assert [d.code for d in found] == ["E0652"] and found[0].span is not None, [d.message for d in found]


RENEWED = """
use std.optimizers (sgd)

model m() {
  dim b = 4, d = 8
  input x, y : f32[b,d]
  weight w[d] ~ ones
  state kept[b,d] ~ zeros
  scaled[b,d] = x * w
  new[b,d] = tanh(kept)
  half[b,d] = new * 0.5
  total[d] = sum(kept, over b)
  out[b,d] = half + scaled
  kept = half
  loss sum((out * total - y) * (out * total - y), over (b, d))
}

strategy two for m {
  mesh (dp = 2)
  split b on dp
}

job fit {
  train m() using two
  optimizer sgd(lr = 0.001)
}
"""


def test_what_renews_a_state_in_the_new_order_alone_is_in_no_region() -> None:
    """The sum of the old contents goes before the region: from then on `new` may take their memory."""
    program = compile_job(evaluate(Source("renewed.par", RENEWED))).program
    assert not verify(program) and parse_program(show(program)) == program
    assert all("new" not in region for region in regions(program)) and list(regions(program))
    exact(program)
