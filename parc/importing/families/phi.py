"""Phi-3, Phi-3.5 and Phi-4 (Abdin and others 2024): some matrices are stored in one."""

from __future__ import annotations

from parc.importing.config import Config
from parc.importing.decoder import Decoder, LayerKind, described
from parc.importing.described import Described, Family
from parc.importing.families.llama import ATTENTION, MLP, NORMS, dropped, ends, sizes
from parc.importing.rotary import read_rotary

FUSED = {
    "self_attn.qkv_proj.weight": "attention.wq[+(h r k) d] attention.wk[+(h k) d] attention.wv[+(h k) d]",
    "self_attn.o_proj.weight": ATTENTION["self_attn.o_proj.weight"],
    "mlp.gate_up_proj.weight": "mlp.gate[+f d] mlp.up[+f d]",
    "mlp.down_proj.weight": MLP["mlp.down_proj.weight"],
}


def describe(config: Config) -> Described:
    """Reads a configuration."""
    found = sizes(config)
    config.only("hidden_act", "silu")
    config.only("embd_pdrop", 0.0)
    for key in ("attention_bias", "mlp_bias", "lm_head_bias"):
        config.only(key, False)
    for key in ("full_attn_mod", "interpolate_factor"):  # of Phi-4-mini, whose own code has them
        config.only(key, 1)
    positions = config.integer("max_position_embeddings", 4096)
    config.ignore("original_max_position_embeddings")
    tied = config.flag("tie_word_embeddings", False)
    rotary = read_rotary(config, found.size, 10000.0, positions, partial=True)
    window = config.size("sliding_window", None)
    kind = LayerKind("block", rotary, window if window < positions else 0)
    return described(
        Decoder(
            sizes=found,
            kinds=[kind] * config.layers("num_hidden_layers"),
            positions=positions,
            eps=config.weight("rms_norm_eps", 1e-5),
            tied=tied,
            names=lambda kind: {**FUSED, **NORMS},
            outer=ends(tied),
            attention=dropped(config),
            std=config.weight("initializer_range", 0.02),
            drop=config.share("resid_pdrop"),
        )
    )


PHI3 = Family("Phi3ForCausalLM", describe)
