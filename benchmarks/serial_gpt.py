"""A GPT training step written by hand in plain numpy: the yardstick that the emulator is measured against.

Pre-norm blocks, causal attention, GELU (tanh form), untied head of the embedding's transpose (tied weights), mean
cross-entropy, AdamW. One copy of everything, contiguous matrices, in-place elementwise work, one matrix product where
one will do: what a careful person writes without a framework. Checked against finite differences by `check`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]
Tokens = npt.NDArray[np.int32]
Weights = dict[str, Array]


@dataclass(frozen=True)
class Size:
    """The model's measures."""

    layers: int = 4
    hidden: int = 256
    heads: int = 8
    ffn: int = 1024
    vocab: int = 2048
    seq: int = 128
    batch: int = 16

    @property
    def flops(self) -> float:
        """Of the matrix products of one step: three times those of the forward pass."""
        rows = self.batch * self.seq
        block = 2 * rows * self.hidden * (4 * self.hidden + 2 * self.ffn) + 4 * rows * self.seq * self.hidden
        return 3.0 * (self.layers * block + 2 * rows * self.hidden * self.vocab)


def initial(size: Size, dtype: str = "float32", seed: int = 0) -> Weights:
    """Normal(0.02) matrices; norms begin as the identity."""
    rng = np.random.default_rng(seed)
    d, f, n = size.hidden, size.ffn, size.layers
    shapes = {"wte": (size.vocab, d), "wqkv": (n, d, 3 * d), "wo": (n, d, d), "w1": (n, d, f), "w2": (n, f, d)}
    weights: Weights = {k: (rng.standard_normal(s) * 0.02).astype(dtype) for k, s in shapes.items()}
    for norm, shape in (("n1", (n, d)), ("n2", (n, d)), ("nf", (d,))):
        weights[f"{norm}_scale"] = np.ones(shape, dtype)
        weights[f"{norm}_shift"] = np.zeros(shape, dtype)
    return weights


