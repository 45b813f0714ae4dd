"""One training step of examples/resnet.par, larger: in PyTorch (eager), and emulated on 1 and 8 devices, in one run.

CPU seconds of the median step and memory, and their ratios to torch's. Processes of their own take turns, step by step,
with one thread, as in `gpt_step.py`. At most 1.7 times torch's seconds, and its memory.
"""

from __future__ import annotations

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import sys
from pathlib import Path
from statistics import median

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpt_step import Contender, Step, contend

LAYERS, SIZE, CHANNELS, CLASSES, BATCH = 2, 32, 64, 10, 16
TORCH = "torch, eager"
DEVICES: dict[str, dict[str, int]] = {
    "emulated, 1 device": {},
    "emulated, 8 devices (dp 2 x sp 2 x sx 2)": {"dp": 2, "sp": 2, "sx": 2},
    "emulated, 8 devices, --backend fast": {"dp": 2, "sp": 2, "sx": 2},
}
BOUND = 1.7


def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.standard_normal((BATCH, SIZE, SIZE, 1)).astype(np.float32)
    return {"image": image, "label": rng.integers(0, CLASSES, BATCH).astype(np.int32)}


def torch_eager() -> Step:
    import torch
    import torch.nn.functional as F
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, CHANNELS, 3, padding=1)
            count = 2 * LAYERS
            self.convs = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(count))
            self.norms = nn.ModuleList(nn.GroupNorm(4, CHANNELS) for _ in range(count + 1))
            self.head = nn.Linear(CHANNELS, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = self.stem(x)
            for i in range(0, 2 * LAYERS, 2):
                r = self.convs[i](F.relu(self.norms[i](z)))
                z = z + self.convs[i + 1](F.relu(self.norms[i + 1](r)))
            return self.head(F.relu(self.norms[-1](z)).mean((2, 3)))

    model, data = Net(), batch()
    image = torch.from_numpy(data["image"]).permute(0, 3, 1, 2).contiguous()
    label = torch.from_numpy(data["label"]).long()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step() -> float:
        optimizer.zero_grad()
        logits = model(image)
        with torch.no_grad():
            (logits.argmax(-1) == label).float().mean()
        loss = F.cross_entropy(logits, label)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        optimizer.step()
        return float(loss.detach())

    return step


def emulated(axes: dict[str, int], fast: bool) -> Step:
    import parc
    from runtime.native import NativePlanner
    from runtime.stacked import Emulator

    sizes = {"layers": LAYERS, "size": SIZE, "channels": CHANNELS, "classes": CLASSES, "batch": BATCH}
    program = parc.compile(ROOT / "examples" / "resnet.par", params=sizes | axes).program
    emulator, data = Emulator(program, planner=NativePlanner() if fast else None), batch()
    return lambda: float(emulator.step(data).loss)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=7, help="measured steps of each")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        title = options.contender
        contend(torch_eager() if title == TORCH else emulated(DEVICES[title], "fast" in title))
        return 0
    contenders = {title: Contender(title, __file__) for title in (TORCH, *DEVICES)}
    for _ in range(options.steps + 2):
        for contender in contenders.values():
            contender.step()
    for contender in contenders.values():
        contender.end()
    seconds = {title: median(s["seconds"] for s in c.steps[2:]) for title, c in contenders.items()}
    memory = {title: c.steps[-1]["memory"] for title, c in contenders.items()}
    print(f"{'':<42} {'CPU s':>7} {'ratio':>6} {'MiB':>6} {'ratio':>6}   loss")
    good = True
    for title, contender in contenders.items():
        time, room = seconds[title] / seconds[TORCH], memory[title] / memory[TORCH]
        first, last = contender.steps[0]["loss"], contender.steps[-1]["loss"]
        over = title != TORCH and (time > BOUND or room > 1)
        print(
            f"{title:<42} {seconds[title]:7.3f} {time:6.2f} {memory[title]:6.0f} {room:6.2f}   "
            f"{first:.4f} -> {last:.4f}" + ("   above its bound" if over else "")
        )
        good = good and last < first and not over
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
