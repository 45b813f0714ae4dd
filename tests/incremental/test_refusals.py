"""What looks ahead is refused by the name of the op that does, where it stands."""

from __future__ import annotations

import pytest

import parc
from compiler.incremental.derive import incremental
from dsl.diagnostics import Diagnostic, ParcError
from dsl.source import NOWHERE, Source
from parc import api
from tests.incremental.serial import apart, model_of
from tests.incremental.test_derive import BY_HAND, LIMIT

AHEAD = {
    "softmax over positions": ("  y = softmax(x, over s)", "max"),
    "a norm over positions": ("  y = x / sum(x * x, over s)", "sum"),
    "the mean": ("  y = x - mean(x, over (s, d))", "sum"),
    "attention both ways": ("  y = x + attention(x, 2, causal = false)", "max"),
    "no mask by hand": (BY_HAND.format("raw"), "max"),
    "a mask that leaves one more": (BY_HAND.format("where(iota(t) <= iota(s) + 1, raw, -1e9)"), "max"),
    "a mask the wrong way": (BY_HAND.format("where(iota(t) >= iota(s), raw, -1e9)"), "max"),
    "a weak mask": (BY_HAND.format("where(iota(t) <= iota(s), raw, -50.0)"), "@"),
    "masked by or": (BY_HAND.format("where(iota(t) <= iota(s) or iota(t) == 3, raw, -1e9)"), "max"),
    "no mask of a product": (
        "  dim t = s\n  z[b,s,t] = x @ rename(x, s -> t)\n  y[b,s,d] = z @ rename(x, s -> t)",
        "@",
    ),
    "the next one": ("  y = shift(x, s, by = -1)", "shift"),
    "padded the other way": (
        "  dim near = 3\n  w = window(pad(x, s -> q, 0, 2, 0.0), q -> (o, near))\n"
        "  y = rename(sum(w, over near), o -> s)",
        "window",
    ),
    "padded a row too few": (
        "  dim o = s, near = 4\n  w = window(pad(x, s -> q, 2, 1, 0.0), q -> (o, near))\n"
        "  y = rename(sum(w, over near), o -> s)",
        "window",
    ),
    "padded, and not cut": ("  y = x + mean(pad(x, s -> q, 2, 0, 0.0), over q)", "pad"),
    "the next one by a join": ("  y = concat(slice(x, s -> r, 1..8), slice(x, s -> r, 0..1), over r -> s)", "slice"),
    "the first two": ("  y = x * sum(slice(x, s -> two, 0..2), over two)", "slice"),
    "the second one": ("  y = x * sum(slice(x, s -> one, 1..2), over one)", "slice"),
    "round the end": ("  y = shift(x, s, by = 1, around = true)", "shift"),
    "backwards": ("  y = flip(x, over s)", "flip"),
    "sums from the end": ("  y = flip(cumsum(flip(x, over s), over s), over s)", "flip"),
    "experts for pieces": ("  out, balance = moe(x, 4, 8, pieces = 2)\n  y = x + out", "split"),
    "the best positions": (
        "  dim few = 3\n  best, at = top_k(x, over s -> few)\n  y = x + sum(best, over few)",
        "top_k",
    ),
    "both sides": (
        "  dim o = s, near = 3\n  w = window(x, s -> (o, near), pad = 1)\n  y = rename(sum(w, over near), o -> s)",
        "window",
    ),
    "the last one": ("  dim one = 1\n  y = x + sum(slice(x, s -> one, 7..8), over one)", "slice"),
    "where the largest is": ("  y = x * cast(argmax(x, over s), compute)", "argmax"),
    "in pieces": ("  dim p = 2, q = 4\n  z = split(x, s -> (p, q))\n  y = x + sum(z, over (p, q))", "split"),
    "found by data": ("  y = take(rename(x, s -> u), tokens % 8, over u)", "take"),
}  # fmt: skip


def refused(body: str) -> Diagnostic:
    with pytest.raises(ParcError) as error:
        incremental(model_of(body), "s", 1, NOWHERE)
    (found,) = error.value.diagnostics
    return found


@pytest.mark.parametrize("name", AHEAD)
def test_by_the_name_of_the_op(name: str) -> None:
    body, op = AHEAD[name]
    found = refused(body)
    assert found.code == "E0780" and found.message.startswith(f"`{op}` over "), found.message
    assert found.span is not None and found.span != NOWHERE
    helps = {
        "window": "window that ends",
        "pad": "what looks back",
        "concat": "what looks back",
        "shift": "it looks back",
    }
    masked = "mask later" if op in ("max", "sum", "@") else "later positions are not there yet"
    assert helps.get(op, masked) in str(found.help)


