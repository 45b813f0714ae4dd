"""E08xx: what a job costs."""

from __future__ import annotations

from dsl.codes.code import Code

_JOB = """\
device small {{
  compute f32 1 TFLOP/s
  memory 1 GiB, 100 GB/s
}}

cluster pod {{
  device npu = small
  level server = 1 npu over 10 GB/s, 1 us
}}

model m() {{
  dim b = 2, d = 3
  input x : f32[b,d]
  weight w[d] ~ normal(0.1)
  loss mean(x * w)
}}

optimizer plain(lr) {{
  w = w - lr * g
}}

job fit {{
  train m(){on}
  optimizer plain(lr = 0.1)
}}
"""

CODES = (
    Code(
        "E0801",
        "a job without a cluster has no cost",
        "How long a step takes depends on the devices and on what connects them: `train model(…) on pod`, with "
        "`cluster pod { … }`. Everything else (`check`, `run`, `verify`) does without.",
        _JOB.format(on=""),
        _JOB.format(on=" on pod"),
    ),
)
