#!/usr/bin/env bash
# DTensor: the gradient of amax() of a sharded tensor is NaN on all ranks unless the largest element is on rank 0.
#
# Expected: a sharded DTensor has the values and gradients of the whole tensor. amax's gradient is shared by the elements that are
#   as large as the largest: by one, in general.
# Happens: the value is right. The gradient is divided by the number of largest elements *on rank 0*, everywhere. Eight elements
#   on two ranks, the loss is amax():
#       the largest on rank 0                     0 ... 1 ... 0, right
#       the largest on rank 1                     NaN seven times, and inf at the largest
#       two on rank 0, one on rank 1              1/2 at each of the three, which is 3/2 in all (right: 1/3)
#       one on rank 0, one on rank 1              1 at each (right: 1/2)
#   So are amin() and torch.linalg.vector_norm(x, inf) and (x, -inf), sharded along any dim. max(), which is the same number,
#   and amax over a dim are right. No error and no warning.
# Why it matters: scales of 8-bit formats, penalties on the largest logit and clipping by the largest element are written so. With
#   two ranks every other step is NaN, with eight seven of eight, and a test whose largest element happens to be in the
#   first rows passes. A gradient of a maximum over devices needs the count of all of them, like the maximum.
#
# Seen 2026-11-30: torch 2.13.0 (CPU, gloo), numpy 2.4.6, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6

cat > probe.py <<'PY'
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

RANKS = 2
OPS = {
    "amax": lambda x: x.amax(),
    "max": lambda x: x.max(),
    "amax of a dim": lambda x: x.amax(0).sum(),
    "norm": lambda x: torch.linalg.vector_norm(x, float("inf")),
    "amin": lambda x: -(-x).amin(),
}
# elements that are as large as the largest; the first half is on rank 0
TIES = {"rank 0": [1], "rank 1": [6], "both, 2 and 1": [0, 1, 6], "both": [1, 6]}


def gradients(op, x, mesh, dim):
    """The gradient of the whole tensor and that of the tensor split along dim; the values agree."""
    whole = x.clone().requires_grad_()
    split = distribute_tensor(x, mesh, [Shard(dim)]).requires_grad_()
    want, found = op(whole), op(split)
    assert torch.allclose(found.full_tensor(), want)
    want.backward()
    found.backward()
    return whole.grad, split.grad.full_tensor()


def rank_of(rank, store):
    dist.init_process_group("gloo", store=dist.FileStore(store, RANKS), rank=rank, world_size=RANKS)
    mesh = init_device_mesh("cpu", (RANKS,))
    for name, op in OPS.items():
        for dim in (0, 1):
            seen = {}
            for where, largest in TIES.items():
                x = torch.linspace(0.25, 0.75, 8)
                if name == "amin":
                    x = x - 0.5  # what is smallest is negative
                x[largest] = 2.0
                x = x.reshape(8, 1) if dim == 0 else x.reshape(1, 8)
                if name == "amax of a dim":
                    x = torch.cat([x, x], 1 - dim)
                want, found = gradients(op, x, mesh, dim)
                seen[where] = [round(value, 3) for value in found.flatten().tolist()]
                right = torch.allclose(found, want)
                everywhere = [None] * RANKS
                dist.all_gather_object(everywhere, [str(value) for value in seen[where]])
                if rank == 0:
                    assert everywhere[0] == everywhere[1]
                    exact = name in ("max", "amax of a dim") or where == "rank 0"
                    print(f"{name}, split along {dim}, the largest on {where}: {'right' if right else seen[where]}", flush=True)
                    assert right == exact, "the maxima of all ranks are counted now"
            if rank == 0 and name == "amax":
                assert sum(value != value for value in seen["rank 1"]) == 7 and seen["rank 1"][6] == float("inf")
                assert seen["both, 2 and 1"] == [0.5, 0.5, 0, 0, 0, 0, 0.5, 0] and seen["both"] == [0, 1, 0, 0, 0, 0, 1, 0]
    dist.destroy_process_group()


if __name__ == "__main__":
    multiprocessing.spawn(rank_of, (sys.argv[1],), nprocs=RANKS)
PY
OMP_NUM_THREADS=1 venv/bin/python -W ignore probe.py "$dir/store" 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: the gradient of a maximum is divided by the count of rank 0"
