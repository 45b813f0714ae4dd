#!/usr/bin/env bash
# torch.distributed.pipelining: zero-bubble schedules run a checkpointed block again once per weight, not once.
#
# Expected: activation checkpointing costs one more forward of each block in its backward. Schedules that split the backward
#   (gradients of inputs now, of weights later, in what would be bubbles) cost the same or, if the second half cannot use
#   what the first has recomputed, one forward more.
# Happens: the second half asks autograd once for each weight (or for each group of weights that one operation uses), and
#   non-reentrant checkpoints recompute once per such call. A Llama block of nine weights runs forward, per micro-batch:
#       Interleaved1F1B                            1 without, 2 with checkpoint (less the last operation)
#       InterleavedZeroBubble, ZBVZeroBubble       1 without, 1 + 1 + 9 with checkpoint, on every stage but the first
#   No warning; gradients are right. The first stage is spared: its backward is not split (its input has no gradient).
# Why it matters: in units of a forward a block costs 4 with 1F1B and recomputation, 13 with zero bubbles and recomputation.
#   Zero bubbles are chosen to save a few percent of time, and recomputation because they hold activations longer: a model
#   of costs that prices both, one by one, recommends a pair that is three times slower. FlopCounterMode does not tell: it
#   raises an error under torch's pipeline schedules.
#
# Seen 2026-11-30: torch 2.13.0 (CPU, gloo), Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6

cat > pipelining.py <<'PY'
import torch
import torch.distributed as dist
from torch.distributed.pipelining import (
    PipelineStage,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleZBVZeroBubble,
)
from torch.utils.checkpoint import checkpoint

WIDTH, BATCHES = 16, 4
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
x, y = (torch.randn(BATCHES, 8, WIDTH, dtype=torch.float64) for _ in range(2))


class Block(torch.nn.Module):
    """A Llama block: nine weights."""

    def __init__(self):
        super().__init__()
        sizes = dict(q=(1, 1), k=(1, 1), v=(1, 1), o=(1, 1), gate=(1, 3), up=(1, 3), down=(3, 1))
        self.linear = torch.nn.ModuleDict(
            {name: torch.nn.Linear(a * WIDTH, b * WIDTH, bias=False, dtype=torch.float64) for name, (a, b) in sizes.items()}
        )
        self.norms = torch.nn.ModuleList(torch.nn.RMSNorm(WIDTH, dtype=torch.float64) for _ in range(2))

    def forward(self, x):
        h, m = self.norms[0](x), self.linear
        shares = torch.softmax(m["q"](h) @ m["k"](h).transpose(-1, -2), -1)
        x = x + m["o"](shares @ m["v"](h))
        h = self.norms[1](x)
        return x + m["down"](torch.nn.functional.silu(m["gate"](h)) * m["up"](h))


class Stage(torch.nn.Module):
    """Two blocks, which count the calls of their linear layers."""

    def __init__(self, recomputes):
        super().__init__()
        self.blocks, self.recomputes, self.calls = torch.nn.ModuleList(Block() for _ in range(2)), recomputes, 0
        for block in self.blocks:
            for linear in block.linear.values():
                linear.register_forward_hook(self.count)

    def count(self, *_):
        self.calls += 1

    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.recomputes else block(x)
        return x


def run(schedule, number, recomputes):
    """How often each of a number of stages has run a block per micro-batch, and the gradients."""
    torch.manual_seed(0)
    modules = [Stage(recomputes) for _ in range(number)]
    stages = [PipelineStage(module, i, number, torch.device("cpu")) for i, module in enumerate(modules)]
    steps = schedule(stages, n_microbatches=BATCHES, loss_fn=torch.nn.functional.mse_loss)
    for _ in range(2):  # the first one also finds out shapes
        for module in modules:
            module.zero_grad()
            module.calls = 0
        steps.step(x, target=y)
    return [m.calls / (2 * 7 * BATCHES) for m in modules], [p.grad for m in modules for p in m.parameters()]


for schedule, number in ((ScheduleInterleaved1F1B, 3), (ScheduleInterleavedZeroBubble, 3), (ScheduleZBVZeroBubble, 2)):
    kept, want = run(schedule, number, False)
    seen, gradients = run(schedule, number, True)
    print(f"{schedule.__name__}: forwards of a block per micro-batch, by stage: {kept} without, {[round(s, 2) for s in seen]} with checkpoint")
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(gradients, want)), "the gradients are wrong now"
    assert kept == [1] * number
    again = 6 / 7  # a recomputation stops before `down`, whose result nobody needs
    split = 1 + again if schedule is ScheduleInterleaved1F1B else 1 + (1 + 9) * again
    assert all(abs(a - b) < 1e-9 for a, b in zip(seen, [1 + again] + [split] * (number - 1))), "it recomputes otherwise now"
dist.destroy_process_group()
PY
OMP_NUM_THREADS=1 venv/bin/python -W ignore pipelining.py 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: a split backward recomputes a checkpointed block once per weight"
