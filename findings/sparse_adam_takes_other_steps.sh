#!/usr/bin/env bash
# Adam with sparse gradients is another optimizer, even where every row is touched once: in Paddle it is one step ahead
# with its bias correction, in torch its epsilon is 32 times as large at first.
#
# Expected: sparse gradients (indices and rows) are a matter of memory. Where each row of a table is looked up exactly once
#   in every step, lazy and dense Adam are the same formula, and libraries test them against each other.
# Happens, a table of 3 rows, gradient g everywhere, learning rate 0.1, default epsilon (1e-8), size of the first steps:
#                             g = 1                               g = 1e-7
#       torch Adam            0.1    0.1    0.1    0.1            0.0909  0.0909  0.0909  0.0909
#       torch SparseAdam      0.1    0.1    0.1    0.1            0.0240  0.0309  0.0354  0.0387
#       Paddle, dense         0.1    0.1    0.1    0.1            0.0909  0.0909  0.0909  0.0909
#       Paddle, sparse        0.0744 0.0858 0.0910 0.0939         0.0652  0.0765  0.0816  0.0844
#   Paddle's CPU kernel for sparse gradients (lazy_mode or not) has multiplied the powers of beta before it uses them: step
#   t has the correction of step t + 1, whose ratio is 0.744 at first and takes some 20 steps to fade. torch's SparseAdam
#   adds epsilon to the root of the uncorrected second moment: epsilon counts 1 / sqrt(1 - 0.999^t) times as much, 31.6 at
#   step 1, still 3.3 at step 100.
# Why it matters: gradients of an embedding are as small as that in any mean over a batch of 10^6 tokens, so the rows move
#   four times as slowly as the same rows with `sparse=False`. A layout that changes from dense to sparse gradients (or
#   from whole tables to look-ups by row) is compared with a serial dense run: the first step already tells them apart,
#   and nothing is wrong with the layout. Lazy updates must be checked against the formula that is meant.
#
# Seen 2026-11-29: paddlepaddle 3.3.1, torch 2.13.0, Python 3.11, Linux x86-64, CPU.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
for name in paddle torch; do python3 -m venv "$name"; done
paddle/bin/pip install --quiet --no-compile --disable-pip-version-check paddlepaddle==3.3.1 setuptools
torch/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy

cat > steps.py <<'PY'
"""Print the sizes of the first four steps of a table of 3 rows that are all looked up once in each step."""
import sys

RATE, STEPS, ORDER = 0.1, 4, [2, 0, 1]


def by_torch(sparse, scale):
    import torch

    table = torch.nn.Embedding(3, 2, sparse=sparse)
    torch.nn.init.zeros_(table.weight)
    optimizer = (torch.optim.SparseAdam if sparse else torch.optim.Adam)(table.parameters(), lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (table(torch.tensor(ORDER)) * scale).sum().backward()
        optimizer.step()
        yield table.weight.detach()[0, 0].item()


def by_paddle(sparse, scale):
    import paddle

    table = paddle.nn.Embedding(3, 2, sparse=sparse)
    table.weight.set_value(paddle.zeros([3, 2]))
    optimizer = paddle.optimizer.Adam(RATE, parameters=table.parameters(), lazy_mode=sparse)
    for _ in range(STEPS):
        (table(paddle.to_tensor(ORDER)) * scale).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
        yield float(table.weight.numpy()[0, 0])


run = {"torch": by_torch, "paddle": by_paddle}[sys.argv[1]]
for scale in (1.0, 1e-7):
    for sparse in (False, True):
        values = [0.0, *run(sparse, scale)]
        print(sys.argv[1], scale, "sparse" if sparse else "dense", *(f"{a - b:.4f}" for a, b in zip(values, values[1:])))
PY

cat > check.py <<'PY'
import sys

BETA1, BETA2 = 0.9, 0.999
found = {}
for line in sys.stdin:
    print(line, end="")
    library, scale, kind, *sizes = line.split()
    found[library, float(scale), kind] = [float(s) for s in sizes]


def step(t, gradient, powers, epsilon):
    """Adam's step with a constant gradient, with the powers of beta of step `powers`."""
    first, second = gradient * (1 - BETA1**t), gradient**2 * (1 - BETA2**t)
    return 0.1 * first / (1 - BETA1**powers) / ((second / (1 - BETA2**powers)) ** 0.5 + epsilon)


def like(key, formula):
    return all(abs(size - formula(t)) < 2e-4 for t, size in enumerate(found[key], 1))


for g in (1.0, 1e-7):
    for library in ("torch", "paddle"):
        assert like((library, g, "dense"), lambda t: step(t, g, t, 1e-8)), f"{library}: dense Adam is not the formula"
    assert like(("paddle", g, "sparse"), lambda t: step(t, g, t + 1, 1e-8)), "Paddle's sparse Adam has its own step's powers now"
    assert like(("torch", g, "sparse"), lambda t: step(t, g, t, 1e-8 / (1 - BETA2**t) ** 0.5)), "SparseAdam's epsilon is as in Adam now"
PY
{ torch/bin/python -W ignore steps.py torch; paddle/bin/python -W ignore steps.py paddle; } 2> stderr.txt > steps.txt || { cat stderr.txt; exit 1; }
python3 check.py < steps.txt
echo "unchanged: with sparse gradients Paddle's Adam is a step ahead with its powers, and torch's epsilon is not corrected"
