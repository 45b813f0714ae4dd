#!/usr/bin/env bash
# torchgpipe, fairscale: stages of a pipeline are balanced by what layers cost above the cheapest one, so that equal layers cost nothing.
#
# Expected: `balance_by_time` and `balance_by_size` give stages of about the same cost. The method they cite (block partition) promises
#   that two stages differ by no more than the dearest layer costs.
# Happens: before it begins, the least cost is subtracted from every layer's. In a transformer that is the block, so that a stage
#   of 16 blocks costs as little as one of a single block, and the split that the search starts from is kept. It gives n // stages
#   layers to each stage and all that is left over to the last. The slowest stage, against the best split (by exhaustive search):
#                                                      layers per stage         slowest / best
#       31 equal layers, 16 stages                     1 x 15, 16                    8.0
#       80 equal layers (Llama 3 70B), 32 stages       2 x 31, 18                    6.0
#       embedding, 24 blocks, head (GPT-3 1.3B), 16    1 x 15, 11                    5.9
#       embedding, 32 blocks, head (Llama 3 8B), 12    2 x 11, 12                    3.9
#       the same, 8 stages                             4 x 7, 6                      1.5
#   (costs are the numbers of parameters; both libraries alike). Make the first of the 31 layers one that costs
#   nothing: then nothing is subtracted, and no stage costs more than 2 layers. No message; the docstring says "might not be optimal".
# Why it matters: an iteration takes as long as its slowest stage, and memory is that of the fullest one. Bounds of a method hold for the
#   costs that it is given: sums over stages are not the same after a shift, unless all stages have as many layers.
#
# Seen 2026-11-30: torchgpipe 0.0.7, fairscale 0.4.13, torch 2.13.0 (CPU), numpy 2.4.6, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 setuptools==80.9.0 wheel==0.45.1
# both want nothing but torch for this; fairscale has no wheel
venv/bin/pip install --quiet --no-compile --disable-pip-version-check --no-deps --no-build-isolation torchgpipe==0.0.7 fairscale==0.4.13

cat > probe.py <<'PY'
from fairscale.nn.pipe.balance import _balance_cost as of_fairscale
from torchgpipe.balance import balance_cost as of_torchgpipe


def best(costs, stages):
    """The least cost that the dearest stage can have, by dynamic programming over all splits."""
    sums = [0]
    for cost in costs:
        sums.append(sums[-1] + cost)
    least = sums[:]
    for _ in range(1, stages):
        least = [min((max(least[start], sums[end] - sums[start]) for start in range(end + 1))) for end in range(len(sums))]
    return least[-1]


def model(vocabulary, width, blocks, block):
    """Parameters of an embedding, of blocks and of a head."""
    return [vocabulary * width] + [block] * blocks + [vocabulary * width]


GPT, LLAMA = model(50257, 2048, 24, 50_358_272), model(128256, 4096, 32, 218_112_000)
CASES = {
    "31 equal layers": ([7] * 31, 16, [1] * 15 + [16], 8.0),
    "80 equal layers": ([7] * 80, 32, [2] * 31 + [18], 6.0),
    "GPT-3 1.3B on 16": (GPT, 16, [1] * 15 + [11], 5.9),
    "Llama 3 8B on 12": (LLAMA, 12, [2] * 11 + [12], 3.9),
    "Llama 3 8B on 8": (LLAMA, 8, [4] * 7 + [6], 1.5),
}
for name, (costs, stages, want, ratio) in CASES.items():
    for library, balance in {"torchgpipe": of_torchgpipe, "fairscale": of_fairscale}.items():
        layers, start, slowest = balance(costs, stages), 0, 0
        for count in layers:
            slowest = max(slowest, sum(costs[start : start + count]))
            start += count
        seen = round(slowest / best(costs, stages), 1)
        print(f"{library}, {name}: layers per stage {layers}, slowest stage {seen} times the best", flush=True)
        assert start == len(costs) and layers == want and seen == ratio, "stages are balanced otherwise now"
for balance in (of_torchgpipe, of_fairscale):
    layers = balance([0] + [7] * 30, 16)
    print(f"a layer of no cost, then 30 equal ones: {layers}")
    assert layers == [3] + [2] * 12 + [1, 1, 2], "stages are balanced otherwise now"
PY
venv/bin/python -W ignore probe.py
echo "unchanged: equal layers weigh nothing when pipelines are balanced"
