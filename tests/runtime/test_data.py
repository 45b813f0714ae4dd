"""Readers of data."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.graph import Dim, Type
from compiler.model import DataSpec
from compiler.program import InputDecl
from dsl.diagnostics import ParcError
from runtime.data import READERS, open_data
from tests.runtime.models import ROOT

DATA = ROOT / "examples" / "data"


def tokens(batch: int = 4, length: int = 8, high: int = 80) -> list[InputDecl]:
    type = Type("int32", (Dim("b", batch), Dim("s", length)))
    return [InputDecl("tokens", type, 0, high), InputDecl("targets", type, 0, high)]


def spec(reader: str, *args: Any, folder: Path = DATA, **options: Any) -> DataSpec:
    return DataSpec(reader, args, tuple(options.items()), str(folder))


def numbers(dtype: str = "f32", high: int | None = None, name: str = "y", batch: int = 4) -> InputDecl:
    return InputDecl(name, Type(dtype, (Dim("b", batch),)), None if high is None else 0, high)


def test_targets_are_the_next_tokens() -> None:
    reader = open_data(spec("text", "corpus.txt"), tokens())
    text = (DATA / "corpus.txt").read_text()
    alphabet = sorted(set(text))
    batch = reader.batch(3, 0)
    assert batch["tokens"].dtype == np.int32 and batch["tokens"].shape == (4, 8)
    np.testing.assert_array_equal(batch["tokens"][:, 1:], batch["targets"][:, :-1])
    for row, last in zip(batch["tokens"], batch["targets"][:, -1], strict=True):
        assert "".join(alphabet[t] for t in [*row, last]) in text


def test_words_fit_any_vocabulary() -> None:
    batch = open_data(spec("text", "corpus.txt", level="word"), tokens(high=50, length=64)).batch(0, 0)
    assert 1 < batch["tokens"].max() < 50 and (batch["tokens"] == 0).any()


@pytest.mark.parametrize("reader", ["text", "synthetic"])
def test_batches_depend_on_seed_and_step_alone(reader: str) -> None:
    args = ("corpus.txt",) if reader == "text" else ()
    one, two = (open_data(spec(reader, *args), tokens()) for _ in range(2))
    first = one.batch(1, 5)["tokens"]
    np.testing.assert_array_equal(first, two.batch(1, 5)["tokens"])
    assert (first != one.batch(1, 6)["tokens"]).any() and (first != one.batch(2, 5)["tokens"]).any()


def test_an_epoch_visits_every_row_once(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,y\n" + "".join(f"{i},{i * 0.5}\n" for i in range(10)))
    reader = open_data(spec("csv", "t.csv", folder=tmp_path, key="id"), [numbers("int32", 10, "key"), numbers()])
    rows = [reader.batch(0, s) for s in range(5)]  # 20 rows: two epochs, the third batch lies across them
    seen = np.concatenate([r["key"] for r in rows])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert list(seen[:10]) != list(seen[10:])
    np.testing.assert_array_equal(np.concatenate([r["y"] for r in rows]), seen * np.float32(0.5))


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("y\n" + "0.5\n" * 10, encoding="utf-8-sig")
    assert (open_data(spec("csv", "t.csv", folder=tmp_path), [numbers()]).batch(0, 0)["y"] == 0.5).all()


def test_an_input_of_several_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,c,b\n" + "".join(f"{i},{i * i},{-i}\n" for i in range(10)))
    wide = InputDecl("x", Type("f32", (Dim("batch", 4), Dim("n", 2))))
    single = InputDecl("y", Type("f32", (Dim("batch", 4), Dim("one", 1))))
    batch = open_data(spec("csv", "t.csv", folder=tmp_path, x="b, a", y="c"), [wide, single]).batch(3, 1)
    assert batch["x"].shape == (4, 2) and batch["y"].shape == (4, 1)
    assert np.array_equal(batch["x"][:, 0], -batch["x"][:, 1]) and np.array_equal(
        batch["x"][:, 1] ** 2, batch["y"][:, 0]
    )


def test_ratings() -> None:
    inputs = [numbers("int32", 600, "student"), numbers("int32", 1085, "lecturer"), numbers("f32", None, "mark")]
    batch = open_data(spec("csv", "ratings.csv", mark="rating"), inputs).batch(0, 0)
    assert set(np.unique(batch["mark"])) <= {1, 2, 3, 4, 5}
    rows = [",".join(row.split(",")[:3]) for row in (DATA / "ratings.csv").read_text().split()]
    assert f"{batch['student'][0]},{batch['lecturer'][0]},{batch['mark'][0]:.0f}" in rows


def test_digits() -> None:
    image = InputDecl("image", Type("f32", (Dim("b", 16), Dim("y", 8), Dim("x", 8), Dim("c", 1))))
    label = numbers("int32", 10, "label", 16)
    batch = open_data(spec("images", "digits.csv.gz"), [image, label]).batch(0, 0)
    assert batch["image"].shape == (16, 8, 8, 1) and batch["image"].min() == 0 and batch["image"].max() == 1
    with gzip.open(DATA / "digits.csv.gz", "rt") as file:
        rows = {tuple(map(float, line.split(","))) for line in file}
    assert (*(batch["image"][0].ravel() * 16), float(batch["label"][0])) in rows
    sides = (Dim("b", 16), Dim("y", 24), Dim("x", 24), Dim("c", 1))
    large = open_data(spec("images", "digits.csv.gz"), [InputDecl("image", Type("f32", sides)), label]).batch(0, 0)
    for i in range(3):
        for j in range(3):
            assert np.array_equal(large["image"][:, i::3, j::3], batch["image"])


@pytest.mark.parametrize(
    ("code", "given", "inputs"),
    [
        ("E0704", spec("text", "corpse.txt"), tokens()),
        ("E0704", spec("text", "/etc/passwd"), tokens()),
        ("E0704", spec("text", "../../../../../etc/passwd"), tokens()),
        ("E0704", spec("text", ".."), tokens()),
        ("E0704", spec("text", "digits.csv.gz", folder=DATA / "nowhere"), tokens()),
        ("E0704", spec("csv", "README.md"), [numbers()]),
        ("E0705", spec("txt", "corpus.txt"), tokens()),
        ("E0705", spec("text"), tokens()),
        ("E0705", spec("text", 3), tokens()),
        ("E0705", spec("text", "corpus.txt", "char"), tokens()),
        ("E0705", spec("text", "corpus.txt", levels="char"), tokens()),
        ("E0705", spec("images", "digits.csv.gz", top=0), [numbers()]),
        ("E0705", spec("synthetic", 1), tokens()),
        ("E0706", spec("text", "corpus.txt"), tokens(high=74)),
        ("E0706", spec("text", "corpus.txt"), [numbers()]),
        ("E0706", spec("csv", "ratings.csv"), [numbers("f32", None, "student"), numbers()]),
        ("E0706", spec("csv", "ratings.csv", y="ratings"), [numbers()]),
        ("E0706", spec("csv", "ratings.csv", y="rating"), [numbers("int32", 5)]),
        ("E0706", spec("csv", "ratings.csv", y="rating"), [InputDecl("y", Type("f32", (Dim("b", 4), Dim("k", 2))))]),
        ("E0706", spec("images", "digits.csv.gz"), [InputDecl("i", Type("f32", (Dim("b", 4), Dim("p", 63))))]),
        ("E0706", spec("csv", "ratings.csv", y="rating, service"), [numbers()]),
        ("E0706", spec("csv", "ratings.csv", y="rating, servcie"), [numbers()]),
        ("E0706", spec("images", "digits.csv.gz"), tokens()),
        ("E0707", spec("text", "corpus.txt"), tokens(length=10**6)),
    ],
    ids=str,
)
def test_errors(code: str, given: DataSpec, inputs: list[InputDecl]) -> None:
    with pytest.raises(ParcError) as caught:
        open_data(given, inputs)
    assert [d.code for d in caught.value.diagnostics] == [code]


@pytest.mark.parametrize(
    ("code", "content"),
    [
        ("E0704", b"y\n1\nx\n"),
        ("E0704", b"y\n1\n1,2\n"),
        ("E0704", b"y\nnan\n"),
        ("E0704", b"y\n\xff\n"),
        ("E0707", b"y\n"),
        ("E0707", b""),
    ],
)
def test_bad_tables(code: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ParcError, match=code):
        open_data(spec("csv", "t.csv", folder=tmp_path), [numbers()])


@pytest.mark.parametrize(
    ("content", "dtype", "says"),
    [
        ([1e39, 1.0], "f32", "f32, which has no numbers as large as `y.npy`: it reaches from 1 to 1e\\+39"),
        ([7e4, 1.0], "f16", "f16, which has no numbers as large"),
        ([np.inf, 1.0], "int32", "has values that are not finite"),
        ([np.nan, 1.0], "int32", "has values that are not finite"),
        ([np.inf, 1.0], "f32", None),
    ],
)
def test_numbers_that_a_type_has_not(content: list[float], dtype: str, says: str | None, tmp_path: Path) -> None:
    """Are told, and never become infinite; what is infinite in a file of arrays stays so."""
    np.save(tmp_path / "y.npy", content)
    batch = open_data(spec("arrays", folder=tmp_path, y="y.npy", shuffle=False), [numbers(dtype, batch=2)]).batch(0, 0)
    if says is None:
        assert np.asarray(batch["y"]).tolist() == content
        return
    with pytest.raises(ParcError, match=f"E0706.*{says}"):
        np.asarray(batch["y"])


@pytest.mark.parametrize(("cell", "top"), [("1e39", 1), ("-1e300", 1e-10)])
def test_numbers_of_tables_that_a_type_has_not(cell: str, top: float, tmp_path: Path) -> None:
    """When the file is opened."""
    (tmp_path / "t.csv").write_text(f"y\n{cell}\n1\n")
    with pytest.raises(ParcError, match="E0706.*no numbers as large"):
        open_data(spec("csv", "t.csv", folder=tmp_path), [numbers()])
    (tmp_path / "i.csv").write_text(f"{cell},1\n1,1\n")
    with pytest.raises(ParcError, match="E0706.*large"):
        open_data(spec("images", "i.csv", top=top, folder=tmp_path), [numbers(name="i")])


def test_links_do_not_lead_out_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "parc.toml").touch()
    (tmp_path / "secret.txt").write_text("secret " * 99)
    (tmp_path / "in" / "t.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ParcError, match="outside"):
        open_data(spec("text", "t.txt", folder=tmp_path / "in"), tokens())


def test_broken_archives(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"y\n1\n" * 100)[:30])
    with pytest.raises(ParcError, match="E0704"):
        open_data(spec("csv", "t.csv.gz", folder=tmp_path), [numbers()])


def test_every_reader_is_explained() -> None:
    from dsl.codes import CODES

    assert all(f"{name}(" in CODES["E0705"].explanation for name in READERS)
