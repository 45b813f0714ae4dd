"""What the engine computes as one: that it is used, that it gives what the nodes give that it replaces, and that what
is something else is let be."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from compiler.driver import Compiled  # noqa: E402
from compiler.ops.effects import Save  # noqa: E402
from compiler.ops.elementwise import Map  # noqa: E402
from compiler.program import DeviceClass, Program  # noqa: E402
from compiler.regions.adamw import adamw  # noqa: E402
from compiler.walk import walk  # noqa: E402
from dsl.source import Source  # noqa: E402
from parc import api  # noqa: E402
from runtime.prove import random_batch  # noqa: E402
from runtime.torch import member  # noqa: E402
from runtime.torch.fusing.fuse import fused  # noqa: E402
from runtime.torch.fusing.ops import FusedChain  # noqa: E402
from runtime.torch.member import Member  # noqa: E402

MODEL = """
use std.devices (ascend910)
use std.layers (attention, cross_entropy, gelu, grouped_attention, layer_norm, mlp, rms_norm, silu, softmax, swiglu)
use std.optimizers (adamw, sgd)

model net() {{
  dim b = 4, s = 8, d = 8, v = 12
  input tokens, targets : int32[b,s] in 0..v
  weight table[v,d] ~ normal(0.5)
  x[b,s,d] = take(table, tokens, over v)
{body}
  logits[b,s,v] = y @ table
  loss cross_entropy(logits, targets, over v)
{more}
}}

cluster one() {{
  device npu = ascend910
  level server = 1 npu over 30 GB/s, 1 us
}}

strategy alone for net {{
  mesh (dp = 1)
{rules}
}}

job fit {{
  train net() on one() using alone
  optimizer {optimizer}
  precision f64, master f64
  seed 3
}}
"""


def compiled(body: str, more: str = "", rules: str = "", optimizer: str = "adamw(lr = 1e-2)") -> Compiled:
    text = MODEL.format(body=body, more=more, rules=rules, optimizer=optimizer)
    return api.compile(Source("net.par", text, "net.par"))


def ops(cls: DeviceClass) -> Counter[str]:
    """How often each op stands in the functions of a class."""
    nodes = (n for f in cls.functions for n, _ in walk(f.body))
    return Counter(n.op.fn if isinstance(n.op, Map) else n.op.mnemonic for n in nodes)


def device(program: Program, monkeypatch: pytest.MonkeyPatch, fuse: bool) -> Member:
    """One process with the program's only device."""
    monkeypatch.setattr(member, "fused", fused if fuse else lambda cls, device: cls)
    world = SimpleNamespace(rank=0, size=1, device=torch.device("cpu"), group=lambda m: None, answers=lambda a: [a])
    found = Member(world)  # type: ignore[arg-type]
    with torch.inference_mode():
        found.open(0, program)
        found.begin(0, frozenset())
    return found


def trained(m: Member, program: Program, steps: int = 3) -> dict[str, np.ndarray]:
    """All states and results after some steps."""
    names = [s.name for s in program.classes[0].states if s.role not in ("saved", "gradient")]
    with torch.inference_mode():
        for i in range(steps):
            if i:
                m.end_step(0)
            batch = {**random_batch(program.inputs, 0, i), "step": np.array(i, np.int32)}
            found = m.step(0, batch, {0: names})
    return found


