#!/usr/bin/env bash
# JAX: the policy "dots with no batch dims" keeps no matmul of experts or of stacked pipeline stages: all is recomputed.
#
# Expected: jax.checkpoint with dots_with_no_batch_dims_saveable keeps the results of the large matmuls with weights and
#   recomputes the rest, attention's scores above all, which have batch dimensions (samples, heads). How a model is spread
#   over devices does not change which results are kept.
# Happens: matmuls in the text of the gradients of a two-matmul layer (8: all recomputed, 6: none):
#                                         nothing kept   dots kept   dots without batch dims kept
#       layers in a scan                       8             6                   6
#       vmap over samples                      8             6                   6
#       vmap over pipeline stages              8             6                   8
#       experts by einsum "etd,edf->etf"       8             6                   8
#   A dimension that weights and activations share counts as a batch dimension: that of stages when they are stacked and
#   mapped, that of experts always. Compiled memory is then that of nothing_saveable, to the byte. No message.
# Why it matters: it is the usual policy for transformers, and stacking is how pipelines and experts are written in JAX.
#   Turning the pipeline on, or dense layers into experts, silently turns this policy into full recomputation: a third more
#   matmuls than priced, less memory than planned. A split of weights only among devices (no stacking) leaves it as it was.
#
# Seen 2026-11-30: jax and jaxlib 0.10.2, numpy 2.4.6, Python 3.11, Linux x86-64, CPU.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6

cat > probe.py <<'PY'
import jax
import jax.numpy as jnp

STAGES, LAYERS, TOKENS, WIDTH = 4, 4, 256, 128
KEEP = jax.checkpoint_policies
POLICIES = {
    "nothing": KEEP.nothing_saveable,
    "dots": KEEP.dots_saveable,
    "dots without batch dims": KEEP.dots_with_no_batch_dims_saveable,
}


def layer(w, x):
    """Two matmuls of one token's vector each: no dimension that both sides share but the summed one."""
    return x + jnp.tanh(jnp.tanh(x @ w[0]) @ w[1])


def experts(w, x):
    """The same for a stack of experts, each with its own tokens."""
    hidden = jnp.tanh(jnp.einsum("etd,edf->etf", x, w[0]))
    return x + jnp.tanh(jnp.einsum("etf,efd->etd", hidden, w[1]))


def stack(run, policy):
    kept = jax.checkpoint(run, policy=policy)
    return lambda w, x: jax.lax.scan(lambda x, w: (kept(w, x), None), x, w)[0]


def weights(*leading):
    return jnp.ones((*leading, WIDTH, 4 * WIDTH)), jnp.ones((*leading, 4 * WIDTH, WIDTH))


def measured(model, w, x):
    """Matmuls in the gradient's text, and the MiB of the compiled function's temporaries."""
    gradient = jax.grad(lambda w, x: model(w, x).sum(), argnums=(0, 1))
    matmuls = str(jax.make_jaxpr(gradient)(w, x)).count("dot_general[")
    return matmuls, jax.jit(gradient).lower(w, x).compile().memory_analysis().temp_size_in_bytes / 2**20


x = jnp.ones((TOKENS, WIDTH))
many = jnp.ones((STAGES, TOKENS, WIDTH))
spellings = {
    "layers in a scan": lambda policy: (stack(layer, policy), weights(LAYERS), x),
    "the same, vmap over samples": lambda policy: (jax.vmap(stack(layer, policy), (None, 0)), weights(LAYERS), many),
    "the same, vmap over stages": lambda policy: (jax.vmap(stack(layer, policy)), weights(STAGES, LAYERS), many),
    "experts by einsum": lambda policy: (stack(experts, policy), weights(LAYERS, STAGES), many),
}
seen = {}
for spelling, made in spellings.items():
    for name, policy in POLICIES.items():
        seen[spelling, name] = measured(*made(policy))
    print(f"{spelling}: " + ", ".join(f"{name} kept {seen[spelling, name][0]} matmuls {seen[spelling, name][1]:.1f} MiB" for name in POLICIES))
for spelling in spellings:
    nothing, dots, named = (seen[spelling, name] for name in POLICIES)
    assert nothing[0] == 8 and dots[0] == 6 and nothing[1] < dots[1]
    stacked = spelling in ("the same, vmap over stages", "experts by einsum")
    assert named == (nothing if stacked else dots), f"{spelling}: the policy does otherwise now"
PY
JAX_PLATFORMS=cpu venv/bin/python probe.py
echo "unchanged: stacked weights are recomputed under a policy that keeps matmuls"