def batch(size: Size, seed: int = 1) -> tuple[Tokens, Tokens]:
    """Random tokens and targets."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, size.vocab, (2, size.batch * size.seq), dtype=np.int32)
    return tokens[0], tokens[1]


# --- pieces: each forward returns what its backward needs -------------------------------------------------


def _norm(x: Array, scale: Array, shift: Array) -> tuple[Array, Array, Array]:
    """Layer norm over the last dim: the result, the normalised x, 1/deviation."""
    hat = x - x.mean(-1, keepdims=True)
    rdev = 1 / np.sqrt(np.einsum("rd,rd->r", hat, hat)[:, None] / x.shape[-1] + 1e-5)
    hat *= rdev
    y = hat * scale
    y += shift
    return y, hat, rdev


def _norm_back(dy: Array, hat: Array, rdev: Array, scale: Array) -> tuple[Array, Array, Array]:
    dscale, dshift = np.einsum("rd,rd->d", dy, hat), dy.sum(0)
    dx = dy * scale
    n = dx.shape[-1]
    mean, slope = dx.mean(-1, keepdims=True), np.einsum("rd,rd->r", dx, hat)[:, None] / n
    dx -= mean
    dx -= hat * slope
    dx *= rdev
    return dx, dscale, dshift


_C = 0.7978845608028654


def _gelu(x: Array) -> tuple[Array, Array]:
    """GELU and the tanh inside it."""
    t = x * x
    t *= 0.044715 * _C
    t += _C
    t *= x
    np.tanh(t, out=t)
    y = t + 1
    y *= x
    y *= 0.5
    return y, t


def _gelu_back(dy: Array, x: Array, t: Array) -> Array:
    slope = x * x
    slope *= 3 * 0.044715 * _C
    slope += _C
    slope *= x
    slope *= 1 - t * t
    slope += t
    slope += 1
    slope *= 0.5
    slope *= dy
    return slope


def _split_heads(qkv: Array, size: Size) -> Array:
    """[rows, 3*d] -> contiguous [3, b, h, s, k]."""
    shape = (size.batch, size.seq, 3, size.heads, size.hidden // size.heads)
    return np.ascontiguousarray(qkv.reshape(shape).transpose(2, 0, 3, 1, 4))


def _attention(qkv: Array, hidden_future: Array, size: Size) -> tuple[Array, Array, Array]:
    """The merged heads, the split q, k, v, and the probabilities."""
    split = _split_heads(qkv, size)
    q, k, v = split
    p = q @ k.swapaxes(-1, -2)
    p *= (size.hidden // size.heads) ** -0.5
    p += hidden_future
    p -= p.max(-1, keepdims=True)
    np.exp(p, out=p)
    p /= p.sum(-1, keepdims=True)
    merged = (p @ v).transpose(0, 2, 1, 3).reshape(-1, size.hidden)
    return merged, split, p


def _attention_back(dmerged: Array, split: Array, p: Array, size: Size) -> Array:
    q, k, v = split
    shape = (size.batch, size.seq, size.heads, -1)
    do = np.ascontiguousarray(dmerged.reshape(shape).transpose(0, 2, 1, 3))
    dqkv = np.empty_like(split)
    np.matmul(p.swapaxes(-1, -2), do, out=dqkv[2])
    dp = do @ v.swapaxes(-1, -2)
    dp -= np.einsum("bhst,bhst->bhs", dp, p)[..., None]
    dp *= p
    dp *= (size.hidden // size.heads) ** -0.5
    np.matmul(dp, k, out=dqkv[0])
    np.matmul(dp.swapaxes(-1, -2), q, out=dqkv[1])
    return dqkv.transpose(1, 3, 0, 2, 4).reshape(-1, 3 * size.hidden)


# --- the step ---------------------------------------------------------------------------------------------


def gradients(w: Weights, tokens: Tokens, targets: Tokens, size: Size) -> tuple[float, Weights]:
    """The loss and the gradient of each weight."""
    dtype = w["wte"].dtype
    future = np.triu(np.full((size.seq, size.seq), -1e9, dtype), 1)
    g = {k: np.empty_like(v) for k, v in w.items()}
    x = w["wte"][tokens]
    saved = []
    for i in range(size.layers):
        y1, hat1, r1 = _norm(x, w["n1_scale"][i], w["n1_shift"][i])
        merged, split, p = _attention(y1 @ w["wqkv"][i], future, size)
        x = x + merged @ w["wo"][i]
        y2, hat2, r2 = _norm(x, w["n2_scale"][i], w["n2_shift"][i])
        u = y2 @ w["w1"][i]
        a, t = _gelu(u)
        x = x + a @ w["w2"][i]
        saved.append((y1, hat1, r1, merged, split, p, y2, hat2, r2, u, a, t))
    y, hat, r = _norm(x, w["nf_scale"], w["nf_shift"])
    rows = np.arange(tokens.size)
    dlogits = y @ w["wte"].T
    dlogits -= dlogits.max(-1, keepdims=True)
    picked = dlogits[rows, targets]
    np.exp(dlogits, out=dlogits)
    total = dlogits.sum(-1)
    loss = float((np.log(total) - picked).mean(dtype=np.float64))
    dlogits /= total[:, None]
    dlogits[rows, targets] -= 1
    dlogits /= tokens.size
    np.matmul(dlogits.T, y, out=g["wte"])
    dx, g["nf_scale"], g["nf_shift"] = _norm_back(dlogits @ w["wte"], hat, r, w["nf_scale"])
    for i in reversed(range(size.layers)):
        y1, hat1, r1, merged, split, p, y2, hat2, r2, u, a, t = saved.pop()
        np.matmul(a.T, dx, out=g["w2"][i])
        du = _gelu_back(dx @ w["w2"][i].T, u, t)
        np.matmul(y2.T, du, out=g["w1"][i])
        dy, g["n2_scale"][i], g["n2_shift"][i] = _norm_back(du @ w["w1"][i].T, hat2, r2, w["n2_scale"][i])
        dx += dy
        np.matmul(merged.T, dx, out=g["wo"][i])
        dqkv = _attention_back(dx @ w["wo"][i].T, split, p, size)
        np.matmul(y1.T, dqkv, out=g["wqkv"][i])
        dy, g["n1_scale"][i], g["n1_shift"][i] = _norm_back(dqkv @ w["wqkv"][i].T, hat1, r1, w["n1_scale"][i])
        dx += dy
    np.add.at(g["wte"], tokens, dx)
    return loss, g


def adamw(w: Weights, g: Weights, m: Weights, v: Weights, step: int, lr: float = 3e-4, decay: float = 0.01) -> None:
    """Update the weights and both moments in place."""
    b1, b2, eps = 0.9, 0.999, 1e-8
    rate, root = lr / (1 - b1**step), (1 - b2**step) ** -0.5
    for name, weight in w.items():
        gradient, first, second = g[name], m[name], v[name]
        first *= b1
        first += (1 - b1) * gradient
        second *= b2
        gradient *= gradient
        gradient *= 1 - b2
        second += gradient
        scale = np.sqrt(second, out=gradient)
        scale *= root
        scale += eps
        np.divide(first, scale, out=scale)
        scale *= rate
        weight *= 1 - lr * decay
        weight -= scale


def check(size: Size = Size(2, 16, 2, 32, 24, 8, 2), samples: int = 6) -> float:
    """Largest relative error of the gradients against central differences, in float64, over random elements."""
    w = initial(size, "float64")
    tokens, targets = batch(size)
    _, g = gradients(w, tokens, targets, size)
    rng = np.random.default_rng(2)
    worst = 0.0
    for name, weight in w.items():
        flat, gradient = weight.reshape(-1), g[name].reshape(-1)
        scale = float(np.abs(gradient).max())
        for at in rng.integers(0, flat.size, samples):
            value, losses = flat[at], []
            for delta in (1e-5, -1e-5):
                flat[at] = value + delta
                losses.append(gradients(w, tokens, targets, size)[0])
            flat[at] = value
            worst = max(worst, abs((losses[0] - losses[1]) / 2e-5 - gradient[at]) / scale)
    return worst
