"""Orders that cannot be are errors, and say where."""

from __future__ import annotations

import pytest

import parc
from dsl.diagnostics import ParcError
from dsl.source import Source
from tests.order.files import file

ZIGZAG = "split s on cp zigzag for activations"
RING = "implement block.attention by ring_attention(cp)"
BY_HAND = "implement block.mlp by other(cp)"


def by_hand(body: str, x: str = "b, s/cp, d") -> str:
    return f"""\
fn other(x[{x}], width, cp) {{
  weight w1[d, f], w2[f, d], b1[f], b2[d]
  {body}
  return tanh(y @ w1 + b1) @ w2 + b2
}}"""


WRONG = {
    "no such order": ("split s on cp zagzig", "cp = 4", "E0437", "zagzig"),
    "an order that there is not": ("split s on cp striped for activations", "cp = 4", "E0437", "striped"),
    "several dims": ("split h, s on cp zigzag", "cp = 2", "E0437", "zigzag"),
    "uneven pieces": (f"{ZIGZAG} pad", "cp = 4", "E0437", "zigzag"),
    "of weights": ("split s on cp zigzag for weights", "cp = 4", "E0437", "zigzag"),
    "of gradients and states": ("split s on cp zigzag for gradients, optimizer", "cp = 4", "E0437", "zigzag"),
    "behind the implementation": (f"{RING}\n{ZIGZAG}", "cp = 4", "E0437", "zigzag"),
    "micro-batches of it": ("split b on cp zigzag\nmicrobatches 2", "cp = 2", "E0437", "microbatches 2"),
    "micro-batches of it by name": (
        f"{ZIGZAG}\nmicrobatches 2 over s",
        "cp = 2",
        "E0437",
        "microbatches 2 over s",
    ),
    "too few positions": (ZIGZAG, "cp = 16", "E0435", ZIGZAG),
    "blocks that do not divide": (ZIGZAG, "cp = 3", "E0435", ZIGZAG),
    "a dim of another size": ("split v on cp zigzag", "cp = 4", "E0435", "split v on cp zigzag"),
    "two axes": (f"{ZIGZAG}\nsplit s on tp zigzag", "cp = 2, tp = 2", "E0436", "split s on tp zigzag"),
    "dims that go together": (
        f"{ZIGZAG}\nsplit t on tp zigzag",
        "cp = 4, tp = 2",
        "E0436",
        "split t on tp zigzag",
    ),
    "no such dim": ("split w on cp zigzag", "cp = 4", "E0402", "w"),
    "no such axis": ("split s on c zigzag", "cp = 4", "E0401", "c"),
    "two orders of words": ("split s on cp zigzag zigzag", "cp = 4", "E0001", "zigzag"),
    "a size without an order by hand": (f"{ZIGZAG}\n{RING}", "cp = 16", "E0435", "ring_attention(cp)"),
}


@pytest.mark.parametrize(("rules", "mesh", "code", "where"), WRONG.values(), ids=WRONG)
def test_orders_that_cannot_be_are_errors(rules: str, mesh: str, code: str, where: str) -> None:
    _refused(file(rules, mesh), code, where)


PIECES = {
    "another order meets them": (
        "whole = all_gather(x, cp, over s -> n)\n  y = x + rename(shard(whole, cp, over n), n -> s)",
        "x + rename(shard(whole, cp, over n), n -> s)",
    ),
    "pieces that are called otherwise": (
        "dim m = 2, j = 2\n  y = merge(all_gather(split(x, s -> (m, j)), cp, over m), (m, j) -> s)",
        "all_gather(split(x, s -> (m, j)), cp, over m)",
    ),
}


@pytest.mark.parametrize(("body", "where"), PIECES.values(), ids=PIECES)
def test_pieces_in_two_orders_do_not_meet(body: str, where: str) -> None:
    _refused(file(f"{ZIGZAG}\n{BY_HAND}", "cp = 4", own=by_hand(body)), "E0438", where)


def test_the_axis_of_an_order_comes_first() -> None:
    own = by_hand("y = x", "b, s/tp/cp, d").replace("width, cp", "width, cp, tp")
    text = file(f"{ZIGZAG}\nimplement block.mlp by other(cp, tp)", "cp = 2, tp = 2", own=own)
    _refused(text, "E0438", "x[b, s/tp/cp, d]")


def test_no_model_asks_for_the_order_of_pieces() -> None:
    text = file(ZIGZAG, "cp = 4", "x = x * (2.0 if in_zigzag(s) else 1.0)")
    _refused(text, "E0431", "in_zigzag(s)")


def test_what_is_decoded_is_in_order() -> None:
    text = file(ZIGZAG, "cp = 4").replace("  optimizer adamw(lr = 0.1)\n", "  decode over s, prefill 4\n")
    text = text.replace("loss cross_entropy(logits, targets, over v)", "output logits").replace(
        "train net", "infer net"
    )
    _refused(text.replace("tokens, targets :", "tokens :"), "E0437", "decode over s, prefill 4")


def test_pieces_of_an_odd_length_are_each_devices_own() -> None:
    """A piece of two blocks cannot be one row of blocks of their size."""
    body = "dim m = 1, j = 4\n  y = merge(split(x, s -> (m, j)), (m, j) -> s)"
    with pytest.raises(ParcError) as found:
        parc.compile(Source("main.par", file(f"{ZIGZAG}\n{BY_HAND}", "cp = 4", own=by_hand(body))))
    (error,) = found.value.diagnostics
    assert error.code == "E0426" and any("odd number" in text for text, _ in error.notes), error


def _refused(text: str, code: str, where: str) -> None:
    with pytest.raises(ParcError) as found:
        parc.compile(Source("main.par", text))
    (error,) = found.value.diagnostics
    assert error.span is not None and error.code == code, str(error)
    source = text if error.span.source == "main.par" else ""
    assert not source or source[error.span.start : error.span.end] == where
