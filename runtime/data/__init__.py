"""Readers: where batches come from. All are deterministic: the same seed and step give the same batch.

    reader = open_data(job.data, program.inputs)
    batch = reader.batch(program.seed, step)        # input's name -> its whole logical array

To add one: what it may be told (`FORMS` in `compiler/readers.py`), a function `(spec, inputs) -> Reader`, and its name
in `READERS` below.
"""

from __future__ import annotations

from runtime.data.arrays import open_arrays, open_raw, open_tokens
from runtime.data.reader import READERS, Reader, open_data, open_synthetic
from runtime.data.table import open_csv, open_images
from runtime.data.text import open_text

READERS |= {
    "synthetic": open_synthetic,
    "text": open_text,
    "arrays": open_arrays,
    "raw": open_raw,
    "tokens": open_tokens,
    "csv": open_csv,
    "images": open_images,
}

__all__ = ["READERS", "Reader", "open_data"]
