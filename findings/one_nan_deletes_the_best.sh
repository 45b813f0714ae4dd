#!/usr/bin/env bash
# Orbax keeps the n best checkpoints: one loss of NaN makes it delete the best. Ignite keeps a first NaN and never replaces it.
#
# Expected: NaN is no good loss. A checkpoint with such a metric is the worst of all, or is refused; the best ones stay.
# Happens: Orbax sorts checkpoints by the metric and keeps the last n, Ignite compares a new one with the worst that it has.
#   NaN compares as false with everything, so that a sorted list with a NaN in it is no longer sorted. Losses 3, 2, 1, NaN,
#   5, 4 of steps 0 to 5, two to keep, smaller is better:
#       Orbax      step 3 is "best" as soon as it is saved; with step 4 the checkpoint of step 2, whose loss is 1, is deleted;
#                  left are steps 4 and 5 with losses 5 and 4. With NaN to the end (a run that has diverged) two NaN are left.
#       Ignite     keeps the right ones here; but of NaN, 3, 2, 1 it keeps the NaN of the beginning and 3, then nothing any more.
#   In Orbax `best_mode="max"` has the same fault the other way round. No warning, no error.
# Why it matters: keeping the best few is how one gets back to before a run diverged, and the run that diverges is the one
#   in which this deletes them all. Lightning 2.6 takes NaN for infinitely bad. Give Orbax a `best_fn` that does so.
#
# Seen 2026-11-30: orbax-checkpoint 0.12.8, jax 0.10.2, pytorch-ignite 0.5.5, torch 2.13.0 (CPU), Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 \
    torch==2.13.0 pytorch-ignite==0.5.5

cat > probe.py <<'PY'
import logging
import os
import tempfile
from math import nan

logging.disable(logging.CRITICAL)
import numpy as np
import orbax.checkpoint as ocp
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver

KEPT = 2


def orbax(losses, mode="min"):
    """The losses of the checkpoints that are there after each save, the one that is called the best first."""
    options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, best_fn=lambda metrics: metrics["loss"], best_mode=mode)
    there = []
    with ocp.CheckpointManager(tempfile.mkdtemp(dir=os.getcwd()), options=options) as manager:
        for step, loss in enumerate(losses):
            manager.save(step, args=ocp.args.StandardSave({"w": np.ones(2)}), metrics={"loss": loss})
            manager.wait_until_finished()
            best = manager.best_step()
            there.append([losses[best]] + [losses[one] for one in manager.all_steps() if one != best])
    return there


def ignite(losses):
    """The losses of the checkpoints that are there in the end."""
    folder = tempfile.mkdtemp(dir=os.getcwd())
    engine = Engine(lambda engine, batch: None)
    keeper = Checkpoint(
        {"model": torch.nn.Linear(1, 1)}, DiskSaver(folder), n_saved=KEPT, filename_pattern="{global_step}",
        score_function=lambda engine: -losses[engine.state.epoch - 1], global_step_transform=lambda engine, _: engine.state.epoch,
    )
    engine.add_event_handler(Events.EPOCH_COMPLETED, keeper)
    engine.run([0], max_epochs=len(losses))
    return [losses[int(name) - 1] for name in sorted(os.listdir(folder))]


def same(found, want):
    return [[str(float(x)) for x in row] for row in found] == [[str(float(x)) for x in row] for row in want]


one, end, first = [3, 2, 1, nan, 5, 4], [3, 2, 1, nan, nan], [nan, 3, 2, 1]
after = orbax(one)
for step, row in enumerate(after):
    print(f"Orbax, step {step} with loss {one[step]} saved: best {row[0]}, also there {row[1:]}")
assert same(after, [[3], [2, 3], [1, 2], [nan, 1], [5, nan], [4, 5]]), "Orbax treats NaN otherwise now"
diverged, upward = orbax(end)[-1], orbax([1, 2, 3, nan, 0.5, 0.25], "max")[-1]
print("Orbax, NaN to the end:", diverged, " upward, 1 2 3 NaN 0.5 0.25:", upward)
assert same([diverged], [[nan, nan]]) and same([upward], [[0.5, 0.25]]), "Orbax treats NaN otherwise now"
assert orbax([3, 2, 1, 5, 4])[-1] == [1, 2]
print("Ignite:", one, "->", ignite(one), " ", first, "->", ignite(first))
assert ignite(one) == [2, 1] and same([ignite(first)], [[nan, 3]]), "Ignite treats NaN otherwise now"
PY
JAX_PLATFORMS=cpu venv/bin/python -W ignore probe.py 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: a loss of NaN makes Orbax delete the best checkpoints"
