"""Mutants of right implementations: types see them, or the proof of the scope by itself does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

import parc
from compiler.evaluate import evaluate_file
from compiler.implement.alone import alone
from compiler.model import Precision
from dsl import ast
from dsl.diagnostics import ParcError
from dsl.parser import parse
from dsl.printer import print_tree
from dsl.source import Source
from runtime.prove.alone import differences
from tests.by_hand.files import changed, file, library

MESSAGES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "shift", "shard", "as_split", "as_sum")
OTHER = {"+": "-", "-": "+", "*": "/", "/": "*", ">=": ">", "==": "!=", "@": "*"}

FUNCTIONS = {
    "tensor_parallel_mlp": ("mlp", "(tp)", "tp = 2", ()),
    "sequence_parallel_mlp": ("mlp", "(tp)", "tp = 2", ()),
    "overlapped_mlp": ("mlp", "(tp)", "tp = 4", ()),
    "two_level_mlp": ("mlp", "(inner, outer)", "outer = 2, inner = 2", ("hierarchical_all_reduce",)),
    "gathered_attention": ("attention", "(cp)", "cp = 2", ()),
    "ulysses_attention": ("attention", "(cp)", "cp = 2", ()),
    "ring_attention": ("attention", "(cp)", "cp = 4", ("attended",)),
    "ring_grouped_attention": ("grouped_attention", "(cp)", "cp = 4", ("attended",)),
    "blocked_attention": ("attention", "(2)", "dp = 2", ()),
    "dispatched_experts": ("routed_experts", "(ep)", "ep = 2", ()),
    "banded_conv": ("conv", "(sp)", "sp = 3", ()),
}

SAME = {
    "ring_attention": ["!= for ==", "+ for -", "another 1e+30", "another 1e+30"],
    "dispatched_experts": ["+ for -", "- for +", "another 1e-20"],
}
"""What changes nothing: numbers as low as can be, below which all scores are anyway; an order or a window that is not
asked for; what is added to all logits alike; a number that keeps zero from being a divisor."""


def nodes(tree: Any) -> Iterator[Any]:
    """Every node, outer ones first."""
    if isinstance(tree, tuple):
        for x in tree:
            yield from nodes(x)
    elif isinstance(tree, ast.Syntax):
        yield tree
        for f in fields(tree):
            if f.name != "span":
                yield from nodes(getattr(tree, f.name))


def with_(tree: Any, node: Any, new: Any) -> Any:
    """The tree with another node in the place of one; None takes a statement out."""
    if tree is node:
        return new
    if isinstance(tree, tuple):
        return tuple(y for y in (with_(x, node, new) for x in tree) if y is not None)
    if isinstance(tree, ast.Syntax):
        changed = {f.name: with_(getattr(tree, f.name), node, new) for f in fields(tree) if f.name != "span"}
        if any(changed[k] is not getattr(tree, k) for k in changed):
            return replace(tree, **changed)
    return tree


def mutants(tree: ast.File) -> Iterator[tuple[str, ast.File]]:
    """What was changed, and the tree with it."""
    for node in nodes(tree):
        match node:
            case ast.Call() if node.function.id in MESSAGES:
                yield f"without {node.function.id}", with_(tree, node, node.arguments[0].value)
                if node.function.id == "shift":
                    by = node.arguments[2]
                    yield "shift further", with_(tree, by, replace(by, value=ast.Binary("+", by.value, ast.Number(1))))
            case ast.Binary() if node.op in OTHER:
                yield f"{OTHER[node.op]} for {node.op}", with_(tree, node, replace(node, op=OTHER[node.op]))
            case ast.Number() if node.value not in (0, 1):
                yield f"another {node.value}", with_(tree, node, replace(node, value=node.value * 2, text=""))
            case ast.Repeat():
                fewer = ast.Binary("-", node.count, ast.Number(1))
                yield "fewer turns", with_(tree, node, replace(node, count=fewer))
                for inner in node.body:
                    if isinstance(inner, ast.Assign):
                        yield "a statement of the loop", with_(tree, inner, None)
            case _:
                pass


def survives(name: str, text: str, rules: str = "", call: str = "") -> bool:
    """Whether neither types nor the proof find anything. call: in the place of the usual one."""
    layer, axes, mesh, _ = FUNCTIONS[name]
    uses = "use std.layers (gelu, rotary, silu, soft_cap, softmax)\n"
    source = Source("main.par", file(layer, f"{name}{axes}", mesh, rules, text, call, uses))
    try:
        job = evaluate_file(source, precision=Precision("f64", "f64")).job
    except ParcError:
        return False
    return not any(differences(a) for a in alone(job))


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n != "ring_grouped_attention"])
def test_mutants_are_found(name: str) -> None:
    tree = parse("\n".join(library(n) for n in (name, *FUNCTIONS[name][3])), "std.par")
    assert survives(name, print_tree(tree))
    alive = [what for what, mutant in mutants(tree) if survives(name, print_tree(mutant))]
    assert sorted(alive) == SAME.get(name, [])


def test_mutants_of_a_ring_in_zigzag_order_are_found() -> None:
    rules = "split s on cp zigzag for activations"
    tree = parse("\n".join(map(library, ("causal_ring", "halves"))), "std.par")
    around = "\n".join(map(library, ("ring_attention", "attended")))
    assert survives("ring_attention", f"{print_tree(tree)}\n{around}", rules)
    alive = [what for what, m in mutants(tree) if survives("ring_attention", f"{print_tree(m)}\n{around}", rules)]
    assert not alive


def test_mutants_of_a_window_and_of_groups_are_found() -> None:
    """A window's bound, and what goes round for all queries of a group."""
    parts = [library("ring_grouped_attention"), library("attended")]
    text = "\n".join(parts)
    call = "grouped_attention(y, 4, 2, window = 3, cap = 2.0, scale = 0.5, bias = true, out_bias = true)"
    assert survives("ring_grouped_attention", text, call=call)
    changes = [
        ("at - there < window", "at - there <= window"),
        ("at - there < window", "at + there < window"),
        ("causal, window, cap, top", "causal, 0, cap, top"),
        ("soft_cap(scores, cap)", "soft_cap(scores, 2 * cap)"),
        ("scale * turned", "turned / scale"),
        ("rotary(own, over s", "rotary(own, over b"),
        ("rename(value, s -> t)", "rename(own, s -> t)"),
        ("out = out + bo", "out = out - bo"),
        ("value = value + bv", "value = value"),
    ]
    for old, new in changes:
        assert old in text, old
        assert not survives("ring_grouped_attention", text.replace(old, new), call=call), new


