"""T5 and T5 1.1, such as Flan-T5 (Raffel and others 2019): encoder and decoder know distances, not positions."""

from __future__ import annotations

from collections.abc import Mapping

from parc.importing.config import Config
from parc.importing.described import Described, Family, block, call, dropout, written
from runtime.checkpoint_names import StoredTensor, rows

SELF = {
    "SelfAttention.q.weight": "attention.wq[(h k) d]",
    "SelfAttention.k.weight": "attention.wk[(h k) d]",
    "SelfAttention.v.weight": "attention.wv[(h k) d]",
    "SelfAttention.o.weight": "attention.wo[d (h k)]",
    "layer_norm.weight": "attention_norm.gain[d]",
}
CROSS = {
    "EncDecAttention.q.weight": "cross.wq[(h k) d]",
    "EncDecAttention.k.weight": "cross.wk[(h k) d]",
    "EncDecAttention.v.weight": "cross.wv[(h k) d]",
    "EncDecAttention.o.weight": "cross.wo[d (h k)]",
    "layer_norm.weight": "cross_norm.gain[d]",
}
PLAIN = {"DenseReluDense.wi.weight": "mlp.w1[f d]", "DenseReluDense.wo.weight": "mlp.w2[d f]"}
GATED = {
    "DenseReluDense.wi_0.weight": "mlp.gate[f d]",
    "DenseReluDense.wi_1.weight": "mlp.up[f d]",
    "DenseReluDense.wo.weight": "mlp.down[d f]",
}
NORM = {"layer_norm.weight": "mlp_norm.gain[d]"}
DISTANCES = "{}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
ENDS = {
    "shared.weight": "table[v d]",
    DISTANCES.format("encoder"): "encoder_positions.table[bucket h]",
    DISTANCES.format("decoder"): "decoder_positions.table[bucket h]",
    "encoder.final_layer_norm.weight": "encoder_norm.gain[d]",
    "decoder.final_layer_norm.weight": "norm.gain[d]",
}


