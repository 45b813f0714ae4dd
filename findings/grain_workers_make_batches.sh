#!/usr/bin/env bash
# Grain: the number of worker processes decides which samples share a batch, how many batches there are and how large.
#
# Expected: 16 shuffled samples in batches of 4 are 4 batches, with the same seed always the same; workers only read ahead
#   (they are advertised as deterministic, and the order of *samples* without batching does not depend on them).
# Happens: each worker batches its own share of the samples. The same loader, worker_count 0, 2, 3:
#       0 or 1   [13, 7, 15, 12] [4, 8, 9, 2] [10, 3, 1, 5] [14, 11, 0, 6]
#       2        [13, 15, 4, 9]  [7, 12, 8, 2] [10, 1, 14, 0] [3, 5, 11, 6]
#       3        [13, 12, 9, 3]  [7, 4, 2, 1] [15, 8, 10, 5] [14, 6] [11] [0]
#   With 3 workers an epoch has 6 steps instead of 4, the last ones of 2, 1 and 1 samples. The same with
#   to_iter_dataset().batch().mp_prefetch(). Only batching before the split, MapDataset.batch, keeps the batches.
# Why it matters: the number of workers is tuned per machine. It changes the gradient of every step, the number of steps of an
#   epoch, and the size of the last batches, which need not divide by the number of data-parallel ranks or micro-batches
#   any more. Equality of two runs has to be checked on the tokens of the global batch, not on seeds.
#
# Seen 2026-11-28: grain 0.2.18, numpy 2.4.6, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check grain==0.2.18 numpy==2.4.6

cat > probe.py <<'PY'
import grain.python as grain
from absl import flags

flags.FLAGS.mark_as_parsed()


class Numbers:
    def __len__(self):
        return 16

    def __getitem__(self, index):
        return index


def listed(batches):
    return [[int(sample) for sample in batch] for batch in batches]


def by_loader(workers, *operations):
    sampler = grain.IndexSampler(num_records=16, num_epochs=1, shard_options=grain.NoSharding(), shuffle=True, seed=1)
    return grain.DataLoader(data_source=Numbers(), sampler=sampler, worker_count=workers, operations=list(operations))


def prefetched(dataset, workers):
    return dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers)) if workers else dataset


if __name__ == "__main__":
    shuffled = grain.MapDataset.range(16).shuffle(seed=1)
    loader, late, early = {}, {}, {}
    for workers in (0, 2, 3):
        loader[workers] = listed(by_loader(workers, grain.Batch(4)))
        late[workers] = listed(prefetched(shuffled.to_iter_dataset().batch(4), workers))
        early[workers] = listed(prefetched(shuffled.batch(4).to_iter_dataset(), workers))
        print(workers, "workers:", loader[workers])
    samples = {workers: [int(sample) for sample in by_loader(workers)] for workers in (0, 3)}
    assert samples[0] == samples[3], "even the order of samples depends on the workers"
    assert loader == late and early[0] == early[2] == early[3] == loader[0]
    assert [len(batch) for batch in loader[2]] == [4, 4, 4, 4] and loader[2] != loader[0], "two workers batch like none"
    assert [len(batch) for batch in loader[3]] == [4, 4, 4, 2, 1, 1], "three workers batch otherwise now"
PY
venv/bin/python probe.py
echo "unchanged: batches are made inside each worker"
