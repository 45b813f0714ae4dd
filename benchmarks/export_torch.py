"""One training step of a GPT on one device: the file that `parc export torch` writes, and one written by hand in the
style of nanoGPT, in one process, step by step in turns. CPU seconds of the median step, and the ratio of both.

    python benchmarks/export_torch.py [--compile]

At most 1.02 of the hand-written step in eager mode, 1.05 compiled.
"""

from __future__ import annotations

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from torch import nn
from torch.nn import functional

import parc

LAYERS, HIDDEN, HEADS, VOCAB, SEQ, BATCH = 4, 256, 8, 512, 128, 16
STEPS, WARM = 12, 3
BOUND = {False: 1.02, True: 1.05}


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(HIDDEN), nn.LayerNorm(HIDDEN)
        self.c_attn, self.c_proj = nn.Linear(HIDDEN, 3 * HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.c_fc, self.c_out = nn.Linear(HIDDEN, 4 * HIDDEN), nn.Linear(4 * HIDDEN, HIDDEN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.c_attn(self.ln_1(x)).split(HIDDEN, 2)
        q, k, v = (y.view(BATCH, SEQ, HEADS, HIDDEN // HEADS).transpose(1, 2) for y in (q, k, v))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).contiguous().view(BATCH, SEQ, HIDDEN))
        return x + self.c_out(functional.gelu(self.c_fc(self.ln_2(x))))


class Gpt(nn.Module):
    """Tied embedding and head."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCAB, HIDDEN), nn.Embedding(SEQ, HIDDEN)
        self.h = nn.ModuleList(Block() for _ in range(LAYERS))
        self.ln_f = nn.LayerNorm(HIDDEN)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.wte(tokens) + self.wpe(torch.arange(SEQ))
        for block in self.h:
            x = block(x)
        logits = functional.linear(self.ln_f(x), self.wte.weight)
        loss = functional.cross_entropy(logits.view(-1, VOCAB), targets.view(-1))
        with torch.no_grad():  # the example tells of it, too
            right = (logits.argmax(-1) == targets).float().mean()
        return loss, right


def by_hand(compiled: bool) -> Callable[[dict[str, torch.Tensor]], float]:
    model = Gpt()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    forward: Any = torch.compile(model) if compiled else model

    def step(batch: dict[str, torch.Tensor]) -> float:
        loss, right = forward(batch["tokens"].long(), batch["targets"].long())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss + 0 * right + 0 * norm)

    return step


def exported(compiled: bool) -> Callable[[dict[str, torch.Tensor]], float]:
    sizes = {"layers": LAYERS, "hidden": HIDDEN, "heads": HEADS, "vocab": VOCAB, "seq": SEQ, "batch": BATCH}
    text = parc.export(str(ROOT / "examples" / "gpt.par"), params={k: str(v) for k, v in sizes.items()})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("train", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["train"] = module
        spec.loader.exec_module(module)
    device = module.Device(compiled=compiled)
    return lambda batch: float(device.step(batch)["loss"])


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--compile", action="store_true")
    compiled = options.parse_args().compile
    numbers = torch.Generator().manual_seed(1)
    shape = (BATCH, SEQ)
    batches = [
        {k: torch.randint(0, VOCAB, shape, generator=numbers).to(torch.int32) for k in ("tokens", "targets")}
        for _ in range(STEPS)
    ]
    contenders = {"by hand": by_hand(compiled), "exported": exported(compiled)}
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for batch in batches:
        for name, step in contenders.items():
            since = time.process_time()
            step(batch)
            spent[name].append(time.process_time() - since)
    times = {name: median(found[WARM:]) for name, found in spent.items()}
    for name, seconds in times.items():
        print(f"{name:10} {seconds * 1000:8.1f} ms")
    ratio = times["exported"] / times["by hand"]
    print(f"ratio {ratio:.3f}, at most {BOUND[compiled]}")
    return int(ratio > BOUND[compiled])


if __name__ == "__main__":
    sys.exit(main())
