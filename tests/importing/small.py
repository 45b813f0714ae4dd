"""Small configurations of every family, with what the family is known for; and those of published models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Configuration = dict[str, Any]

FOLDER = Path(__file__).parent
PUBLISHED: dict[str, dict[str, Any]] = json.loads((FOLDER / "published.json").read_text())
"""Of each: how many parameters its makers' checkpoint has, tied ones once, as the index of its safetensors and the
count of transformers 5.24 say (of BERT with the head for masked tokens; of DeepSeek-V3 without the layer that predicts
further tokens, and without what nothing trains); and its configuration as it lies beside it, some shortened."""

KIN: Configuration = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 40,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "rope_theta": 1000.0,
}


def kin(name: str, kind: str, **more: Any) -> Configuration:
    return {"architectures": [f"{name}ForCausalLM"], "model_type": kind, **KIN, **more}


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LONG = {"type": "longrope", "short_factor": [1.0, 1.1, 1.1, 1.3], "long_factor": [1.0, 2, 3, 4]}
GEMMA = {
    "sliding_window": 5,
    "head_dim": 16,
    "query_pre_attn_scalar": 8,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
}
DEEPSEEK = {
    "num_hidden_layers": 4,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
    "q_lora_rank": 12,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 8,
    "v_head_dim": 5,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "n_group": 4,
    "topk_group": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 16,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
}
T5 = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 48,
    "num_heads": 4,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "vocab_size": 40,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
}
QWEN3_MOE = {"head_dim": 16, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
ENCODER = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 48}

SMALL: dict[str, Configuration] = {
    "gpt2": {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": 32,
        "n_head": 4,
        "n_layer": 3,
        "n_positions": 32,
        "vocab_size": 40,
        "activation_function": "gelu_new",
    },
    "llama": kin("Llama", "llama"),
    "llama_biases": kin("Llama", "llama", attention_bias=True, mlp_bias=True, head_dim=16, tie_word_embeddings=True),
    "llama_3": kin("Llama", "llama", rope_scaling=LLAMA3),
    "llama_5": {
        k: v
        for k, v in kin("Llama", "llama", rope_parameters={**LLAMA3, "rope_theta": 500.0}).items()
        if k != "rope_theta"
    },
    "llama_linear": kin("Llama", "llama", rope_scaling={"type": "linear", "factor": 2.0}),
    "llama_dynamic": kin("Llama", "llama", rope_scaling={"type": "dynamic", "factor": 2.0}),
    "llama_yarn": kin("Llama", "llama", rope_scaling=YARN),
    "qwen2": kin("Qwen2", "qwen2"),
    "qwen2_windows": kin(
        "Qwen2", "qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=1, tie_word_embeddings=True
    ),
    "qwen3": kin("Qwen3", "qwen3", head_dim=16),
    "mistral": kin("Mistral", "mistral", sliding_window=5),
    "mistral_whole": kin("Mistral", "mistral", sliding_window=None, head_dim=4),
    "phi3": kin("Phi3", "phi3", pad_token_id=0, sliding_window=7),
    "phi3_part": kin("Phi3", "phi3", pad_token_id=0, partial_rotary_factor=0.5),
    "phi3_short": kin("Phi3", "phi3", pad_token_id=0, rope_scaling=LONG, original_max_position_embeddings=32),
    "phi3_long": kin("Phi3", "phi3", pad_token_id=0, rope_scaling=LONG, original_max_position_embeddings=16),
    "gemma2": kin("Gemma2", "gemma2", **GEMMA, num_hidden_layers=4),
    "gemma3": kin(
        "Gemma3",
        "gemma3_text",
        **GEMMA,
        num_hidden_layers=14,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
        rope_local_base_freq=100.0,
    ),
    "mixtral": kin("Mixtral", "mixtral", num_local_experts=4, num_experts_per_tok=2),
    "qwen3_moe": kin(
        "Qwen3Moe", "qwen3_moe", **QWEN3_MOE, num_hidden_layers=4, norm_topk_prob=True, mlp_only_layers=[0]
    ),
    "qwen3_moe_turns": kin("Qwen3Moe", "qwen3_moe", **QWEN3_MOE, num_hidden_layers=4, decoder_sparse_step=2),
    "bert": {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        **ENCODER,
        "max_position_embeddings": 32,
        "vocab_size": 40,
    },
    "vit": {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        **ENCODER,
        "image_size": 12,
        "patch_size": 4,
        "id2label": {str(i): str(i) for i in range(10)},
    },
    "t5": T5,
    "t5_of_5": {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": True, "scale_decoder_outputs": False},
    "t5_gated": {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "gpt_oss": kin(
        "GptOss",
        "gpt_oss",
        num_hidden_layers=4,
        sliding_window=5,
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        rope_scaling={**YARN, "truncate": False},
    ),
    "deepseek_v3": kin("DeepseekV3", "deepseek_v3", **DEEPSEEK),
    "deepseek_v3_yarn": kin(
        "DeepseekV3",
        "deepseek_v3",
        **{**DEEPSEEK, "q_lora_rank": None},
        rope_scaling={**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
    ),
}
"""Of each family one; more where a family has several ways."""

EXPERTS = {"mixtral": 2.0, "qwen3_moe": 4.0, "gpt_oss": 2.0, "deepseek_v3": 8 / 3}
"""The capacity at which nothing is dropped, by `model_type`: experts / active."""


def sizes(config: Configuration) -> dict[str, object]:
    """Parameters for a short batch, in which no expert drops anything."""
    kind = config["model_type"]
    return {"batch": 2, "seq": 24, "target_seq": 20, "capacity": EXPERTS.get(kind, 1.0)}
