#!/usr/bin/env bash
# Saving the same tensors with the same metadata twice gives two different safetensors files.
#
# Expected: the format is a plain header and plain bytes, names are sorted: equal content, equal file, equal hash.
# Happens: with two or more entries of metadata their order in the header is drawn anew for every call, even within one
#   process: of 20 saves of one tensor with four entries about a dozen are different files of the same length. The
#   order of the *tensors* is fixed (by type, then name), with one entry or none all 20 are equal. Reading the file and
#   saving it again unchanged gives another file.
# Why it matters: hashes of checkpoints, content-addressed or deduplicated storage, "did all replicas write the same?" and
#   golden files see changes where there are none (and Hugging Face files always carry "format"; one more entry is enough).
#   Compare headers as JSON and the bytes after them; a writer of one's own should sort the metadata.
#
# Seen 2026-11-28: safetensors 0.8.0, numpy 2.4.6, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6

cat > probe.py <<'PY'
import json

import numpy as np
from safetensors.numpy import save

tensors = {"b": np.ones(3, np.float32), "a": np.ones(2, np.float16), "c": np.zeros(1, np.float32)}


def header(file):
    return json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])


files = {}
for entries in (0, 1, 4):
    metadata = dict(list({"format": "pt", "step": "1", "model": "m", "run": "r"}.items())[:entries])
    files[entries] = [save(tensors, metadata=metadata) for _ in range(20)]
    print(f"{entries} entries of metadata: {len(set(files[entries]))} different files of 20")
for file in files[4][:3]:
    print("  ", list(header(file)["__metadata__"]), [name for name in header(file) if name != "__metadata__"])
assert len(set(files[0])) == len(set(files[1])) == 1
assert len(set(files[4])) > 3, "the order of metadata is fixed now"
assert len({len(file) for file in files[4]}) == 1 and all(header(file) == header(files[4][0]) for file in files[4])
assert {tuple(name for name in header(file) if name != "__metadata__") for file in files[4]} == {("b", "c", "a")}
PY
venv/bin/python probe.py
echo "unchanged: the order of metadata in a safetensors header is random"
