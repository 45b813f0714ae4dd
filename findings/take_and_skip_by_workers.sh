#!/usr/bin/env bash
# datasets: take(n) and skip(n) of a streamed data set mean n in all or n per worker, and other samples per number of workers.
#
# Expected: `held_out = data.take(10)` and `training = data.skip(10)` part a data set in two, as the documentation has it. How
#   many workers read either loader must not matter; nor must it matter that the set has been given to one node of one.
# Happens: a stream's workers have its shards in turn. 40 samples in 4 shards, one process:
#       held_out read by 0 workers, training by 2:      10 held out, 30 trained on, 5 of the ten are in both
#   because the ten are divided among the workers (5 each, from other shards). Shuffled, other samples again. But after
#   split_dataset_by_node(data, rank=0, world_size=1), which is what a script for many nodes does on one, each worker takes and
#   skips n of its own:
#       take(10)      0 workers: 10     2 workers: 20     4 workers: 40
#       skip(10)      0 workers: 30     2 workers: 20     4 workers:  0   (nothing is left to train on)
#   and on two nodes with 0 workers take(10) is 10 per node, on three (4 shards do not divide by 3) 10 on all of them. No warning.
# Why it matters: what is held out is learnt, a limit on samples is off by the number of workers or nodes, and an epoch's
#   length depends on a setting of speed. Take and skip before the set is split by node, with as many workers on both sides, or
#   hold out whole shards.
#
# Seen 2026-11-30: datasets 5.2.0, torch 2.13.0 (CPU), numpy 2.4.6, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check datasets==5.2.0 torch==2.13.0 numpy==2.4.6

cat > probe.py <<'PY'
import logging

logging.disable(logging.CRITICAL)
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

SHARDS, EACH, HELD = 4, 10, 10


def samples(shards):
    for shard in shards:
        for index in range(EACH):
            yield {"x": shard * EACH + index}


def stream():
    return IterableDataset.from_generator(samples, gen_kwargs={"shards": list(range(SHARDS))})


def read(data, workers):
    """The samples that a loader with so many workers gives out in one epoch."""
    seen = [int(x) for batch in DataLoader(data, batch_size=1, num_workers=workers) for x in batch["x"]]
    assert len(seen) == len(set(seen))
    return set(seen)


if __name__ == "__main__":
    both = {}
    for name, make in {"plain": stream, "shuffled": lambda: stream().shuffle(seed=1)}.items():
        for workers in ((0, 0), (2, 2), (0, 2), (2, 4)):
            held, trained = read(make().take(HELD), workers[0]), read(make().skip(HELD), workers[1])
            both[name, workers] = len(held & trained)
            print(f"{name}, workers {workers}: {len(held)} held out, {len(trained)} trained on, {both[name, workers]} in both", flush=True)
            assert (len(held), len(trained)) == (HELD, SHARDS * EACH - HELD)
    assert all((count > 0) == (workers[0] != workers[1]) for (_, workers), count in both.items()), "workers no longer decide what is taken"
    assert both["plain", (0, 2)] == 5
    counts = {}
    for workers in (0, 2, 4):
        data = split_dataset_by_node(stream(), rank=0, world_size=1)
        counts[workers] = len(read(data.take(HELD), workers)), len(read(data.skip(HELD), workers))
        print(f"one node of one, {workers} workers: take({HELD}) {counts[workers][0]} samples, skip({HELD}) {counts[workers][1]}", flush=True)
    assert counts == {0: (10, 30), 2: (20, 20), 4: (40, 0)}, "a split by node no longer changes what is taken"
    nodes = {}
    for world in (2, 3):
        nodes[world] = [len(read(split_dataset_by_node(stream(), rank, world).take(HELD), 0)) for rank in range(world)]
        print(f"{world} nodes, no workers: take({HELD}) {nodes[world]} samples")
    assert nodes == {2: [10, 10], 3: [4, 3, 3]}
PY
venv/bin/python -W ignore probe.py 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: workers decide what take and skip mean"
