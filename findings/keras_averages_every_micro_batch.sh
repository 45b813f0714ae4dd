#!/usr/bin/env bash
# Keras: with gradient accumulation the averaged weights, which fit() leaves in the model, forget once per micro-batch.
#
# Expected: a batch of 32, or 4 micro-batches of 8 with gradient_accumulation_steps=4, is the same training; the average of
#   the weights (use_ema=True) is updated when the weights are. The documentation says that the average looks at the
#   accumulated count of steps. Learning rates and Adam's corrections do, and the weights themselves agree.
# Happens: the average is updated after every micro-batch, also when the weights have not moved: its momentum is 0.9^4 = 0.656
#   per step. Weights -1, -2, -3, ... after each step (gradient 1, SGD, rate 1), ema_momentum=0.9, average after 12 steps:
#       micro-batches in a step     1         2         4         8
#       average                    -5.824    -7.730    -9.408   -10.420     (the weight is -12 in all)
#   With ema_overwrite_frequency=4 the weights are set back to their average every 4 steps, so training itself changes: after
#   12 steps they are -3.371, -3.839, -4.578, -5.524.
#   fit() writes the average into the model at its end: two models whose every step is the same end as 0.455 and 0.629.
# Why it matters: the number of micro-batches is chosen by memory, or by a plan of devices. Here it changes the half-life of
#   the average from 6.6 steps to 1.6, and the saved model. To keep it, ema_momentum has to be ema_momentum^(1 / n), and the
#   proof that two layouts train alike has to compare the averages, not only losses and weights.
#
# Seen 2026-11-30: keras 3.15.1, jax 0.10.2, Python 3.11, Linux x86-64, CPU.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check keras==3.15.1 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6

cat > averages.py <<'PY'
import os

os.environ.update(KERAS_BACKEND="jax", KERAS_HOME=os.getcwd(), JAX_PLATFORMS="cpu")
import keras
import numpy as np

STEPS, MOMENTUM, PARTS = 12, 0.9, (1, 2, 4, 8)


def stepped(parts, overwrite):
    """Return the weight and its average after STEPS steps of -1, each of `parts` micro-batches."""
    weight = keras.Variable(np.zeros(1, np.float32))
    optimizer = keras.optimizers.SGD(
        1.0, gradient_accumulation_steps=parts if parts > 1 else None, use_ema=True, ema_momentum=MOMENTUM, ema_overwrite_frequency=overwrite
    )
    optimizer.build([weight])
    (average,) = optimizer._model_variables_moving_average
    for _ in range(STEPS * parts):
        optimizer.apply([keras.ops.ones(1)], [weight])
    return float(weight.value[0]), float(average.value[0])


def formula(parts):
    """Return the average with one update per micro-batch, whose momentum is 0 within the first step."""
    average = 0.0
    for micro in range(STEPS * parts):
        momentum = MOMENTUM if micro >= parts else 0.0
        average = momentum * average - (1 - momentum) * ((micro + 1) // parts)
    return average


def fitted(parts, averaged):
    """Fit y = 3 x with batches of 32 in `parts` micro-batches and return the weight of the model."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    optimizer = keras.optimizers.SGD(0.02, gradient_accumulation_steps=parts if parts > 1 else None, use_ema=averaged, ema_momentum=MOMENTUM)
    model.compile(optimizer=optimizer, loss="mse", jit_compile=False)
    x = np.linspace(-1, 1, 128, dtype=np.float32)[:, None]
    model.fit(x, 3 * x, batch_size=32 // parts, epochs=5, shuffle=False, verbose=0)
    return float(np.asarray(model.get_weights()[0])[0, 0])


kept = {parts: stepped(parts, None) for parts in PARTS}
overwritten = {parts: stepped(parts, 4) for parts in PARTS}
for parts in PARTS:
    print(f"{parts} micro-batches: weight {kept[parts][0]:.3f}, average {kept[parts][1]:.3f}; overwritten every 4: {overwritten[parts][0]:.3f}")
models = {(parts, averaged): fitted(parts, averaged) for parts in (1, 4) for averaged in (False, True)}
for (parts, averaged), weight in models.items():
    print(f"fit, batch 32 = {parts} x {32 // parts}, {'averaged' if averaged else 'plain'}: weight {weight:.5f}")

assert all(kept[parts][0] == -STEPS for parts in PARTS), "the weights themselves differ"
assert all(abs(kept[parts][1] - formula(parts)) < 1e-3 for parts in PARTS), "averages are not updated per micro-batch any more"
assert [round(overwritten[parts][0], 2) for parts in PARTS] == [-3.37, -3.84, -4.58, -5.52], "overwriting is otherwise"
assert abs(models[1, False] - models[4, False]) < 1e-5, "accumulation alone trains otherwise"
assert abs(models[1, True] - models[4, True]) > 0.1, "the models that fit() leaves agree now"
PY
venv/bin/python -W ignore averages.py 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: Keras averages the weights once per micro-batch"
