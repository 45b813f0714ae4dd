#!/usr/bin/env bash
# transformers: with reentrant checkpointing the experts' balance loss is added to the loss and has no gradient.
#
# Expected: `use_reentrant` of gradient checkpointing decides how recomputation is done, not what is learnt: dense models have the same
#   gradients with both (checked: Llama), and the loss is the same number for experts, too.
# Happens: the routers' logits, of which the balance loss is made, are picked up by hooks within the layers. A reentrant checkpoint runs
#   them without gradients and hands back the hidden states alone, so that the logits are constants:
#                                     loss            aux_loss has a gradient    gradients are those of a coefficient of
#       no checkpointing, or
#       use_reentrant=False           with balance    yes                        0.5, as it was set
#       use_reentrant=True            the same        no                         0 (to the last digit)
#   so for Mixtral, Qwen3-MoE, OLMoE, gpt-oss, Granite MoE, PhiMoE, MiniMax and DeepSeek-V4. No warning: the loss of language goes down
#   and the balance loss is logged as part of it.
# Why it matters: True was the default for years and is what many recipes still say; experts collapse slowly. A value that
#   leaves a recomputed region by another way than its results has no gradient then: it must be one of the results.
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

COEFFICIENT = 0.5
BASE = dict(vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2)
EIGHT = dict(num_local_experts=8, num_experts_per_tok=2, intermediate_size=16)
CONFIGS = {
    "Llama": hf.LlamaConfig(**BASE, intermediate_size=48),
    "Mixtral": hf.MixtralConfig(**BASE, **EIGHT),
    "Qwen3Moe": hf.Qwen3MoeConfig(**BASE, head_dim=8, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16),
    "Olmoe": hf.OlmoeConfig(**BASE, num_experts=8, num_experts_per_tok=2, intermediate_size=16),
    "GptOss": hf.GptOssConfig(**BASE, **EIGHT, head_dim=8, sliding_window=8),
    "GraniteMoe": hf.GraniteMoeConfig(**BASE, **EIGHT),
    "Phimoe": hf.PhimoeConfig(**BASE, **EIGHT),
    "MiniMax": hf.MiniMaxConfig(**BASE, **EIGHT, head_dim=8),
    "DeepseekV4": hf.DeepseekV4Config(
        **{**BASE, "num_key_value_heads": 1, "num_hidden_layers": 4}, head_dim=8, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16,
        n_shared_experts=1, sliding_window=8, q_lora_rank=16, qk_rope_head_dim=8, index_topk=8, index_head_dim=8, index_n_heads=2,
    ),
}
TOKENS = torch.randint(3, 99, (2, 24), generator=torch.Generator().manual_seed(3))


def backward(name, coefficient, **checkpointing):
    """The loss, whether its balance part has a gradient, and all gradients in a row."""
    config = CONFIGS[name]
    experts = name != "Llama"
    torch.manual_seed(0)
    model = getattr(hf, f"{name}ForCausalLM")._from_config(config).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter) * 0.05)
    if experts:
        model.router_aux_loss_coef = model.config.router_aux_loss_coef = coefficient
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpointing)
        model.enable_input_require_grads()
    out = model(input_ids=TOKENS, labels=TOKENS, use_cache=False, **(dict(output_router_logits=True) if experts else {}))
    out.loss.backward()
    grads = [torch.zeros_like(one) if one.grad is None else one.grad for one in model.parameters()]
    return out.loss.item(), experts and out.aux_loss.requires_grad, torch.cat([one.flatten() for one in grads])


for name in CONFIGS:
    loss, graded, with_balance = backward(name, COEFFICIENT)
    _, _, without = backward(name, 0.0)
    seen = {}
    for reentrant in (False, True):
        other, has, found = backward(name, COEFFICIENT, use_reentrant=reentrant)
        assert abs(other - loss) < 1e-6
        far = [((found - one).norm() / with_balance.norm()).item() for one in (with_balance, without)]
        seen[reentrant] = has, round(far[0], 4), round(far[1], 4)
    print(f"{name}: loss {loss:.4f} always; (balance has a gradient, distance of gradients from those with it, without it) by use_reentrant: {seen}", flush=True)
    if name == "Llama":
        assert all(one[1] == one[2] == 0 for one in seen.values())
    else:
        assert graded and seen[False][0] and seen[False][1] < 1e-3 < 0.02 < seen[False][2]
        assert not seen[True][0] and seen[True][2] < 1e-3 < 0.02 < seen[True][1], f"{name}'s balance loss has a gradient now"
PY
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python -W ignore probe.py 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: a balance loss without a gradient"
