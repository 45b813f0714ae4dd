#!/usr/bin/env bash
# Saving a model with OpenVINO turns NaN weights into 65504, and clips an outlier only if fewer than 3 in 4 are outliers.
#
# Expected: save_model stores weights as float16 (its default, "compressed"), rounded to the nearest: NaN stays NaN, infinity
#   infinity, what is too large becomes infinity or is refused, and a value's fate does not depend on its neighbours.
# Happens, a vector of 64 weights, saved, read again and multiplied by 1 in f32:
#       one NaN among ones                65504
#       one infinity                      65504
#       1 to 47 of 64 are 100,000         65504 each
#       48 or more are 100,000            100000: the whole tensor stays in float32
#       40 of 64 are 1e-9                 0 each; with 50 of 64 they stay 1e-9
#       -3.4e38 (a mask), half of them    -65504
#   No warning. The model that is not saved gives NaN, infinity and 100,000.
# Why it matters: a diverged checkpoint becomes a model that answers, with finite numbers. Whether large or tiny values
#   survive depends on how the weights are cut into tensors: a shard of an embedding with the outliers may stay exact while
#   the whole is clipped. Check weights for NaN and range *before* an export, and never use the round trip as an oracle.
#
# Seen 2026-11-29: openvino 2026.4.1, onnx 1.23.2, numpy 2.4.6, Python 3.11, Linux x86-64, CPU plugin.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check openvino==2026.4.1 onnx==1.23.2 numpy==2.4.6

cat > probe.py <<'PY'
import numpy as np
import onnx
import openvino as ov
from onnx import TensorProto, helper, numpy_helper

core = ov.Core()
ONES = np.ones(64, np.float32)


def products(weights):
    """weights x 1 by the model as converted, and by the model saved (as save_model does it unasked) and read again."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [numpy_helper.from_array(weights, "w")]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), "model.onnx")
    model = ov.convert_model("model.onnx")
    ov.save_model(model, "model.xml")
    return [core.compile_model(m, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(ONES)[0] for m in (model, core.read_model("model.xml"))]


def last(value, number, rest=1.0):
    """What becomes of `value` where the last `number` of 64 weights have it."""
    weights = np.full(64, rest, np.float32)
    weights[-number:] = value
    before, after = products(weights)
    assert np.array_equal(before, weights, equal_nan=True)
    assert set(after[:-number].tolist()) <= {rest} and len(set(after[-number:].tolist())) == 1
    print(f"{number} of 64 weights are {value:g}: saved and read {after[-1]:g}")
    return float(after[-1])


assert last(np.nan, 1) == last(np.inf, 1) == 65504, "NaN or infinity survives now"
assert last(1e5, 1) == last(1e5, 47) == 65504 and last(1e5, 48) == 1e5, "outliers are treated otherwise now"
assert last(1e-9, 40) == 0 and last(1e-9, 50) == float(np.float32(1e-9)), "tiny weights are treated otherwise now"
assert last(-3.4e38, 32, 0.0) == -65504
PY
venv/bin/python probe.py
echo "unchanged: OpenVINO saves NaN and infinity as 65504, and outliers by majority"
