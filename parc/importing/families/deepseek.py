"""DeepSeek-V3 and R1 (DeepSeek-AI 2024): latent attention, dense layers, then experts balanced without a loss."""

from __future__ import annotations

from parc.importing.config import Config
from parc.importing.decoder import Decoder, DecoderSizes, Latent, LayerKind, Mixture, described
from parc.importing.described import Described, Family
from parc.importing.families.llama import MLP, NORMS, dropped, ends
from parc.importing.rotary import read_rotary

SPEED = 0.001
"""By how much a step moves the experts' favours (their report, 4.2); no configuration says it."""

LATENT = {
    "self_attn.kv_a_layernorm.weight": "attention.{norm}.gain[lk]",
    "self_attn.kv_a_proj_with_mqa.weight": "attention.wa[+lk d] attention.wr[+{kr} d]",
    "self_attn.kv_b_proj.weight": "attention.wk[+(h: k) lk] attention.wv[+(h: kv) lk]",
    "self_attn.o_proj.weight": "attention.wo[d (h kv)]",
}
QUERIES = {
    "self_attn.q_a_proj.weight": "attention.wl[lq d]",
    "self_attn.q_a_layernorm.weight": "attention.rms_norm.gain[lq]",
    "self_attn.q_b_proj.weight": "attention.wq[+(h: k) lq] attention.wqr[+(h: {kr}) lq]",
}
PLAIN_QUERIES = {"self_attn.q_proj.weight": "attention.wq[+(h: k) d] attention.wqr[+(h: {kr}) d]"}
EXPERTS = {
    "post_attention_layernorm.weight": "moe_norm.gain[d]",
    "mlp.gate.weight": "moe.routed_experts.router[g d]",
    "mlp.gate.e_score_correction_bias": "moe.favoured[g]",
    "mlp.experts.{e}.gate_proj.weight": "moe.routed_experts.gate[f d]",
    "mlp.experts.{e}.up_proj.weight": "moe.routed_experts.up[f d]",
    "mlp.experts.{e}.down_proj.weight": "moe.routed_experts.down[d f]",
    "mlp.shared_experts.gate_proj.weight": "moe.shared.gate[f d]",
    "mlp.shared_experts.up_proj.weight": "moe.shared.up[f d]",
    "mlp.shared_experts.down_proj.weight": "moe.shared.down[d f]",
}


def describe(config: Config) -> Described:
    """Reads a configuration."""
    config.only("hidden_act", "silu")
    for key, value in (
        ("attention_bias", False),
        ("scoring_func", "sigmoid"),
        ("topk_method", "noaux_tc"),
        ("moe_layer_freq", 1),
    ):
        config.only(key, value)
    config.ignore("ep_size", "seq_aux", "output_router_logits", "head_dim", "qk_head_dim", "num_key_value_heads")
    later = config.integer("num_nextn_predict_layers", config.integer("num_mtp_layers", 0, 0), 0)
    plain, turned = config.integer("qk_nope_head_dim", 128), config.integer("qk_rope_head_dim", 64)
    positions = config.integer("max_position_embeddings", 4096)
    rotary = read_rotary(config, turned, 10000.0, positions)
    layers, first = config.layers("num_hidden_layers"), config.integer("first_k_dense_replace", 3, 0)
    kinds = [LayerKind("dense" if i < first else "experts", rotary, 0, i >= first) for i in range(layers)]
    queries = config.size("q_lora_rank", 1536)
    kr = "kr~" if config.flag("rope_interleave", True) else "kr"
    latent = {**LATENT, **(QUERIES if queries else PLAIN_QUERIES)}
    norm = "rms_norm_1" if queries else "rms_norm"
    attention = {name: text.replace("{kr}", kr).replace("{norm}", norm) for name, text in latent.items()}
    groups, limit = config.integer("n_group", 8), config.integer("topk_group", 4)
    experts, active = (
        config.integer("n_routed_experts", 256),
        config.active("num_experts_per_tok", 8, "n_routed_experts", 256),
    )
    config.divides("n_group", groups, experts, f"the {experts} experts")
    if limit > groups:
        config.wrong("topk_group", f"is {limit} of the {groups} groups")
    if active > limit * experts // groups:
        config.wrong("num_experts_per_tok", f"is {active} of the {limit * experts // groups} experts of {limit} groups")
    grouped = {"groups": groups, "limit": limit} if groups > limit else {}
    renormalised = {"renormalise": True} if config.flag("norm_topk_prob", True) else {}
    scale, width = config.positive("routed_scaling_factor", 2.5), config.integer("moe_intermediate_size", 2048)
    tied = config.flag("tie_word_embeddings", False)
    return described(
        Decoder(
            sizes=DecoderSizes(
                vocab=config.integer("vocab_size"),
                hidden=config.integer("hidden_size"),
                heads=config.integer("num_attention_heads"),
                kv_heads=0,
                size=0,
                width=config.integer("intermediate_size"),
            ),
            kinds=kinds,
            positions=positions,
            eps=config.weight("rms_norm_eps", 1e-6),
            tied=tied,
            names=lambda kind: {**attention, **NORMS, **(EXPERTS if kind.mixed else MLP)},
            outer=ends(tied),
            attention=dropped(config),
            std=config.weight("initializer_range", 0.02),
            latent=Latent(
                queries,
                config.integer("kv_lora_rank", 512),
                plain,
                turned,
                config.integer("v_head_dim", 128),
                rotary.mscale**2,
            ),
            mixture=Mixture(
                experts,
                active,
                width,
                {
                    "sigmoid": True,
                    **renormalised,
                    **({"scale": scale} if scale != 1 else {}),
                    **grouped,
                    "correction": SPEED,
                },
                shared=width * config.integer("n_shared_experts", 1),
                balance=config.weight("aux_loss_alpha", 0.0),
            ),
            notes=(f"Without its {later} layer(s) that predict further tokens.",) if later else (),
        )
    )


DEEPSEEK_V3 = Family("DeepseekV3ForCausalLM", describe)
