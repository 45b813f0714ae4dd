"""gpt-oss (OpenAI 2025): windows in every second layer, sinks, experts with biases and values within bounds."""

from __future__ import annotations

from parc.importing.config import Config
from parc.importing.decoder import Decoder, LayerKind, Mixture, described
from parc.importing.described import Described, Family
from parc.importing.families.llama import (
    ATTENTION,
    ATTENTION_BIAS,
    FULL,
    NORMS,
    RESULT_BIAS,
    SLIDING,
    dropped,
    ends,
    layer_types,
    sizes,
)
from parc.importing.rotary import read_rotary

EXPERTS = {
    "self_attn.sinks": "attention.sink[(h r)]",
    "post_attention_layernorm.weight": "moe_norm.gain[d]",
    "mlp.router.weight": "moe.routed_experts.router[g d]",
    "mlp.router.bias": "moe.routed_experts.offset[g]",
    "mlp.experts.gate_up_proj": "moe.routed_experts.gate[e d +(f:)] moe.routed_experts.up[e d +(f:)]",
    "mlp.experts.gate_up_proj_bias": "moe.routed_experts.ba[e +(f:)] moe.routed_experts.bu[e +(f:)]",
    "mlp.experts.down_proj": "moe.routed_experts.down[e f d]",
    "mlp.experts.down_proj_bias": "moe.routed_experts.bd[e d]",
}


def describe(config: Config) -> Described:
    """Reads a configuration."""
    found = sizes(config, kv_heads=8, size=64)
    config.only("hidden_act", "silu")
    config.only("swiglu_limit", 7.0)
    config.only("swiglu_alpha", 1.702)
    config.ignore("output_router_logits", "initial_context_length", "experts_per_token")
    positions = config.integer("max_position_embeddings", 131072)
    rotary = read_rotary(config, found.size, 150000.0, positions)
    layers, window = config.layers("num_hidden_layers"), config.size("sliding_window", 128)
    kinds = {FULL: LayerKind("full", rotary, 0, True), SLIDING: LayerKind("local", rotary, window, True)}
    usual = [FULL if (i + 1) % 2 == 0 else SLIDING for i in range(layers)]
    tied, bias = config.flag("tie_word_embeddings", False), config.flag("attention_bias", True)
    names = {**ATTENTION, **NORMS, **EXPERTS, **({**ATTENTION_BIAS, **RESULT_BIAS} if bias else {})}
    return described(
        Decoder(
            sizes=found,
            kinds=[kinds[name] for name in layer_types(config, layers, usual)],
            positions=positions,
            eps=config.weight("rms_norm_eps", 1e-5),
            tied=tied,
            names=lambda kind: names,
            outer=ends(tied),
            attention={**({"bias": True, "out_bias": True} if bias else {}), "sinks": True, **dropped(config)},
            std=config.weight("initializer_range", 0.02),
            mixture=Mixture(
                config.integer("num_local_experts", 128),
                config.active("num_experts_per_tok", config.integer("experts_per_token", 4), "num_local_experts", 128),
                found.width,
                {"renormalise": True, "bounded": True, "router_bias": True},
                balance=config.weight("router_aux_loss_coef", 0.001),
            ),
        )
    )


GPT_OSS = Family("GptOssForCausalLM", describe)
