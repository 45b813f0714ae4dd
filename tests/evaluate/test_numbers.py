"""Numbers that their type, or the op that takes them, does not have: told by `check`, at their place."""

from __future__ import annotations

import pytest

from compiler.graph import BEYOND_F32
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc import check, run


def text(loss: str, body: str = "", optimizer: str = "sgd(lr = 0.1)", job: str = "") -> str:
    """A file of a model with inputs of three types."""
    return (
        "use std.layers\nuse std.optimizers\nmodel m {\n  dim b = 4, d = 8\n  input x : f32[b,d]\n  weight w[d]\n"
        f"  input k : int32[b] in 0..3\n  input u : uint32[b] in 0..3\n{body}  loss {loss}\n}}\n"
        f"job fit {{\n  train m\n  optimizer {optimizer}\n{job}}}\n"
    )


def refused(file: str) -> tuple[str, str, str]:
    """Code, message and what is underlined, of the only error that `check` finds."""
    with pytest.raises(ParcError) as caught:
        check(Source("t.par", file))
    (found,) = caught.value.diagnostics
    assert found.span is not None and found.span.end > found.span.start
    return found.code, found.message, file[found.span.start : found.span.end] if found.span.source == "t.par" else ""


@pytest.mark.parametrize(
    ("code", "number"),
    [
        ("E0206", "k + 2**31"),
        ("E0206", "k - 2**31 - 1"),
        ("E0206", "u - -5"),
        ("E0206", "u * -1"),
        ("E0206", "u + 2**32"),
        ("E0206", "where(k > 1, k, 2**40)"),
        ("E0206", "where(k < 2**31, k, 0)"),
        ("E0206", "full(2**31, b, dtype = int32)"),
        ("E0206", "full(-1, b, dtype = uint32)"),
        ("E0206", "shift(k, b, 1, fill = 2**31)"),
        ("E0206", "pad(k, b, 1, 1, value = 2**31)"),
        ("E0206", "iota(b, start = 2**31)"),
        ("E0206", "iota(b, start = 2**31 - 2)"),
        ("E0206", "full(2**31 - 1, b, dtype = int32) + 1"),
        ("E0206", "-full(-2**31, b, dtype = int32)"),
        ("E0206", "cast(full(1e20, b), int32)"),
        ("E0202", "full(1.5, b, dtype = int32)"),
        ("E0202", "pad(k, b, 1, 1, value = 0.5)"),
        ("E0202", "window(k, b -> (c, q), fill = 0.5)"),
        ("E0211", "k // 0"),
        ("E0211", "u % 0"),
    ],
)
def test_integers_stay_in_their_types(code: str, number: str) -> None:
    found, _, place = refused(text(f"mean(x * w) + mean(cast({number}, f32))", "  dim q = 2\n"))
    assert found == code and place in number


@pytest.mark.parametrize(
    "number", ["x * 1e39", "x - 10 ** 60", "where(x > 0, x, -1e50)", "pad(x, d, 1, 1, value = 1e40)"]
)
def test_floats_stay_in_their_types(number: str) -> None:
    assert refused(text(f"mean({number}) * mean(w)"))[0] == "E0206"


def test_the_ends_of_types_are_numbers_of_theirs() -> None:
    at_the_ends = "max(k * -2147483648, over b) + max(k + 2147483647, over b)"
    file = text(
        f"mean(x * w) + 0.0 * cast({at_the_ends}, f32) + 0.0 * mean(cast(u + 4294967295, f32))",
        "  input low : int32[b] in -2**31..0\n  input high : int32[b] in 0..2**31\n"
        "  input far : uint32[b] in 0..2**32\n",
        job=f"  seed {2**63 - 1}\n",
    )
    check(Source("t.par", file))
    run(Source("t.par", file), 1)
    check(Source("t.par", text(f"mean(x * w * {BEYOND_F32 * (1 - 2**-50):.17e})")))
    check(Source("t.par", text("mean(cast(x * w, f64) * 1e39)")))


@pytest.mark.parametrize(
    ("dtype", "range", "bound"),
    [
        ("int32", "0..10 ** 12", "10 ** 12"),
        ("int32", "0..2**31 + 1", "2**31 + 1"),
        ("int32", "-2**31 - 1..0", "-2**31 - 1"),
        ("uint32", "-5..3", "-5"),
        ("uint32", "0..2**32 + 1", "2**32 + 1"),
    ],
)
def test_ranges_of_inputs_lie_in_their_types(dtype: str, range: str, bound: str) -> None:
    found, message, place = refused(text("mean(x * w)", f"  input n : {dtype}[b] in {range}\n"))
    assert (found, place) == ("E0206", bound) and dtype in message


