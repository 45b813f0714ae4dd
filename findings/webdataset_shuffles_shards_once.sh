#!/usr/bin/env bash
# webdataset: shards are shuffled once, into the same order in every epoch; the deterministic shuffle varies it, but not in workers.
#
# Expected: with `shardshuffle` each epoch reads the shards in another order, and the buffer of `.shuffle()` mixes what is near.
# Happens: a seed is drawn when the dataset is made, and every epoch starts a new generator from it, so that all epochs have one order
#   of shards, and only the buffer is left to mix. `detshuffle` starts from `seed + epoch`, but counts epochs in a copy of the dataset
#   that each worker throws away. How places of samples in epoch 1 follow those in epoch 0 (correlation; 100 shards of 20 samples,
#   a buffer of 100):
#                                             no workers    2 workers    2 workers, persistent
#       shardshuffle=100, .shuffle(100)           0.97         0.9            0.9
#       with seeds on both                        1            1              1
#       detshuffle=True, detshuffle(100)        about 0        1            about 0
#       resampled=True (other samples)          about 0      about 0        about 0
#   No message, and no sample is missing or doubled.
# Why it matters: data sets are hundreds of times as large as buffers, so that samples meet the same neighbours in every epoch, with
#   contrastive losses the same negatives; what is asked for comparable runs takes the rest of the shuffling away. Compare the order
#   of two epochs of the loader that trains, and hand the epoch to the shuffle from outside.
#
# Seen 2026-12-01: webdataset 1.0.2, torch 2.13.0 (CPU), numpy 2.4.6, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 webdataset==1.0.2

cat > probe.py <<'PY'
import numpy as np
import webdataset as wds

SHARDS, EACH, BUFFER = 100, 20, 100
for shard in range(SHARDS):
    with wds.TarWriter(f"part-{shard:02d}.tar") as tar:
        for index in range(EACH):
            tar.write({"__key__": f"{shard * EACH + index:04d}", "cls": index})
WAYS = {  # options of the dataset, of the shuffle of samples; the least correlation without workers, with, with persistent ones
    "shards and samples": (dict(shardshuffle=SHARDS), {}, (0.8, 0.8, 0.8)),
    "the same with seeds": (dict(shardshuffle=SHARDS, seed=1), dict(seed=1), (1, 1, 1)),
    "detshuffle": (dict(shardshuffle=SHARDS, seed=1, detshuffle=True), dict(seed=1), (0, 1, 0)),
    "resampled": (dict(shardshuffle=SHARDS, resampled=True), {}, (0, 0, 0)),
}


def epochs(options, mix, workers, persistent):
    """Three epochs: the samples' numbers in the order in which they are read."""
    data = wds.WebDataset("part-{00..%d}.tar" % (SHARDS - 1), **options)
    if options.get("detshuffle"):
        data = data.compose(wds.detshuffle(BUFFER, BUFFER, **mix))
    else:
        data = data.shuffle(BUFFER, initial=BUFFER, **mix)
    data = data.map(lambda sample: int(sample["__key__"]))
    if options.get("resampled"):
        data = data.with_epoch(SHARDS * EACH // max(workers, 1))
    loader = wds.WebLoader(data, batch_size=None, num_workers=workers, persistent_workers=persistent)
    return [[int(one) for one in loader] for _ in range(3)]


def follows(before, after):
    """The correlation of the first places of samples that are in both."""
    first, then = ({number: place for place, number in reversed(list(enumerate(order)))} for order in (before, after))
    both = sorted(first.keys() & then.keys())
    return float(np.corrcoef([first[one] for one in both], [then[one] for one in both])[0, 1])


for name, (options, mix, want) in WAYS.items():
    for (workers, persistent), least in zip(((0, False), (2, False), (2, True)), want):
        orders = epochs(options, mix, workers, persistent)
        if not options.get("resampled"):
            assert all(sorted(order) == list(range(SHARDS * EACH)) for order in orders), "samples are missing or doubled"
        seen = [follows(orders[0], order) for order in orders[1:]]
        print(f"{name}, {workers} workers{', persistent' * persistent}: epochs 1 and 2 follow epoch 0 by", *(f"{one:.2f}" for one in seen), flush=True)
        for one, order in zip(seen, orders[1:]):
            assert (order == orders[0]) == (least == 1), f"{name}: seeds count otherwise now"
            assert one > 0.8 if least else abs(one) < 0.6, f"{name} shuffles otherwise now"
PY
OMP_NUM_THREADS=1 venv/bin/python -W ignore probe.py 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: webdataset shuffles shards once"