INVISIBLE = {
    "a block is left out": (("repeat cp - 1 as", "repeat max(cp - 2, 1) as"),),
    "a block twice": (("repeat cp - 1 as", "repeat cp as"),),
    "a wrong scale": (("exp(scores - higher)", "exp(scores - top)"),),
    "sums that are not scaled again": (("total * before", "total"),),
    "a mask the other way": (("seen, scores, -1e30", "seen, -1e30, scores"),),
    "no mask": (("where(seen, scores, -1e30)", "scores"),),
}


@pytest.mark.parametrize("what", INVISIBLE)
def test_check_finds_what_types_do_not_see(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = file(
        "attention",
        "ring_attention(cp)",
        "cp = 4",
        own=changed(("ring_attention", "attended"), *INVISIBLE[what]),
    )
    for command in (parc.check, parc.verify):
        with pytest.raises(ParcError) as found:
            command(Source("main.par", text))
        (error,) = found.value.diagnostics
        assert error.code == "E0430" and error.span is not None
        assert text[error.span.start : error.span.end] == "implement block.attention by ring_attention(cp)"
    assert not list(tmp_path.rglob("*"))  # it is tried again


def test_what_was_equal_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the file is another."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = file("mlp", "tensor_parallel_mlp(tp)", "tp = 2")
    tried: list[str] = []
    monkeypatch.setattr("parc.by_hand._judged", lambda one, scope, span: (tried.append(scope), (True, None))[1])
    for source in (text, text, text + "\n# changed\n"):
        found = parc.check(Source("main.par", source))
        assert [(t.scope, t.equal) for t in found.by_hand] == [("block.mlp", True)]
    assert tried == ["block.mlp"] * 2


def test_large_scopes_are_tried_in_small_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = file("attention", "ring_attention(cp)", "cp = 4")
    large = text.replace("b = 4, s = 8, d = 8", "b = 64, s = 4096, d = 1024").replace(
        "attention(y, 4)", "attention(y, 16)"
    )
    before = time.process_time()
    found = parc.check(Source("main.par", large))
    assert [t.equal for t in found.by_hand] == [True]
    assert time.process_time() - before < 20
