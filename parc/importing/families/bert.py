"""BERT (Devlin and others 2018), trained to predict masked tokens: norms stand behind the parts of a layer."""

from __future__ import annotations

from dsl.data import dataclass
from parc.importing.config import Config
from parc.importing.described import Described, Family, block, call, dropout, unless, written
from parc.importing.families.dense import MLP, OUTPUTS, parts, projections
from parc.importing.pooling import MODULES, pooling_of
from runtime.checkpoint_names import rows

LAYER = {
    **projections("attention.self"),
    **OUTPUTS,
    "attention.output.LayerNorm.weight": "attention_norm.gain[d]",
    "attention.output.LayerNorm.bias": "attention_norm.bias[d]",
    **MLP,
    "output.LayerNorm.weight": "mlp_norm.gain[d]",
    "output.LayerNorm.bias": "mlp_norm.bias[d]",
}
ENDS = {
    "bert.embeddings.word_embeddings.weight": "words[v d]",
    "bert.embeddings.position_embeddings.weight": "places[p d]",
    "bert.embeddings.token_type_embeddings.weight": "segments[kind d]",
    "bert.embeddings.LayerNorm.weight": "embedding_norm.gain[d]",
    "bert.embeddings.LayerNorm.bias": "embedding_norm.bias[d]",
    "cls.predictions.transform.dense.weight": "transform.w[c d]",
    "cls.predictions.transform.dense.bias": "transform.offset[c]",
    "cls.predictions.transform.LayerNorm.weight": "transform_norm.gain[c]",
    "cls.predictions.transform.LayerNorm.bias": "transform_norm.bias[c]",
    "cls.predictions.bias": "offset[v]",
}
ENCODER = {name.removeprefix("bert."): weight for name, weight in ENDS.items() if name.startswith("bert.")}


@dataclass(frozen=True, slots=True)
class BertSizes:
    """What a configuration says of the layers. params: by name, as the job has them; std: of weights; rates: of
    dropout; tanh: which gelu."""

    params: dict[str, float]
    std: float
    rates: dict[str, float]
    tanh: bool
    positions: int
    divide: dict[str, int]


def bert_sizes(config: Config) -> BertSizes:
    """Reads a configuration, of whatever is made of the layers."""
    hidden, heads = config.integer("hidden_size", 768), config.integer("num_attention_heads", 12)
    config.divides("num_attention_heads", heads, hidden, f"the hidden size {hidden}")
    tanh = config.choice("hidden_act", {"gelu": False, "gelu_new": True, "gelu_pytorch_tanh": True}, "gelu")
    for key, value in (
        ("position_embedding_type", "absolute"),
        ("is_decoder", False),
        ("add_cross_attention", False),
        ("tie_word_embeddings", True),
    ):
        config.only(key, value)
    width, positions = config.integer("intermediate_size", 3072), config.integer("max_position_embeddings", 512)
    layers, vocab = config.layers("num_hidden_layers", 12), config.integer("vocab_size", 30522)
    std = config.weight("initializer_range", 0.02)
    rates = {
        "drop": config.share("hidden_dropout_prob", 0.1),
        "attention_drop": config.share("attention_probs_dropout_prob", 0.1),
    }
    params = {
        "layers": layers,
        "hidden": hidden,
        "vocab": vocab,
        "heads": heads,
        "width": width,
        "positions": positions,
        "kinds": config.integer("type_vocab_size", 2),
        "eps": config.weight("layer_norm_eps", 1e-12),
    }
    return BertSizes(params, std, rates, tanh, positions, {"heads": heads, "width": width, "vocab": vocab})