def by_hand(mlp: str, strategy: str) -> Diagnostic:
    text = f"""
use std.implementations (sequence_parallel_mlp, tensor_parallel_mlp)
use std.layers (attention, embedding, mlp)
model m() {{
  dim b = 2, s = 8, d = 16, v = 11
  input tokens : int32[b, s] in 0..v
  x = embedding(tokens, over v, over d)
  y = {mlp}
  output y
}}
strategy two for m {{
  mesh (tp = 2)
  {strategy}
}}
job serve {{
  infer m() using two
  decode over s
}}
"""
    with pytest.raises(ParcError) as error:
        api.compile(Source("main.par", text))
    (found,) = error.value.diagnostics
    return found


def test_an_implementation_is_told_apart_from_the_model() -> None:
    """The model can be decoded: nothing in it has to be masked."""
    rule = "split s on tp for activations\n  implement mlp by sequence_parallel_mlp(tp)"
    found = by_hand("mlp(x, 8)", rule)
    assert (found.code, found.message) == (
        "E0782",
        "`mlp` is implemented by hand in a way that cannot be decoded along `s`",
    )
    assert "leave `implement` out" in str(found.help) and "moves positions" in found.notes[0][0]
    kept = by_hand("attention(mlp(x, 8), 2)", f"{rule}\n  store caches as int8")
    assert kept.code == "E0782" and kept.message == found.message
    wrong = by_hand("mlp(flip(x, over s), 8)", "implement mlp by tensor_parallel_mlp(tp)")
    assert wrong.code == "E0780" and wrong.message.startswith("`flip`")


@pytest.mark.parametrize(
    ("op", "moved"),
    [
        ("shift", "shift(z, s, by = 1)"),
        ("shift", "slice(pad(z, s -> p, 2, 0, 0.0), p -> s, 1..9)"),
        ("cumsum", "cumsum(z, over s)"),
        ("window", "rename(sum(window(z, s -> (o, k), pad = 1), over k), o -> s)"),
    ],
)
def test_pairs_that_move_are_refused(op: str, moved: str) -> None:
    """Of an earlier position's pair with the new one nothing is kept; once later ones are masked all is."""
    body = "  dim t = s, o = s, k = 2\n  z[b,s,t] = MADE\n"
    body += f"  q[b,s,t] = {moved}\n  y[b,s,d] = where(iota(s) >= iota(t), q, 0.0) @ rename(x, s -> t)"
    found = refused(body.replace("MADE", "x @ rename(x, s -> t)"))
    assert found.code == "E0782" and found.message.startswith(f"`{op}`")
    masked = model_of(body.replace("MADE", "where(iota(s) >= iota(t), x @ rename(x, s -> t), 0.0)"))
    assert max(apart(masked, split) for split in ((1,) * 8, (3, 5))) <= LIMIT


def test_pairs_are_refused() -> None:
    found = refused("  dim t = s\n  y[b,s,t] = x @ rename(x, s -> t)")
    assert found.code == "E0780" and "pairs" in found.message
    incremental(
        model_of("  dim t = s\n  y[b,s,t] = where(iota(t) <= iota(s), x @ rename(x, s -> t), 0.0)"), "s", 1, NOWHERE
    )


def test_what_no_output_needs_may_look_ahead() -> None:
    incremental(model_of("  last = sum(x, over s)\n  y = x + 1.0"), "s", 1, NOWHERE)


def test_lengths_and_dims() -> None:
    model = model_of("  y = x")
    for dim, length in (("z", 1), ("s", 0), ("s", 9)):
        with pytest.raises(ParcError) as error:
            incremental(model, dim, length, NOWHERE)
        assert error.value.diagnostics[0].code == "E0781"


@pytest.mark.parametrize(("size", "fine"), [("2**31 - 1", True), ("2**31", False)])
def test_more_positions_than_are_counted(size: str, fine: bool) -> None:
    text = f"model m {{\n  dim b = 2, s = {size}\n  input n : int32[b,s] in 0..9\n  y = n + iota(s)\n  output y\n}}\n"
    source = Source("many.par", text + "job j {\n  infer m()\n  decode over s\n}\n")
    if fine:
        parc.compile(source)
        return
    with pytest.raises(ParcError) as error:
        parc.compile(source)
    assert error.value.diagnostics[0].code == "E0781"
