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

_SERVED = (
    "device small {{\n  compute f32 1 TFLOP/s\n  memory 1 GiB, 100 GB/s\n}}\ncluster pod {{\n  device npu = small\n"
    "  level server = 2 npu over 10 GB/s, 1 us\n}}\nmodel m {{\n  dim b = 2, d = 3\n  input x : f32[b,d]\n"
    "  weight w[d] ~ normal(0.1)\n  y[b,d] = x * w\n  output y\n}}\n"
    "strategy open for m {{\n  mesh (dp = auto)\n  split b on dp\n}}\njob serve {{\n  infer m on pod{}\n}}\n"
)

CODES = (
    Code(
        "E0801",
        "a job without a cluster has no cost",
        "How long a step takes depends on the devices and on what connects them: `train model(…) on pod`, with "
        "`cluster pod { … }`. Everything else (`check`, `run`, `verify`) does without.",
        _JOB.format(on=""),
        _JOB.format(on=" on pod"),
    ),
    Code(
        "E0802",
        "no strategies are searched for this job",
        "`parc plan` searches strategies of jobs that train: its lower bounds, by which most are left out, are of "
        "steps that train, with weights that rest as they are computed with. For a job that infers or decodes, or a "
        "strategy that stores weights in fewer bits, leave numbers of its own strategy open: `auto` in the place of an "
        "axis's size, micro-batches or a parameter. They are found by price alone; of a job that decodes the time of "
        "a decode step counts.",
        _SERVED.format(""),
        _SERVED.format(" using open"),
    ),
    Code(
        "E0803",
        "this cannot be left out of a search",
        "`parc plan --without LIST` leaves out of the space what no strategy is to have: axes (`cp`), schedules\n"
        "(`zero_bubble`), stages of ZeRO (`zero=3`), what is computed again, sizes (`tp>8`). The message lists all\n"
        "names. The batch is shared by what other axes leave of the devices, so that `dp` stays (`dp>1` leaves no\n"
        "replicas); of ZeRO 0 to 3 one has to be left; and of numbers that a file leaves open (`auto`) nothing is\n"
        "left out, for its strategy says which there are.",
        "# --without zerobubble\n" + _JOB.format(on=" on pod"),
        "# --without zero_bubble\n" + _JOB.format(on=" on pod"),
    ),
)
