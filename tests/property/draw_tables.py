"""Tables of which a case takes rows, and optimizers that leave the others alone: gradients that are lists of rows."""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random

from tests.property.case import Case, Piece

OPTIMIZERS = (
    "adagrad(lr = 0.01, eps = 1e-4)",
    "rowwise_adagrad(lr = 0.01, eps = 1e-4)",
    "lazy_adam(lr = 0.01, eps = 1e-4)",
    "sgd(lr = 0.002)",
)


def with_table(rng: Random, case: Case, sizes: dict[str, int]) -> Case:
    """The case with a table in front of its loop, now and then. sizes: of the running tensor's dims."""
    if rng.random() > 0.2 or "b" not in sizes:
        return case
    last = list(sizes)[-1]
    rows = rng.choice([16, 40, 48, 200])
    lines = [f"dim look = {rows}", "input who : int32[b] in 0..look", f"weight looked[look,{last}] ~ normal(0.5)"]
    lines.append("x = x + take(looked, who, over look)")
    kind = "looked_up"
    if rng.random() < 0.4:
        kind += "+looked_up_twice"
        lines[1] = "input who, whom : int32[b] in 0..look"
        lines.append("x = x + 0.5 * tanh(take(looked, whom, over look))")
    rules = case.rules
    places = " ".join(line for r in rules for line in r.lines if re.match(r"pipeline|place", line))
    axes = [a for a, size in case.mesh if size > 1 and not re.search(rf"\b{a}\b", places) and rows % size == 0]
    if axes and rng.random() < 0.5:
        axis = rng.choice(axes)
        rules = (*rules, Piece("rows_of_table", (f"layout looked[look/{axis}, {last}]",)))
    optimizer = case.optimizer if rng.random() < 0.3 else rng.choice(OPTIMIZERS)
    if optimizer is not case.optimizer and rng.random() < 0.3:
        optimizer = f"{optimizer[:-1]}, clip = 0.1)"
    apart = Random(f"rows {case.seed}")
    if apart.random() < 0.4:
        memory = apart.choice(["host", "nvme"])
        there = ["run take on host in looked"] if memory == "host" and apart.random() < 0.4 else []
        sparse = optimizer is not case.optimizer and "zero_3" not in case.kinds  # which gathers the table
        kept = f" cache {apart.choice([32, 64])}" if sparse and not there and apart.random() < 0.5 else ""
        rules = (Piece("rows", (f"offload rows to {memory} in looked{kept}", *there)), *rules)
    return replace(case, before=(Piece(kind, tuple(lines)), *case.before), rules=rules, optimizer=optimizer)
