"""What is known of the range of an index: against all values that there are, and as errors at `take`."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from random import Random

import numpy as np
import pytest

from compiler.evaluate import check_file
from compiler.evaluate.ranges import Extent, extents
from compiler.graph import Dim, Type
from compiler.ops.base import OpError
from compiler.ops.create import Iota
from compiler.ops.elementwise import Cast, Map
from compiler.ops.shape import Slice
from dsl.source import Source
from tests.evaluate.programs import JOB
from tests.ops.rows import run


def chain(rng: Random) -> tuple[Extent | None, set[int]]:
    """A drawn expression of one or two inputs: what is known of it, and all values that it takes."""
    ranges = [sorted(rng.sample(range(-9, 20), 2)) for _ in range(2)]
    everything = np.array(list(product(*(range(a, b + 1) for a, b in ranges))), np.int32).T
    known: list[Extent | None] = [Extent(a, b, sources=frozenset({str(i)})) for i, (a, b) in enumerate(ranges)]
    pool = list(zip(known, everything))
    for _ in range(rng.randint(1, 4)):
        (x, xs), (y, ys) = rng.choice(pool), rng.choice(pool)
        c = rng.choice([-3, -1, 1, 2, 5])
        fn = rng.choice(["add", "sub", "mul", "minimum", "maximum", "neg", "relu", "mod", "floordiv", "cast", "where"])
        t = Type("int32", (Dim("n", xs.size),))
        if fn in ("neg", "relu"):
            op, ins, arrays = Map(fn, (None,)), [x], [xs]
        elif fn == "cast":
            (narrow,) = run(Cast("bf16"), (t,), [xs])
            (middle,) = extents(Cast("bf16"), [x], ["bf16"])
            pool.append((extents(Cast("int32"), [middle], ["int32"])[0], narrow.astype(np.int32)))
            continue
        elif fn == "where":
            test = np.array([rng.random() < 0.5 for _ in xs])
            pool.append((extents(Map(fn, (None, None, c)), [None, x], ["int32"])[0], np.where(test, xs, c)))
            continue
        elif rng.random() < 0.5 or fn in ("mod", "floordiv"):
            slots = (None, abs(c)) if fn in ("mod", "floordiv") else rng.choice([(None, c), (c, None)])
            op, ins, arrays = Map(fn, slots), [x], [xs]
        else:
            op, ins, arrays = Map(fn, (None, None)), [x, y], [xs, ys]
        (out,) = run(op, (t,) * len(arrays), arrays)
        pool.append((extents(op, ins, ["int32"])[0], out))
    found, values = pool[-1]
    return found, set(values.tolist())


def test_bounds_hold_and_those_that_are_attained_are_attained() -> None:
    attained = 0
    for seed in range(2000):
        found, values = chain(Random(seed))
        if found is None:
            continue
        assert found.low <= min(values) and max(values) <= found.high, seed
        if found.attained:
            attained += 1
            assert {found.low, found.high} <= values, seed
    assert attained > 800


def test_numbers_that_wrap_or_are_not_exact_are_not_known() -> None:
    big = Extent(0, 2**30)
    assert extents(Map("add", (None, 2**30 - 1)), [big], ["int32"]) != (None,)
    with pytest.raises(OpError, match="this is 3221225471 somewhere"):
        extents(Map("add", (None, 2**31 - 1)), [big], ["int32"])
    assert extents(Map("add", (None, 2**31 - 1)), [replace(big, attained=False)], ["int32"]) == (None,)
    assert extents(Cast("bf16"), [Extent(0, 257)], ["bf16"]) == (None,)
    assert extents(Map("mul", (None, 1e300)), [Extent(0, 1e300)], ["f64"]) == (None,)
    (positions,) = extents(Iota(Dim("s", 8)), [], ["int32"])
    assert positions == Extent(0, 7, sources=frozenset({Dim("s", 8)}))
    (some,) = extents(Slice("s", 0, 3, "s"), [positions], ["int32"])
    assert some is not None and not some.attained


def codes(body: str) -> list[str]:
    head = (
        "use std.optimizers (sgd)\nmodel m() {\n  dim b = 4, s = 6, t = 6, v = 10, d = 3\n"
        "  input word : int32[b,t] in 0..v\n  weight table[v,d], place[s,d], small[b,d]\n"
    )
    tail = "  loss mean(x * x) + sum(table) + sum(place) + sum(small)\n}\n" + JOB.replace("PRECISION", "f32")
    return [d.code for d in check_file(Source("main.par", head + body + tail))]


@pytest.mark.parametrize(
    "index, table",
    [
        ("word", "place"),
        ("word + 1", "table"),
        ("word - 1", "table"),
        ("2 * word", "table"),
        ("cast(cast(word, f32) + 1.0, int32)", "table"),
        ("word + iota(b)", "table"),
        ("iota(t) - 1", "place"),
        ("rename(iota(v), v -> u)", "place"),
        ("maximum(word, 3)", "small"),
    ],
)
def test_an_index_that_leads_out_of_its_table(index: str, table: str) -> None:
    dim = {"table": "v", "place": "s", "small": "b"}[table]
    assert codes(f"  x = take({table}, {index}, over {dim})\n") == ["E0219"]


@pytest.mark.parametrize(
    "index, table",
    [
        ("word", "table"),
        ("minimum(word, 5)", "place"),
        ("word // 2", "place"),
        ("word % 6", "place"),
        ("where(word < 6, word, 0)", "place"),
        ("iota(t)", "table"),
        ("iota(t) - iota(t)", "place"),
        ("word - word", "place"),
        ("cast(sum(take(table, word, over v), over d) > 0.0, int32)", "table"),
    ],
)
def test_no_false_alarms(index: str, table: str) -> None:
    dim = {"table": "v", "place": "s"}[table]
    assert codes(f"  x = take({table}, {index}, over {dim})\n") == []


def test_in_a_loop_too() -> None:
    loop = "  x = take(table, word, over v)\n  repeat 2 as block {\n    x = x + take(place, word, over s)\n  }\n"
    assert codes(loop) == ["E0219"]
