#!/usr/bin/env bash
# Saving an ONNX model with external weights a second time appends to the old weights, or is refused, by working directory.
#
# Expected: onnx.save_model(model, path, save_as_external_data=True, location=...) to the same path replaces model and weights,
#   as it does for a model with its weights inside; or it refuses always.
# Happens: whether the weight file exists is looked up from the working directory, but it is written beside the model.
#   Called inside the model's folder the second save raises FileExistsError. Called from anywhere else it appends: 16 KiB of
#   weights saved three times as out/m.onnx make out/w.bin 16, 32, 48 KiB. The new model points behind the old weights
#   (offsets 16384, 32768), loads right, and nothing is noticed. Two models that are given the same location share one
#   file; loading one of them and saving it in place adds its weights once more.
# Why it matters: an export at every evaluation fills the disk with dead weights; sizes of files are no measure of a model;
#   weights that were withdrawn (other data, before redaction or pruning) are still shipped. A tool that writes such files
#   should write a new name or remove the old file, and an importer must honour offset and length rather than map the file.
#
# Seen 2026-11-29: onnx 1.23.2, numpy 2.4.6, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check onnx==1.23.2 numpy==2.4.6

cat > probe.py <<'PY'
import os

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def model(value):
    """A model with one matrix of 64 x 64 times `value`: 16,384 bytes."""
    weight = numpy_helper.from_array(np.full((64, 64), value, np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def save(built, path, location):
    """Save the model in out/; the size of its weight file."""
    onnx.save_model(built, f"out/{path}", save_as_external_data=True, location=location)
    return os.path.getsize(f"out/{location}")


def value(path):
    return float(numpy_helper.to_array(onnx.load(f"out/{path}").graph.initializer[0])[0, 0])


os.mkdir("out")
sizes = [save(model(v), "m.onnx", "w.bin") for v in (1.0, 2.0, 3.0)]
stale = np.fromfile("out/w.bin", np.float32)[:: 64 * 64]
print("sizes of w.bin after three saves", sizes, "| loaded", value("m.onnx"), "| in the file", stale.tolist())
assert sizes == [16384, 32768, 49152] and stale.tolist() == [1, 2, 3], "saving replaces the weights now"
assert value("m.onnx") == 3

save(model(7.0), "a.onnx", "shared.bin")
save(model(9.0), "b.onnx", "shared.bin")
size = save(onnx.load("out/a.onnx"), "a.onnx", "shared.bin")
print("two models in one file, one loaded and saved in place:", size, "bytes, values", value("a.onnx"), value("b.onnx"))
assert size == 3 * 16384 and (value("a.onnx"), value("b.onnx")) == (7, 9)

os.chdir("out")
try:
    onnx.save_model(model(4.0), "m.onnx", save_as_external_data=True, location="w.bin")
    raise SystemExit("a second save in the working directory is not refused any more")
except FileExistsError as error:
    print("the same inside the folder:", error)
PY
venv/bin/python probe.py
echo "unchanged: external weights are appended, and the check against it looks in the wrong folder"
