"""Mistral (Jiang and others 2023) and Mixtral (Jiang and others 2024)."""

from __future__ import annotations

from parc.importing.config import Config
from parc.importing.decoder import Decoder, LayerKind, Mixture, described
from parc.importing.described import Described, Family
from parc.importing.families.llama import ATTENTION, MLP, NORMS, dropped, ends, sizes
from parc.importing.rotary import read_rotary

EXPERTS = {
    "post_attention_layernorm.weight": "moe_norm.gain[d]",
    "block_sparse_moe.gate.weight": "moe.routed_experts.router[g d]",
    "block_sparse_moe.experts.{e}.w1.weight": "moe.routed_experts.gate[f d]",
    "block_sparse_moe.experts.{e}.w3.weight": "moe.routed_experts.up[f d]",
    "block_sparse_moe.experts.{e}.w2.weight": "moe.routed_experts.down[d f]",
}


def describe_mistral(config: Config) -> Described:
    """Reads a configuration of Mistral."""
    return _described(config, 4096, 10000.0, 1e-6, None)


def describe_mixtral(config: Config) -> Described:
    """Reads a configuration of Mixtral: the shares of the chosen experts sum to 1."""
    config.ignore("output_router_logits")
    config.only("router_jitter_noise", 0.0)
    mixture = Mixture(
        config.integer("num_local_experts", 8),
        config.active("num_experts_per_tok", 2, "num_local_experts", 8),
        config.integer("intermediate_size", 14336),
        {"renormalise": True},
        balance=config.weight("router_aux_loss_coef", 0.001),
    )
    return _described(config, None, 1e6, 1e-5, mixture)


def _described(config: Config, window: int | None, theta: float, eps: float, mixture: Mixture | None) -> Described:
    """window, theta, eps: where nothing is said."""
    found = sizes(config, kv_heads=8)
    config.only("hidden_act", "silu")
    positions = config.integer("max_position_embeddings", 4096 * 32)
    tied = config.flag("tie_word_embeddings", False)
    rotary = read_rotary(config, found.size, theta, positions)
    seen = config.size("sliding_window", window)
    kind = LayerKind("block", rotary, seen if seen < positions else 0, mixture is not None)
    names = {**ATTENTION, **NORMS, **(EXPERTS if mixture else MLP)}
    return described(
        Decoder(
            sizes=found,
            kinds=[kind] * config.layers("num_hidden_layers"),
            positions=positions,
            eps=config.weight("rms_norm_eps", eps),
            tied=tied,
            names=lambda kind: names,
            outer=ends(tied),
            attention=dropped(config),
            std=config.weight("initializer_range", 0.02),
            mixture=mixture,
        )
    )


MISTRAL = Family("MistralForCausalLM", describe_mistral)
MIXTRAL = Family("MixtralForCausalLM", describe_mixtral)
