#!/usr/bin/env bash
# torch.distributed.pipelining: gradients that are there already are divided by the number of micro-batches once more.
#
# Expected: scale_grads=True (the default) makes the gradients of a schedule's step those of the whole batch: the sum over
#   its n micro-batches divided by n. So two steps before the optimizer add up (more gradient accumulation), and a weight that
#   two stages of a rank share (embedding and head of a V) has the sum of both stages' gradients.
# Happens: when a stage is through, whatever stands in its parameters' `.grad` is divided by n, what earlier steps and other stages
#   put there included. No warning, the loss is right, n = 1 hides it. With n micro-batches and gradients g1, g2 of two steps:
#       two steps, then the optimizer:   g1 / n + g2            (n = 4: the first batch counts a quarter)
#   and with a, b the gradients of the first and the last stage, which share a weight (n = 4, one rank):
#       LoopedBFS                        a + b / n
#       Interleaved1F1B, ZBVZeroBubble   what was there of `a` by then is divided twice, too: neither a + b, nor a + b / n
#   scale_grads=False gives n (a + b) in all of them, and n (g1 + g2): divided by hand, that is right.
# Why it matters: ZB-V puts the first and the last stage on one rank so that they can share the embedding; and more samples
#   in a step than activations have room for are taken as several steps of the schedule. Both train on other gradients.
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
from torch.distributed.pipelining import PipelineStage, ScheduleInterleaved1F1B, ScheduleLoopedBFS, ScheduleZBVZeroBubble

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
torch.manual_seed(0)
start = torch.randn(4, 4, dtype=torch.float64)
batches = [(torch.randn(8, 4, dtype=torch.float64), torch.randn(8, 4, dtype=torch.float64)) for _ in range(2)]


class Layer(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, x):
        return x @ self.weight


def mean(found, want):
    return ((found - want) ** 2).mean()


def gradients(schedule, n, tied, steps=(0,), scale=True):
    """The gradients of two stages on one rank after steps of a schedule with n micro-batches."""
    first = torch.nn.Parameter(start.clone())
    second = first if tied else torch.nn.Parameter(start.clone())
    stages = [PipelineStage(Layer(w), i, 2, torch.device("cpu")) for i, w in enumerate((first, second))]
    run = schedule(stages, n_microbatches=n, loss_fn=mean, scale_grads=scale)
    for i in steps:
        run.step(batches[i][0], target=batches[i][1])
    return first.grad, second.grad


def whole(i):
    """The gradients of both places of the weight, without a pipeline."""
    a, b = (start.clone().requires_grad_() for _ in range(2))
    mean(batches[i][0] @ a @ b, batches[i][1]).backward()
    return a.grad, b.grad


def same(x, y):
    return torch.allclose(x, y, rtol=1e-10, atol=1e-12)


(g1, _), (g2, _) = whole(0), whole(1)
a, b = whole(0)
for schedule in (ScheduleLoopedBFS, ScheduleInterleaved1F1B, ScheduleZBVZeroBubble):
    for n in (1, 4):
        twice = gradients(schedule, n, tied=False, steps=(0, 1))[0]
        tied = gradients(schedule, n, tied=True)[0]
        by_hand = gradients(schedule, n, tied=True, scale=False)[0] / n
        part = (tied.norm() / (a + b).norm()).item()
        print(f"{schedule.__name__}, {n} micro-batches: tied |gradient| {part:.3f} of the right one; two steps right: {same(twice, g1 + g2)}")
        assert same(gradients(schedule, n, tied=False)[0], a), "one step with weights that are not shared is wrong now"
        assert same(by_hand, a + b), "without scale_grads the sum is wrong now"
        assert same(twice, g1 / n + g2), "a second step does otherwise now"
        assert same(tied, a + b) == (n == 1), "a shared weight does otherwise now"
        if schedule is ScheduleLoopedBFS:
            assert same(tied, a + b / n)
dist.destroy_process_group()
PY
OMP_NUM_THREADS=1 venv/bin/python -W ignore pipelining.py 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: scale_grads divides gradients that were there before, too"
