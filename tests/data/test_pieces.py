"""Arrays in files: every device reads its piece, and no more; whatever the layout and whoever runs it, the samples are
the same."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.layout import Layout
from dsl.diagnostics import ParcError
from parc import batches, compile, run, verify
from runtime.data import Reader, open_data
from runtime.data.stored import READS
from runtime.distribute import piece_of
from runtime.inputs import Array
from runtime.mesh import Mesh
from runtime.rank.executor import RankExecutor
from runtime.readable import whole
from runtime.stacked import Emulator
from tests.data.files import declared, job, spec, write_safetensors

RNG = np.random.default_rng(1)
IMAGES = RNG.standard_normal((20, 8, 4, 3)).astype(np.float32)
LABELS = RNG.integers(0, 10, 20).astype(np.uint8)
INPUTS = (declared("image", "f32", 8, 8, 4, 3), declared("label", "int32", 8, high=10))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same images and labels in files of each kind."""
    (tmp_path / "parc.toml").touch()
    np.save(tmp_path / "image.npy", IMAGES)
    np.save(tmp_path / "label.npy", LABELS)
    np.save(tmp_path / "big.npy", IMAGES.astype(">f8"))
    write_safetensors(tmp_path / "both.safetensors", label=LABELS, image=IMAGES)
    records = b"".join(bytes([label]) + image.tobytes() for label, image in zip(LABELS, IMAGES, strict=True))
    (tmp_path / "both.bin").write_bytes(b"head" + records)
    return tmp_path


SOURCES = {
    "npy": ("arrays", (), {"image": "image.npy", "label": "label.npy"}),
    "npy, other order of bytes": ("arrays", (), {"image": "big.npy", "label": "label.npy"}),
    "safetensors": ("arrays", ("both.safetensors",), {}),
    "safetensors by file": ("arrays", (), {"image": "both.safetensors", "label": "both.safetensors"}),
    "raw": ("raw", ("both.bin",), {"label": "uint8", "image": "f32[8, 4, 3]", "offset": 4}),
}


def opened(folder: Path, source: str, **options: Any) -> Reader:
    reader, args, named = SOURCES[source]
    return open_data(spec(reader, *args, folder=folder, **named, **options), INPUTS)


@pytest.mark.parametrize("source", SOURCES)
def test_all_kinds_of_files_give_the_same(folder: Path, source: str) -> None:
    in_order = whole(opened(folder, source, shuffle=False).batch(5, 2))
    rows = np.arange(16, 24) % 20
    assert np.array_equal(in_order["image"], IMAGES[rows]) and np.array_equal(in_order["label"], LABELS[rows])
    assert in_order["image"].dtype == np.float32 and in_order["label"].dtype == np.int32
    found = whole(opened(folder, source).batch(5, 2))
    want = whole(opened(folder, "npy").batch(5, 2))
    assert all(np.array_equal(found[n], want[n]) for n in want) and not np.array_equal(found["label"], LABELS[rows])


def test_an_epoch_visits_every_row_once_and_any_step_can_be_the_first(folder: Path) -> None:
    reader = opened(folder, "raw")
    steps = [whole(reader.batch(3, s))["image"] for s in range(5)]
    seen = np.concatenate(steps)[:20]
    assert sorted(seen[:, 0, 0, 0]) == sorted(IMAGES[:, 0, 0, 0])
    assert np.array_equal(whole(opened(folder, "raw").batch(3, 4))["image"], steps[4])  # a resume


@pytest.mark.parametrize("split", ["b", "y", "x", "c", "by", "yx"])
def test_pieces_are_slices(folder: Path, split: str) -> None:
    """Of any split, for every device, in another process, too."""
    image = opened(folder, "safetensors").batch(0, 1)["image"]
    all = np.asarray(image)
    axes = {d: f"a{i}" for i, d in enumerate(split)}
    mesh = Mesh(tuple(axes.values()), {a: 3 if d == "c" else 2 for d, a in axes.items()})
    type = INPUTS[0].type
    layout = Layout(tuple((axes[d.name],) if d.name in axes else () for d in type.dims))
    for at in mesh.devices:
        piece = piece_of(image, type, layout, mesh, at)
        assert np.array_equal(piece, piece_of(all, type, layout, mesh, at))
        assert np.array_equal(piece_of(pickle.loads(pickle.dumps(image)), type, layout, mesh, at), piece)


