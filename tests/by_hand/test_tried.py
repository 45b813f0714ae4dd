"""Implementations are tried by themselves in all layers they are of, with as many devices as they are given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import parc
from dsl.diagnostics import ParcError
from dsl.source import Source
from tests.by_hand.files import changed, file

SUM = "all_reduce(part, tp) + b2"


@pytest.fixture(autouse=True)
def _nothing_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def large(mesh: str, *changes: tuple[str, str]) -> Source:
    """A file whose implementation takes long in its own sizes."""
    own = changed("tensor_parallel_mlp", *changes) if changes else ""
    text = file("mlp", "tensor_parallel_mlp(tp)", mesh, own=own, uses="use std.layers (gelu)\n" if own else "")
    text = text.replace("b = 8, s = 4, d = 8", "b = 512, s = 2048, d = 1024")
    return Source("main.par", text.replace("mlp(y, 16)", "mlp(y, 4096)"))


def short_ring() -> Source:
    """A ring of attention of which no more than four blocks are taken."""
    own = changed(("ring_attention", "attended"), ("repeat cp - 1 as", "repeat min(cp - 1, 3) as"))
    text = file("attention", "ring_attention(cp)", "cp = 8", own=own)
    text = text.replace("b = 4, s = 8, d = 8", "b = 64, s = 4096, d = 1024")
    return Source("main.par", text.replace("attention(y, 4)", "attention(y, 16)"))


WRONG = {
    "a number of devices": lambda: large("tp = 8", (SUM, "all_reduce(part, tp) * tp / 4 + b2")),
    "blocks that four devices have not": short_ring,
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_on_more_devices_only_is_found(what: str) -> None:
    source = WRONG[what]()
    with pytest.raises(ParcError) as found:
        parc.check(source)
    assert [d.code for d in found.value.diagnostics] == ["E0430"]
    with pytest.raises(ParcError) as found:
        parc.verify(source, small=parc.shrink(source))
    assert [d.code for d in found.value.diagnostics] == ["E0430"]


def test_axes_that_are_too_long_are_told() -> None:
    source = large("tp = 128")
    small = parc.shrink(source)
    ((axis, full, now),) = small.axes
    assert small.given == (axis,) == ("tp",) and full == 128 > now > 4
    assert parc.verify(source, small=small).ok
    (one,) = parc.check(source).by_hand
    assert one.equal
    one = replace(one, shorter=small.axes)
    assert str(one).endswith(f"equal to what it replaces (tried with tp = {now} of 128)")


def test_axes_that_are_not_long_stay_as_they_are() -> None:
    assert parc.shrink(large("tp = 16")).axes == ()
    (one,) = parc.check(large("tp = 16")).by_hand
    assert one.equal and not one.shorter


CUT = {
    "of some layers": ("block[0..1].mlp", "", ["block[0].mlp"]),
    "of all layers, beside a rule of some": (
        "block.mlp",
        "recompute block[0..1]",
        ["block[0].mlp", "block[1].mlp"],
    ),
}


@pytest.mark.parametrize("wrong", [False, True], ids=["right", "wrong"])
@pytest.mark.parametrize("what", CUT)
def test_layers_of_a_loop_that_is_cut(what: str, wrong: bool) -> None:
    scope, rules, parts = CUT[what]
    own = changed("tensor_parallel_mlp", (SUM, "2 * all_reduce(part, tp) + b2")) if wrong else ""
    text = file("mlp", "tensor_parallel_mlp(tp)", "tp = 2", rules, own, uses="use std.layers (gelu)\n" if own else "")
    text = text.replace("block.mlp by", f"{scope} by")
    source = Source("main.par", text)
    if not wrong:
        assert [(one.scope, one.equal) for one in parc.check(source).by_hand] == [(part, True) for part in parts]
        return
    with pytest.raises(ParcError) as found:
        parc.check(source)
    assert [d.code for d in found.value.diagnostics] == ["E0430"] * len(parts)
    assert all(f"than `{part}`" in d.message for d, part in zip(found.value.diagnostics, parts))
