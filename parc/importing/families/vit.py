"""Vision Transformer (Dosovitskiy and others 2020), which classifies images."""

from __future__ import annotations

from typing import Any

from parc.importing.config import Config
from parc.importing.described import Described, Family, block, call, dropout, unless, written
from parc.importing.families.dense import MLP, OUTPUTS, normed, parts, projections
from runtime.checkpoint_names import rows

LAYER = {
    "layernorm_before.weight": "attention_norm.gain[d]",
    "layernorm_before.bias": "attention_norm.bias[d]",
    **projections("attention.attention"),
    **OUTPUTS,
    "layernorm_after.weight": "mlp_norm.gain[d]",
    "layernorm_after.bias": "mlp_norm.bias[d]",
    **MLP,
}
ENDS = {
    "vit.embeddings.cls_token": "first[1 1 d]",
    "vit.embeddings.position_embeddings": "places[1 s d]",
    "vit.embeddings.patch_embeddings.projection.weight": "patches[d c ky kx]",
    "vit.embeddings.patch_embeddings.projection.bias": "offset[d]",
    "vit.layernorm.weight": "norm.gain[d]",
    "vit.layernorm.bias": "norm.bias[d]",
    "classifier.weight": "head.w[v d]",
    "classifier.bias": "head.offset[v]",
}


def describe(config: Config) -> Described:
    """Reads a configuration."""
    hidden, heads = config.integer("hidden_size", 768), config.integer("num_attention_heads", 12)
    config.divides("num_attention_heads", heads, hidden, f"the hidden size {hidden}")
    tanh = config.choice("hidden_act", {"gelu": False, "gelu_new": True, "gelu_pytorch_tanh": True}, "gelu")
    config.only("qkv_bias", True)
    config.ignore("encoder_stride", "pooler_output_size", "pooler_act")
    size, patch = config.integer("image_size", 224), config.integer("patch_size", 16)
    config.divides("patch_size", patch, size, f"images of {size}")
    width, layers = config.integer("intermediate_size", 3072), config.layers("num_hidden_layers", 12)
    std, labels = config.weight("initializer_range", 0.02), _labels(config)
    rates = {
        "drop": config.share("hidden_dropout_prob", 0.0),
        "attention_drop": config.share("attention_probs_dropout_prob", 0.0),
    }
    params = {
        "layers": layers,
        "hidden": hidden,
        "heads": heads,
        "width": width,
        "image_size": size,
        "patch_size": patch,
        "channels": config.integer("num_channels", 3),
        "labels": labels,
        "eps": config.weight("layer_norm_eps", 1e-12),
        **{name: rate for name, rate in rates.items() if rate},
    }
    other = unless(std, 0.02)
    attention, mlp = parts(*normed("h"), rates, other, tanh, causal=False)
    head = call("linear", "mean(slice(h, s, 0..1), over s)", "over v", std=other, label="head")
    return Described(
        params={name: written(value) for name, value in params.items()},
        head=(
            "dim b = batch, y = image_size, x = image_size, c = channels, d = hidden, v = labels",
            "dim row = image_size // patch_size, column = row, ky = patch_size, kx = patch_size",
            "dim s = row * column + 1",
            "input image : compute[b,y,x,c]",
            "input label : int32[b] in 0..v",
        ),
        body=(
            f"weight patches[ky,kx,c,d], first[d], places[s,d] ~ normal({std!r})",
            "weight offset[d] ~ zeros",
            "pieces = split(split(image, y -> (row, ky)), x -> (column, kx))",
            "seen[b,row,column,d] = pieces @ patches + offset",
            "# the first position is none of the image's: the class is read there",
            "h = pad(merge(seen, (row, column) -> n), n -> s, 1, 0, 0.0)",
            "h = h + where(iota(s) == 0, first, 0.0) + places",
            *([f"h = {dropout('h', 'drop', rates)}"] if rates["drop"] else []),
            *block(
                "repeat layers as block",
                [f"h = h + {attention}", f"h = h + {mlp}"],
            ),
            "h = layer_norm(h, eps) as norm",
            f"logits = {head}",
            *block("if not training", ["output logits"]),
            "loss cross_entropy(logits, label, over v)",
        ),
        row=("block",),
        divide={"heads": heads, "width": width, "labels": labels},
        table=(*rows(ENDS), *rows(LAYER, "vit.encoder.layer.{layer}.", "block.", 0, (("block", 1),))),
        own_length=True,
        sequence=False,
    )


def _labels(config: Config) -> int:
    """How many classes there are: as many as have names, else two."""
    names: Any = config.value("id2label", {})
    return len(names) if isinstance(names, dict) and names else config.integer("num_labels", 2)


VIT = Family("ViTForImageClassification", describe)
