#!/usr/bin/env bash
# Muon in Keras and optax: of Keras's and Flax's attention the biases are orthogonalised and the weights left to Adam.
#
# Expected: Muon is for a network's inner matrices, in a transformer those of attention above all; biases, norms, embeddings and the head
#   have Adam. torch.optim.Muon is handed what it is to do and refuses the rest.
# Happens: Keras and optax choose by the number of dimensions, 2 or not, as they document. But attention in Keras and Flax has heads
#   as a dimension of its own: kernels [width, heads, head] and [heads, head, width] have three, biases [heads, head] two. So
#                              query, key, value    their biases    output    its bias    feed-forward
#       keras.optimizers.Muon     AdamW               MUON           AdamW      AdamW        Muon
#       optax.contrib.muon        Adam                MUON           Adam       Adam         Muon
#       torch.optim.Muon          Muon                ValueError     Muon       ValueError   Muon
#   so that none of attention's matrices, a third of a usual block, is trained by Muon. The biases' steps are made orthogonal between
#   heads, as though heads were inputs. No message; the same attention made of four Dense layers would be Muon's.
# Why it matters: a comparison of optimizers on such a model compares the feed-forward layers. The count of dimensions says nothing about
#   what is a matrix: a stored tensor's dimensions that make up one side of the product have to be named and joined first.
#
# Seen 2026-11-30: keras 3.15.1, optax 0.2.8, flax 0.12.8, jax 0.10.2, torch 2.13.0 (CPU), numpy 2.4.6, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check keras==3.15.1 optax==0.2.8 flax==0.12.8 jax==0.10.2 jaxlib==0.10.2 torch==2.13.0 numpy==2.4.6

cat > probe.py <<'PY'
import os

os.environ.update(KERAS_BACKEND="jax", JAX_PLATFORMS="cpu")
import flax.linen as nn
import jax
import keras
import numpy as np
import optax
import torch

WIDTH, HEADS, HEAD, WIDE, RATE = 32, 4, 8, 64, 0.01
random = np.random.default_rng(0)


def orthogonal(step):
    """Whether a step is of one length in all directions, up to what five iterations of Muon leave; Adam's first is all signs."""
    lengths = np.linalg.svd(step, compute_uv=False)
    return lengths.max() / lengths.min() < 2


def kind(step):
    """Which optimizer made a first step. Adam's has one size for all elements."""
    sizes = np.abs(step)
    if sizes.max() < 1.02 * sizes.min():
        return "Adam"
    assert orthogonal(step)
    return "Muon"


def gradient(shape):
    return (random.normal(size=shape) * np.exp(random.normal(size=shape))).astype("float32")


def of_keras():
    read = keras.Input((7, WIDTH))
    attended = keras.layers.MultiHeadAttention(HEADS, HEAD, name="attention")(read, read)
    model = keras.Model(read, keras.layers.Dense(WIDTH, name="down")(keras.layers.Dense(WIDE, name="up")(attended)))
    weights = model.trainable_variables
    before = [np.array(weight) for weight in weights]
    optimizer = keras.optimizers.Muon(RATE, weight_decay=None, adam_weight_decay=None)
    optimizer.apply([keras.ops.convert_to_tensor(gradient(weight.shape)) for weight in weights], weights)
    return {weight.path: (tuple(weight.shape), kind(np.array(weight) - old)) for weight, old in zip(weights, before)}


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.MultiHeadDotProductAttention(HEADS, name="attention")(x, x)
        return nn.Dense(WIDTH, name="down")(nn.Dense(WIDE, name="up")(x))


def of_optax():
    weights = Block().init(jax.random.key(0), np.ones((1, 7, WIDTH), "float32"))["params"]
    optimizer = optax.contrib.muon(RATE)
    steps, _ = optimizer.update(jax.tree.map(lambda weight: gradient(weight.shape), weights), optimizer.init(weights), weights)
    sizes = {name: float(np.sqrt(np.square(steps["attention"]["query"][name]).mean())) for name in ("kernel", "bias")}
    print(f"optax: a first step of queries' biases is {sizes['bias'] / sizes['kernel']:.2f} of that of their weights")
    assert 0.25 < sizes["bias"] / sizes["kernel"] < 0.4
    return {"/".join(str(key.key) for key in path): (step.shape, kind(step)) for path, step in jax.tree_util.tree_leaves_with_path(steps)}


for library, run in {"keras": of_keras, "optax and flax": of_optax}.items():
    for path, (shape, by) in sorted(run().items()):
        print(f"{library}: {path} {list(shape)} is stepped by {by}", flush=True)
        inner = any(name in path for name in ("query", "key", "value"))
        want = "Muon" if (path.endswith("bias") and inner) or (path.endswith("kernel") and "attention" not in path) else "Adam"
        assert by == want, "Muon is given other tensors now"
model = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, WIDE)
matrices = [name for name, weight in model.named_parameters() if weight.ndim == 2]
torch.optim.Muon([weight for weight in model.parameters() if weight.ndim == 2])
print(f"torch: Muon takes {matrices}")
assert matrices == ["self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"]
try:
    torch.optim.Muon([model.self_attn.in_proj_bias])
except ValueError as error:
    print(f"torch: {error}")
else:
    raise AssertionError("torch's Muon takes biases now")
PY
OMP_NUM_THREADS=1 venv/bin/python -W ignore probe.py 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: Muon takes attention's biases for matrices, and its weights not"
