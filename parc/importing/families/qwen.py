"""Qwen2, Qwen2.5 and Qwen3 (Yang and others 2024, 2025), Qwen3's mixtures of experts too."""

from __future__ import annotations

from parc.importing.config import Config
from parc.importing.decoder import Decoder, LayerKind, Mixture, described
from parc.importing.described import Described, Family
from parc.importing.families.llama import (
    ATTENTION,
    ATTENTION_BIAS,
    HEAD_NORMS,
    MLP,
    NORMS,
    RESULT_BIAS,
    dropped,
    ends,
    sizes,
    windowed,
)
from parc.importing.rotary import read_rotary

EXPERTS = {
    "post_attention_layernorm.weight": "moe_norm.gain[d]",
    "mlp.gate.weight": "moe.routed_experts.router[g d]",
    "mlp.experts.{e}.gate_proj.weight": "moe.routed_experts.gate[f d]",
    "mlp.experts.{e}.up_proj.weight": "moe.routed_experts.up[f d]",
    "mlp.experts.{e}.down_proj.weight": "moe.routed_experts.down[d f]",
}
"""Of a layer that is a mixture of experts, in files; `EXPERTS` comes behind `NORMS`, of which it replaces one."""


def describe_qwen2(config: Config) -> Described:
    """Reads a configuration of Qwen2."""
    found = sizes(config, kv_heads=32)
    config.only("hidden_act", "silu")
    config.only("use_mrope", False)
    positions = config.integer("max_position_embeddings", 32768)
    tied = config.flag("tie_word_embeddings", False)
    names = {**ATTENTION, **ATTENTION_BIAS, **NORMS, **MLP}
    return described(
        Decoder(
            sizes=found,
            kinds=windowed(config, read_rotary(config, found.size, 10000.0, positions)),
            positions=positions,
            eps=config.weight("rms_norm_eps", 1e-6),
            tied=tied,
            names=lambda kind: names,
            outer=ends(tied),
            attention={"bias": True, **dropped(config)},
            std=config.weight("initializer_range", 0.02),
        )
    )


def describe_qwen3(config: Config) -> Described:
    """Reads a configuration of Qwen3."""
    found = sizes(config, kv_heads=32, size=128)
    config.only("hidden_act", "silu")
    positions = config.integer("max_position_embeddings", 32768)
    tied, bias = config.flag("tie_word_embeddings", False), config.flag("attention_bias", False)
    eps = config.weight("rms_norm_eps", 1e-6)
    names = {**ATTENTION, **HEAD_NORMS, **NORMS, **MLP, **({**ATTENTION_BIAS, **RESULT_BIAS} if bias else {})}
    return described(
        Decoder(
            sizes=found,
            kinds=windowed(config, read_rotary(config, found.size, 10000.0, positions)),
            positions=positions,
            eps=eps,
            tied=tied,
            names=lambda kind: names,
            outer=ends(tied),
            attention={
                **({"bias": True, "out_bias": True} if bias else {}),
                "norm": '"rms"',
                "eps": "eps",
                **dropped(config),
            },
            std=config.weight("initializer_range", 0.02),
        )
    )


def describe_mixture(config: Config) -> Described:
    """Reads a configuration of a mixture of experts of Qwen3."""
    found = sizes(config, kv_heads=4)
    config.only("hidden_act", "silu")
    config.ignore("output_router_logits", "max_window_layers")
    config.only("use_sliding_window", False)
    config.size("sliding_window", 4096)
    positions = config.integer("max_position_embeddings", 32768)
    tied, bias = config.flag("tie_word_embeddings", False), config.flag("attention_bias", False)
    rotary = read_rotary(config, found.size, 10000.0, positions)
    layers, step = config.layers("num_hidden_layers"), config.integer("decoder_sparse_step", 1)
    dense = {int(n) for n in (config.numbers("mlp_only_layers") if "mlp_only_layers" in config else [])}
    config.ignore("mlp_only_layers")
    mixed = [i not in dense and (i + 1) % step == 0 for i in range(layers)]
    kinds = [LayerKind("experts" if m else "dense", rotary, 0, m) for m in mixed]
    attention = {**ATTENTION, **HEAD_NORMS, **NORMS, **({**ATTENTION_BIAS, **RESULT_BIAS} if bias else {})}
    renormalised = config.flag("norm_topk_prob", False)
    experts = "num_experts" if "num_experts" in config else "num_local_experts"  # what transformers 5 writes
    return described(
        Decoder(
            sizes=found,
            kinds=kinds,
            positions=positions,
            eps=config.weight("rms_norm_eps", 1e-6),
            tied=tied,
            names=lambda kind: {**attention, **(EXPERTS if kind.mixed else MLP)},
            outer=ends(tied),
            attention={
                **({"bias": True, "out_bias": True} if bias else {}),
                "norm": '"rms"',
                "eps": "eps",
                **dropped(config),
            },
            std=config.weight("initializer_range", 0.02),
            mixture=Mixture(
                config.integer(experts, 128),
                config.active("num_experts_per_tok", 8, experts, 128),
                config.integer("moe_intermediate_size", 768),
                {"renormalise": True} if renormalised else {},
                balance=config.weight("router_aux_loss_coef", 0.001),
            ),
        )
    )


QWEN2 = Family("Qwen2ForCausalLM", describe_qwen2)
QWEN3 = Family("Qwen3ForCausalLM", describe_qwen3)
QWEN3_MOE = Family("Qwen3MoeForCausalLM", describe_mixture)
