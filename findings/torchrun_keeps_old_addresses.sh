#!/usr/bin/env bash
# Under torchrun, a process group that is made a second time reads where the others listened the first time.
#
# Expected: init_process_group, destroy_process_group, init_process_group works wherever the first one does: so it is when
#   processes are started by hand (rank 0 keeps the store, and takes it along), and torchrun sets the same variables.
# Happens: torchrun's agent keeps one store for the whole attempt, and every group of the name default writes its
#   addresses under the same keys, which destroy_process_group leaves there. The second group is a race: a rank that comes
#   before a slower one finds that one's *old* address and ends in "Connection refused" after the whole time-out (30 minutes
#   if none is given); if the slower one has written already, all is well. Started by hand with the same lag, it works.
# Why it matters: tests, notebooks and tools that train several models in one job make groups again. It passes for as long
#   as ranks are even, and fails on the loaded machine. A store of one's own with PrefixStore("second", ...), or not to
#   destroy the group in between, is the way out.
#
# Seen 2026-11-29: torch 2.13.0 (gloo, CPU), numpy 2.4.6, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6

cat > probe.py <<'PY'
"""Two groups, one after the other; in the second, rank 1 comes six seconds late. `own`: a store with a prefix for each."""
import os
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

how, rank = sys.argv[1], int(os.environ["RANK"])
limit = timedelta(seconds=30)
for turn in (1, 2):
    time.sleep(6 * rank * (turn - 1))
    try:
        if how == "own":
            served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            store = dist.TCPStore(address, port, 2, rank == 0 and not served, limit)
            store = dist.PrefixStore(f"turn{turn}", store)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=limit)
        else:
            dist.init_process_group("gloo", timeout=limit)
        total = torch.ones(1)
        dist.all_reduce(total)
        said = f"sum {total.item():.0f}"
        dist.destroy_process_group()
    except RuntimeError as error:
        said = "refused" if "Connection refused" in str(error) else "failed"
    os.write(1, f"{how}: group {turn}, rank {rank}: {said}\n".encode())
    if not said.startswith("sum"):
        break
PY

export OMP_NUM_THREADS=1
torchrun() { timeout 240 venv/bin/python -m torch.distributed.run --standalone --nproc-per-node 2 probe.py "$1" 2> /dev/null || true; }
torchrun torchrun | grep -v 'group 2, rank 1' | sort | tee seen.txt
torchrun own | sort | tee -a seen.txt
export MASTER_ADDR=127.0.0.1 WORLD_SIZE=2
MASTER_PORT=$(venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export MASTER_PORT
{ RANK=0 timeout 240 venv/bin/python probe.py hand & RANK=1 timeout 240 venv/bin/python probe.py hand; wait; } 2> /dev/null | sort | tee -a seen.txt

cat > want.txt <<'TXT'
torchrun: group 1, rank 0: sum 2
torchrun: group 1, rank 1: sum 2
torchrun: group 2, rank 0: refused
own: group 1, rank 0: sum 2
own: group 1, rank 1: sum 2
own: group 2, rank 0: sum 2
own: group 2, rank 1: sum 2
hand: group 1, rank 0: sum 2
hand: group 1, rank 1: sum 2
hand: group 2, rank 0: sum 2
hand: group 2, rank 1: sum 2
TXT
if ! diff want.txt seen.txt; then
  echo "the behaviour has changed"
  exit 1
fi
