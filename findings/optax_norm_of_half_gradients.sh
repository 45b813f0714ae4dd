#!/usr/bin/env bash
# optax clips float16 gradients to zero and bfloat16 gradients of a deep model to twice the limit: the norm has their type.
#
# Expected: the global norm is computed in float32, as in torch; clipping to 1 leaves a norm of 1.
# Happens: optax.global_norm squares and adds in the gradients' own type, and adds the tensors one after another.
#       float16, one tensor of 4,096 fives: norm inf (true 320; squares pass 65,504), and clip_by_global_norm makes every
#           gradient 0. Not NaN, no error: training stands still. With 1e-4 instead of five the norm is 0: never clipped.
#       bfloat16, 1,000 tensors of one element 1.0: norm 16 (true 31.6), since 256 + 1 = 256; after clipping to 1 the norm
#           is 1.98. 256 tensors are right. The limit thus grows with the number of tensors in the model.
#   Under jit the same. torch.nn.utils.clip_grad_norm_ gives 320 and 31.6 for both types.
# Why it matters: whether clipping is right depends on how many tensors the weights are divided into: stacked, split or
#   fused ones give other norms, and so does adding partial norms across ranks in bf16. A norm is to be summed in float32
#   (or better) from the first square to the sum over devices, whatever the type of the gradients.
#
# Seen 2026-11-28: optax 0.2.8, jax 0.10.2, jaxlib 0.10.2, torch 2.13.0, numpy 2.4.6, Python 3.11, Linux x86-64, CPU.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 torch==2.13.0 \
    numpy==2.4.6

cat > by_optax.py <<'PY'
import jax
import jax.numpy as jnp
import numpy as np
import optax


def clipped(gradients):
    """Global norm before, and the true norm after clipping to 1."""
    before = float(optax.global_norm(gradients))
    assert before == float(jax.jit(optax.global_norm)(gradients))
    after = optax.clip_by_global_norm(1.0).update(gradients, optax.EmptyState())[0]
    return before, float(np.sqrt(sum((np.asarray(g, np.float64) ** 2).sum() for g in after.values())))


def ones(number, dtype):
    return {f"w{i}": jnp.ones(1, dtype) for i in range(number)}


large, small = {"w": jnp.full(4096, 5, jnp.float16)}, {"w": jnp.full(4096, 1e-4, jnp.float16)}
print("float16, 4,096 fives: norm, norm after clipping", clipped(large), "| of 1e-4:", float(optax.global_norm(small)))
assert clipped(large) == (float("inf"), 0.0) and float(optax.global_norm(small)) == 0.0, "float16 norms are right now"
few, many = clipped(ones(256, jnp.bfloat16)), clipped(ones(1000, jnp.bfloat16))
print("bfloat16, tensors of 1.0: 256 of them", few, "| 1,000 of them", many)
assert few == (16.0, 1.0) and many[0] == 16.0 and 1.9 < many[1] < 2.0, "bfloat16 norms are right now"
exact = clipped(ones(1000, jnp.float32))
assert abs(exact[0] - 1000**0.5) < 1e-4 and abs(exact[1] - 1) < 1e-6
PY
cat > by_torch.py <<'PY'
import torch


def norm(*gradients):
    weights = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for weight, gradient in zip(weights, gradients):
        weight.grad = gradient
    return float(torch.nn.utils.clip_grad_norm_(weights, 1.0))


for dtype in (torch.float16, torch.bfloat16):
    found = norm(torch.full((4096,), 5.0, dtype=dtype)), norm(*(torch.ones(1, dtype=dtype) for _ in range(1000)))
    print("torch", dtype, found)
    assert found[0] == 320 and abs(found[1] - 31.62) < 0.02
PY
venv/bin/python by_optax.py
venv/bin/python -W ignore by_torch.py
echo "unchanged: optax's global norm overflows in float16 and stalls in bfloat16"
