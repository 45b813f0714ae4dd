"""Small jobs to plan: a transformer, dense layers without a loop, tables, images; on clusters whose links decide."""

from __future__ import annotations

from compiler.evaluate import evaluate_file
from compiler.model import Job
from dsl.source import Source

CLUSTER = """
device chip {{
  compute f32 {flops} TFLOP/s
  compute vector f32 {vector} TFLOP/s
  memory {memory} MB, {bandwidth} GB/s
}}

cluster pod {{
  device npu = chip
  level server = {inside} npu over {inner} GB/s, 1 us
  level pod = {outside} server over {outer} GB/s, 5 us
}}
"""

TRANSFORMER = """
use std.layers (attention, cross_entropy, layer_norm, mlp)
use std.optimizers (adamw)

model gpt {{
  dim b = {batch}, s = {seq}, d = {hidden}, v = 64
  input tokens, targets : int32[b,s] in 0..v
  weight wte[v,d] ~ normal(0.02)
  x[b,s,d] = take(wte, tokens, over v)
  repeat {layers} as block {{
    x = x + attention(layer_norm(x), {heads})
    x = x + mlp(layer_norm(x), 4 * {hidden})
  }}
  logits[b,s,v] = layer_norm(x) @ wte
  loss cross_entropy(logits, targets, over v)
}}

job fit {{
  train gpt on pod
  optimizer adamw(lr = 1e-3)
}}
"""

LAYERS = """
use std.optimizers (sgd)

model net {{
  dim b = {batch}, d = {hidden}, f = 4 * {hidden}
  input x : f32[b,d]
  weight w1[d,f], w2[f,d]
  y[b,d] = relu(x @ w1) @ w2
  loss mean((y - x) * (y - x))
}}

job fit {{
  train net on pod
  optimizer sgd(lr = 0.1)
}}
"""

TABLES = """
use std.layers (linear, mse, relu_mlp)
use std.optimizers (rowwise_adagrad)

model recommender {{
  dim b = {batch}, u = 4096, e = {hidden}, one = 1
  input user : int32[b] in 0..u
  input rating : f32[b,one]
  weight table[u,e] ~ normal(0.1)
  score = linear(relu_mlp(take(table, user, over u), 4 * {hidden}), over one)
  loss mse(score, rating)
}}

job fit {{
  train recommender on pod
  optimizer rowwise_adagrad(lr = 0.1)
}}
"""

IMAGES = """
use std.layers (conv, cross_entropy, linear)
use std.optimizers (sgd)

model net {{
  dim b = {batch}, y = {seq}, x = {seq}, c = 3, v = 8
  input image : f32[b,y,x,c]
  input label : int32[b] in 0..v
  z = relu(conv(image, {hidden}))
  pooled = mean(z, over (y, x))
  logits = linear(pooled, over v)
  loss cross_entropy(logits, label, over v)
}}

job fit {{
  train net on pod
  optimizer sgd(lr = 0.1)
}}
"""

MODELS = {"transformer": TRANSFORMER, "layers": LAYERS, "tables": TABLES, "images": IMAGES}

SIZES = {
    "flops": 10,
    "vector": 1,
    "memory": 16000,
    "bandwidth": 400,
    "inside": 2,
    "inner": 100,
    "outside": 2,
    "outer": 10,
    "batch": 8,
    "seq": 16,
    "hidden": 16,
    "layers": 2,
    "heads": 4,
}


def text_of(model: str, **sizes: float) -> str:
    """The file with these sizes."""
    return (MODELS[model] + CLUSTER).format(**{**SIZES, **sizes})


def job_of(model: str, **sizes: float) -> Job:
    """Its job, without a strategy."""
    return evaluate_file(Source("job.par", text_of(model, **sizes))).job
