#!/usr/bin/env bash
# NVIDIA's own NCCL times: a reduce-scatter and an all-gather take longer than the all-reduce that they make up, and int8 is no f16.
#
# Expected: an all-reduce is a reduce-scatter and an all-gather and takes as long as both; that is why sequence parallelism, and
#   ZeRO-1 and -2, are said to cost no time of communication. And messages of as many bytes take as long, whatever is in them.
# Happens: in the tables of measured times that come with NVIDIA's planner (2 to 8 GPUs of a node, f16 and int8, 32 KiB to 512 MiB)
#   both halves take 1.05 to 2.6 times as long as the whole in 415 of 420 cases:
#       f16, bytes          64 KiB    16 MiB    256 MiB
#       8 A100                1.40      1.19       1.08
#       2 H100                1.74      1.33       1.29
#       8 H100                1.33      1.14       1.33
#       8 H200                1.31      1.12       1.37
#   Small messages pay for two starts. An all-reduce of 8 H100 has 445 GB/s of a link's 450, its halves 336: the switch adds up.
#   It does so for f16, for 8 GPUs and for large messages only: an all-reduce of 256 MiB of int8 takes 1.26 (8 H100) and 1.29 times (8 H200)
#   as long as that of 256 MiB of f16; on 2 and 4 of them, and on 8 A100, 1.02 to 1.03.
# Why it matters: whoever prices a collective by its bytes over a bandwidth takes sequence parallelism for free, where it is a
#   tenth to three quarters dearer, and takes all-reduces of 8 bits for twice as fast as those of 16, where they are 1.6 times.
#
# Seen 2026-11-30: aiconfigurator-core 0.12.0 (NCCL 2.27.3 of A100, 2.29.2 of the others), pandas 3.1.1, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check pandas==3.1.1 pyarrow==26.0.1 numpy==2.4.6
venv/bin/pip install --quiet --no-compile --disable-pip-version-check --no-deps aiconfigurator-core==0.12.0

cat > probe.py <<'PY'
import importlib.util
import pathlib

import pandas as pd

DATA = pathlib.Path(importlib.util.find_spec("aiconfigurator_core").submodule_search_locations[0]) / "systems" / "data"
TABLES = {"A100": ("a100_sxm", "2.27.3"), "H100": ("h100_sxm", "2.29.2"), "H200": ("h200_sxm", "2.29.2"), "B200": ("b200_sxm", "2.29.2"), "GB200": ("gb200", "2.29.2")}
WIDTH = {"half": 2, "int8": 1}
KIB, MIB = 2**10, 2**20


def times(name):
    """Milliseconds of each collective, by (dtype, number of GPUs, bytes): sizes in the tables are elements."""
    folder, version = TABLES[name]
    rows = pd.read_parquet(DATA / folder / "comm" / "nccl" / version / "nccl_perf.parquet")
    rows["bytes"] = rows.message_size * rows.nccl_dtype.map(WIDTH)
    rows = rows[rows.bytes.between(32 * KIB, 512 * MIB)].drop_duplicates(["nccl_dtype", "num_gpus", "bytes", "op_name"])
    return rows.pivot(index=["nccl_dtype", "num_gpus", "bytes"], columns="op_name", values="latency")


cases, seen, narrow = [], {}, {}
for name in TABLES:
    table = times(name)
    ratio = (table.reduce_scatter + table.all_gather) / table.all_reduce
    cases += list(ratio)
    # sizes of all-gathers and reduce-scatters are those of the whole: were they of a part, links would carry 8 times what they can
    for gpus in sorted({key[1] for key in ratio.index}):
        row = [round(float(ratio["half", gpus, size]), 2) for size in (64 * KIB, 16 * MIB, 256 * MIB)]
        seen[name, gpus] = row
        narrow[name, gpus] = round(float(table.all_reduce["int8", gpus, 256 * MIB] / table.all_reduce["half", gpus, 256 * MIB]), 2)
        print(f"{gpus} {name:5}: reduce-scatter and all-gather of f16 take {row} times an all-reduce of 64 KiB, 16 MiB, 256 MiB; int8 {narrow[name, gpus]} times f16")
longer = sum(one >= 1.05 for one in cases)
print(f"{len(cases)} cases, {longer} of them at least 1.05; smallest {min(cases):.2f}, largest {max(cases):.2f}")
assert seen["A100", 8] == [1.4, 1.19, 1.08] and seen["H100", 2] == [1.74, 1.33, 1.29], "the tables are others now"
assert seen["H100", 8] == [1.33, 1.14, 1.33] and seen["H200", 8] == [1.31, 1.12, 1.37], "the tables are others now"
assert [narrow[name, 8] for name in ("A100", "H100", "H200")] == [1.03, 1.26, 1.29]
assert longer > 0.97 * len(cases)
PY
venv/bin/python -W ignore probe.py 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: the halves of an all-reduce take longer than the whole"