def describe(config: Config) -> Described:
    """Reads a configuration."""
    sizes = bert_sizes(config)
    std, rates, tanh = sizes.std, sizes.rates, sizes.tanh
    params = sizes.params | {name: rate for name, rate in rates.items() if rate}
    other = unless(std, 0.02)
    attention, mlp = parts("x", "x", rates, other, tanh, causal=False)
    embedded = call("layer_norm", "x", "eps", label="embedding_norm")
    transformed = call("linear", "x", "over c", std=other, label="transform")
    return Described(
        params={name: written(value) for name, value in params.items()},
        head=(
            "dim b = batch, s = seq, d = hidden, c = hidden, v = vocab, p = positions, kind = kinds",
            "input tokens : int32[b,s] in 0..v",
            "input segment : int32[b,s] in 0..kind",
            "input targets : int32[b,s] in -100..v",
        ),
        body=(
            f"weight words[v,d], places[p,d], segments[kind,d] ~ normal({std!r})",
            "weight offset[v] ~ zeros",
            "x[b,s,d] = take(words, tokens, over v) + take(segments, segment, over kind)",
            "x = x + slice(places, p -> s, 0..s)",
            f"x = {dropout(embedded, 'drop', rates)}",
            *block(
                "repeat layers as block",
                [
                    f"x = layer_norm(x + {attention}, eps) as attention_norm",
                    f"x = layer_norm(x + {mlp}, eps) as mlp_norm",
                ],
            ),
            f"found = layer_norm({'gelu_tanh' if tanh else 'gelu'}({transformed}), eps) as transform_norm",
            "logits[b,s,v] = rename(found, c -> d) @ words + offset",
            *block("if not training", ["output logits"]),
            "loss cross_entropy(logits, targets, over v)",
        ),
        row=("block",),
        divide=sizes.divide,
        table=(*rows(ENDS), *rows(LAYER, "bert.encoder.layer.{layer}.", "block.", 0, (("block", 1),))),
        positions=sizes.positions,
        notes=("Targets of -100 count for nothing: the tokens that are not masked.",),
    )


def describe_encoder(config: Config) -> Described:
    """Reads a configuration of the layers alone, which make a vector of each text, as `sentence-transformers` has it:
    of its positions, one attends to those of its own text, and what is behind a text's length counts for nothing."""
    sizes, pooling = bert_sizes(config), pooling_of(config)
    attention, mlp = parts("x", "x", dict.fromkeys(sizes.rates, 0.0), None, sizes.tanh, causal=False, lengths="length")
    told = f"`{MODULES}` beside the configuration says" if pooling.told else f"there is no `{MODULES}` that says"
    return Described(
        params={name: written(value) for name, value in sizes.params.items()}
        | {"normalised": written(pooling.normalised)},
        head=(
            "dim b = batch, s = seq, t = seq, d = hidden, v = vocab, p = positions, kind = kinds",
            "input tokens : int32[b,s] in 0..v",
            "input length : int32[b] in 1..seq + 1",
        ),
        body=(
            "weight words[v,d], places[p,d], segments[kind,d] ~ normal(0.02)",
            "x[b,s,d] = take(words, tokens, over v) + sum(slice(segments, kind, 0..1), over kind)",
            "x = x + slice(places, p -> s, 0..s)",
            "x = layer_norm(x, eps) as embedding_norm",
            *block(
                "repeat layers as block",
                [
                    f"x = layer_norm(x + {attention}, eps) as attention_norm",
                    f"x = layer_norm(x + {mlp}, eps) as mlp_norm",
                ],
            ),
            *(
                ("own = where(iota(s) < length, x, 0.0)", "embedding = sum(own, over s) / cast(length, compute)")
                if pooling.kind == "mean"
                else ("embedding = sum(where(iota(s) == 0, x, 0.0), over s)",)
            ),
            *block(
                "if normalised",
                ["embedding = embedding * rsqrt(maximum(sum(embedding * embedding, over d), 1e-24))"],
            ),
            "output embedding",
        ),
        row=("block",),
        divide=sizes.divide,
        table=(*rows(ENCODER), *rows(LAYER, "encoder.layer.{layer}.", "block.", 0, (("block", 1),))),
        positions=sizes.positions,
        usual=min(pooling.longest or sizes.positions, sizes.positions),
        trains=False,
        notes=(f"A vector of each text: {told} how it is made of positions. `length`: how many of them are a text's.",),
    )


BERT = Family("BertForMaskedLM", describe, {"BertModel": describe_encoder})
