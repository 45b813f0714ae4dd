#!/usr/bin/env bash
# torchao's 8-bit Adam keeps a state whole where a rank's piece is no multiple of 256: on twice the devices each needs twice the memory.
#
# Expected: 8-bit states are 2 bytes per parameter and 1/32 for scales; on twice the devices each holds half of them; and a
#   checkpoint of them is read on any number of devices.
# Happens: a state has 8 bits if this rank's piece of the weight has at least 4,096 elements and a multiple of 256, and otherwise the
#   weight's own type, without a word: 4 bytes per parameter for both states in bf16, 8 in float32. FSDP splits rows, so how large
#   a piece is depends on the number of devices. Bytes per parameter on rank 0 (fully_shard, float32 weights):
#       devices                                           32       64      128
#       Llama-3 8B, attention, hidden 4096              2.04     2.04     2.06
#       GPT-2 XL, a layer, hidden 1600                  4.03     4.03     5.98
#       gpt-oss, embedding, hidden 2880                 2.03     8.00     8.00
#           MiB per device                              35.1     69.0     34.5
#   Between numbers of devices of which one has 8 bits and the other has not, a checkpoint of torch.distributed is not read, in
#   neither direction: ValueError, "Invalid start or end". A weight of 4 x 2880 on 1 and 2 devices; with 8 rows it is read.
# Why it matters: a plan that fits on 32 devices need not fit on 64, and 8-bit states may save nothing for widths that are no
#   power of two. A run that gets more devices, or loses some, may not go on from its checkpoint. What counts is each weight's local
#   piece: (rows / devices, rounded up) x columns.
#
# Seen 2026-11-30: torchao 0.18.0, torch 2.13.0 (CPU; a process group that sends nothing, gloo for the checkpoints), numpy 2.4.6, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchao==0.18.0 numpy==2.4.6

cat > probe.py <<'PY'
import logging

logging.disable(logging.CRITICAL)
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as checkpoint
import torch.multiprocessing as multiprocessing
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore
from torchao.optim import AdamW8bit

LLAMA, GPT2, OSS = "Llama-3 8B, attention", "GPT-2 XL, a layer", "gpt-oss, embedding"
MODELS = {
    LLAMA: [(4096, 4096), (1024, 4096), (1024, 4096), (4096, 4096)],
    GPT2: [(4800, 1600), (1600, 1600), (6400, 1600), (1600, 6400)],
    OSS: [(201088, 2880)],
}


def nbytes(state):
    """What this rank's piece of a state takes, quantised or not."""
    return sum(getattr(state, name).nbytes for name in state.tensor_attrs) if hasattr(state, "tensor_attrs") else state.nbytes


def stepped(shapes, mesh):
    """A model of linear layers that has been sharded, and its optimizer after a step."""
    with torch.device("meta"):
        model = torch.nn.Sequential(*(torch.nn.Linear(columns, rows, bias=False) for rows, columns in shapes))
    fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    optimizer = AdamW8bit(model.parameters(), lr=1e-3)
    for weight in model.parameters():
        torch.nn.init.zeros_(weight)
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    return model, optimizer


def resharded(rank, ranks, store, what):
    """Saves or loads the states of a weight of 4 rows and of one of 8, each in a checkpoint of its own."""
    dist.init_process_group("gloo", store=dist.FileStore(store, ranks), rank=rank, world_size=ranks)
    for rows in (4, 8):
        model, optimizer = stepped([(rows, 2880)], init_device_mesh("cpu", (ranks,)))
        state = get_optimizer_state_dict(model, optimizer)
        local = state["state"]["0.weight"]["exp_avg"].to_local()
        assert hasattr(local, "tensor_attrs") == (ranks == 1 or rows == 8), "pieces of any size have 8 bits now"
        if what == "save":
            checkpoint.save(state, checkpoint_id=f"rows{rows}_on_{ranks}")
            continue
        try:
            checkpoint.load(state, checkpoint_id=f"rows{rows}_on_{3 - ranks}")
            seen = "read"
        except checkpoint.CheckpointException as problem:
            seen = str(next(iter(problem.failures.values()))[0])
        if rank == 0:
            print(f"{rows} x 2880, saved on {3 - ranks}, loaded on {ranks}: {seen}", flush=True)
        assert (seen == "read") == (rows == 8) and (rows == 8 or "Invalid start or end" in seen), "checkpoints are read otherwise now"
    dist.destroy_process_group()


if __name__ == "__main__":
    per, there = {}, {}
    for devices in (32, 64, 128):
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=devices)
        mesh = init_device_mesh("cpu", (devices,))
        for name, shapes in MODELS.items():
            model, optimizer = stepped(shapes, mesh)
            parameters = sum(weight.to_local().numel() for weight in model.parameters())
            taken = sum(nbytes(state[part].to_local()) for state in optimizer.state.values() for part in ("exp_avg", "exp_avg_sq"))
            per[name, devices], there[name, devices] = taken / parameters, taken / 2**20
            print(f"{devices} devices, {name}: {taken / parameters:.2f} bytes per parameter, {taken / 2**20:.1f} MiB per device", flush=True)
        dist.destroy_process_group()
    assert all(per[LLAMA, devices] < 2.1 for devices in (32, 64, 128))
    assert per[GPT2, 32] > 4 and per[GPT2, 128] > 5, "pieces of any size have 8 bits now"
    assert per[OSS, 32] < 2.1 and per[OSS, 64] == 8 and there[OSS, 64] > 1.9 * there[OSS, 32], "pieces of any size have 8 bits now"
    half = torch.nn.Parameter(torch.ones(2, 2880, dtype=torch.bfloat16))
    half.grad = torch.ones_like(half)
    optimizer = AdamW8bit([half])
    optimizer.step()
    print("a weight of 2 x 2880 in bf16:", optimizer.state[half]["exp_avg"].dtype, flush=True)
    assert type(optimizer.state[half]["exp_avg"]) is torch.Tensor and optimizer.state[half]["exp_avg"].dtype == torch.bfloat16
    resharded(0, 1, "store1", "save")
    for what in ("save", "load"):
        multiprocessing.spawn(resharded, (2, f"store2{what}", what), nprocs=2)
    resharded(0, 1, "store3", "load")
PY
TORCHDYNAMO_DISABLE=1 OMP_NUM_THREADS=1 venv/bin/python -W ignore probe.py > stdout.txt 2> stderr.txt || { cat stdout.txt stderr.txt; exit 1; }
cat stdout.txt
echo "unchanged: the number of devices decides whether states have 8 bits"
