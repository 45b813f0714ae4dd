"""A step on a large table of which few rows are taken: its gradient as a list of rows, against one of the table's size.

    python benchmarks/sparse_step.py [--rows 10000000] [--columns 4] [--batch 4096] [--steps 3] [--limit 0.1]

Both programs are of one job: the second is compiled from its serial training graph, in which all gradients are whole.
Ends with 1 if the sparse step takes more than `limit` of the dense one, or if the tables differ afterwards.
"""

from __future__ import annotations

from parc.memory import peaks  # noqa: F401

JOB = """\
use std.optimizers (adagrad)

model look_up(rows, columns, batch) {{
  dim b = batch, u = rows, e = columns
  input user : int32[b] in 0..u
  input wanted : f32[b,e]
  weight table[u,e] ~ zeros
  found[b,e] = take(table, user, over u)
  loss mean((found - wanted) ** 2)
}}

strategy alone for look_up {{
  mesh (dp = 1)
}}

job fit {{
  train look_up({rows}, {columns}, {batch}) using alone
  optimizer adagrad(lr = 0.1)
  precision f32, master f32
}}
"""
