#!/usr/bin/env bash
# XLA on CPU takes jax.checkpoint back where layers are not in a loop, and its peak memory leaves all temporaries out.
#
# Expected: jax.checkpoint trades memory for a second forward on every backend; the compiled function's memory_analysis()
#   and cost_analysis() show the trade, so that plans can be compared on a CPU (with as many virtual devices as wanted).
# Happens: eight layers, gradients:
#                                         temporaries   matmuls lowered / compiled
#       lax.scan, all kept                   50 MiB         6 /  6
#       lax.scan, jax.checkpoint             10 MiB         8 /  8
#       Python loop, all kept                25 MiB        47 / 47
#       Python loop, jax.checkpoint          25 MiB        61 / 47
#   The barriers that keep the second forward apart are in the lowered text; XLA's CPU compiler drops them and merges both
#   forwards again. Policies make no difference any more. And peak_memory_in_bytes is 8.5 MiB in all rows: arguments and
#   results, without the 10 to 50 MiB between them.
# Why it matters: whoever compares recomputation policies by the analyses of a CPU build finds that they save nothing (a
#   Python loop) or much (a scan) for the same model, and by the peak that all are alike and fit everywhere. Only a scan
#   tells here, only by temp_size_in_bytes, and there the cost analysis counts one layer of eight.
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

LAYERS, BATCH, WIDTH = 8, 1024, 128


def layer(w, x):
    return x + jnp.tanh(jnp.tanh(x @ w[0]) @ w[1])


def looped(run):
    return lambda w, x: jax.lax.scan(lambda x, w: (run(w, x), None), x, w)[0].sum()


def unrolled(run):
    def model(w, x):
        for i in range(LAYERS):
            x = run(tuple(part[i] for part in w), x)
        return x.sum()

    return model


w = jnp.ones((LAYERS, WIDTH, 4 * WIDTH)), jnp.ones((LAYERS, 4 * WIDTH, WIDTH))
x = jnp.ones((BATCH, WIDTH))
POLICIES = {
    "all kept": layer,
    "checkpoint": jax.checkpoint(layer),
    "checkpoint, dots kept": jax.checkpoint(layer, policy=jax.checkpoint_policies.dots_saveable),
}
seen = {}
for spelling in (looped, unrolled):
    for name, run in POLICIES.items():
        lowered = jax.jit(jax.grad(spelling(run))).lower(w, x)
        compiled = lowered.compile()
        temporary = compiled.memory_analysis().temp_size_in_bytes / 2**20
        dots = lowered.as_text().count("stablehlo.dot_general"), compiled.as_text().count(" dot(")
        flops = compiled.cost_analysis()["flops"] / 1e9
        seen[spelling, name] = temporary, dots, flops
        print(f"{spelling.__name__}, {name}: {temporary:.1f} MiB, {flops:.2f} GFLOP, matmuls lowered {dots[0]}, compiled {dots[1]}")

loop = [seen[looped, name] for name in POLICIES]
assert loop[1][0] < 0.5 * loop[0][0] and loop[1][0] < loop[2][0] < loop[0][0], "a loop's recomputation saves nothing now"
assert all(lowered == compiled for _, (lowered, compiled), _ in loop)
line = [seen[unrolled, name] for name in POLICIES]
assert line[1][1][0] > line[0][1][0], "the recomputation is not even lowered now"
assert line[1][1][1] == line[0][1][1] and abs(line[1][2] / line[0][2] - 1) < 0.001, "the recomputation is compiled now"
assert line[1][0] > 0.9 * line[0][0], "recomputation saves memory now"

stats = jax.jit(jax.grad(looped(layer))).lower(w, x).compile().memory_analysis()
outside = stats.argument_size_in_bytes + stats.output_size_in_bytes
print(f"peak_memory_in_bytes {stats.peak_memory_in_bytes / 2**20:.1f} MiB, of arguments and results {outside / 2**20:.1f} MiB")
assert stats.peak_memory_in_bytes < outside + 1024 < stats.temp_size_in_bytes, "the peak includes temporaries now"
PY
JAX_PLATFORMS=cpu venv/bin/python probe.py
echo "unchanged: XLA on CPU undoes recomputation outside of loops"
