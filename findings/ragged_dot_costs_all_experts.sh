#!/usr/bin/env bash
# jax.lax.ragged_dot, the matmul of a mixture of experts, does the work of all experts for every token where it has no kernel.
#
# Expected: ragged_dot(x, w, sizes) multiplies each token with the matrix of its own expert: 2 m k n operations whatever the number of
#   experts, that is what it is for, and memory for the result.
# Happens: on CPU XLA makes one masked copy of the tokens per expert and multiplies them all. 256 tokens of 64 numbers, as multiples
#   of the 2 m k n operations, and of the bytes of the tokens:
#       experts          1       2       8      32
#       operations     1.0     2.1     8.3    33.0         (with gradients of both inputs 3.0, 6.1, 24, 98)
#       extra memory   1.0     2.5    10.0    40.0         (... 2.0, 6.5, 26, 104)
#   That is all tokens with all experts, in 40 times their memory where a plain loop over the experts has 1.3. The compiler of
#   TPUs counts 1.0 for the same program.
#   Two more: tokens beyond the sum of the sizes are 0, and sizes that add up to more than the tokens are cut; neither is an error.
# Why it matters: a dropless mixture of experts in JAX that is tried out, counted or priced on CPU looks E / k times as dear as
#   it is, and its memory grows with experts x tokens: of a model with 128 experts nothing of that is true of the accelerator. And where
#   an accelerator has no kernel for a type or a layout of ragged_dot, this is what it gets instead, without a word.
#
# Seen 2026-11-30: jax 0.10.2 (CPU), numpy 2.4.6, Python 3.11, Linux x86-64; TPU: libtpu 0.0.51, compiled for v5e.
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

M, K, N = 256, 64, 64


def product(x, w, sizes):
    return jax.lax.ragged_dot(x, w, sizes)


def by_loop(x, w, sizes):
    """The same, one expert after the other: all tokens with each, what is not its own masked."""
    ends = jnp.cumsum(sizes)
    places = jnp.arange(M)[:, None]

    def add(total, one):
        weights, start, end = one
        return total + jnp.where((places >= start) & (places < end), x @ weights, 0), None

    return jax.lax.scan(add, jnp.zeros((M, N)), (w, ends - sizes, ends))[0]


def squares(x, w, sizes):
    return jnp.sum(product(x, w, sizes) ** 2)


def cost(function, experts, products):
    """Operations as multiples of `products` x 2 m k n, and temporary bytes as multiples of those of the tokens."""
    shapes = (M, K), (experts, K, N)
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes] + [jax.ShapeDtypeStruct((experts,), jnp.int32)]
    compiled = jax.jit(function).lower(*arguments).compile()
    return compiled.cost_analysis()["flops"] / (products * 2 * M * K * N), compiled.memory_analysis().temp_size_in_bytes / (4 * M * K)


for experts in (1, 2, 8, 32):
    forward, both, loop = cost(product, experts, 1), cost(jax.grad(squares, argnums=(0, 1)), experts, 1), cost(by_loop, experts, 1)
    print(f"{experts:2} experts: operations {forward[0]:.1f}, with gradients {both[0]:.1f}; memory {forward[1]:.1f}, with gradients {both[1]:.1f}; memory of a loop {loop[1]:.1f}")
    assert experts <= forward[0] < 1.05 * experts and 3 * experts <= both[0] < 3.1 * experts, "each token is multiplied once now"
    assert forward[1] >= experts and both[1] >= 2 * experts, "no copy per expert is made any more"
    assert experts < 8 or loop[1] < forward[1] / 2

# it is right all the same
tokens, weights, sizes = np.random.default_rng(0).normal(size=(M, K)), np.random.default_rng(1).normal(size=(8, K, N)), np.array([40, 0, 100, 16, 50, 20, 30, 0])
want = np.concatenate([one @ w for one, w in zip(np.split(tokens, np.cumsum(sizes)[:-1]), weights)])
for function in (product, by_loop):
    assert np.allclose(jax.jit(function)(jnp.float32(tokens), jnp.float32(weights), jnp.int32(sizes)), want, atol=1e-3)
ones = [jax.lax.ragged_dot(jnp.ones((4, 1)), jnp.ones((2, 1, 1)), jnp.array(s, jnp.int32)).ravel().tolist() for s in ([1, 1], [2, 5])]
print("4 tokens, sizes [1, 1] and [2, 5]:", ones)
assert ones == [[1, 1, 0, 0], [1, 1, 1, 1]]
PY
JAX_PLATFORMS=cpu venv/bin/python -W ignore probe.py 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: without a kernel ragged_dot is dense"
