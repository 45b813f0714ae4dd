#!/usr/bin/env bash
# torch's FlopCounterMode counts attention as 0 on CPU (unless it has dropout) and a grouped matmul of experts as 0 everywhere.
#
# Expected: the counter counts by operator and shape, so the device plays no part; the products of experts are matmuls.
# Happens: scaled_dot_product_attention of 8 heads, 64 positions, width 32 (4 x 8 x 64 x 64 x 32 = 4,194,304 FLOPs):
#                               CPU          meta
#       plain, causal or masked 0            4,194,304
#       with dropout            4,194,304    4,194,304
#   On CPU it is one fused operator that the counter's table lacks; with dropout_p > 0 it falls back to two bmm, which
#   the table has. So turning dropout on adds the whole attention to the count, and so does asking on the meta device,
#   where a causal mask does not halve it and grouped keys count like full ones.
#   grouped_mm (the product of all experts' tokens) is 0 on CPU and on meta, an LSTM is 0 on CPU, a matrix times a vector
#   0. A TransformerEncoderLayer in eval mode without gradients is 0 altogether (its fast path is one operator).
#   There is no warning about operators that are not counted.
# Why it matters: this is the counter that one checks a price list against. Compare only sums of mm/addmm/bmm, count
#   attention on meta, experts by hand, or every model with experts looks several times cheaper than it is.
#
# Seen 2026-11-28: torch 2.13.0, numpy 2.4.6, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6

cat > probe.py <<'PY'
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode


def flops(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


ATTENTION, PRODUCT = 4 * 8 * 64 * 64 * 32, 2 * 16 * 32 * 64
for device in ("cpu", "meta"):
    q = torch.randn(1, 8, 64, 32, device=device)
    kv = torch.randn(1, 2, 64, 32, device=device)
    mask = torch.ones(64, 64, dtype=torch.bool, device=device)
    attention = {
        "plain": flops(lambda: F.scaled_dot_product_attention(q, q, q)),
        "causal": flops(lambda: F.scaled_dot_product_attention(q, q, q, is_causal=True)),
        "masked": flops(lambda: F.scaled_dot_product_attention(q, q, q, attn_mask=mask)),
        "grouped": flops(lambda: F.scaled_dot_product_attention(q, kv, kv, enable_gqa=True)),
        "dropout": flops(lambda: F.scaled_dot_product_attention(q, q, q, dropout_p=0.1)),
    }
    tokens = torch.randn(16, 32, dtype=torch.bfloat16, device=device)
    experts = torch.randn(4, 32, 64, dtype=torch.bfloat16, device=device)
    ends = torch.tensor([4, 8, 12, 16], dtype=torch.int32, device=device)
    grouped = flops(lambda: F.grouped_mm(tokens, experts, offs=ends))
    plain = flops(lambda: tokens @ experts[0])
    print(device, "attention", attention, "grouped_mm", grouped, "the same by one matmul", plain)
    assert plain == PRODUCT and attention["dropout"] == ATTENTION
    assert grouped == 0, "grouped_mm is counted now"
    want = 0 if device == "cpu" else ATTENTION
    assert all(attention[kind] == want for kind in ("plain", "causal", "masked", "grouped")), "attention is counted otherwise now"

layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
x = torch.randn(1, 16, 32)
with torch.no_grad():
    fast = flops(lambda: layer(x))
slow = flops(lambda: layer(x))
lstm = flops(lambda: torch.nn.LSTM(32, 64)(x))
print("encoder layer in eval mode: without gradients", fast, "with", slow, "| LSTM", lstm)
assert fast == 0 < slow and lstm == 0
PY
venv/bin/python -W ignore probe.py
echo "unchanged: attention on CPU and grouped_mm count as nothing"
