#!/usr/bin/env bash
# torch: asking a fresh optimizer for its state dict, as for a checkpoint at step 0, changes the training that follows.
#
# Expected: torch.distributed.checkpoint.state_dict.get_state_dict (and get_optimizer_state_dict) reads. A run that saves
#   before its first step, or asks for a state dict as the place to load into and finds nothing to load, trains like any other.
# Happens: an optimizer without state is made to have some by a step with a learning rate and gradients of 0, and what that
#   step leaves in the state stays: its count of steps, its momentum, its own learning rate. The first step afterwards,
#   as a multiple of the step of a run in which nobody looked (linear layer, one process, plain tensors):
#       Adam, AdamW 0.744      Adamax 0.526      SGD with dampening 0.5: 0.5      Rprop 0.0001      ASGD 0
#       NAdam 0.989            Adafactor, Adagrad, RMSprop, SGD with momentum: 1
#   ASGD keeps that learning rate of 0 in its state for its next step; Adam is 26 % short at first because its correction of
#   the bias is a step ahead (0.1 % of the way after 100 steps). No warning. An optimizer that has stepped once, or a model with
#   a gradient, is left alone.
# Why it matters: a run that starts anew and one that starts from its own checkpoint of step 0 part in the first update, by
#   much more than any rounding. Comparisons of a framework with a reference from the first step on see it only
#   if just one of both asks. State that is missing must be made as what it is before the first step, not by a step.
#
# Seen 2026-11-30: torch 2.13.0 (CPU), numpy 2.4.6, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6

cat > probe.py <<'PY'
import functools

import torch
from torch import optim
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

KINDS = {
    "Adam": functools.partial(optim.Adam, lr=1e-3),
    "AdamW": functools.partial(optim.AdamW, lr=1e-3),
    "Adamax": optim.Adamax,
    "NAdam": optim.NAdam,
    "SGD, momentum": functools.partial(optim.SGD, lr=0.1, momentum=0.9),
    "SGD, dampening": functools.partial(optim.SGD, lr=0.1, momentum=0.9, dampening=0.5),
    "Rprop": optim.Rprop,
    "ASGD": optim.ASGD,
    "Adagrad": optim.Adagrad,
    "RMSprop": optim.RMSprop,
    "Adafactor": optim.Adafactor,
}


def way(make, looked, steps):
    """How far the weights have come after so many steps, if somebody has asked for the optimizer's state before them."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 4)
    optimizer = make(model.parameters())
    start = model.weight.detach().clone()
    rate = optimizer.param_groups[0]["lr"]
    if looked:
        get_optimizer_state_dict(model, optimizer)
        assert torch.equal(model.weight, start) and optimizer.param_groups[0]["lr"] == rate and model.weight.grad is None
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).pow(2).sum().backward()
        optimizer.step()
    return (model.weight - start).norm().item()


first = {name: round(way(make, True, 1) / way(make, False, 1), 4) for name, make in KINDS.items()}
later = {name: round(way(make, True, 100) / way(make, False, 100), 4) for name, make in KINDS.items()}
for name in KINDS:
    print(f"{name:15} the way after a look, as a multiple of that without: {first[name]} after 1 step, {later[name]} after 100")
assert 0.743 < first["Adam"] < 0.745 and 0.743 < first["AdamW"] < 0.745 and 0.526 < first["Adamax"] < 0.527, "looking no longer counts as a step"
assert first["SGD, dampening"] == 0.5 and first["Rprop"] == 0.0001 and 0.98 < first["NAdam"] < 0.99
assert first["ASGD"] == 0 and 0.9985 < later["Adam"] < 0.9995
assert all(first[name] == 1 for name in ("SGD, momentum", "Adagrad", "RMSprop", "Adafactor"))
PY
venv/bin/python -W ignore probe.py 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: asking for the state of a fresh optimizer is a step of its own"
