#!/usr/bin/env bash
# Bfloat16 gradients stall at 256 in torch and JAX wherever rows are added by index, and a layer norm's depend on threads.
#
# Expected: sums of bfloat16 are made in float32 and rounded once: torch.sum, matmul, biases and jnp.sum all do so, and
#   4,096 ones give 4,096. Operations that are the same sum (scatter_add, index_add) give the same.
# Happens, 4,096 gradients of 1.0 that meet in one element, CPU:
#       torch: sum, matmul, bias, cumsum, scatter_add, RMSNorm's weight, index_add of rows         4096
#              index_add of numbers, index_put(accumulate), x[index], embedding, embedding_bag      256
#              LayerNorm's bias with 1 thread 256, with 2 threads 512 (256 per thread)
#       JAX:   sum, cumsum, dot, associative_scan                                                   4096
#              segment_sum, x.at[index].add                                                          256
#   256 + 1 is not a bfloat16, so a sum that is rounded after every addition stops there for good.
# Why it matters: the gradient of an embedding row of a frequent token, of a layer norm, and the combination of experts'
#   tokens are sums by index. In bf16 they are too small by any factor, and the factor depends on how the batch is split: two
#   devices or micro-batches of 2,048 give 512, four 1,024. A split run is then *not* equal to the serial one though both
#   are "right". Such gradients must be accumulated in float32, and no framework's bf16 run is an oracle for them.
#
# Seen 2026-11-28: torch 2.13.0, jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6, Python 3.11, Linux x86-64, CPU.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6

cat > by_torch.py <<'PY'
import torch
import torch.nn.functional as F

N, bf16 = 4096, torch.bfloat16
ones, zero, at_zero = torch.ones(N, dtype=bf16), torch.zeros(1, dtype=bf16), torch.zeros(N, dtype=torch.long)


def gradient(weight, output):
    """First element of the gradient of `weight` when every element of output(weight) has gradient 1."""
    weight = weight.detach().requires_grad_()
    result = output(weight)
    result.backward(torch.ones_like(result))
    return int(weight.grad.flatten()[0])


def layer_norm(threads):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x, scale = torch.randn(N, 4, dtype=bf16), torch.ones(4, dtype=bf16)
    return gradient(torch.zeros(4, dtype=bf16), lambda bias: F.layer_norm(x, (4,), scale, bias))


table = torch.zeros(2, 4, dtype=bf16)
seen = {
    "sum": int(ones.sum()),
    "matmul": int(ones @ ones),
    "cumsum": int(ones.cumsum(0)[-1]),
    "scatter_add": int(zero.scatter_add(0, at_zero, ones)),
    "bias": gradient(table[0], lambda bias: torch.zeros(N, 4, dtype=bf16) + bias),
    "rms_norm": gradient(torch.ones(4, dtype=bf16), lambda scale: F.rms_norm(torch.ones(N, 4, dtype=bf16), (4,), scale, 1e-6)),
    "index_add of rows": int(table.index_add(0, at_zero, torch.ones(N, 4, dtype=bf16))[0, 0]),
    "index_add": int(zero.index_add(0, at_zero, ones)),
    "index_put": int(zero.index_put((at_zero,), ones, accumulate=True)),
    "embedding": gradient(table, lambda weight: F.embedding(at_zero, weight)),
    "embedding_bag": gradient(table, lambda weight: F.embedding_bag(at_zero[None], weight, mode="sum")),
    "x[index]": gradient(table, lambda weight: weight[at_zero]),
}
norms = {threads: layer_norm(threads) for threads in (1, 2)}
print("torch", seen, "| layer norm's bias by threads", norms)
right = {"sum", "matmul", "cumsum", "scatter_add", "bias", "rms_norm", "index_add of rows"}
assert all(value == (N if name in right else 256) for name, value in seen.items()), "torch adds bf16 otherwise now"
assert norms == {1: 256, 2: 512}, "layer norm's gradient is added otherwise now"
halves = sum(gradient(table, lambda weight: F.embedding(half, weight)) for half in at_zero.chunk(2))
print("torch: embedding's gradient from two halves of the batch", halves)
assert halves == 512
PY
cat > by_jax.py <<'PY'
import jax
import jax.numpy as jnp

N = 4096
ones, at_zero = jnp.ones(N, jnp.bfloat16), jnp.zeros(N, int)
seen = {
    "sum": int(jnp.sum(ones)),
    "cumsum": int(jnp.cumsum(ones)[-1]),
    "dot": int(jnp.dot(ones, ones)),
    "segment_sum": int(jax.ops.segment_sum(ones, at_zero, 1)[0]),
    "at.add": int(jnp.zeros(1, jnp.bfloat16).at[at_zero].add(ones)[0]),
    "take, gradient": int(jax.grad(lambda table: jnp.take(table, at_zero).sum())(jnp.zeros(2, jnp.bfloat16))[0]),
}
print("jax", seen)
assert all(value == (N if name in ("sum", "cumsum", "dot") else 256) for name, value in seen.items()), "JAX adds bf16 otherwise now"
PY
venv/bin/python -W ignore by_torch.py
venv/bin/python by_jax.py
echo "unchanged: bf16 sums by index stall at 256"
