"""Tables of names, layers as loops, clusters by number and device."""

from __future__ import annotations

import numpy as np
import pytest

from parc.importing.cluster import HOUSINGS, cluster_lines, read_cluster
from parc.importing.rolling import LayerRun, rolled
from runtime.checkpoint_names import from_checkpoint, row, rows, to_checkpoint
from tests.evaluate.std import std

A = np.arange


def test_the_order_of_dims() -> None:
    w = A(24.0).reshape(4, 2, 3)  # d, h, k
    (found,) = dict(to_checkpoint([row("q", "w[(h k) d]")], {"w": w}, {"w": (("d", 4), ("h", 2), ("k", 3))})).values()
    np.testing.assert_array_equal(found, w.reshape(4, 6).T)


def test_tensors_of_several_weights() -> None:
    dims = {"q": (("d", 2), ("h", 2), ("k", 3)), "v": (("d", 2), ("h", 2), ("j", 1))}
    held = {"q": A(12.0).reshape(2, 2, 3), "v": -A(4.0).reshape(2, 2, 1)}
    behind = dict(to_checkpoint([row("qv", "q[+(h k) d] v[+(h j) d]")], held, dims))["qv"]
    np.testing.assert_array_equal(behind, np.concatenate([held["q"].reshape(2, 6).T, held["v"].reshape(2, 2).T]))
    each = dict(to_checkpoint([row("qv", "q[+(h: k) d] v[+(h: j) d]")], held, dims))["qv"]
    by_head = [np.concatenate([held["q"][:, h].T, held["v"][:, h].T]) for h in range(2)]
    np.testing.assert_array_equal(each, np.concatenate(by_head))
    turns = dict(
        to_checkpoint([row("ab", "a[+(f:)] b[+(f:)]")], {"a": A(3), "b": -A(3)}, dict.fromkeys("ab", (("f", 3),)))
    )
    np.testing.assert_array_equal(turns["ab"], [0, 0, 1, -1, 2, -2])


def test_pairs_side_by_side() -> None:
    found = dict(to_checkpoint([row("w", "w[k~]")], {"w": A(6)}, {"w": (("k", 6),)}))["w"]
    np.testing.assert_array_equal(found, [0, 3, 1, 4, 2, 5])


def test_layers_and_experts_have_tensors_of_their_own() -> None:
    w = A(2 * 3 * 2 * 4).reshape(2, 3, 2, 4)  # block, local, e, f
    dims = {"b.w": (("block", 2), ("local", 3), ("e", 2), ("f", 4))}
    table = rows({"{e}.w": "w[f]"}, "l.{layer}.", "b.", 1, (("block", 4), ("local", 1)))
    found = dict(to_checkpoint(table, {"b.w": w}, dims))
    assert set(found) == {f"l.{n}.{e}.w" for n in (1, 2, 3, 5, 6, 7) for e in (0, 1)}
    np.testing.assert_array_equal(found["l.6.1.w"], w[1, 1, 1])
    np.testing.assert_array_equal(from_checkpoint(table, found, dims)["b.w"], w)


def test_what_does_not_fit_is_named() -> None:
    table, dims = [row("w", "w[a b]")], {"w": (("a", 2), ("b", 3))}
    with pytest.raises(ValueError, match=r"w is \[3, 2\], not \[2, 3\]"):
        from_checkpoint(table, {"w": np.zeros((3, 2))}, dims)
    with pytest.raises(KeyError):
        from_checkpoint(table, {}, dims)


@pytest.mark.parametrize(
    ("kinds", "runs"),
    [
        ("aaaa", [(4, "a")]),
        ("abababab", [(4, "ab")]),
        ("aaab", [(3, "a"), (1, "b")]),
        ("aabaabaa", [(2, "aab"), (2, "a")]),
        ("aaaaabaaaaabaa", [(2, "aaaaab"), (2, "a")]),
        ("dddmmmmmm", [(3, "d"), (6, "m")]),
        ("a", [(1, "a")]),
        ("", []),
    ],
)
def test_layers_as_loops(kinds: str, runs: list[tuple[int, str]]) -> None:
    assert rolled(kinds) == [LayerRun(n, tuple(k)) for n, k in runs]


def test_loops_give_all_layers_whatever_they_are() -> None:
    rng = np.random.default_rng(3)
    for _ in range(100):
        kinds = [int(k) for k in rng.integers(0, 3, rng.integers(0, 40))]
        assert [k for run in rolled(kinds) for _ in range(run.count) for k in run.kinds] == kinds


@pytest.mark.parametrize("text", ["64 h100", "64h100", "64 x H100", "64×h100", " 64  h100 ", "6_4 h100"])
def test_clusters(text: str) -> None:
    assert read_cluster(text) == (64, "h100")


@pytest.mark.parametrize(
    "text", ["h100", "64", "0 h100", "-1 h100", "64 h1000", "64 h100 8", "99999999 h100", "", "6.4 h100"]
)
def test_what_is_no_cluster(text: str) -> None:
    with pytest.raises(ValueError):
        read_cluster(text)


def test_every_device_of_the_library_can_be_asked_for() -> None:
    assert {d.name.id for d in std("devices") if hasattr(d, "body")} == set(HOUSINGS)
    assert "  level server = min(devices, 6) npu over 450 GB/s, 1 us" in cluster_lines("h100", 12)
