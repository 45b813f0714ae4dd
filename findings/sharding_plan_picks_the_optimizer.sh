#!/usr/bin/env bash
# torchrec: how a table is sharded decides which optimizer it has: sharded ones drop momentum and weight decay, columns get rates of their own.
#
# Expected: `apply_optimizer_in_backward` says how an embedding table learns, and a sharding plan only where its rows and columns lie:
#   the same batch gives the same weights on one process, in rows, in columns and in copies.
# Happens: 3 steps on 2 ranks; how far the change of the table is from that of the same model unsharded:
#                                          table-wise, row-wise    column-wise in 2, in 4    data-parallel
#       SGD                                     below 1e-5               below 1e-5             1
#       SGD with momentum=0.9                    0.47                     0.47                  1
#       SGD with weight_decay=1                  0.56                     0.56                  1
#       Adagrad with weight_decay=1              0.76                     0.76                  1
#       RowWiseAdagrad                          below 1e-5               0.34, 0.47             1
#   No message. Momentum and decay go to a fused kernel that takes both and uses neither (the weights are those without, bit for bit).
#   Row-wise Adagrad has one rate per row; of columns each rank has a rate of its own, and a state as many times as long. A data-parallel
#   table does not move at all: the optimizer is gone, and a second one has to be made for what the kernels do not hold.
#   The planner chooses: 1,000,000 rows of 512 are table-wise on one GPU, column-wise in 4 on two and more.
# Why it matters: a run on more devices, or with a wider table, is trained by another optimizer than the one that was tuned. A plan may
#   only split what the optimizer's state is split by; compare one step of each sharding with the unsharded table.
#
# Seen 2026-12-01: torchrec 1.8.0, fbgemm-gpu-cpu 1.8.0, torch 2.13.0 (CPU), tensordict 0.15.3, numpy 2.4.6, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
pip=(venv/bin/pip install --quiet --no-compile --disable-pip-version-check)
"${pip[@]}" torch==2.13.0 numpy==2.4.6 fbgemm-gpu-cpu==1.8.0 tensordict==0.15.3 torchmetrics==1.0.3 tqdm pyre-extensions iopath pandas
"${pip[@]}" --no-deps torchrec==1.8.0 # its own dependency is the CUDA build

cat > probe.py <<'PY'
import contextlib
import io
import logging
import os
import warnings

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)
import torch
import torch.distributed as dist
import torchrec.optim
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.sharding_plan import column_wise, construct_module_sharding_plan, data_parallel, row_wise, table_wise
from torchrec.distributed.types import ShardingPlan
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

ROWS, WIDTH, BATCH, RANKS = 12, 16, 16, 2
SGD, ADAGRAD, ROWWISE = torch.optim.SGD, torch.optim.Adagrad, torchrec.optim.RowWiseAdagrad
ASKED = {  # how to learn; distances from the unsharded table for tables and rows, columns in 2, columns in 4
    "SGD": (SGD, dict(lr=0.02), (0, 0, 0)),
    "SGD with momentum": (SGD, dict(lr=0.02, momentum=0.9), (0.47, 0.47, 0.47)),
    "SGD with decay": (SGD, dict(lr=0.02, weight_decay=1.0), (0.56, 0.56, 0.56)),
    "Adagrad with decay": (ADAGRAD, dict(lr=0.1, eps=1e-8, weight_decay=1.0), (0.76, 0.76, 0.76)),
    "RowWiseAdagrad": (ROWWISE, dict(lr=0.1, eps=1e-8), (0, 0.34, 0.47)),
}


def table(rows, width, device):
    return EmbeddingBagCollection(device=torch.device(device), tables=[EmbeddingBagConfig(name="t", num_embeddings=rows, embedding_dim=width, feature_names=["f"])])


def change(kind, options, spec, rank):
    """What three steps add to the table; without a spec on this rank alone, with the whole batch."""
    random = torch.Generator().manual_seed(7)
    first = torch.randn(ROWS, WIDTH, generator=random)
    targets = torch.randn(BATCH, WIDTH, generator=random) * torch.linspace(0.1, 10, WIDTH)
    ids = torch.randint(0, ROWS, (BATCH, 2), generator=random)
    bags = table(ROWS, WIDTH, "cpu")
    apply_optimizer_in_backward(kind, bags.parameters(), dict(options))
    model = nn.Sequential(bags)
    if spec is not None:
        sharder = EmbeddingBagCollectionSharder()
        plan = construct_module_sharding_plan(bags, {"t": spec}, sharder=sharder, local_size=RANKS, world_size=RANKS, device_type="cpu")
        model = DistributedModelParallel(model, device=torch.device("cpu"), plan=ShardingPlan({"0": plan}), sharders=[sharder])
        targets, ids = targets.chunk(RANKS)[rank], ids.chunk(RANKS)[rank]
    weight = model.state_dict()["0.embedding_bags.t.weight"]
    split = hasattr(weight, "local_shards")
    for shard in weight.local_shards() if split else ():
        (row, column), (rows, columns) = shard.metadata.shard_offsets, shard.metadata.shard_sizes
        shard.tensor.copy_(first[row : row + rows, column : column + columns])
    if not split:
        weight.copy_(first)
    for _ in range(3):
        out = model(KeyedJaggedTensor.from_lengths_sync(["f"], ids.flatten(), torch.full((len(ids),), 2)))
        (out.values() - targets).square().sum(1).mean().backward()
    whole = torch.empty(ROWS, WIDTH)
    if split:
        weight.gather(0, whole if rank == 0 else None)
    else:
        whole.copy_(weight)
    return whole - first


def worker(rank, port):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS), LOCAL_WORLD_SIZE=str(RANKS))
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS)
    fused = {"compute_kernel": "fused"}
    ways = [table_wise(rank=0, **fused), row_wise(**fused), column_wise(ranks=[0, 1], **fused), column_wise(ranks=[0, 1, 0, 1], **fused), data_parallel()]
    seen = {}
    for name, (kind, options, (kept, two, four)) in ASKED.items():
        alone = change(kind, options, None, rank)
        found = seen[name] = [change(kind, options, way, rank) for way in ways]
        off = [((one - alone).norm() / alone.norm()).item() for one in found]
        if rank == 0:
            print(f"{name}: table, row, 2 columns, 4 columns, copies are off by", *(f"{one:.2g}" for one in off), flush=True)
            for one, want in zip(off, (kept, kept, two, four, 1)):
                assert abs(one - want) < (0.01 if want else 1e-5), f"{name} is sharded otherwise now"
    if rank == 0:
        assert all(torch.equal(*both) for name in ("SGD with momentum", "SGD with decay") for both in zip(seen[name], seen["SGD"])), "something of them is used"
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    for devices in (1, 2, 8):
        planner = EmbeddingShardingPlanner(topology=Topology(world_size=devices, compute_device="cuda"), batch_size=4096)
        with contextlib.redirect_stdout(io.StringIO()):
            plan = planner.plan(nn.Sequential(table(10**6, 512, "meta")), [EmbeddingBagCollectionSharder()]).plan["0"]["t"]
        print(f"1,000,000 x 512 on {devices} GPUs: {plan.sharding_type} on {plan.ranks}")
        assert (plan.sharding_type, len(plan.ranks)) == (("table_wise", 1) if devices == 1 else ("column_wise", 4)), "it plans otherwise now"
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(worker, (port,), RANKS)
PY
OMP_NUM_THREADS=1 venv/bin/python -W ignore probe.py 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: the sharding of a table picks its optimizer"
