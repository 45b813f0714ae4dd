#!/usr/bin/env bash
# torch's distributed checkpoint takes the state of four ranks apart: the step of one, the random state of another.
#
# Expected: plain (not distributed) tensors and objects in a state dict are saved by the coordinator, rank 0; at least
#   the plain entries of one checkpoint come from one rank.
# Happens: every rank proposes every plain entry, and dcp.save keeps one proposal per name, from the rank that has the
#   least bytes to write so far; each decision moves the next one to another rank. Four ranks save
#   {rng: [r, r], step: r, loader: {pos: r}, t0: r} with r the rank; after load *every* rank has
#   rng from rank 0, step from rank 1, loader.pos from rank 2 and t0 from rank 3. Nothing warns. With
#   DefaultSavePlanner(dedup_save_to_lowest_rank=True) all come from rank 0.
#   An entry more or less moves the others: without rng, step comes from rank 0.
# Why it matters: random states, positions of data loaders, error feedback and counts of dropped tokens differ by rank, and
#   such a checkpoint restores a state that no rank was ever in, the same on all of them. What must be per rank needs the
#   rank in its name (or its own dimension in a DTensor), what must be equal must be checked to be equal before saving.
#
# Seen 2026-11-28: torch 2.13.0 (gloo, CPU), numpy 2.4.6, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6

cat > probe.py <<'PY'
import tempfile
import warnings

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch.distributed.checkpoint import DefaultSavePlanner

RANKS = 4


def round_trip(rank, state, planner=None):
    """Save the state of this rank, load into blanks: a dict with the rank from which each entry came."""
    folder = [tempfile.mkdtemp(dir=".")]
    dist.broadcast_object_list(folder)
    dcp.save(state, checkpoint_id=folder[0], planner=planner)
    blank = {"rng": torch.full((2,), -1), "step": None, "loader": {"pos": None}, "t0": torch.tensor(-1)}
    blank = {name: blank[name] for name in state}
    dcp.load(blank, checkpoint_id=folder[0])
    found = {"step": blank["step"], "loader.pos": blank["loader"]["pos"], "t0": int(blank["t0"])}
    return found | ({"rng": int(blank["rng"][0])} if "rng" in blank else {})


def work(rank, store):
    warnings.filterwarnings("ignore")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    state = {"rng": torch.full((2,), rank), "step": rank, "loader": {"pos": rank}, "t0": torch.tensor(rank)}
    mixed = round_trip(rank, state)
    lowest = round_trip(rank, state, DefaultSavePlanner(dedup_save_to_lowest_rank=True))
    without = round_trip(rank, {name: value for name, value in state.items() if name != "rng"})
    everyone = [None] * RANKS
    dist.all_gather_object(everyone, mixed)
    if rank == 0:
        print("default planner: entry -> rank it came from", mixed)
        print("lowest rank:    ", lowest)
        print("without rng:    ", without)
        assert all(other == mixed for other in everyone)
        assert mixed == {"rng": 0, "step": 1, "loader.pos": 2, "t0": 3}, "plain entries are chosen otherwise now"
        assert set(lowest.values()) == {0}
        assert without["step"] == 0, "the choice no longer depends on the other entries"
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(work, args=(tempfile.mktemp(),), nprocs=RANKS)
PY
TMPDIR="$dir" venv/bin/python probe.py
echo "unchanged: one checkpoint holds plain entries of several ranks"
