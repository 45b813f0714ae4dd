"""Files that lie about themselves, or change: coded errors, never a crash, and nothing in them is run or believed."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsl.diagnostics import ParcError
from runtime.data import open_data
from runtime.readable import whole
from tests.data.files import declared, header, spec

X = [declared("x", "f32", 2, 3)]
GOOD = np.arange(12, dtype=np.float32).reshape(4, 3)


def told(folder: Path, path: str, inputs: Any = X, reader: str = "arrays", **options: Any) -> str:
    """The one error of reading a batch."""
    with pytest.raises(ParcError) as caught:
        whole(open_data(spec(reader, path, folder=folder, **options), inputs).batch(0, 0))
    (found,) = caught.value.diagnostics
    return f"{found.code} {found.message}"


def npy(text: str | bytes, data: bytes = b"", version: int = 1, length: int | None = None) -> bytes:
    body = text.encode() if isinstance(text, str) else text
    size = (len(body) if length is None else length).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + body + data


def fields(descr: str, order: str = "False", shape: str = "(4, 3)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


ran: list[str] = []


class Harm:
    """What a pickle would run."""

    def __reduce__(self) -> Any:
        return ran.append, ("harm",)


def test_what_numpy_writes_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GOOD)
    for version in (1, 2, 3):
        for descr in ("'<f4'", "'=f4'"):
            (tmp_path / "b.npy").write_bytes(npy(fields(descr), GOOD.tobytes(), version))
            for path in ("a.npy", "b.npy"):
                found = open_data(spec("arrays", path, folder=tmp_path, shuffle=False), X).batch(0, 1)
                assert np.array_equal(whole(found)["x"], GOOD[2:])
    line = np.asfortranarray(np.arange(4, dtype=np.float64))
    np.save(tmp_path / "c.npy", line)
    found = open_data(spec("arrays", "c.npy", folder=tmp_path, shuffle=False), [declared("x", "f32", 2)]).batch(0, 1)
    assert whole(found)["x"].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no `.npy` file"),
        (b"\x93NUMP", "no `.npy` file"),
        (b"PK\x03\x04" + bytes(100), "no `.npy` file"),
        (npy(fields("'<f4'"), GOOD.tobytes(), version=4), "version 4"),
        (npy(fields("'<f4'"), version=2, length=2**31), "header of 2147483648 bytes"),
        (npy(fields("'<f4'"), length=5000), "ends within its header"),
        (npy(fields("'|O'"), pickle.dumps(np.array([Harm()], object))), "pickled objects"),
        (npy(fields("[('a', '<f4')]"), GOOD.tobytes()), "several fields"),
        (npy(fields("'<V2'"), bytes(24)), "<V2"),
        (npy(fields("'<c8'"), bytes(96)), "<c8"),
        (npy(fields("'<f3'"), bytes(36)), "<f3"),
        (npy(fields("'<M8[s]'"), bytes(96)), "M8"),
        (npy(fields("'<f4'", order="True"), GOOD.tobytes()), "Fortran"),
        (npy(fields("'<f4'", order="0"), GOOD.tobytes()), "none of numpy's"),
        (npy(fields("'<f4'", shape="(-4, 3)"), GOOD.tobytes()), "none of numpy's"),
        (npy(fields("'<f4'", shape="(4.0, 3)"), GOOD.tobytes()), "none of numpy's"),
        (npy(fields("'<f4'", shape="(True, 3)"), GOOD.tobytes()), "none of numpy's"),
        (npy(fields("'<f4'", shape="4"), GOOD.tobytes()), "none of numpy's"),
        (npy(fields("'<f4'", shape=f"({2**62}, {2**62})"), GOOD.tobytes()), "more bytes than there can be"),
        (npy(fields("'<f4'", shape=f"({10**30}, 3)"), GOOD.tobytes()), "none of numpy's"),
        (npy(fields("'<f4'", shape="(" + "1," * 70 + ")"), GOOD.tobytes()), "none of numpy's"),
        (npy("(" * 30000), "none of numpy's"),
        (npy("__import__('os').abort()"), "none of numpy's"),
        (npy("9" * 9000), "none of numpy's"),
        (npy(b"\xff\xfe" * 40, version=3), "none of numpy's"),
        (npy(fields("'<f4'"), GOOD.tobytes()[:-1]), "needs 48 bytes behind its header, and has 47"),
        (npy(fields("'<f4'"), GOOD.tobytes() + b"x"), "has 49"),
    ],
)  # fmt: skip
def test_npy_files_that_are_wrong(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    found = told(tmp_path, "x.npy")
    assert found.startswith("E0761") and says in found
    assert not ran


def entry(dtype: Any = "F32", shape: Any = (4, 3), offsets: Any = (0, 48)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


DATA = GOOD.tobytes()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "header would be longer"),
        (b"\x08\0\0\0", "header would be longer"),
        ((2**63).to_bytes(8, "little") + b"{}", "header would be longer"),
        (b"\xff" * 8 + DATA, "header would be longer"),
        ((3).to_bytes(8, "little") + b"[1]", "no JSON object"),
        ((9).to_bytes(8, "little") + b"[[[[[[[[[", "no JSON object"),
        ((5).to_bytes(8, "little") + b"\xff\xfe{}\0", "no JSON object"),
        (header({"x": entry()})[:-4] + b"nope" + DATA, "no JSON object"),
        ((100_000).to_bytes(8, "little") + b"[" * 100_000, "no JSON object"),
        (header({"x": entry(shape=[float("nan")])}) + DATA, "no JSON object"),
        (header({"x": 1, "y": 2}).replace(b'"y"', b'"x"'), "no JSON object of distinct names"),
        (header({"x": entry()}) + DATA[:-1], "is it cut off"),
        (header({"x": entry()}) + DATA + b"x", "is it cut off"),
        (header({"x": entry(offsets=(0, 44))}) + DATA, "needs 48 bytes, its offsets say 44"),
        (header({"x": entry(shape=(2**40, 2**40), offsets=(0, 48))}) + DATA, "more than there can be"),
        (header({"x": entry(shape=(-4, -3))}) + DATA, "are wrong"),
        (header({"x": entry(shape=(4.0, 3))}) + DATA, "are wrong"),
        (header({"x": entry(shape=[1] * 70 + [12])}) + DATA, "are wrong"),
        (header({"x": entry(offsets=(48, 0))}) + DATA, "are wrong"),
        (header({"x": entry(offsets=(0, 48, 96))}) + DATA, "are wrong"),
        (header({"x": entry(offsets=(-48, 0))}) + DATA, "are wrong"),
        (header({"x": entry(offsets="ab")}) + DATA, "are wrong"),
        (header({"x": {"dtype": "F32"}}) + DATA, "needs dtype, shape and data_offsets"),
        (header({"x": entry(offsets=(4, 52))}) + DATA + bytes(4), "leaves a hole of 4 bytes"),
        (header({"x": entry(), "y": entry(offsets=(24, 72))}) + DATA + bytes(24), "overlaps"),
        (header({"x": entry(dtype="F8_E4M3", offsets=(0, 12))}) + bytes(12), "F8_E4M3, which is not read here"),
        (header({"x": entry(dtype=7)}) + DATA, "are wrong"),
    ],
)  # fmt: skip
def test_safetensors_files_that_are_wrong(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    found = told(tmp_path, "x.safetensors")
    assert found.startswith("E0761") and says in found


def test_headers_have_a_most(tmp_path: Path) -> None:
    with open(tmp_path / "x.safetensors", "wb") as file:
        file.write((2**30).to_bytes(8, "little"))
        file.truncate(2**31)  # mostly a hole
    assert "header of 1073741824 bytes" in told(tmp_path, "x.safetensors")


def test_names_reach_no_terminal_raw(tmp_path: Path) -> None:
    """A dtype or a tensor's name may be anything; messages show them cut and, as all messages, escaped."""
    (tmp_path / "x.safetensors").write_bytes(
        header({"x": entry(dtype="F8\x1b[2J" + "q" * 500, offsets=(0, 48))}) + DATA
    )
    assert len(told(tmp_path, "x.safetensors")) < 200


