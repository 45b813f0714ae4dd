"""Readers that hold a file in memory take at most three times its text, and believe no archive."""

from __future__ import annotations

import gzip
import random
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.model import DataSpec
from compiler.text.records import FactParser, show_fact
from dsl.diagnostics import ParcError
from runtime.data import files, open_data, text
from runtime.data.columns import CELLS, Column, narrowed
from tests.data.files import declared, job, spec
from tests.data.reading import measured

FIXED = 32 * 2**20
"""Bytes that reading takes whatever the size of a file: blocks of it, and as objects what is being converted."""

PAIRS = [("tokens", "int32", [4, 64], 50000), ("targets", "int32", [4, 64], 50000)]


def characters(size: int) -> bytes:
    return np.random.default_rng(0).integers(97, 123, size, dtype=np.uint8).tobytes()


def chinese(size: int) -> bytes:
    return "".join(map(chr, np.random.default_rng(0).integers(0x4E00, 0x9FFF, size // 3))).encode()


def distinct(size: int) -> bytes:
    return " ".join(f"{i:06x}" for i in range(size // 7)).encode()


def fractions(size: int) -> bytes:
    return b"a\n" + b"".join(b"%.3f\n" % x for x in np.random.default_rng(0).random(size // 6))


CASES: dict[str, tuple[str, Callable[[int], bytes], Any, dict[str, Any]]] = {
    "characters": ("text", characters, PAIRS, {}),
    "chinese": ("text", chinese, PAIRS, {}),
    "two characters": ("text", lambda size: b"a " * (size // 2), PAIRS, {}),
    "signs": ("text", lambda size: b"!?" * (size // 2), PAIRS, {"level": "word"}),
    "distinct words": ("text", distinct, PAIRS, {"level": "word"}),
    "digits": ("csv", lambda size: b"a\n" + b"1\n" * (size // 2), [("a", "f64", [4], None)], {}),
    "fractions": ("csv", fractions, [("a", "f64", [4], None)], {}),
    "columns": (
        "csv", lambda size: b"a,b\n" + b"1,2\n" * (size // 4), [("a", "f32", [4], None), ("b", "int32", [4], 3)], {}
    ),
    "images": (
        "images", lambda size: (b"1," * 64 + b"3\n") * (size // 130),
        [("x", "f32", [4, 8, 8], None), ("l", "int32", [4], 10)], {},
    ),
}  # fmt: skip


def check(folder: Path, case: str, size: int) -> None:
    reader, made, inputs, options = CASES[case]
    content = made(size)
    (folder / "parc.toml").touch()
    (folder / "data.gz").write_bytes(gzip.compress(content, 1))
    found = measured(folder, reader, "data.gz", inputs, **options)
    assert found["codes"] == [] and found["bytes"] <= 3 * len(content) + FIXED, found


@pytest.mark.parametrize("case", [c for c in CASES if c != "distinct words"])
def test_memory_is_a_small_multiple_of_the_text(tmp_path: Path, case: str) -> None:
    check(tmp_path, case, 4_000_000)


def test_memory_of_words_that_are_all_different(tmp_path: Path) -> None:
    check(tmp_path, "distinct words", 2_000_000)


@pytest.mark.nightly
@pytest.mark.parametrize("case", ["characters", "two characters", "digits"])
def test_memory_of_large_files(tmp_path: Path, case: str) -> None:
    check(tmp_path, case, 255_000_000)


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive of 400 MB of text in 1 MB."""
    folder = tmp_path_factory.mktemp("bomb")
    (folder / "parc.toml").touch()
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    piece = b"1,2\n" * 2**18
    with open(folder / "bomb.gz", "wb") as file:
        for _ in range(400):
            file.write(packer.compress(piece))
        file.write(packer.flush())
    assert (folder / "bomb.gz").stat().st_size < 5e6
    return folder


@pytest.mark.parametrize("reader", ["text", "csv", "images"])
def test_bombs_stop_at_the_limit(bomb: Path, reader: str) -> None:
    """Told with what there is, the limit, and how to raise it."""
    inputs = PAIRS if reader == "text" else [("x", "f32", [4], None)]
    found = measured(bomb, reader, "bomb.gz", inputs)
    assert found["codes"] == ["E0760"] and found["bytes"] < 64 * 2**20 and found["seconds"] < 2, found
    with pytest.raises(ParcError) as caught:
        open_data(spec(reader, "bomb.gz", folder=bomb), [declared(n, t, *s, high=h) for n, t, s, h in inputs])
    (error,) = caught.value.diagnostics
    assert "the limit is 268,435,456 bytes" in error.message and "limit = 2 GiB" in (error.help or "")


def told(folder: Path, content: bytes, reader: str = "csv", **options: Any) -> str:
    (folder / "data").write_bytes(content)
    inputs = [declared("a", "f32", 2)] if reader != "text" else [declared("t", "int32", 2, 4)]
    with pytest.raises(ParcError) as caught:
        open_data(spec(reader, "data", folder=folder, **options), inputs)
    (found,) = caught.value.diagnostics
    return f"{found.code} {found.message}"


def test_the_limit_is_the_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dsl.units import Quantity

    small = Quantity.of(100, "B")
    assert told(tmp_path, b"a\n" + b"1\n" * 50, limit=small).startswith("E0760") and "has 102" in told(
        tmp_path, b"a\n" + b"1\n" * 50, limit=small
    )
    open_data(spec("csv", "data", folder=tmp_path, limit=Quantity.of(102, "B")), [declared("a", "f32", 2)])
    monkeypatch.setattr(files, "MAX_BYTES", 10)
    assert told(tmp_path, b"a\n" + b"1\n" * 50).startswith("E0760")


@pytest.mark.parametrize(
    "content",
    [
        b"a\n" + b"1," * 2**20,
        b"a\n" + b'"\n",' * 2**19,
        b"x" * (2**20 + 9),
        b'"' + b"1\n" * 2**17,  # a cell without end
    ],
)
def test_rows_have_a_most(tmp_path: Path, content: bytes) -> None:
    assert told(tmp_path, content)[:5] in ("E0760", "E0704")


def test_words_have_a_most(tmp_path: Path) -> None:
    assert told(tmp_path, b"w" * (2**20 + 2**19), "text", level="word").startswith("E0760")


def test_text_that_is_none_is_told_with_its_place(tmp_path: Path) -> None:
    at = 2**18 - 2  # a sign that begins in one block and is broken in the next
    assert f"byte {at}" in told(tmp_path, b"a" * at + "é".encode()[:1] + b"aa", "text")
    assert f"byte {at + 1}" in told(tmp_path, b"a" * (at + 1) + "é".encode()[:1] + b"aa", "text")
    assert f"byte {at + 40}" in told(tmp_path, b"a" * (at + 40) + "é".encode()[:1], "text")


def test_words_are_the_same_however_they_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one round or in many; and words that lie across blocks are whole."""
    rng = random.Random(0)
    words = [f"w{rng.randrange(3000)}" for _ in range(20000)]
    (tmp_path / "t").write_text(" ".join(words) + "!")
    inputs = [declared("t", "int32", 2, 20000, high=1000)]

    def tokens() -> Any:
        return open_data(spec("text", "t", folder=tmp_path, level="word"), inputs).batch(0, 0)["t"]

    at_once = np.asarray(tokens())
    monkeypatch.setattr(text, "_FEW_WORDS", 700)
    monkeypatch.setattr(text, "_WORD_BYTES", 200)
    monkeypatch.setattr(files, "_BLOCK", 999)
    assert np.array_equal(at_once, tokens()) and at_once.max() == 999
    counts = Counter([*words, "!"])
    ranked = sorted(counts, key=lambda w: (-counts[w], w))[:999]
    number = {w: i for i, w in enumerate(ranked, 1)}
    assert at_once[0].tolist() == [number.get(w, 0) for w in words]


def test_words_without_a_vocabulary_need_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_FEW_WORDS", 100)
    assert "more than 100 different words" in told(tmp_path, distinct(7000), "text", level="word")


def test_texts_of_new_words_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round goes through the whole text: there are few of them."""
    monkeypatch.setattr(text, "_FEW_WORDS", 100)
    monkeypatch.setattr(files, "_BLOCK", 999)
    passes: list[int] = []
    counted = text._counted
    monkeypatch.setattr(text, "_counted", lambda file, *of: (passes.append(1), counted(file, *of))[1])
    (tmp_path / "t").write_bytes(distinct(7000))
    with pytest.raises(ParcError) as caught:
        open_data(spec("text", "t", folder=tmp_path, level="word"), [declared("t", "int32", 2, 20, high=50)])
    assert caught.value.diagnostics[0].code == "E0760" and len(passes) <= 2
    assert "is a new one" in str(caught.value.diagnostics[0].help)


def test_empty_lines_are_no_rows(tmp_path: Path) -> None:
    """They are left out at once, but for those in quotes."""
    for end in ("\n", "\r\n"):
        for lines in (["x", "", "", "1", "2", "", "3"], ['"x"', "", "1", "", "", '"2"', "3"]):
            (tmp_path / "t.csv").write_text(end.join(lines), newline="")
            got = open_data(spec("csv", "t.csv", folder=tmp_path), [declared("x", "f32", 3)]).batch(0, 0)["x"]
            assert sorted(np.asarray(got).tolist()) == [1, 2, 3]
    (tmp_path / "t.csv").write_text('"x\n\ny"\n1\n2\n3\n')
    of = spec("csv", "t.csv", folder=tmp_path, x="x\n\ny")
    assert sorted(np.asarray(open_data(of, [declared("x", "f32", 3)]).batch(0, 0)["x"]).tolist()) == [1, 2, 3]


def test_columns_are_as_narrow_as_their_numbers() -> None:
    for values, kind in (
        ([0, 1, 127], "int8"), ([-1, 200], "int16"), ([0, 200], "uint8"), ([0, 70000], "int32"),
        ([0, 2**32 - 1], "uint32"), ([0.5, 1], "float32"), ([0.1, 1], "float64"), ([2.0**40], "float32"),
        ([2.0**40 + 1], "float64"), ([-0.0], "float32"),
    ):  # fmt: skip
        assert narrowed(np.array(values, np.float64)).dtype == kind, values
    assert narrowed(np.array([0.1]), single=True).dtype == np.float32


def test_columns_give_back_what_was_put_into_them() -> None:
    rng = np.random.default_rng(0)
    for width in (1, 3, CELLS + 1):
        values = np.where(rng.random((5, 1)) < 0.5, rng.integers(0, 9, (5, width)), rng.random((5, width)))
        values = np.repeat(values, CELLS // width // 2 + 1, 0)
        column = Column(width)
        at = 0
        while at < len(values):
            step = int(rng.integers(1, len(values)))
            column.append(values[at : at + step])
            at += step
        rows = rng.integers(0, len(values), 1000 if width < 9 else 3)
        assert column.close().length == len(values) and np.array_equal(column.take(rows), values[rows])
        assert (column.least, column.most) == (values.min(), values.max())
        assert len(column.blocks) > 1


def test_the_limit_outlives_the_text_of_a_stage(tmp_path: Path) -> None:
    """A job's `data` is printed with its graph, and read back."""
    from parc import evaluate

    source = job(tmp_path, 'images("i.csv", limit = 1.5 MiB)', "mesh (dp = 1)")
    found = evaluate(source).job.data
    assert found is not None
    shown = show_fact(found)
    assert "Quantity" in shown and FactParser(shown, "fact").fact_of(DataSpec) == found
