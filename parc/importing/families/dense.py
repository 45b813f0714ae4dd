"""What GPT-2, BERT and ViT share: attention and an MLP with biases, and dropout; what encoders call their weights."""

from __future__ import annotations

from collections.abc import Mapping

from parc.importing.described import call, dropout

OUTPUTS = {
    "attention.output.dense.weight": "attention.wo[d (h k)]",
    "attention.output.dense.bias": "attention.bo[d]",
}
MLP = {
    "intermediate.dense.weight": "mlp.w1[f d]",
    "intermediate.dense.bias": "mlp.b1[f]",
    "output.dense.weight": "mlp.w2[d f]",
    "output.dense.bias": "mlp.b2[d]",
}


def projections(module: str) -> dict[str, str]:
    """What checkpoints of encoders call the projections of attention, which are parts of a module."""
    found: dict[str, str] = {}
    for name, short in (("query", "q"), ("key", "k"), ("value", "v")):
        found[f"{module}.{name}.weight"] = f"attention.w{short}[(h k) d]"
        found[f"{module}.{name}.bias"] = f"attention.b{short}[(h k)]"
    return found


def parts(
    attention_of: str,
    mlp_of: str,
    rates: Mapping[str, float],
    std: object,
    tanh: bool,
    causal: bool | None = None,
    lengths: str | None = None,
) -> tuple[str, str]:
    """The texts of a layer's attention and MLP of these, with dropout. std: of weights, None if it is the usual one;
    causal: None if as usual; lengths: what says how many positions of each sequence count."""
    attention = call(
        "attention",
        attention_of,
        "heads",
        causal=causal,
        drop="attention_drop" if rates["attention_drop"] else None,
        std=std,
        key_bias=True,
        lengths=lengths,
        label="attention",
    )
    mlp = call("mlp", mlp_of, "width", std=std, tanh=tanh or None, label="mlp")
    return dropout(attention, "drop", rates), dropout(mlp, "drop", rates)


def normed(x: str) -> tuple[str, str]:
    """The norms that stand before both parts of a layer."""
    return call("layer_norm", x, "eps", label="attention_norm"), call("layer_norm", x, "eps", label="mlp_norm")
