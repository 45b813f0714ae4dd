#!/usr/bin/env bash
# jax.random.categorical on bfloat16 logits prefers low indices: of 1,000 equally likely tokens the first 500 get 98 %.
#
# Expected: bfloat16 logits that are all zero are exact, so every class is drawn equally often, as with float32 logits;
#   and jax.random.normal(dtype=bfloat16) is a float32 normal rounded to bfloat16 (thousands of values).
# Happens: the noise is drawn in the type of the logits. A bfloat16 uniform is made from 7 random bits, so there are 128
#   levels, hence 128 different Gumbel numbers. Among 1,000 classes several always share the largest one, and argmax
#   takes the first of them. Share of the first half of n equal classes, 20,000 draws:
#       n        8      64     256    1000
#       bf16   0.515  0.563  0.737  0.981   (278 of the 1,000 classes never occur)
#       f16    0.500  0.508  0.539  0.618
#       f32    0.495  0.504  0.503  0.494
#   mode="high" mends it (0.511 in bf16 at 1,000). jax.random.normal(bfloat16) has 128 different values in a million
#   draws, lies between -2.89 and +2.52, and its mean is -0.012 (12 standard errors from 0); torch.randn(bfloat16) draws
#   in float32 and rounds (3,600 values). The documentation speaks of a bias for events rarer than 1e-7, in float32.
# Why it matters: sampling from a bf16 head, noisy top-k gating of experts and Gumbel-softmax routers are written just so.
#   The load of experts, and with it the capacity and traffic that a plan is priced for, then depends on the order of the
#   experts. Weights initialised in bf16 (param_dtype) have 128 levels and a shift. Draw noise in float32, cast later.
#
# Seen 2026-11-28: jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6, Python 3.11, Linux x86-64, CPU (the keys fix the numbers).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6

cat > probe.py <<'PY'
import jax
import jax.numpy as jnp
import numpy as np

key = jax.random.key(0)


def first_half(dtype, classes, draws=20_000, **mode):
    """Share of draws from equal logits that fall into the first half of the classes, and classes never drawn."""
    drawn = jax.random.categorical(key, jnp.zeros(classes, dtype), shape=(draws,), **mode)
    counts = np.bincount(np.asarray(drawn), minlength=classes)
    return counts[: classes // 2].sum() / draws, int((counts == 0).sum())


share = {}
for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
    for classes in (8, 64, 256, 1000):
        share[dtype, classes] = first_half(dtype, classes)
        print(f"{dtype.__name__:9} {classes:5} classes: first half {share[dtype, classes][0]:.3f}, never drawn {share[dtype, classes][1]}")
high = first_half(jnp.bfloat16, 1000, mode="high")
print(f"bfloat16   1000 classes, mode=high: first half {high[0]:.3f}, never drawn {high[1]}")
assert share[jnp.bfloat16, 1000][0] > 0.95 and share[jnp.bfloat16, 1000][1] > 200, "bf16 draws are fair now"
assert share[jnp.float16, 1000][0] > 0.58, "f16 draws are fair now"
assert 0.48 < share[jnp.float32, 1000][0] < 0.52 and 0.48 < high[0] < 0.53

normal = np.asarray(jax.random.normal(key, (1_000_000,), jnp.bfloat16)).astype(np.float64)
print(f"normal in bf16: {len(np.unique(normal))} values, {normal.min()} to {normal.max()}, mean {normal.mean():.4f}")
assert len(np.unique(normal)) == 128 and normal.mean() < -0.01 and -normal.min() > normal.max()
PY
venv/bin/python probe.py
echo "unchanged: random numbers drawn in bfloat16 have 128 levels, and ties go to the lowest index"