def describe(config: Config) -> Described:
    """Reads a configuration."""
    hidden, heads, size = config.integer("d_model", 512), config.integer("num_heads", 8), config.integer("d_kv", 64)
    width, vocab = config.integer("d_ff", 2048), config.integer("vocab_size", 32128)
    layers = config.layers("num_layers", 6)
    kinds = {"relu": False, "gated-gelu": True, "gated-gelu_new": True}
    gated = config.choice("feed_forward_proj", kinds, "relu")
    same = "of `feed_forward_proj` follows another one, and transformers takes this"
    for key, says in (("dense_act_fn", "gelu_new" if gated else "relu"), ("is_gated_act", gated)):
        config.only(key, says, f"only `{str(says).lower()}` is: {same}")
    config.ignore("n_positions")
    config.only("is_encoder_decoder", True)
    config.only("is_decoder", False)
    tied, factor = config.flag("tie_word_embeddings", True), config.positive("initializer_factor", 1.0)
    # transformers 5 ties all, and says apart whether what goes into the head is scaled: up to then, where it was tied
    scaled = config.flag("scale_decoder_outputs", tied)
    rates = {"drop": config.share("dropout_rate", 0.1)}
    buckets = config.integer("relative_attention_num_buckets", 32)
    farthest = config.integer("relative_attention_max_distance", 128)
    if buckets % 4:
        config.wrong("relative_attention_num_buckets", f"is {buckets}, which is not 4 times a whole number")
    if farthest <= buckets // 2:
        config.wrong("relative_attention_max_distance", f"is {farthest}; {buckets} buckets reach further")
    params = {
        "layers": layers,
        "decoder_layers": config.layers("num_decoder_layers", layers),
        "hidden": hidden,
        "vocab": vocab,
        "heads": heads,
        "head_size": size,
        "width": width,
        "buckets": buckets,
        "farthest": farthest,
        "eps": config.weight("layer_norm_epsilon", 1e-6),
        "std": f"{factor!r} / sqrt(hidden)",
        **{name: rate for name, rate in rates.items() if rate},
    }
    drop = "drop" if rates["drop"] else None

    def near(name: str, s: str, t: str, both: bool) -> str:
        made = call(
            "relative_positions", f"over {s}", f"over {t}", "over h", "buckets", "farthest",
            both=None if both else False, std="std", label=f"{name}_positions",
        )  # fmt: skip
        return f"{name}_near = {made}"

    def part(x: str, made: str) -> str:
        return f"{x} = {x} + {dropout(made, 'drop', rates)}"

    def own(x: str, name: str, t: str, causal: bool | None) -> str:
        normal = call("rms_norm", x, "eps", label="attention_norm")
        near, along = f"{name}_near", f"over {t}"
        options: dict[str, object] = {"causal": causal, "drop": drop, "std": "std"}
        made = call("relative_attention", normal, "heads", "head_size", near, along, **options, label="attention")
        return part(x, made)

    def mlp(x: str) -> str:
        normal = call("rms_norm", x, "eps", label="mlp_norm")
        if gated:
            return part(x, call("geglu", normal, "width", std="std", drop=drop, label="mlp"))
        return part(x, call("relu_mlp", normal, "width", std="std", bias=False, drop=drop, label="mlp"))

    cross = call("rms_norm", "y", "eps", label="cross_norm")
    cross = call(
        "cross_attention", cross, "memory", "heads", std="std", size="head_size", plain=True, drop=drop, label="cross"
    )
    found = "y / sqrt(hidden)" if scaled else "y"
    logits = f"logits[b,u,v] = {found} @ table"
    if not tied:
        logits = "logits = " + call("linear", found, "over v", bias=False, std="std", label="head")
    return Described(
        params={name: written(value) for name, value in params.items()},
        head=(
            "dim b = batch, s = seq, u = target_seq, d = hidden, v = vocab, h = heads",
            "dim t = s, w = u",
            "input tokens : int32[b,s] in 0..v",
            "input decoder_tokens, targets : int32[b,u] in 0..v",
        ),
        body=(
            f"weight table[v,d] ~ normal({factor!r})",
            f"x[b,s,d] = {dropout('take(table, tokens, over v)', 'drop', rates)}",
            near("encoder", "s", "t", True),
            *block("repeat layers as encoder", [own("x", "encoder", "t", None), mlp("x")]),
            f"memory = {dropout('rms_norm(x, eps) as encoder_norm', 'drop', rates)}",
            f"y[b,u,d] = {dropout('take(table, decoder_tokens, over v)', 'drop', rates)}",
            near("decoder", "u", "w", False),
            *block("repeat decoder_layers as decoder", [own("y", "decoder", "w", True), part("y", cross), mlp("y")]),
            f"y = {dropout('rms_norm(y, eps) as norm', 'drop', rates)}",
            logits,
            *block("if not training", ["output logits"]),
            "loss cross_entropy(logits, targets, over v)",
        ),
        row=("encoder", "decoder"),
        divide={"heads": heads, "width": width, "vocab": vocab},
        table=_table(tied, gated),
        lengths=("seq", "target_seq"),
        usual=512,
    )


def _table(tied: bool, gated: bool) -> tuple[StoredTensor, ...]:
    def layer(name: str, parts: list[Mapping[str, str]]) -> tuple[StoredTensor, ...]:
        found: list[StoredTensor] = []
        for at, table in enumerate(parts):
            found += rows(table, f"{name}.block.{{layer}}.layer.{at}.", f"{name}.", 0, ((name, 1),))
        return tuple(found)

    mlp = {**(GATED if gated else PLAIN), **NORM}
    ends = ENDS if tied else {**ENDS, "lm_head.weight": "head.w[v d]"}
    return (*rows(ends), *layer("encoder", [SELF, mlp]), *layer("decoder", [SELF, CROSS, mlp]))


T5 = Family("T5ForConditionalGeneration", describe)
