"""What fewer bits cost a small trained model: `python -m benchmarks.compressing --steps 1000 --seeds 3`.

`examples/gpt.par` is trained anew with each seed, and its matrices are rounded to 4 and to 3 bits in groups of 64, each
number by itself, by `gptq` and by `awq`; and so where some inputs of products are many times as large as others, as
large models have them (the same function: gains of norms are larger, weights behind them so much smaller). Told is by
how much the loss grows, on batches that neither training nor calibration has read: the median of the seeds, the least
and the most.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import get_args

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from parc.api.compiling import compile
from parc.api.compressing import compress
from runtime.checkpoints.converting import convert
from runtime.checkpoints.reading import Checkpoint
from runtime.compress.compressing import Method
from runtime.compress.source import PackedSource

FORMATS = ("int4", "int3")
METHODS = tuple(m for m in get_args(Method) if m != "smooth")
BEHIND = {"layer_norm": ("attention.wq", "attention.wk", "attention.wv"), "layer_norm_1": ("mlp.w1",)}
"""Norms, with the weights that take what they give."""


def files(folder: Path, seed: int) -> Path:
    """The examples, with this seed; the serving one has a strategy for each format."""
    examples = ROOT / "examples"
    (folder / "data").mkdir(parents=True)
    shutil.copy(examples / "data" / "corpus.txt", folder / "data")
    (folder / "gpt.par").write_text((examples / "gpt.par").read_text().replace("seed 7", f"seed {seed}"))
    text = (examples / "gpt_serving.par").read_text()
    for form in FORMATS:
        text += f"\nstrategy {form} for gpt {{\n  mesh (dp = 1)\n  store weights as {form}(group = 64) in block\n}}\n"
    (folder / "gpt_serving.par").write_text(text)
    return folder / "gpt_serving.par"


def with_outliers(saved: Path, file: Path, out: Path, large: float, seed: int) -> None:
    """The same function, where a tenth of the inputs of products is so many times as large."""
    found = Checkpoint.latest(saved)
    arrays, rng = found.arrays(), np.random.default_rng(seed)
    changed = {}
    for norm, behind in BEHIND.items():
        gain = arrays[f"block.{norm}.gain"]
        size = np.where(rng.random(gain.shape) < 0.1, large, 1.0).astype(np.float32)
        for part in ("gain", "bias"):
            changed[f"block.{norm}.{part}"] = arrays[f"block.{norm}.{part}"] * size
        for name in (f"block.{n}" for n in behind):
            x = arrays[name]
            changed[name] = x / size.reshape(size.shape + (1,) * (x.ndim - 2))
    convert(PackedSource(found, (), changed), compile(file, job="on_two", strategy="serial").program, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="of training")
    parser.add_argument("--seeds", type=int, default=3, help="models that are trained")
    parser.add_argument("--batches", type=int, default=16, help="to calibrate with, and as many others for the loss")
    parser.add_argument("--outliers", type=float, default=32.0, help="how many times as large some inputs are")
    asked = parser.parse_args()
    grown: dict[tuple[str, bool, str], list[float]] = {}
    for seed in range(1, asked.seeds + 1):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "files"
            file, saved = files(folder, seed), folder / "saved"
            train = ["run", str(folder / "gpt.par"), "--steps", str(asked.steps), "--save", str(saved)]
            subprocess.run([sys.executable, "-m", "parc", *train], cwd=ROOT, check=True, capture_output=True)
            with_outliers(saved, file, folder / "outliers", asked.outliers, seed)
            for form in FORMATS:
                for outliers in (False, True):
                    source = folder / "outliers" if outliers else saved
                    for method in METHODS:
                        made = compress(
                            source, file, folder / f"{form}{outliers}{method}", method=method, steps=asked.batches,
                            job="on_one", strategy=form,
                        )  # fmt: skip
                        assert made.loss is not None and made.made is not None
                        grown.setdefault((form, outliers, method), []).append(100 * (made.made / made.loss - 1))
            print(f"seed {seed}: loss {made.loss:.4f}", flush=True)
    print(f"{asked.steps} steps, {asked.seeds} seeds: by how many % the loss grows, median (least to most)")
    for form in FORMATS:
        for outliers in (False, True):
            row = [(m, grown[form, outliers, m]) for m in METHODS]
            told = "  ".join(f"{m} {median(x):5.2f} ({min(x):.2f} to {max(x):.2f})" for m, x in row)
            print(f"{form}{f', inputs {asked.outliers:g} times as large' if outliers else '':34}  {told}")


if __name__ == "__main__":
    main()
