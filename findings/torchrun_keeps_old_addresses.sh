#!/usr/bin/env bash
# Under torchrun, a process group that is made a second time reads where the others listened the first time.
#
# Expected: init_process_group, destroy_process_group, init_process_group works wherever the first one does: so it is when
#   processes are started by hand (rank 0 keeps the store, and takes it along), and torchrun sets the same variables.
# Happens: torchrun's agent keeps one store for the whole attempt, every default group writes its addresses there under the
#   same keys, and destroy_process_group leaves them. A rank that comes before a slower one finds that one's *old* address.
#   If gloo has it connect (by the order of ports, a toss), it ends in "Connection refused" after the whole time-out
#   (30 minutes if none is given); else, or if the slower one has written already, all is well. Among 12 groups with a lag
#   of 4 s one fails soon. Started by hand with the same lag, all 12 work: rank 0 takes the store along.
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
"""Twelve groups, one after the other; rank 1 comes four seconds late. `own`: a store with a prefix for each."""
import os
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

how, rank = sys.argv[1], int(os.environ["RANK"])
limit = timedelta(seconds=30)
said, groups = "", 0
while groups < 12 and not said:
    time.sleep(4 * rank * bool(groups))
    try:
        if how == "own":
            served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            store = dist.TCPStore(address, port, 2, rank == 0 and not served, limit, multi_tenant=True)
            store = dist.PrefixStore(f"group{groups}", store)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=limit)
        else:
            dist.init_process_group("gloo", timeout=limit)
        dist.all_reduce(torch.ones(1))
        dist.destroy_process_group()
        groups += 1
    except RuntimeError as error:
        said = "refused" if "Connection refused" in str(error) else "failed"
        print(f"{how}: rank {rank} {said} after {groups} groups", file=sys.stderr, flush=True)
if rank == 0:
    print(f"{how}: {said or f'{groups} groups'}", flush=True)
PY

export OMP_NUM_THREADS=1
torchrun() { timeout 600 venv/bin/python -m torch.distributed.run --standalone --nproc-per-node 2 probe.py "$1" 2>> log || true; }
torchrun torchrun | tee seen.txt
grep -h 'rank 0 refused' log || true
torchrun own | tee -a seen.txt
export MASTER_ADDR=127.0.0.1 WORLD_SIZE=2
MASTER_PORT=$(venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export MASTER_PORT
{ RANK=0 timeout 600 venv/bin/python probe.py hand & RANK=1 timeout 600 venv/bin/python probe.py hand; wait; } 2>> log | tee -a seen.txt

printf '%s\n' 'torchrun: refused' 'own: 12 groups' 'hand: 12 groups' > want.txt
if ! diff want.txt seen.txt; then
  echo "the behaviour has changed"
  exit 1
fi
