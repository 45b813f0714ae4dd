#!/usr/bin/env bash
# XLA's cost analysis gives 32 scanned layers the FLOPs of one but the bytes of 32; unroll=4 multiplies the FLOPs by four.
#
# Expected: compiled.cost_analysis() of a scan over L layers has L times the FLOPs of one layer: the length is static, and
#   XLA knows it (the loop has a known trip count). If loop bodies were counted once, then FLOPs and bytes alike.
# Happens, gradient of a scan over L layers tanh(x @ w), x 32 x 64, w 64 x 64 (L times 786,432 FLOPs are done):
#       L                 1         2         8          32
#       flops             530,432   794,632   794,632    794,632
#       bytes accessed    81,920    467,270   811,334    2,187,590
#   The body counts once, but the operations around and inside of it that touch the stacked weights [L, 64, 64] count the
#   whole stack. L = 1 is unrolled (and loses the gradient of x, which nobody asked for). Of 8 layers, unroll=2 reports
#   twice and unroll=4 four times the FLOPs; only unroll=8 is right. memory_analysis() grows with L as it should.
# Why it matters: this call is what one checks a price list, an MFU or a roofline against. The ratio of FLOPs to bytes is 0.36
#   at 32 layers and 1.7 at 2, of the same layers; it is neither per layer nor per step. Loops (layers, micro-batches,
#   chunks of an attention) must be multiplied out by whoever asks, or the oracle must be an unrolled program.
#
# Seen 2026-11-28: jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6, Python 3.11, Linux x86-64, CPU.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6

cat > probe.py <<'PY'
import jax
import jax.numpy as jnp

TOKENS, WIDTH = 32, 64
PRODUCT = 2 * TOKENS * WIDTH * WIDTH


def forward(weights, x, unroll=1):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights, unroll=unroll)[0].sum()


def compiled(function, layers):
    return jax.jit(function).lower(jnp.ones((layers, WIDTH, WIDTH)), jnp.ones((TOKENS, WIDTH))).compile()


flops, moved, temporary = {}, {}, {}
for layers in (1, 2, 8, 32):
    program = compiled(jax.grad(forward), layers)
    cost = program.cost_analysis()
    flops[layers], moved[layers] = cost["flops"], cost["bytes accessed"]
    temporary[layers] = program.memory_analysis().temp_size_in_bytes
    print(f"gradient of {layers} layers: flops {flops[layers]:,.0f} of {3 * layers * PRODUCT:,}, "
          f"bytes {moved[layers]:,.0f}, temporary bytes {temporary[layers]:,}")
assert flops[2] == flops[8] == flops[32] < 1.1 * 3 * PRODUCT, "FLOPs of loops are multiplied out now"
assert moved[32] > 4 * moved[2] and temporary[32] > 8 * temporary[2], "bytes of loops are counted otherwise now"

unrolled = {unroll: compiled(lambda w, x: forward(w, x, unroll), 8).cost_analysis()["flops"] for unroll in (1, 2, 4, 8)}
print("forward of 8 layers by unroll:", {u: f"{f:,.0f}" for u, f in unrolled.items()}, f"true {8 * PRODUCT:,}")
for unroll, found in unrolled.items():
    assert abs(found / (unroll * PRODUCT) - 1) < 0.02, "unrolling no longer multiplies the count"
PY
venv/bin/python probe.py
echo "unchanged: XLA counts the FLOPs of a loop's body once, and the bytes of the whole stack"
