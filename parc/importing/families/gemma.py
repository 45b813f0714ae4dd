"""Gemma 2 (Riviere and others 2024) and the text models of Gemma 3 (Kamath and others 2025)."""

from __future__ import annotations

from parc.importing.config import Config
from parc.importing.decoder import Decoder, DecoderSizes, LayerKind, described
from parc.importing.described import Described, Family
from parc.importing.families.llama import (
    ATTENTION,
    ATTENTION_BIAS,
    FULL,
    HEAD_NORMS,
    MLP,
    RESULT_BIAS,
    SLIDING,
    dropped,
    ends,
    layer_types,
    sizes,
)
from parc.importing.rotary import RotaryKind, read_rotary, rotary_of

NORMS = {
    "input_layernorm.weight": "attention_norm.gain[d]",
    "post_attention_layernorm.weight": "attention_after.gain[d]",
    "pre_feedforward_layernorm.weight": "mlp_norm.gain[d]",
    "post_feedforward_layernorm.weight": "mlp_after.gain[d]",
}


def describe_gemma2(config: Config) -> Described:
    """Reads a configuration of Gemma 2: every second layer sees a window."""
    found = sizes(config, kv_heads=4, size=256)
    positions = config.integer("max_position_embeddings", 8192)
    rotary = read_rotary(config, found.size, 10000.0, positions)
    return _described(config, found, positions, {FULL: rotary, SLIDING: rotary}, 2, 50.0, 30.0, headed=False)


def describe_gemma3(config: Config) -> Described:
    """Reads a configuration of a text model of Gemma 3: every sixth layer sees all positions, slower ones."""
    found = sizes(config, kv_heads=4, size=256)
    positions = config.integer("max_position_embeddings", 131072)
    pattern = config.integer("sliding_window_pattern", config.integer("_sliding_window_pattern", 6))
    config.only("attn_logit_softcapping", None)  # transformers 5.24 reads it, and its attention does not apply it
    size, both = found.size, config.part("rope_parameters")
    scaled = config.part("rope_scaling")
    theta, local = config.positive("rope_theta", 1e6), config.positive("rope_local_base_freq", 10000.0)
    kinds = {
        FULL: rotary_of((both.part(FULL) if both else None) or scaled, config, size, theta, positions),
        SLIDING: rotary_of(both.part(SLIDING) if both else None, config, size, local, positions),
    }
    return _described(config, found, positions, kinds, pattern, None, None, headed=True)


def _described(
    config: Config,
    found: DecoderSizes,
    positions: int,
    rotary: dict[str, RotaryKind],
    pattern: int,
    cap: float | None,
    bound: float | None,
    headed: bool,
) -> Described:
    """pattern: each of so many layers sees all; cap, bound: of scores and logits where nothing is said; headed: queries
    and keys have norms."""
    for key in ("hidden_activation", "hidden_act"):
        config.choice(key, {"gelu_pytorch_tanh": True}, "gelu_pytorch_tanh")
    config.only("use_bidirectional_attention", False)
    layers = config.layers("num_hidden_layers")
    usual = [FULL if (i + 1) % pattern == 0 else SLIDING for i in range(layers)]
    window = config.size("sliding_window", 4096)
    config.only("sliding_window_size", window, "it is `sliding_window` that is read")  # early files have both
    kinds = {
        FULL: LayerKind("full", rotary[FULL]),
        SLIDING: LayerKind("local", rotary[SLIDING], window if window < positions else 0),
    }
    bias, tied = config.flag("attention_bias", False), config.flag("tie_word_embeddings", True)
    scalar = config.positive("query_pre_attn_scalar", 256)
    capped = config.optional("attn_logit_softcapping", cap)
    names = {**ATTENTION, **NORMS, **MLP, **(HEAD_NORMS if headed else {})}
    names |= {**ATTENTION_BIAS, **RESULT_BIAS} if bias else {}
    return described(
        Decoder(
            sizes=found,
            kinds=[kinds[name] for name in layer_types(config, layers, usual)],
            positions=positions,
            eps=config.weight("rms_norm_eps", 1e-6),
            tied=tied,
            names=lambda kind: names,
            outer=ends(tied),
            norm="rms_norm_1p",
            mlp="geglu",
            attention={
                **({"bias": True, "out_bias": True} if bias else {}),
                **({"norm": '"rms_1p"', "eps": "eps"} if headed else {}),
                **({"scale": f"1.0 / sqrt({scalar:g})"} if scalar != found.size else {}),
                **({"cap": capped} if capped else {}),
                **dropped(config),
            },
            around=True,
            std=config.weight("initializer_range", 0.02),
            embedded="sqrt(hidden)",
            bound=config.optional("final_logit_softcapping", bound) or 0.0,
        )
    )


GEMMA2 = Family("Gemma2ForCausalLM", describe_gemma2)
GEMMA3 = Family("Gemma3ForCausalLM", describe_gemma3)
