"""`split s on cp zigzag` changes nothing of what is computed, alone and with all else."""

from __future__ import annotations

import pytest

import parc
from compiler.traffic import collectives
from dsl.source import Source
from tests.order.files import file
from tests.stages.build import judged

ZIGZAG = "split s on cp zigzag for activations"

COMPOSED = {
    "alone": (ZIGZAG, "cp = 4"),
    "weights too": ("split s on cp zigzag", "cp = 4"),
    "in a scope": (f"{ZIGZAG} in block.attention\nsplit s on cp for activations", "cp = 2"),
    "data": (f"split b on dp\n{ZIGZAG}", "dp = 2, cp = 2"),
    "pieces of pieces": (f"{ZIGZAG}\nsplit s on tp for activations", "cp = 2, tp = 2"),
    "in pieces": (f"{ZIGZAG}\nsplit s on tp for activations", "tp = 2, cp = 2"),
    "tensor": (f"{ZIGZAG}\nsplit h, f, v on tp", "cp = 2, tp = 2"),
    "pipeline": (f"{ZIGZAG}\npipeline block on pp, schedule one_f_one_b(2)", "pp = 2, cp = 2"),
    "zero-bubble": (f"{ZIGZAG}\npipeline block on pp, schedule zero_bubble(4)", "pp = 2, cp = 2"),
    "recompute": (f"{ZIGZAG}\nrecompute block keep block.attention.out", "cp = 4"),
    "micro-batches": (f"{ZIGZAG}\nmicrobatches 2 over b", "cp = 4"),
    "sharded": (f"{ZIGZAG}\nshard optimizer, gradients, weights on cp", "cp = 4"),
    "ring": (f"{ZIGZAG}\nimplement block.attention by ring_attention(cp)", "cp = 4"),
    "ring of two": (f"{ZIGZAG}\nimplement block.attention by ring_attention(cp)", "cp = 2"),
    "ring of one": (f"{ZIGZAG}\nimplement block.attention by ring_attention(cp)", "cp = 1"),
    "gathered": (f"{ZIGZAG}\nimplement block.attention by gathered_attention(cp)", "cp = 4"),
    "ulysses": (f"{ZIGZAG}\nimplement block.attention by ulysses_attention(cp)", "cp = 2"),
    "another scope by hand": (
        f"{ZIGZAG}\nsplit h, v on tp\nimplement block.mlp by tensor_parallel_mlp(tp)",
        "cp = 2, tp = 2",
    ),
    "ring, all at once": (
        f"split b on dp\n{ZIGZAG}\npipeline block on pp, schedule one_f_one_b(2)\nshard optimizer on dp\n"
        "recompute block\nimplement block.attention by ring_attention(cp)",
        "pp = 2, dp = 2, cp = 2",
    ),
}


ALIKE = ("in pieces", "ring of two")
"""What two others are in another order, or on more devices: with `-m nightly`."""


@pytest.mark.parametrize(
    ("rules", "mesh"),
    [pytest.param(*c, id=n, marks=pytest.mark.nightly if n in ALIKE else ()) for n, c in COMPOSED.items()],
)
def test_strategies_with_orders_are_equal_to_the_serial_program(rules: str, mesh: str) -> None:
    judged(file(rules, mesh))


BODIES = {
    "shift": "x = x + shift(x, s, by = 1)",
    "cumsum": "x = cumsum(x, over s) * 0.1",
    "slice": "x = x * mean(slice(x, s -> t, 0..5), over t)",
    "flip": "x = x + flip(x, over s)",
    "window": "x = sum(window(x, s -> (s, j), pad = 1), over j)",
    "concat": "x = x * mean(concat(x, 2.0 * x, over s -> t), over t)",
    "split in order": (
        "y = split(x, s -> (m, n))\n  y = y * cast(iota(m), compute) + cast(iota(n), compute)\n"
        "  x = merge(y, (m, n) -> s)"
    ),
    "merge": "y = merge(x, (b, s) -> r)\n  x = split(y * 1.5, r -> (b, s))",
    "rows": "x = x + take(rename(x, s -> t), tokens, over t)",
    "random": "x = x * uniform(b, s, d)",
    "top": "best, where_ = top_k(x, over s -> m)\n  x = x + mean(best, over m)",
    "scan": "y = x\n  scan over s as step {\n    y = y * 0.5\n  }\n  x = x + y",
    "loop": "y = x\n  repeat 3 as turn {\n    y = shift(y, s, by = 1)\n    x = x + y * 0.5\n  }",
    "positions": "x = x + cast(iota(s), compute) * 0.1\n  x = where(iota(s) >= 3, x, 0.5 * x)",
    "maximum": "x = x - max(x, over s)",
    "pairs": (
        "y = rename(x, s -> t)\n  z[b, s, t] = x @ y\n  x = x + mean(cast(iota(t) - iota(s), compute) * z, over t)"
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_ops_that_ask_for_an_order_get_it(name: str) -> None:
    dims = "b = 4, s = 16, d = 8, v = 12, m = 4, n = 4, j = 3"
    judged(file(ZIGZAG, "cp = 4", BODIES[name], dims=dims))


def test_what_changes_the_order_is_sent_and_counted() -> None:
    """Tokens and targets come in in order, positions' weights too, and the gradient of these goes back; nothing else.
    Of 4 pieces of 4 positions, two blocks each, some device keeps none."""
    program = parc.compile(Source("main.par", file(ZIGZAG, "cp = 4"))).program
    found = [(c.axes, c.dim, c.count, c.bytes) for c in collectives(program) if c.op == "zigzag_across"]
    tokens, places = 4 * 4 * 4, 4 * 8 * 4
    assert sorted(found, key=lambda c: c[3]) == [
        (("cp",), "s", 1, places),
        (("cp",), "s", 3, 2 * tokens + places),
    ]


def test_an_order_of_one_device_is_none() -> None:
    one, none = (
        parc.compile(Source("main.par", file(rule, "cp = 1, dp = 2"))).program
        for rule in (f"split b on dp\n{ZIGZAG}", f"split b on dp\n{ZIGZAG.replace(' zigzag', '')}")
    )
    assert one == none
