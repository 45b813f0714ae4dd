"""Writes `logits.json`: what transformers computes for the small configurations, to be run where it is installed.

python -m tests.importing.pin
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.importing.oracle import Small, reference
from tests.importing.small import FOLDER, SMALL

PLACES = 12
"""How many of a model's logits are kept, evenly spread; and how many decimals."""


def picked(logits: np.ndarray[Any, Any]) -> list[float]:
    """Some of the logits."""
    flat = logits.reshape(-1)
    return [round(float(x), 6) for x in flat[np.linspace(0, flat.size - 1, PLACES).astype(int)]]


def main() -> None:
    import transformers

    found: dict[str, Any] = {"transformers": transformers.__version__}
    for name, config in SMALL.items():
        small = Small(config)
        weights, batch = small.weights(), small.batch()
        with tempfile.TemporaryDirectory() as folder:
            there = reference(config, small.checkpoint(weights), batch, Path(folder))
        found[name] = picked(there)
        print(f"{name:20} {np.abs(small.logits(weights, batch) - there).max():.1e} of {np.abs(there).max():.1f}")
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in found.items()]
    (FOLDER / "logits.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
