#!/usr/bin/env bash
# Keras: what RematScope computes again in the backward pass drops other units than the forward pass did, and dropout no longer regularises.
#
# Expected: recomputation costs time and changes nothing: torch's checkpoint puts back the state of the random numbers for that, and
#   Keras builds on it (and on tf.recompute_grad for TensorFlow).
# Happens: Keras draws dropout from a SeedGenerator, which is a variable of its own that each call moves on. Neither torch nor
#   TensorFlow puts it back, so that the second run of a block has masks of its own. Linear regression behind a dropout of 0.5, which
#   amounts to a ridge regression in closed form; how far the learnt weights are away, as a share of their size:
#                                                   from those of dropout    from plain least squares
#       torch, TensorFlow                                   0.03                  1.06, 1.07
#       the same in `with keras.RematScope():`              0.55, 0.57            0.04
#   Losses of the first step are the same to the last digit. Masks of both passes are independent, so that the mean of the
#   gradient is that of a model without dropout: all noise, no penalty. No warning; with a Dropout layer of Keras within the block
#   it is the same on torch. JAX refuses (a tracer that leaks).
# Why it matters: large models are recomputed, small ones are not: the recipe that was tuned with dropout on the small one has none
#   on the large. Only gradients held to those of the same masks show it.
#
# Seen 2026-11-30: keras 3.15.1, torch 2.13.0, tensorflow-cpu 2.21.0, jax 0.10.2, numpy 2.4.6, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check keras==3.15.1 torch==2.13.0 tensorflow-cpu==2.21.0 jax==0.10.2 numpy==2.4.6

cat > probe.py <<'PY'
import contextlib
import sys

import keras
import numpy as np

RATE, FEATURES, SAMPLES, COPIES, STEPS = 0.5, 20, 64, 64, 300
BACKEND = keras.backend.backend()


class Drawn(keras.layers.Layer):
    """Dropout and a linear layer; the random numbers are of Keras's own generator."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(7)

    def build(self, shape):
        self.weights_ = self.add_weight(shape=(shape[-1], 1), initializer="zeros")

    def call(self, x):
        return keras.ops.matmul(keras.random.dropout(x, RATE, seed=self.seeds), self.weights_)


class Layered(keras.layers.Layer):
    """The same with a layer of Keras for the dropout."""

    def __init__(self):
        super().__init__()
        self.drop = keras.layers.Dropout(RATE, seed=7)

    def build(self, shape):
        self.weights_ = self.add_weight(shape=(shape[-1], 1), initializer="zeros")

    def call(self, x):
        return keras.ops.matmul(self.drop(x), self.weights_)


def learnt(kind, remat):
    """The losses of the first two steps and the weights after all of them."""
    entry = keras.Input((FEATURES,))
    with keras.RematScope() if remat else contextlib.nullcontext():
        block = kind()
    model = keras.Model(entry, block(entry))
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse", jit_compile=False)
    losses = [float(model.train_on_batch(rows, targets)) for _ in range(STEPS)]
    return losses[:2], keras.ops.convert_to_numpy(block.weights_)[:, 0]


numbers = np.random.default_rng(0)
x = numbers.standard_normal((SAMPLES, FEATURES))
t = x @ numbers.standard_normal(FEATURES) + numbers.standard_normal(SAMPLES)
rows, targets = (np.tile(one, (COPIES, 1)).astype("float32") for one in (x, t[:, None]))
gram = x.T @ x
plain = np.linalg.solve(gram, x.T @ t)
dropped = np.linalg.solve(gram + RATE / (1 - RATE) * np.diag(np.diag(gram)), x.T @ t)

if BACKEND == "jax":
    try:
        learnt(Drawn, remat=True)
    except Exception as error:
        print(f"jax, RematScope: {type(error).__name__}")
        assert type(error).__name__ == "UnexpectedTracerError"
        sys.exit()
    raise AssertionError("jax recomputes a block with dropout now")
for kind in (Drawn, Layered) if BACKEND == "torch" else (Drawn,):
    firsts = []
    for remat in (False, True):
        losses, weights = learnt(kind, remat)
        firsts.append(losses)
        far = [np.linalg.norm(weights - one) / np.linalg.norm(weights) for one in (dropped, plain)]
        print(f"{BACKEND}, {kind.__name__}, {'RematScope' if remat else 'plain'}: losses {losses}; {far[0]:.3f} from the weights of dropout, {far[1]:.3f} from least squares")
        near, other = reversed(far) if remat else far
        assert near < 0.06 and other > 0.3, "the recomputation has the same masks now"
    assert firsts[0][0] == firsts[1][0]
PY
for backend in torch tensorflow jax; do
  KERAS_HOME="$dir" KERAS_BACKEND=$backend TF_CPP_MIN_LOG_LEVEL=3 OMP_NUM_THREADS=1 venv/bin/python -W ignore probe.py 2> stderr.txt || { cat stderr.txt; exit 1; }
done
echo "unchanged: a recomputed block has another dropout"
