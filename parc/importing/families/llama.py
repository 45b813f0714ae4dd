"""Llama 1 to 3.3 (Touvron and others 2023, Dubey and others 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from parc.importing.config import Config
from parc.importing.decoder import Decoder, DecoderSizes, LayerKind, described
from parc.importing.described import Described, Family
from parc.importing.rotary import RotaryKind, read_rotary

ATTENTION = {
    "self_attn.q_proj.weight": "attention.wq[(h r k) d]",
    "self_attn.k_proj.weight": "attention.wk[(h k) d]",
    "self_attn.v_proj.weight": "attention.wv[(h k) d]",
    "self_attn.o_proj.weight": "attention.wo[d (h r k)]",
}
ATTENTION_BIAS = {
    "self_attn.q_proj.bias": "attention.bq[(h r k)]",
    "self_attn.k_proj.bias": "attention.bk[(h k)]",
    "self_attn.v_proj.bias": "attention.bv[(h k)]",
}
RESULT_BIAS = {"self_attn.o_proj.bias": "attention.bo[d]"}
HEAD_NORMS = {
    "self_attn.q_norm.weight": "attention.q_norm.gain[k]",
    "self_attn.k_norm.weight": "attention.k_norm.gain[k]",
}
NORMS = {
    "input_layernorm.weight": "attention_norm.gain[d]",
    "post_attention_layernorm.weight": "mlp_norm.gain[d]",
}
MLP = {
    "mlp.gate_proj.weight": "mlp.gate[f d]",
    "mlp.up_proj.weight": "mlp.up[f d]",
    "mlp.down_proj.weight": "mlp.down[d f]",
}
MLP_BIAS = {
    "mlp.gate_proj.bias": "mlp.bg[f]",
    "mlp.up_proj.bias": "mlp.bu[f]",
    "mlp.down_proj.bias": "mlp.bd[d]",
}


def ends(tied: bool) -> Mapping[str, str]:
    """What is no layer's; a head that is tied to the embedding is not stored."""
    first = {"model.embed_tokens.weight": "table[v d]" if tied else "embedding.table[v d]"}
    return {**first, "model.norm.weight": "norm.gain[d]", **({} if tied else {"lm_head.weight": "head.w[v d]"})}


def sizes(config: Config, kv_heads: int = 0, size: int = 0) -> DecoderSizes:
    """Sizes that all kin of Llama state alike. kv_heads, size: of a head, where nothing is said."""
    heads, hidden = config.integer("num_attention_heads"), config.integer("hidden_size")
    usual = kv_heads if kv_heads and "num_key_value_heads" not in config.values else heads
    kv_heads = config.integer("num_key_value_heads", usual)
    config.divides("num_key_value_heads", kv_heads, heads, f"the {heads} heads")
    if not size and "head_dim" not in config:
        config.divides("num_attention_heads", heads, hidden, f"the hidden size {hidden}")
    return DecoderSizes(
        vocab=config.integer("vocab_size"),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        size=config.integer("head_dim", size or hidden // heads),
        width=config.integer("intermediate_size"),
    )


FULL, SLIDING = "full_attention", "sliding_attention"


def layer_types(config: Config, layers: int, usual: Sequence[str]) -> list[str]:
    """Which layers see all positions, which a window: as `layer_types` says, or as usual."""
    found = config.texts("layer_types", usual)
    if len(found) != layers or set(found) - {FULL, SLIDING}:
        config.wrong("layer_types", f"must have `{FULL}` or `{SLIDING}` for each of the {layers} layers")
    return found


def windowed(config: Config, rotary: RotaryKind, mixed: bool = False) -> list[LayerKind]:
    """Layers of which those from `max_window_layers` on have a window, if it is used (Qwen)."""
    layers = config.layers("num_hidden_layers")
    used = config.flag("use_sliding_window", False)
    window = config.size("sliding_window", 4096)
    first = config.integer("max_window_layers", 28, 0)
    usual = [SLIDING if used and window and i >= first else FULL for i in range(layers)]
    kinds = {
        FULL: LayerKind("full", rotary, 0, mixed),
        SLIDING: LayerKind("local", rotary, window if used else 0, mixed),
    }
    return [kinds[name] for name in layer_types(config, layers, usual)]


def dropped(config: Config) -> dict[str, object]:
    """The option of attention for its dropout."""
    rate = config.share("attention_dropout")
    return {"drop": rate} if rate else {}


def describe(config: Config) -> Described:
    """Reads a configuration."""
    found = sizes(config)
    config.only("hidden_act", "silu")
    config.only("rope_interleaved", False)
    config.ignore("is_llama_config")  # of SmolLM2
    positions = config.integer("max_position_embeddings", 2048)
    kind = LayerKind("block", read_rotary(config, found.size, 10000.0, positions))
    bias, mlp_bias, tied = (config.flag(k, False) for k in ("attention_bias", "mlp_bias", "tie_word_embeddings"))
    names = {**ATTENTION, **NORMS, **MLP}
    names |= {**ATTENTION_BIAS, **RESULT_BIAS} if bias else {}
    names |= MLP_BIAS if mlp_bias else {}
    return described(
        Decoder(
            sizes=found,
            kinds=[kind] * config.layers("num_hidden_layers"),
            positions=positions,
            eps=config.weight("rms_norm_eps", 1e-6),
            tied=tied,
            names=lambda kind: names,
            outer=ends(tied),
            mlp_options={"bias": True} if mlp_bias else {},
            attention={**({"bias": True, "out_bias": True} if bias else {}), **dropped(config)},
            std=config.weight("initializer_range", 0.02),
        )
    )


LLAMA = Family("LlamaForCausalLM", describe)
