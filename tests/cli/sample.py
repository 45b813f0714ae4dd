"""A file with two strategies, for tests of the command."""

from __future__ import annotations

FILE = """\
param width = 8
param degree = 2 in {1, 2, 4, 8}

optimizer sgd(lr) {
  w = w - lr * g
}

model mlp(width) {
  dim b = 8, d = width, f = 4 * width
  input x : f32[b,d]
  weight w1[d,f], w2[f,d]
  y[b,d] = relu(x @ w1) @ w2
  loss mean((y - x) * (y - x))
}

strategy data for mlp {
  mesh (dp = degree)
  split b on dp
}

strategy both for mlp {
  mesh (dp = 2, tp = 2)
  split b on dp
  split f on tp
}

job fit {
  train mlp(width) using data
  optimizer sgd(lr = 0.1)
}
"""
