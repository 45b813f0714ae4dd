#!/usr/bin/env bash
# Adam on bf16 weights: in Keras no weight ever moves, in optax.inject_hyperparams all become NaN unless a neighbour is float32.
#
# Expected: weights in bf16 cost some digits. The constants of the optimizer are Python floats; beta_2 = 0.999 is 0.999.
# Happens: both cast beta_2 to the type of a weight, and the largest bf16 below 1 is 0.99609: every beta from 0.99805 on
#   is 1, and Adam's bias correction 1 - beta_2^t is 0. A weight of 1, gradient 1, learning rate 0.1, after 4 steps:
#                               float32   bfloat16
#       optax.adam              0.6000    0.6016
#       Keras Adam, Lamb        0.6000    1         (Lamb 0.6561 in float32); the step is multiplied by sqrt(0)
#       Keras AdamW             0.5986    1         only the decay of weights is left of it
#       Keras Nadam             0.6751    NaN
#       inject_hyperparams      0.6000    NaN       optax.inject_hyperparams(optax.adam)(learning_rate=0.1): 0 / 0
#   A Keras model under set_dtype_policy("bfloat16") trained for 200 steps has the same bits as before, and no warning.
#   (mixed_bfloat16 keeps its weights in float32 and is right, so are RMSprop, Adamax and SGD.)
#   optax takes the most precise type of the whole tree. One float32 scale beside the bf16 matrices saves them all; the same
#   tree under optax.partition, where scales have a rule of their own, gives NaN for the matrices.
# Why it matters: a loss that does not fall looks like a wrong learning rate or a gradient that was lost between devices.
#   Wrapping an optimizer to read its learning rate, a rule of its own for the norms, or a pipeline stage without a float32
#   leaf makes the difference. Betas and their powers must be taken in float64, whatever the type of the weights is.
#
# Seen 2026-11-30: keras 3.15.1, jax 0.10.2, optax 0.2.8, ml_dtypes 0.6.0, Python 3.11, Linux x86-64, CPU.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check \
    keras==3.15.1 jax==0.10.2 jaxlib==0.10.2 optax==0.2.8 ml_dtypes==0.6.0 numpy==2.4.6

cat > steps.py <<'PY'
import math
import os

os.environ.update(KERAS_BACKEND="jax", KERAS_HOME=os.getcwd(), JAX_PLATFORMS="cpu")
import jax.numpy as jnp
import keras
import numpy as np
import optax


def by_keras(kind, dtype):
    weight = keras.Variable(np.ones(2), dtype=dtype)
    optimizer = getattr(keras.optimizers, kind)(0.1)
    for _ in range(4):
        optimizer.apply([keras.ops.ones(2, dtype=dtype)], [weight])
    return float(weight.value[0])


def by_optax(optimizer, dtypes):
    weights = {name: jnp.ones(2, dtype) for name, dtype in dtypes.items()}
    state = optimizer.init(weights)
    for _ in range(4):
        gradients = {name: jnp.ones(2, dtype) for name, dtype in dtypes.items()}
        updates, state = optimizer.update(gradients, state, weights)
        weights = optax.apply_updates(weights, updates)
    return {name: float(weight[0]) for name, weight in weights.items()}


def trained(policy):
    """Fit y = 3 x and return the loss before and after, and whether any bit of the weights has changed."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.Adam(0.05), loss="mse", jit_compile=False)
    x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    before = [np.asarray(weight) for weight in model.get_weights()]
    losses = model.fit(x, 3 * x, batch_size=32, epochs=200, shuffle=False, verbose=0).history["loss"]
    return losses[0], losses[-1], any((a != b).any() for a, b in zip(before, model.get_weights()))


def near(value, wanted):
    return abs(value - wanted) < 0.006 * (1 + abs(wanted))


plain, injected = optax.adam(0.1), optax.inject_hyperparams(optax.adam)(learning_rate=0.1)
keras_steps = {kind: [by_keras(kind, dtype) for dtype in ("float32", "bfloat16")] for kind in ("Adam", "AdamW", "Lamb", "Nadam", "RMSprop")}
for kind, values in keras_steps.items():
    print(f"{'keras ' + kind:20}", *(f"{value:.4f}" for value in values))
optax_steps = {}
for name, optimizer in (("plain", plain), ("injected", injected)):
    optax_steps[name] = [by_optax(optimizer, {"w": dtype})["w"] for dtype in (jnp.float32, jnp.bfloat16)]
    print(f"{'optax ' + name:20}", *(f"{value:.4f}" for value in optax_steps[name]))
tree, rules = {"matrix": jnp.bfloat16, "scale": jnp.float32}, {"matrix": "injected", "scale": "plain"}
whole, split = by_optax(injected, tree), by_optax(optax.partition({"injected": injected, "plain": plain}, rules), tree)
print("one rule:", whole, " scales with their own:", split)
models = {policy: trained(policy) for policy in ("float32", "mixed_bfloat16", "bfloat16")}
for policy, (first, last, moved) in models.items():
    print(f"{policy:15} loss {first:.4f} -> {last:.4f}, weights", "moved" if moved else "have the same bits")

wanted = {"Adam": 0.6, "AdamW": 0.5986, "Lamb": 0.6561, "Nadam": 0.6751, "RMSprop": 0.0917}
assert all(near(keras_steps[kind][0], value) for kind, value in wanted.items()), "even float32 is otherwise"
assert all(near(value, 0.6) for value in optax_steps["plain"]) and near(optax_steps["injected"][0], 0.6)
assert near(keras_steps["RMSprop"][1], 0.0917), "RMSprop in bf16 is otherwise"
assert [keras_steps[kind][1] for kind in ("Adam", "AdamW", "Lamb")] == [1, 1, 1], "Keras's Adam moves bf16 weights now"
assert math.isnan(keras_steps["Nadam"][1]), "Keras's Nadam is finite in bf16 now"
assert math.isnan(optax_steps["injected"][1]), "injected hyperparameters keep their type now"
assert all(near(value, 0.6) for value in whole.values()), "a float32 leaf does not help any more"
assert math.isnan(split["matrix"]) and near(split["scale"], 0.6), "the rule of scales does not matter any more"
assert models["float32"][1] < 0.1 * models["float32"][0] and models["mixed_bfloat16"][1] < 0.1 * models["mixed_bfloat16"][0]
assert not models["bfloat16"][2], "the bf16 model learns now"
PY
venv/bin/python -W ignore steps.py 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: beta_2 = 0.999 is 1 in bf16, so that Keras's Adam stands still and optax's injected one is NaN"
