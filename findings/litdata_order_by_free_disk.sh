#!/usr/bin/env bash
# LitData: free disk decides which samples a node reads. Nodes with different room read some samples twice, others never.
#
# Expected: max_cache_size limits how many chunks a node keeps on disk. The order of samples is a function of seed, epoch and
#   the number of ranks: all ranks work it out alone, alike, so that each sample is read once.
# Happens: on several nodes, from the second epoch on, each node shuffles only its own chunks if they fit into the cache,
#   and all chunks are dealt anew if they do not. Each node decides that by its own cache. Two nodes, 128 samples,
#   different samples read in epochs 1, 2, 3:
#       both have much room, or both little     128, 128, 128   (but in other orders)
#       one has much, one little                128,  96, 104   (each node still reads 64: the others are read twice)
#   max_cache_size=None, the default, is 75 % of what is free on that node's disk when the data set is opened. No warning.
# Why it matters: disks of a cluster are never equally full, and a restart finds its own chunks on them. A quarter of an
#   epoch is then not seen, another quarter twice, losses look normal, and a resumed run goes on in another order than the
#   first one. Set max_cache_size to the same number of bytes on all nodes.
#
# Seen 2026-11-30: litdata 0.2.76, torch 2.13.0, numpy 2.4.6, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check litdata==0.2.76 torch==2.13.0 numpy==2.4.6

cat > probe.py <<'PY'
import json
import logging
import os
import subprocess
import sys

SAMPLES, EPOCHS = 128, 3


def same(sample):
    return sample


def node():
    """Print what this node, one of two with a rank each, reads in three epochs."""
    import litdata

    data = litdata.StreamingDataset("data", shuffle=True, seed=1)
    loader = litdata.StreamingDataLoader(data, batch_size=4, num_workers=0)
    print(json.dumps([[int(sample) for batch in loader for sample in batch] for _ in range(EPOCHS)]))


def read_by(rank, room):
    """All that a node reads which has so much room for cached chunks (the variable stands for its disk)."""
    place = {"WORLD_SIZE": "2", "NNODES": "2", "GLOBAL_RANK": str(rank), "MAX_CACHE_SIZE": room, "LITDATA_DISABLE_VERSION_CHECK": "1"}
    run = subprocess.run([sys.executable, "-W", "ignore", __file__, "node"], env=os.environ | place, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(run.stderr)
    return json.loads(run.stdout.splitlines()[-1])


if __name__ == "__main__" and sys.argv[1:] == ["node"]:
    logging.disable(logging.CRITICAL)
    node()
elif __name__ == "__main__":
    import litdata

    litdata.optimize(fn=same, inputs=list(range(SAMPLES)), output_dir="data", chunk_size=8, num_workers=1)
    with open("data/index.json") as file:
        chunk = max(one["chunk_bytes"] for one in json.load(file)["chunks"])
    much, little = "100GB", str(2 * chunk)  # a node's share is eight chunks
    seen = {}
    for rooms in ((much, much), (little, little), (much, little)):
        nodes = [read_by(rank, room) for rank, room in enumerate(rooms)]
        seen[rooms] = nodes
        kinds = ["much" if room == much else "little" for room in rooms]
        lengths = [[len(epoch) for epoch in one] for one in nodes]
        read = [len({*a} | {*b}) for a, b in zip(*nodes)]
        print(f"node 0 has {kinds[0]} room, node 1 {kinds[1]}: of {SAMPLES} samples are read in epochs 1 to {EPOCHS}: {read}", flush=True)
        assert lengths == [[SAMPLES // 2] * EPOCHS] * 2
        assert read[0] == SAMPLES and (read[1] < SAMPLES and read[2] < SAMPLES) == (rooms[0] != rooms[1]), "nodes agree now"
    alike, other = seen[much, much], seen[little, little]
    assert [a[0] for a in alike] == [a[0] for a in other] and alike[0][1] != other[0][1], "the room no longer decides the order"
PY
venv/bin/python -W ignore probe.py 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: the room for cached chunks decides what a node reads"
