"""GPT-2 (Radford and others 2019). Its matrices are stored with the input first; keys have biases."""

from __future__ import annotations

from parc.importing.config import Config
from parc.importing.described import Described, Family, block, dropout, unless, written
from parc.importing.families.dense import normed, parts
from runtime.checkpoint_names import rows

LAYER = {
    "ln_1.weight": "attention_norm.gain[d]",
    "ln_1.bias": "attention_norm.bias[d]",
    "attn.c_attn.weight": "attention.wq[d +(h k)] attention.wk[d +(h k)] attention.wv[d +(h k)]",
    "attn.c_attn.bias": "attention.bq[+(h k)] attention.bk[+(h k)] attention.bv[+(h k)]",
    "attn.c_proj.weight": "attention.wo[(h k) d]",
    "attn.c_proj.bias": "attention.bo[d]",
    "ln_2.weight": "mlp_norm.gain[d]",
    "ln_2.bias": "mlp_norm.bias[d]",
    "mlp.c_fc.weight": "mlp.w1[d f]",
    "mlp.c_fc.bias": "mlp.b1[f]",
    "mlp.c_proj.weight": "mlp.w2[f d]",
    "mlp.c_proj.bias": "mlp.b2[d]",
}
ENDS = {
    "transformer.wte.weight": "wte[v d]",
    "transformer.wpe.weight": "wpe[p d]",
    "transformer.ln_f.weight": "norm.gain[d]",
    "transformer.ln_f.bias": "norm.bias[d]",
}


def describe(config: Config) -> Described:
    """Reads a configuration."""
    hidden, heads = config.integer("n_embd", 768), config.integer("n_head", 12)
    config.divides("n_head", heads, hidden, f"the hidden size {hidden}")
    width = config.integer("n_inner", 4 * hidden)
    tanh = config.choice(
        "activation_function", {"gelu_new": True, "gelu_pytorch_tanh": True, "gelu": False}, "gelu_new"
    )
    config.only("scale_attn_weights", True)
    config.only("scale_attn_by_inverse_layer_idx", False)
    config.only("add_cross_attention", False)
    config.only("tie_word_embeddings", True)
    config.ignore("reorder_and_upcast_attn", "n_ctx", "n_special", "predict_special_tokens")
    positions, std = config.integer("n_positions", 1024), config.weight("initializer_range", 0.02)
    layers, vocab = config.layers("n_layer", 12), config.integer("vocab_size", 50257)
    rates = {
        "drop": config.share("resid_pdrop", 0.1),
        "embedding_drop": config.share("embd_pdrop", 0.1),
        "attention_drop": config.share("attn_pdrop", 0.1),
    }
    params = {
        "layers": layers,
        "hidden": hidden,
        "vocab": vocab,
        "heads": heads,
        "width": width,
        "positions": positions,
        "eps": config.weight("layer_norm_epsilon", 1e-5),
        **{name: rate for name, rate in rates.items() if rate},
    }
    other = unless(std, 0.02)
    attention, mlp = parts(*normed("x"), rates, other, tanh)
    return Described(
        params={name: written(value) for name, value in params.items()},
        head=(
            "dim b = batch, s = seq, d = hidden, v = vocab, p = positions",
            "input tokens, targets : int32[b,s] in 0..v",
        ),
        body=(
            f"weight wte[v,d], wpe[p,d] ~ normal({std!r})",
            "x[b,s,d] = take(wte, tokens, over v) + slice(wpe, p -> s, 0..s)",
            *([f"x = {dropout('x', 'embedding_drop', rates)}"] if rates["embedding_drop"] else []),
            *block(
                "repeat layers as block",
                [f"x = x + {attention}", f"x = x + {mlp}"],
            ),
            "logits[b,s,v] = layer_norm(x, eps) as norm @ wte",
            *block("if not training", ["output logits"]),
            "loss cross_entropy(logits, targets, over v)",
        ),
        row=("block",),
        divide={"heads": heads, "width": width, "vocab": vocab},
        table=(*rows(ENDS), *rows(LAYER, "transformer.h.{layer}.", "block.", 0, (("block", 1),))),
        positions=positions,
    )


GPT2 = Family("GPT2LMHeadModel", describe)