def counted(image: Any, key: tuple[slice, ...]) -> int:
    before = READS.bytes
    _ = image[key]
    return READS.bytes - before


def test_a_device_of_eight_reads_an_eighth(tmp_path: Path) -> None:
    fields = RNG.standard_normal((16, 64, 2048)).astype(np.float32)
    np.save(tmp_path / "field.npy", fields)
    decl = declared("field", "f32", 8, 64, 2048)
    field = open_data(spec("arrays", folder=tmp_path, field="field.npy"), [decl]).batch(0, 0)["field"]
    size = 8 * 64 * 2048 * 4
    all = (slice(None),) * 3
    assert counted(field, all) == size
    for i in range(8):
        for dim, n in enumerate((8, 64)):  # samples, rows
            piece = slice(i * n // 8, (i + 1) * n // 8)
            assert counted(field, (*all[:dim], piece, *all[dim + 1 :])) == size // 8
    # columns: 1 KiB of each row of 8 KiB, further apart than a page
    assert counted(field, (*all[:2], slice(256, 512))) == size // 8


def test_parts_that_lie_in_one_page_are_read_as_one(tmp_path: Path) -> None:
    """Single numbers of an image, 12 bytes apart: one read of each image in place of thousands."""
    images = RNG.integers(0, 255, (4, 32, 32, 3)).astype(np.uint8)
    (tmp_path / "i.bin").write_bytes(images.tobytes())
    decl = declared("i", "f32", 2, 32, 32, 3)
    image = open_data(spec("raw", "i.bin", folder=tmp_path, i="uint8", shuffle=False), [decl]).batch(0, 0)["i"]
    assert np.array_equal(image[:, :, :, 1:2], images[:2, :, :, 1:2])
    assert counted(image, (slice(None),) * 3 + (slice(1, 2),)) < 2 * 32 * 32 * 3


@pytest.mark.parametrize("kind", ["bin", "npy", "safetensors"])
def test_tokens_are_read_with_the_one_behind_them(tmp_path: Path, kind: str) -> None:
    tokens = RNG.integers(0, 5000, 8 * 64 + 1).astype(np.uint16)
    path = tmp_path / f"t.{kind}"
    if kind == "npy":
        np.save(path, tokens)
    elif kind == "safetensors":
        write_safetensors(path, tokens=tokens)
    else:
        path.write_bytes(tokens.tobytes())
    inputs = [declared("tokens", "int32", 4, 64, high=5000), declared("targets", "int32", 4, 64, high=5000)]
    reader = open_data(spec("tokens", path.name, folder=tmp_path), inputs)
    seen = []
    for step in range(2):
        batch = reader.batch(1, step)
        given = whole(batch)
        assert np.array_equal(given["tokens"][:, 1:], given["targets"][:, :-1])
        seen += [tuple(row) for row in given["tokens"].tolist()]
    rows = [tuple(row) for row in tokens[:-1].reshape(8, 64).tolist()]
    assert sorted(seen) == sorted(rows) and seen != rows
    batch, before = reader.batch(1, 0), READS.bytes
    half = slice(None), slice(32, 64)
    pair = batch["tokens"][half], batch["targets"][half]
    assert READS.bytes - before == 4 * (32 + 1) * 2  # both inputs, once, and one token more
    assert np.array_equal(pair[1], whole(batch)["targets"][half])
    in_order = whole(open_data(spec("tokens", path.name, folder=tmp_path, shuffle=False), inputs).batch(1, 0))
    assert np.array_equal(in_order["targets"].ravel(), tokens[1 : 4 * 64 + 1])


STRATEGIES = {
    "serial": ("mesh (dp = 1)", ""),
    "data": ("mesh (dp = 4)\n  split b on dp", ""),
    "micro": ("mesh (dp = 2)\n  split b on dp\n  microbatches 2 over b", ""),
    "bands": ("mesh (sp = 2, dp = 2)\n  split y on sp\n  split b on dp", ""),
    "columns": ("mesh (sp = 4)\n  split x on sp", ""),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "data", ['arrays("both.safetensors")', 'raw("both.bin", label = "uint8", image = "f32", offset = 4)']
)
def test_the_same_samples_in_every_layout(folder: Path, strategy: str, data: str) -> None:
    given = job(folder, data, *STRATEGIES[strategy])
    serial = job(folder, data, *STRATEGIES["serial"])
    job(folder, data, *STRATEGIES[strategy])
    found = run(given, 3).losses
    assert found == pytest.approx(run(serial, 3).losses, rel=1e-5)
    assert verify(given, 2).ok and verify(given, 2, executor="private").ok and verify(given, 1, at_step=3).ok
    program = compile(given).program
    reader = open_data(compile(given).job.data, program.inputs)
    stacked, ranks = Emulator(program), RankExecutor(program)
    for step in range(2):
        batch = reader.batch(program.seed, step)
        before = READS.bytes
        assert float(ranks.step(batch).loss) == pytest.approx(float(stacked.step(batch).loss), rel=1e-6)
        assert READS.bytes > before
    resumed = list(batches(given, 2, at_step=1))
    for later, kept in zip(resumed, list(batches(given, 3))[1:], strict=True):
        assert all(np.array_equal(later[n], kept[n]) for n in kept)


def bad(folder: Path, data: Any, inputs: Any = INPUTS) -> str:
    with pytest.raises(ParcError) as caught:
        whole(open_data(data, inputs).batch(0, 0))
    (found,) = caught.value.diagnostics
    return f"{found.code} {found.message}"


def test_numbers_that_do_not_fit_are_told_when_they_are_read(folder: Path) -> None:
    def labels(x: Array, decl: Any) -> str:
        np.save(folder / "l.npy", x)
        return bad(folder, spec("arrays", folder=folder, label="l.npy"), [decl])

    few = declared("label", "int32", 8, high=10)
    assert labels(LABELS + 10, few).startswith("E0706") and "is in 0..10" in labels(LABELS + 10, few)
    assert labels(np.array([2**40] * 9), declared("label", "int32", 8)).startswith("E0706")
    assert labels(np.array([-1] * 9), declared("label", "uint32", 8)).startswith("E0706")
    assert labels(np.array([0.5] * 9), few).startswith("E0706") and labels(np.array([np.nan] * 9), few).startswith(
        "E0706"
    )
    assert labels(np.array([2] * 9), declared("label", "bool", 8)).startswith("E0706")


def test_rows_that_do_not_belong_together(folder: Path) -> None:
    np.save(folder / "few.npy", LABELS[:5])
    np.save(folder / "none.npy", LABELS[:0])
    np.save(folder / "scalar.npy", np.float32(1))
    label = [declared("label", "int32", 8, high=10)]
    assert "5 rows" in bad(folder, spec("arrays", folder=folder, image="image.npy", label="few.npy"))
    assert bad(folder, spec("arrays", folder=folder, label="none.npy"), label).startswith("E0707")
    assert bad(folder, spec("arrays", folder=folder, label="scalar.npy"), label).startswith("E0706")
    assert "8 x 4 x 3" in bad(folder, spec("arrays", folder=folder, label="image.npy"), label)
    assert "no tensor `labels`" in bad(folder, spec("arrays", "both.safetensors", folder=folder, label="labels"))
    pairs = [declared("tokens", "int32", 4, 64)]
    assert bad(folder, spec("tokens", "image.npy", folder=folder), pairs).startswith("E0706")
    assert bad(folder, spec("tokens", "label.npy", folder=folder), pairs).startswith("E0707")
