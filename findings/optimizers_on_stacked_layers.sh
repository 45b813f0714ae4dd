#!/usr/bin/env bash
# Stacking the layers for a scan changes what four of optax's optimizers compute; for Muon the update is 19 times larger.
#
# Expected: weights of L layers kept as one array [L, d, f] (as nn.scan and every scan over layers want them) train exactly
#   like L arrays [d, f]; the optimizer treats matrices alike.
# Happens, first update of 4 layers of 128 x 256 whose weights grow with the layer (1, 2, 3, 4 times normal numbers);
# ratio of the norm of a layer's update, stacked to separate:
#       adam       1.0    1.0    1.0    1.0     (bitwise equal)
#       lamb       2.73   1.36   0.91   0.69    one trust ratio for all layers
#       lars       2.73   1.37   0.91   0.68    the same
#       adafactor  2.73   1.36   0.91   0.69    one parameter scale and one clipping by RMS for all layers
#       muon      19.1   19.0   19.0   19.0     three dimensions: not orthogonalised, but sent to Nesterov-Adam, same rate
#   Adafactor factors the two *largest* dimensions: of 160 layers of 128 x 130 it factors layers x columns, so the second
#   moments of different layers are mixed (the ratio is 92 for the first layer). Nothing warns.
# Why it matters: whether layers are stacked is a matter of how a program is compiled. A tool that rolls layers into a
#   loop (or fuses q, k, v, or holds flat shards) may do so freely only for element-wise optimizers; norms, factors and
#   orthogonalisation belong to the weight as it was declared, and have to be told which dimension counts layers.
#
# Seen 2026-11-28: optax 0.2.8, jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6, Python 3.11, Linux x86-64, CPU.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6

cat > probe.py <<'PY'
import jax
import jax.numpy as jnp
import optax


def update(optimizer, weight, gradient):
    return optimizer.update({"w": gradient}, optimizer.init({"w": weight}), {"w": weight})[0]["w"]


def ratios(optimizer, layers, rows, columns):
    """Norm of each layer's first update, stacked to separate, and whether all updates are bitwise equal."""
    weight = jax.random.normal(jax.random.key(0), (layers, rows, columns)) * jnp.arange(1, layers + 1)[:, None, None]
    gradient = jax.random.normal(jax.random.key(1), (layers, rows, columns))
    stacked = update(optimizer, weight, gradient)
    separate = jnp.stack([update(optimizer, weight[i], gradient[i]) for i in range(layers)])
    norm = lambda t: jnp.linalg.norm(t.reshape(layers, -1), axis=1)  # noqa: E731
    return [round(float(r), 3) for r in norm(stacked) / norm(separate)], bool((stacked == separate).all())


optimizers = {name: getattr(optax, name)(1e-3) for name in ("adam", "lamb", "lars", "adafactor")}
optimizers["muon"] = optax.contrib.muon(1e-3)
seen = {}
for name, optimizer in optimizers.items():
    seen[name], equal = ratios(optimizer, 4, 128, 256)
    print(f"{name:10}", seen[name], "bitwise equal" if equal else "")
    assert equal == (name == "adam"), f"{name} treats stacked layers otherwise now"
for name in ("lamb", "lars", "adafactor"):
    assert 2.5 < seen[name][0] < 3 and 0.6 < seen[name][3] < 0.8, name
assert all(15 < ratio < 25 for ratio in seen["muon"])

weight, gradient = jax.random.normal(jax.random.key(0), (4, 32, 64)), jax.random.normal(jax.random.key(1), (4, 32, 64))
adam = update(optax.adam(1e-3, nesterov=True), weight, gradient)
assert jnp.allclose(update(optimizers["muon"], weight, gradient), adam), "muon no longer means Adam for stacked layers"

many, _ = ratios(optimizers["adafactor"], 160, 128, 130)
state = optimizers["adafactor"].init({"w": jnp.zeros((160, 128, 130))})
shapes = sorted({leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim == 2})
print("adafactor, 160 layers of 128 x 130: first layers", many[:3], "factors", shapes)
assert shapes == [(128, 130), (160, 128)] and many[0] > 50, "adafactor factors other dimensions now"
PY
venv/bin/python probe.py
echo "unchanged: LAMB, LARS, Adafactor and Muon depend on whether layers are stacked"