@pytest.mark.parametrize(
    "loss",
    [
        "mean(dropout(x * w, 2.0))",
        "mean(dropout(x * w, 1.0))",
        "mean(dropout(x * w, -0.5))",
        "mean(layer_norm(x * w, eps = -1.0))",
        "mean(rms_norm(x * w, -1e-5))",
        "cross_entropy(x * w, k, over d, smoothing = 1.5)",
        "cross_entropy(x * w, k, over d, smoothing = -0.5)",
    ],
)
def test_arguments_of_layers_have_ranges(loss: str) -> None:
    assert refused(text(loss))[0] == "E0217"


@pytest.mark.parametrize(
    "optimizer",
    [
        "sgd(lr = 0.1, momentum = -1.0)",
        "sgd(lr = 0.1, decay = -1.0)",
        "adam(lr = 0.1, beta1 = 1.0)",
        "adamw(lr = 0.1, beta2 = 1.5)",
        "lamb(lr = 0.1, eps = -1.0)",
        "adamw(lr = warmup_cosine(step, 3e-3, -1, 100))",
        "adamw(lr = warmup_linear(step, 3e-3, 100, 100))",
        "adamw(lr = cosine(step, 3e-3, 0))",
        "adamw(lr = linear_decay(step, 3e-3, -5))",
    ],
)
def test_arguments_of_optimizers_have_ranges(optimizer: str) -> None:
    assert refused(text("mean(x * w)", optimizer=optimizer))[0] == "E0217"


@pytest.mark.parametrize(
    ("file", "place"),
    [
        (text("mean(x * w)", optimizer="sgd(lr = 0.1, clip = 1e39)"), "1e39"),
        (text("mean(x * w)", job="  precision f32, loss_scale 1e39\n"), "1e39"),
        (text("mean(x * w)", job="  seed 2 ** 63\n"), "2 ** 63"),
        (text("mean(x * w)", job="  seed -1\n"), "-1"),
        (text("mean(x * w) + mean(q)", "  weight q[d] ~ normal(1e39)\n"), "1e39"),
        (text("mean(x * w) + mean(q)", "  weight q[d] ~ uniform(-1e39, 0)\n"), "-1e39"),
        (text("mean(x * w)", "  state q : int32[b] ~ constant(2 ** 31)\n  q = q + 1\n"), "q"),
    ],
)
def test_what_jobs_state_has_ranges(file: str, place: str) -> None:
    assert refused(file)[::2] == ("E0206", place)


@pytest.mark.parametrize(
    ("code", "data", "place"),
    [
        ("E0705", 'txt("a")', ""),
        ("E0705", "text()", "data text()"),
        ("E0705", "text(3)", "3"),
        ("E0705", 'text("a", "b")', '"b"'),
        ("E0705", 'text("a", levl = "char")', 'levl = "char"'),
        ("E0705", 'text("a", level = "letter")', 'level = "letter"'),
        ("E0705", 'text("a", stream = 1)', "stream = 1"),
        ("E0705", 'text("a", limit = 5)', "limit = 5"),
        ("E0705", 'csv("a.csv", z = "q")', 'z = "q"'),
        ("E0705", 'csv("a.csv", x = 3)', "x = 3"),
        ("E0705", 'images("a", top = 0)', "top = 0"),
        ("E0705", "synthetic(3)", "3"),
        ("E0705", 'arrays("a.npz")', ""),
        ("E0705", 'arrays(x = "x.npy", k = "k.npy")', ""),
        ("E0705", 'arrays("a.safetensors", shuffle = 1)', "shuffle = 1"),
        ("E0705", 'raw("a.bin", x = "f32", k = "uint8", u = "int4")', ""),
        ("E0705", 'raw("a.bin", x = "f32[9]", k = "uint8", u = "uint8")', ""),
        ("E0705", 'tokens("a.bin", dtype = "complex64")', 'dtype = "complex64"'),
        ("E0705", 'tokens("a.bin", offset = -1)', "offset = -1"),
        ("E0706", 'tokens("a.bin")', ""),
        ("E0706", 'text("a")', ""),
        ("E0706", 'images("a")', ""),
    ],
)  # fmt: skip
def test_readers_are_checked_without_their_files(code: str, data: str, place: str) -> None:
    assert refused(text("mean(x * w)", job=f"  data {data}\n"))[::2] == (code, place or f"data {data}")