def same(found: Compiled, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The fused ops of a program that gives, with them, what it gives without."""
    theirs = trained(device(found.program, monkeypatch, False), found.program)
    mine = device(found.program, monkeypatch, True)
    for name, x in trained(mine, found.program).items():
        np.testing.assert_allclose(x, theirs[name], rtol=1e-9, atol=1e-11, err_msg=name)
    kept = {s.name for s in mine.devices[0].cls.states if s.role == "saved"}
    saves = {n.op.name for f in mine.devices[0].cls.functions for n, _ in walk(f.body) if isinstance(n.op, Save)}
    assert saves - {s.name for s in mine.devices[0].cls.states if s.role == "output"} <= kept
    return Counter({k: n for k, n in ops(mine.devices[0].cls).items() if k.startswith("fused")})


BLOCK = """
  repeat 3 as block {
    x = x + attention(layer_norm(x), 2)
    x = x + mlp(layer_norm(x), 16)
  }
  y[b,s,d] = layer_norm(x)
"""


@pytest.mark.parametrize("rules", ["", "  microbatches 2 over b", "  recompute block"], ids=["plain", "micro", "again"])
def test_both_passes_of_a_transformer(rules: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = compiled(BLOCK, rules=rules, optimizer="adamw(lr = 1e-2, clip = 1.0)")
    used = same(found, monkeypatch)
    assert used["fused_norm_backward"] == 3 and used["fused_activation_backward"] == 1, used
    assert used["fused_attention_backward"] == used["fused_cross_entropy_backward"] == 1, used
    assert used["fused_norm"] >= 3 and used["fused_attention"] >= 1 and used["fused_activation"] >= 1
    assert used["fused_chain"] > 0 and used["fused_square"] == used["fused_chain"]
    left = ops(device(found.program, monkeypatch, True).devices[0].cls)
    assert left["rsqrt"] == left["erf"] == left["exp"] == 0, "nothing is computed twice"


CASES: dict[str, tuple[str, str, str]] = {
    "a norm's inside is read": ("  z[b,s,d] = layer_norm(x)\n  y[b,s,d] = z * z", "", "fused_norm_backward"),
    "no weights behind the norm": (
        "  m = mean(x, over d)\n  c = x - m\n  y[b,s,d] = c * rsqrt(mean(c * c, over d) + 1e-5)", "",
        "fused_norm_backward",
    ),
    "gelu of a sum that is read again": ("  u = x + 1.0\n  y[b,s,d] = gelu(u) + u", "", "fused_activation_backward"),
    "silu": ("  y[b,s,d] = x + silu(layer_norm(x))", "", "fused_activation_backward"),
    "silu of a sum that is read again": ("  u = x + 1.0\n  y[b,s,d] = silu(u) + u", "", "fused_activation_backward"),
    "a gate": ("  y[b,s,d] = swiglu(rms_norm(x), 16)", "", "fused_activation_backward"),
    "queries that share keys": (
        "  y[b,s,d] = x + grouped_attention(layer_norm(x), 4, 2)", "", "fused_attention_backward"),
    "queries that share keys, all positions": (
        "  y[b,s,d] = x + grouped_attention(layer_norm(x), 4, 1, causal = false)", "", "fused_attention_backward"),
    "two norms of one value": ("  y[b,s,d] = layer_norm(x) + layer_norm(x)", "", "fused_norm_backward"),
    "a norm of a norm": ("  y[b,s,d] = layer_norm(layer_norm(x))", "", "fused_norm_backward"),
    "all positions attend to all": ("  y[b,s,d] = x + attention(layer_norm(x), 2, causal = false)", "",
                                    "fused_attention_backward"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_forms(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body, more, op = CASES[case]
    assert same(compiled(body, more), monkeypatch)[op] > 0


LET_BE: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "the root is a metric": (
        "  m = mean(x, over d)\n  c = x - m\n  r = rsqrt(mean(c * c, over d) + 1e-5)\n  y[b,s,d] = c * r",
        "  metric root = mean(r)", ("fused_norm",),
    ),
    "an inside of gelu is used": (
        "  e = 1.0 + erf(x / 1.4142135623730951)\n  y[b,s,d] = 0.5 * x * e + e", "", ("fused_activation",),
    ),
    "nearly gelu": ("  y[b,s,d] = 0.5 * x * (1.0 + erf(x / 1.5))", "", ("fused_activation",)),
    "a root mean square": ("  y[b,s,d] = rms_norm(x)", "", ("fused_norm",)),
    "a window": ("  y[b,s,d] = x + grouped_attention(layer_norm(x), 2, 2, window = 3)", "", ("fused_attention",)),
    "probabilities of which some are dropped": (
        "  y[b,s,d] = x + attention(layer_norm(x), 2, drop = 0.3)", "", ("fused_attention",),
    ),
    "probabilities that are a metric": (
        "  q[b,s,d] = layer_norm(x)\n  k[b,t,d] = rename(q, s -> t)\n  p = softmax(sum(q * k, over d), over t)\n"
        "  y[b,s,d] = p @ k", "  metric most = mean(max(p, over t))", ("fused_attention",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LET_BE)
def test_what_is_something_else_is_let_be(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body, more, absent = LET_BE[case]
    used = same(compiled(body, more), monkeypatch)
    assert not any(k.startswith(a) for k in used for a in absent), used


def places(m: Member) -> dict[str, int]:
    return {n: held.array.data_ptr() for n, held in m.devices[0].states.items() if hasattr(held.array, "data_ptr")}


def test_an_update_renews_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    found = compiled("  y[b,s,d] = x * x")
    m = device(found.program, monkeypatch, True)
    names = ("table", "table.m", "table.v")
    before = [places(m)[n] for n in names]
    trained(m, found.program, 2)
    assert [places(m)[n] for n in names] == before


def chains(cls: DeviceClass) -> list[FusedChain]:
    return [n.op for f in cls.functions for n, _ in walk(f.body) if isinstance(n.op, FusedChain)]


OPTIMIZERS = {
    "adamw(lr = 1e-2)": True, "adamw(lr = 1e-2, decay = 0.0, clip = 0.1)": True, "sgd(lr = 0.1)": False,
    "sgd(lr = 0.1, momentum = 0.9)": False,
}  # fmt: skip
"""Whether they are PyTorch's AdamW."""


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_updates(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = compiled(BLOCK, optimizer=optimizer)
    assert same(found, monkeypatch)["fused_chain"] > 0
    of = chains(fused(found.program.classes[0], "cpu"))
    assert all((adamw(op.body) is not None) == OPTIMIZERS[optimizer] for op in of)
    assert all(len(op.renewed) == len(op.body.outputs) for op in of)


@pytest.mark.parametrize("optimizer", [o for o, own in OPTIMIZERS.items() if not own])
@pytest.mark.parametrize("length", [1, 5, 1 << 15, (1 << 15) + 3])
def test_blocks_of_any_length(length: int, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.torch.kernels import chain

    monkeypatch.setattr(chain, "BLOCK", length)
    monkeypatch.setattr(chain, "_places", {})
    found = compiled("  y[b,s,d] = x * x", optimizer=optimizer)
    assert same(found, monkeypatch)["fused_chain"] == 1


def test_what_is_saved_as_it_is_keeps_its_memory() -> None:
    found = compiled("  y[b,s,d] = x * x", "  output table")
    cls = found.program.classes[0]
    (chain,) = chains(fused(cls, "cpu"))
    if any(isinstance(n.op, Save) for f in cls.functions for n, _ in walk(f.body)):
        assert (0, 0) not in chain.renewed


def test_devices_without_the_kernel_of_attention() -> None:
    found = compiled(BLOCK)
    used = ops(fused(found.program.classes[0], "cuda"))
    assert not used["fused_attention"] and used["fused_norm_backward"] == 3


def test_messages_of_a_view_of_some_columns_are_in_a_row() -> None:
    from runtime.torch.network import _row

    x = torch.arange(8.0).view(4, 2)[:, :1]
    assert not x.reshape(-1).is_contiguous() and _row(x).is_contiguous()
    assert _row(x).tolist() == [0.0, 2.0, 4.0, 6.0]
