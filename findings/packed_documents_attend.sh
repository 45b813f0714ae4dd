#!/usr/bin/env bash
# transformers: packed documents attend to each other unless the cache is off (it is on by default), and in gpt-oss always.
#
# Expected: `position_ids` that start again at 0 tell the model where the next document begins (without flash kernels, too): that is all
#   that DataCollatorWithFlattening gives it. What stands in the first document must not matter to the second one.
# Happens: boundaries are looked for only if there is neither a cache nor an attention mask. `use_cache` is True in every
#   configuration, also in training. Largest change of the second document's logits when the first one is another:
#                                                        as called by     use_cache=     and a mask     and cu_seq_lens,
#                                                        default          False          of ones        seq_idx
#       Llama, Mistral, Qwen3, Gemma3, Phi-3, LFM2,
#         Qwen3-MoE, Mixtral, GLM4-MoE, OLMo 2           2 to 3           0              2 to 3         0
#       gpt-oss, AFMoE: make their masks without
#         position_ids                                   2 and 3          the same       the same       the same
#       Mamba 2, MiniMax: states run on                  2 and 1          the same       the same       the same
#       Qwen3-Next                                       2                the same       the same       an error (no kernels on CPU)
#   where 0 is at most 1e-5. Gradient checkpointing turns the cache off: with it the default of the first row is 0 as well.
#   transformers' own Trainer and TRL turn the cache off; a loop of one's own, with Accelerate or FSDP, does not. No warning.
# Why it matters: recomputation, a matter of memory, decides what is learnt: with it packed documents are apart, without it they
#   are not, and a padded run of the same documents is another run. The loss falls as usual. gpt-oss refuses SDPA, so that
#   fine-tuning it packed and without flash kernels mixes all documents. A packing is proved by changing one document and
#   looking at the others.
#
# Seen 2026-11-30: transformers 5.24.0, torch 2.13.0, numpy 2.4.6, Python 3.11, Linux x86-64, CPU.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.24.0 numpy==2.4.6

cat > probe.py <<'PY'
import logging

logging.disable(logging.CRITICAL)
import torch
import transformers

FIRST, SECOND, VOCABULARY = 11, 13, 96
SIZES = dict(
    hidden_size=64, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=16, vocab_size=VOCABULARY,
    max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0, num_local_experts=4, num_experts=4, n_routed_experts=4,
    num_experts_per_tok=2, moe_intermediate_size=32, shared_expert_intermediate_size=32, n_group=1, topk_group=1, linear_num_key_heads=2,
    linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16, state_size=8, num_heads=8, n_groups=1, expand=2, chunk_size=8,
)
APART = ["Llama", "Mistral", "Qwen3", "Gemma3", "Phi3", "Lfm2", "Qwen3Moe", "Mixtral", "Glm4Moe", "Olmo2"]
NEVER = ["GptOss", "Afmoe", "Mamba2", "MiniMax"]
ERROR = ["Qwen3Next"]


def small(name):
    """A random model of the architecture, in float32, in training mode without dropout."""
    config = getattr(transformers, "Gemma3TextConfig" if name == "Gemma3" else name + "Config")
    config = config(**{key: value for key, value in SIZES.items() if hasattr(config(), key)})
    config._attn_implementation = "eager"
    assert getattr(config, "use_cache", True)
    torch.manual_seed(0)
    model = getattr(transformers, name + "ForCausalLM")(config).float().train()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.08)
    return model


def influence(model, **more):
    """The largest change of a logit of the second document when the first one is another."""
    generator = torch.Generator().manual_seed(1)
    first, other, second = (torch.randint(3, VOCABULARY, (1, n), generator=generator) for n in (FIRST, FIRST, SECOND))
    positions = torch.cat([torch.arange(FIRST), torch.arange(SECOND)])[None]
    logits = [model(input_ids=torch.cat([one, second], 1), position_ids=positions, **more).logits[:, FIRST:] for one in (first, other)]
    return (logits[0] - logits[1]).abs().max().item()


ends = torch.tensor([0, FIRST, FIRST + SECOND], dtype=torch.int32)
boundaries = dict(
    cu_seq_lens_q=ends, cu_seq_lens_k=ends, max_length_q=SECOND, max_length_k=SECOND,
    seq_idx=torch.tensor([[0] * FIRST + [1] * SECOND], dtype=torch.int32),
)
ways = {
    "default": {}, "no cache": {"use_cache": False}, "no cache, mask of ones": {"use_cache": False, "attention_mask": torch.ones(1, FIRST + SECOND)},
    "no cache, boundaries": {"use_cache": False, **boundaries},
}
for name in APART + NEVER + ERROR:
    model, seen = small(name), {}
    for way, more in ways.items():
        try:
            seen[way] = influence(model, **more)
        except ValueError as error:
            assert "packed sequences" in str(error), error
            seen[way] = None
    if name in APART:
        model.gradient_checkpointing_enable()
        seen["default, checkpointed"] = influence(model)
    print(name, {way: "an error" if value is None else float(f"{value:.1g}") for way, value in seen.items()}, flush=True)
    mixed = {way for way, value in seen.items() if value is not None and value > 0.3}
    clean = {way for way, value in seen.items() if value is not None and value < 1e-5}
    if name in APART:
        assert mixed == {"default", "no cache, mask of ones"}, f"{name} keeps packed documents apart now"
        assert clean == {"no cache", "no cache, boundaries", "default, checkpointed"}
    else:
        assert mixed == set(ways) - ({"no cache, boundaries"} if name in ERROR else set()), f"{name} keeps packed documents apart now"
        assert name not in ERROR or seen["no cache, boundaries"] is None
PY
venv/bin/python -W ignore probe.py 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: packed documents attend to each other unless the cache is off"
