#!/usr/bin/env bash
# transformers: DeepSeek-V4 and RecurrentGemma read the padding: what a request is answered depends on the longest one in its batch.
#
# Expected: prompts of a batch are padded on the left and masked, and each is answered as if it were alone; Llama, Qwen3-Next's
#   recurrent layers and the sparse blocks of MiniMax-M3 do so.
# Happens: the mask covers attention to single tokens only. DeepSeek-V4 also attends to blocks of 4 and of 128 tokens, and its compressor
#   is given no mask: padding fills blocks, moves where all others begin, and is attended to. RecurrentGemma's recurrence takes it in.
#   The logits after a prompt of 40 tokens beside a longer one, off by this share of their spread (random weights, `generate`):
#       padding                      0        1        4        32       128
#       DeepSeek-V4                  0        0.45     0.87     1.7      2.3       of 12 tokens 12, 4, 0, 0 and 2 are the same
#       RecurrentGemma               0        0.03     0.03     0.02     0.02
#       the others                   below 1e-5
#   Padding of whole blocks (4, 128) does not help. No warning. On the right padding is harmless, but `generate` needs it on the left.
# Why it matters: scores of an evaluation then depend on its batch size and on the order of its questions; a server that batches
#   gives answers that nobody can repeat. Whatever pools, compresses or carries along positions needs the mask as well as attention
#   does, and a test that holds each request of a batch to the same alone.
#
# Seen 2026-11-30: transformers 5.24.0, torch 2.13.0 (CPU), numpy 2.4.6, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.24.0 numpy==2.4.6

cat > probe.py <<'PY'
import logging

import torch

logging.disable(logging.CRITICAL)
import transformers as hf

LENGTH, NEW = 40, 12
BASE = dict(vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2)
CONFIGS = {
    "DeepseekV4": hf.DeepseekV4Config(
        **BASE, num_key_value_heads=1, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, n_shared_experts=1, sliding_window=8,
        q_lora_rank=16, qk_rope_head_dim=8, index_topk=8, index_head_dim=8, index_n_heads=2,
    ),
    "RecurrentGemma": hf.RecurrentGemmaConfig(**BASE, num_key_value_heads=2, lru_width=32, attention_window_size=8),
    "Llama": hf.LlamaConfig(**BASE, num_key_value_heads=2),
    "Qwen3Next": hf.Qwen3NextConfig(
        **BASE, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16,
        linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8,
    ),
    "MiniMaxM3VL": hf.MiniMaxM3VLTextConfig(
        **BASE, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, rotary_dim=4, index_head_dim=8, index_n_heads=2,
    ),
}
SEEDS = torch.Generator().manual_seed(3)
REQUEST, OTHER = torch.randint(3, 99, (1, LENGTH), generator=SEEDS), torch.randint(3, 99, (1, LENGTH + 128), generator=SEEDS)


def answered(model, padding):
    """The first logits and the new tokens of the request in a batch with one that is longer by the padding."""
    rows = torch.cat([torch.cat([torch.zeros(1, padding, dtype=torch.long), REQUEST], 1), OTHER[:, : LENGTH + padding]])
    mask = torch.ones_like(rows)
    mask[0, :padding] = 0
    out = model.generate(
        rows, attention_mask=mask, do_sample=False, max_new_tokens=NEW, min_new_tokens=NEW, return_dict_in_generate=True, output_logits=True
    )
    return out.logits[0][0], out.sequences[0, -NEW:]


@torch.no_grad()
def looked_at(name):
    config = CONFIGS[name]
    torch.manual_seed(0)
    model = getattr(hf, f"{name}ForCausalLM")._from_config(config).eval()
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    want, words = model(REQUEST).logits[0, -1], model.generate(REQUEST, attention_mask=torch.ones_like(REQUEST), do_sample=False, max_new_tokens=NEW, min_new_tokens=NEW)
    seen = {}
    for padding in (0, 1, 4, 32, 128):
        found, tokens = answered(model, padding)
        seen[padding] = float(f"{((found - want).abs().max() / want.std()).item():.1e}"), (tokens == words[0, -NEW:]).sum().item()
    print(f"{name}: off, and the same tokens of {NEW}, by padding: {seen}", flush=True)
    return seen


for name in CONFIGS:
    seen = looked_at(name)
    assert seen[0][0] < 1e-4
    for padding in (1, 4, 32, 128):
        if name in ("DeepseekV4", "RecurrentGemma"):
            assert seen[padding][0] > 0.005, f"{name} leaves out the padding now"
        else:
            assert seen[padding][0] < 1e-4 and seen[padding][1] == NEW, name
PY
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python -W ignore probe.py 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: padding is read"
