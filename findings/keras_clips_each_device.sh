#!/usr/bin/env bash
# Keras: under TensorFlow's MirroredStrategy gradients are clipped on each device and then summed, so that n devices clip at n times the norm.
#
# Expected: the same batch gives the same step, however many devices it is spread over. Without clipping it does, and with clipping
#   in Keras's own DataParallel on JAX.
# Happens: a device's loss is its share of the batch's, its gradient one summand of the batch's. Each summand is clipped by itself.
#   64 samples, one step of SGD, gradients far above the limit; the length of the step, divided by the learning rate:
#                                                               1 device    2 devices    4 devices
#       global_clipnorm=1, MirroredStrategy (TensorFlow)           1           1.9          3.6
#       clipvalue=1, the same (largest element)                    1           2            4
#       both, DataParallel (JAX)                                   1           1            1
#   No message, and the loss that is printed is right.
# Why it matters: clipping is what keeps a run alive, and a limit found on one device is none on eight; the direction is another one
#   as well. Clip what has been summed up; and what holds on one backend of a library need not hold on the next.
#
# Seen 2026-11-30: keras 3.15.1, tensorflow-cpu 2.21.0, jax 0.10.2, numpy 2.4.6, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check keras==3.15.1 tensorflow-cpu==2.21.0 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6

cat > probe.py <<'PY'
import os
import sys

BACKEND, MOST = sys.argv[1], 4
os.environ.update(KERAS_BACKEND=BACKEND, TF_CPP_MIN_LOG_LEVEL="3", JAX_PLATFORMS="cpu", XLA_FLAGS=f"--xla_force_host_platform_device_count={MOST}")
import keras
import numpy as np

RATE, BATCH, LIMIT = 0.01, 64, 1.0
random = np.random.default_rng(0)
INPUTS = random.normal(size=(BATCH, 5)).astype("float32")
TARGETS = (INPUTS @ random.normal(size=(5, 3)) * 20).astype("float32")
if BACKEND == "tensorflow":
    import tensorflow as tf

    parts = [tf.config.LogicalDeviceConfiguration()] * MOST
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)


def fitted(**clip):
    """First a model, which has to be made where its strategy is; then what an epoch of one batch takes from it, and its loss."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    model.compile(keras.optimizers.SGD(RATE, **clip), "mse")
    yield model
    first = model.get_weights()
    history = model.fit(INPUTS, TARGETS, batch_size=BATCH, shuffle=False, verbose=0)
    taken = np.concatenate([(old - new).ravel() for old, new in zip(first, model.get_weights())])
    yield taken / RATE, history.history["loss"][-1]


def step(devices, **clip):
    """The step of all weights, divided by the learning rate, and the loss."""
    run = fitted(**clip)
    if BACKEND == "tensorflow":
        names = [f"CPU:{index}" for index in range(devices)]
        # the reduction is named because the one that it would choose wants collectives, which logical CPUs do not have
        with tf.distribute.MirroredStrategy(names, cross_device_ops=tf.distribute.ReductionToOneDevice()).scope():
            next(run)
    else:
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=keras.distribution.list_devices()[:devices]))
        next(run)
    return next(run)


plain, loss = step(1)
lengths, values = [], []
for devices in (1, 2, 4):
    whole, seen = step(devices)
    assert np.allclose(whole, plain, rtol=1e-3, atol=1e-3) and np.isclose(seen, loss)
    clipped = step(devices, global_clipnorm=LIMIT)[0]
    lengths.append(round(float(np.linalg.norm(clipped)), 1))
    values.append(round(float(np.abs(step(devices, clipvalue=LIMIT)[0]).max()), 1))
    print(f"{BACKEND}, {devices} devices: unclipped alike, clipped to a norm of {LIMIT} the step is {lengths[-1]}, to values of {LIMIT} {values[-1]}", flush=True)
want = ([1.0, 1.9, 3.6], [1.0, 2.0, 4.0]) if BACKEND == "tensorflow" else ([1.0] * 3, [1.0] * 3)
assert (lengths, values) == want, "devices clip otherwise now"
PY
for backend in jax tensorflow; do
  OMP_NUM_THREADS=1 venv/bin/python -W ignore probe.py $backend 2> stderr.txt || { cat stderr.txt; exit 1; }
done
echo "unchanged: Keras clips on each device"
