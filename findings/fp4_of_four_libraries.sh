#!/usr/bin/env bash
# Four libraries, four-bit floats: the same 32 exact FP4 numbers become three different byte strings, and 0.5 becomes 0.031.
#
# Expected: FP4 is E2M1 (0, 0.5, 1, 1.5, 2, 3, 4, 6 with a sign), two per byte, the first one in the low half; numbers that
#   it has exactly survive, and numbers between two of them go to the one with the even mantissa, as everywhere.
# Happens, for the 32 numbers 0, -0.5, 1, -1.5, 2, -3, 4, -6, 0, ... (scale 1):
#       onnx (ml_dtypes), torchao MXFP4   elements 2i and 2i + 1 share byte i, the first in the low half
#       gguf MXFP4                        elements i and i + 16 share byte i (same scale byte, same size of 17 bytes)
#       bitsandbytes "fp4"                elements 2i and 2i + 1, the first in the *high* half; the codes are numbered
#                                         otherwise (1.0 is code 6, 6.0 code 3), and there is no 0.5: 0.5 comes back as 0.03125
#   Ties: gguf takes the smaller magnitude, torchao and ml_dtypes the even mantissa: 0.75 is 0.5 or 1, 1.75 is 1.5 or 2,
#   3.5 is 3 or 4. Of random bf16 weights 0.5 % meet a tie and differ by a whole step (float32 weights hardly ever do).
#   gguf has no -0 either.
# Why it matters: sizes, scales and value ranges agree, so a file read with the wrong order of halves passes every check of
#   shape and of statistics, and is noise. "fp4" in a plan or a config names no format: a cast, an importer of quantised
#   weights or a slice of them needs the order within a byte, the table of codes and the rule for ties. In gguf's order
#   only multiples of 32 can be sliced; half a block is not half of the bytes.
#
# Seen 2026-11-28: onnx 1.23.2, ml_dtypes 0.6.0, torchao 0.18.0, torch 2.13.0, gguf 0.19.0, bitsandbytes 0.50.2,
# numpy 2.4.6, Python 3.11, Linux x86-64, CPU.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchao==0.18.0 bitsandbytes==0.50.2 gguf==0.19.0 \
    onnx==1.23.2 ml_dtypes==0.6.0 numpy==2.4.6

cat > probe.py <<'PY'
import bitsandbytes.functional as bnb
import ml_dtypes
import numpy as np
import torch
from gguf import GGMLQuantizationType, quants
from onnx import numpy_helper
from torchao.prototype.mx_formats.mx_tensor import MXTensor

MXFP4 = GGMLQuantizationType.MXFP4


def by_onnx(x):
    """Packed bytes and the numbers they stand for (no scale)."""
    cast = x.astype(ml_dtypes.float4_e2m1fn)
    return bytes(numpy_helper.from_array(cast).raw_data), cast.astype(np.float32)


def by_torchao(x):
    blocks = MXTensor.to_mx(torch.from_numpy(x).reshape(-1, 32), torch.float4_e2m1fn_x2, 32)
    return blocks.qdata.view(torch.uint8).numpy().tobytes(), blocks.dequantize(torch.float32).numpy().reshape(x.shape)


def by_gguf(x):
    packed = quants.quantize(x.reshape(-1, 32), MXFP4)
    return packed[0, 1:].tobytes(), quants.dequantize(packed, MXFP4).reshape(x.shape)


def by_bitsandbytes(x):
    packed, state = bnb.quantize_4bit(torch.from_numpy(x), quant_type="fp4", blocksize=32)
    return packed.numpy().tobytes(), bnb.dequantize_4bit(packed, state).numpy().reshape(x.shape)


magnitudes = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
x = np.tile(magnitudes * np.array([1, -1] * 4, np.float32), 4)
x = np.concatenate([x[:16], np.roll(x[16:], 1)])
results = {f.__name__[3:]: f(x) for f in (by_onnx, by_torchao, by_gguf, by_bitsandbytes)}
for name, (packed, back) in results.items():
    print(f"{name:13} {packed.hex()}  exact {bool((back == x).all())}")
assert results["onnx"][0] == results["torchao"][0]
assert len({packed for packed, _ in results.values()}) == 3, "the libraries pack alike now"
assert all((results[name][1] == x).all() for name in ("onnx", "torchao", "gguf"))

halves = [[byte & 15 for byte in results["gguf"][0]], [byte >> 4 for byte in results["gguf"][0]]]
adjacent = [code for byte in results["torchao"][0] for code in (byte & 15, byte >> 4)]
assert [c for c in halves[0] + halves[1] if c != 8] == [c for c in adjacent if c != 8], "gguf no longer pairs i with i + 16"
back = results["bitsandbytes"][1]
print("bitsandbytes: 0.5 ->", {float(b) for b in np.abs(back[np.abs(x) == 0.5])}, "| first byte", hex(results["bitsandbytes"][0][0]))
assert (back[np.abs(x) != 0.5] == x[np.abs(x) != 0.5]).all() and np.allclose(np.abs(back[np.abs(x) == 0.5]), 0.03125)
pair, _ = bnb.quantize_4bit(torch.tensor([1.0, 6.0] * 16), quant_type="fp4", blocksize=32)
assert int(pair.flatten()[0]) == 0x63, "bitsandbytes packs or numbers its codes otherwise now"

ties = np.zeros(32, np.float32)
ties[:5] = 6, 0.75, 1.75, 3.5, -0.75
print("ties 0.75, 1.75, 3.5, -0.75:", {f.__name__[3:]: f(ties)[1][1:5].tolist() for f in (by_onnx, by_torchao, by_gguf)})
assert by_gguf(ties)[1][1:5].tolist() == [0.5, 1.5, 3, -0.5] and by_torchao(ties)[1][1:5].tolist() == [1, 2, 4, -1]
weights = torch.randn(4000, 32, generator=torch.Generator().manual_seed(0))
for dtype in (torch.bfloat16, torch.float32):
    rounded = weights.to(dtype).float().numpy()
    share = float((by_gguf(rounded)[1] != by_torchao(rounded)[1]).mean())
    print(f"random {dtype} weights that gguf and torchao quantise differently: {share:.2%}")
    assert (0.003 < share < 0.007) if dtype == torch.bfloat16 else share < 1e-4
PY
venv/bin/python -W ignore probe.py 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: three orders of codes, two rules for ties, and an fp4 without 0.5"