def test_other_types_of_safetensors(tmp_path: Path) -> None:
    bf16 = (GOOD.view(np.uint32) >> 16).astype(np.uint16)
    text = json.dumps({"x": entry("BF16", offsets=(0, 24))}).encode().ljust(104)  # padded, as is usual
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bf16.tobytes())
    found = open_data(spec("arrays", "x.safetensors", folder=tmp_path, shuffle=False), X).batch(0, 0)
    assert np.array_equal(whole(found)["x"], GOOD[:2])


@pytest.mark.parametrize("size", [0, 1, 47, 49])
def test_raw_files_have_whole_records(tmp_path: Path, size: int) -> None:
    (tmp_path / "x.bin").write_bytes(bytes(size))
    assert (
        told(tmp_path, "x.bin", reader="raw", x="f32", offset=0).startswith("E0761" if size % 12 else "E0707")
        or size == 60
    )
    assert told(tmp_path, "x.bin", reader="raw", x="f32", offset=61).startswith("E0761")


def test_files_that_change_are_told(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, GOOD)
    data = spec("arrays", "x.npy", folder=tmp_path)
    for change in (-4, 4):
        np.save(path, GOOD)
        reader = open_data(data, X)
        whole(reader.batch(0, 0))
        os.truncate(path, path.stat().st_size + change)
        with pytest.raises(ParcError, match=r"E0761.*has changed since it was opened: it had 176 bytes"):
            whole(reader.batch(0, 1))
    np.save(path, GOOD)
    reader = open_data(data, X)
    np.save(tmp_path / "other.npy", GOOD + 1)
    os.replace(tmp_path / "other.npy", path)  # as one should: who has opened the old one goes on with that
    assert whole(reader.batch(0, 0))["x"].max() <= 11
    again = whole(open_data(data, X).batch(0, 0)), whole(open_data(data, X).batch(0, 1))
    assert max(x["x"].max() for x in again) == 12


def test_links_and_other_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "parc.toml").touch()
    np.save(tmp_path / "x.npy", GOOD)
    (tmp_path / "in" / "x.npy").symlink_to(tmp_path / "x.npy")
    assert "outside" in told(tmp_path / "in", "x.npy")
    os.mkfifo(tmp_path / "in" / "p.npy")
    assert told(tmp_path / "in", "p.npy").startswith("E0704")
    (tmp_path / "in" / "d.npy").mkdir()
    assert told(tmp_path / "in", "d.npy").startswith("E0704")
    assert told(tmp_path / "in", "none.npy").startswith("E0704")
