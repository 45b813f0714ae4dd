#!/usr/bin/env bash
# torchao: bf16 weights with stochastic rounding differ between data-parallel replicas from the first step on, if ranks have seeds of their own.
#
# Expected: DDP (and HSDP its replicas) keeps replicas the same by giving them the same gradients; the optimizer is a function of
#   weights and gradients. Each rank has its own seed, so that dropout differs.
# Happens: torchao's optimizers with bf16_stochastic_round=True draw their roundings from torch's default generator. Replicas with
#   other seeds round otherwise, and nothing brings them together again. A linear layer of 64 x 64 under DDP on two ranks, AdamW:
#       weights that differ after                   1 step      5       20      100     largest difference after 100, in rates
#       the same seed on both ranks                   0 %       0 %      0 %      0 %      0
#       the rank's number as the seed                19 %      65 %     85 %     95 %     9.8
#       the same seed, one draw more on one rank     18 %      67 %     85 %     95 %     8.5
#   The averaged gradients, which are the same on both, are then those of different weights. No warning; the same with states of 8
#   and 4 bits and of fp8, for the replicas of HSDP (fully_shard on a mesh of 2 x 1), and when the step is compiled.
# Why it matters: it is what bf16 weights without a float32 copy are trained with. Losses do not show it, the checkpoint is one of
#   the replicas, and a run that is resumed from it, where all are equal again, is another run. Replicas of a shard need the same
#   random numbers for the roundings, whatever else they draw (other shards others), so a generator of their own.
#
# Seen 2026-11-30: torchao 0.18.0, torch 2.13.0 (CPU, gloo; the step not compiled, to be quick), numpy 2.4.6, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchao==0.18.0 numpy==2.4.6

cat > probe.py <<'PY'
import logging
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import init_device_mesh

RANKS, SIZE, RATE = 2, 64, 1e-3


def both(local):
    """The local tensor of each rank, in float32."""
    gathered = [torch.empty(SIZE, SIZE) for _ in range(RANKS)]
    dist.all_gather(gathered, local.detach().float())
    return gathered


def replicas(kind, rank, seeds="by rank", looks=(1, 20), sharded=False):
    """By steps: the share of weights that differ between two replicas, and the largest difference in rates."""
    torch.manual_seed(0)
    model = torch.nn.Linear(SIZE, SIZE, bias=False).bfloat16()
    if sharded:  # two replicas, each of one shard
        fully_shard(model, mesh=init_device_mesh("cpu", (RANKS, 1), mesh_dim_names=("replicas", "shards")))
    else:
        model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = kind(model.parameters(), lr=RATE, bf16_stochastic_round=True)
    (weight,) = model.parameters()
    torch.manual_seed(rank if seeds == "by rank" else 0)
    if seeds == "one draw more" and rank == 1:
        torch.rand(1)
    data, seen = torch.Generator().manual_seed(100 + rank), {}
    for step in range(1, max(looks) + 1):
        model(torch.randn(8, SIZE, generator=data).bfloat16()).float().square().mean().backward()
        assert torch.equal(*both(weight.grad.to_local() if sharded else weight.grad))  # they have been averaged
        optimizer.step()
        optimizer.zero_grad()
        if step in looks:
            one, other = both(weight.to_local() if sharded else weight)
            seen[step] = (one != other).float().mean().item(), (one - other).abs().max().item() / RATE
    if rank == 0:
        shown = {step: f"{share:.0%} differ, by up to {most:.1f} rates" for step, (share, most) in seen.items()}
        print(f"{kind.__name__}, {'HSDP' if sharded else 'DDP'}, seeds {seeds}: {shown}", flush=True)
    return seen


def rank_of(rank, store):
    logging.disable(logging.CRITICAL)
    from torchao.optim import AdamW4bit, AdamW8bit, AdamWFp8, _AdamW

    dist.init_process_group("gloo", store=dist.FileStore(store, RANKS), rank=rank, world_size=RANKS)
    same = replicas(_AdamW, rank, "the same", (1, 5, 20, 100))
    assert all(share == 0 for share, _ in same.values())
    apart = [replicas(_AdamW, rank, seeds, (1, 5, 20, 100)) for seeds in ("by rank", "one draw more")]
    assert all(seen[100][0] > 0.9 and seen[100][1] > 3 for seen in apart), "replicas stay together now"
    apart += [replicas(_AdamW, rank, sharded=True)] + [replicas(kind, rank) for kind in (AdamW8bit, AdamW4bit, AdamWFp8)]
    assert all(seen[1][0] > 0.1 and seen[20][0] > 0.7 for seen in apart), "replicas stay together now"
    dist.destroy_process_group()


if __name__ == "__main__":
    multiprocessing.spawn(rank_of, (sys.argv[1],), nprocs=RANKS)
PY
TORCHDYNAMO_DISABLE=1 OMP_NUM_THREADS=1 venv/bin/python -W ignore probe.py "$dir/store" > stdout.txt 2> stderr.txt || { cat stdout.txt stderr.txt; exit 1; }
cat stdout.txt
echo "unchanged: each replica rounds by itself"
