"""Codes E10xx: files of other systems, such as the configurations of published models."""

from __future__ import annotations

from dsl.codes.code import Code


def _config(more: str = "") -> str:
    """A small configuration of Llama, with further keys."""
    return (
        '{\n  "model_type": "llama",\n  "hidden_size": 32,\n  "intermediate_size": 48,\n  "num_hidden_layers": 2,\n'
        f'  "num_attention_heads": 4,\n  "vocab_size": 40{more}\n}}\n'
    )


CODES: tuple[Code, ...] = (
    Code(
        "E1001",
        "this is no configuration",
        "`parc init` reads the `config.json` that lies beside the weights of a published model: a JSON object of keys "
        "and values.",
        '{"model_type": "llama",\n',
        _config(),
    ),
    Code(
        "E1002",
        "a family of models that is not known",
        "The `model_type` of a configuration says which architecture the model is of. docs/public-models.md lists "
        "those that there are. Another one can be written in the language, with the layers of `std.layers`.",
        _config().replace("llama", "llamma"),
        _config(),
    ),
    Code(
        "E1003",
        "a key of the configuration that is not understood",
        "A key that is passed over in silence could change what the model computes. Keys that are known to change "
        "nothing (docs/public-models.md lists them) are passed over; if you know that this one is such a key, say "
        "`--ignore KEY`.",
        _config(',\n  "num_loops": 3'),
        _config(),
    ),
    Code(
        "E1004",
        "a value of the configuration that is not supported",
        "The key is understood, and this value of it asks for something that the family's description here cannot say. "
        "The message tells which values can be said.",
        _config(',\n  "hidden_act": "relu"'),
        _config(',\n  "hidden_act": "silu"'),
    ),
    Code(
        "E1005",
        "a value of the configuration that is missing or makes no sense",
        "A key without a default is not there, a value is of another type than it has in such configurations, or it "
        "does not go together with the others (heads that do not divide the hidden size).",
        _config(',\n  "num_key_value_heads": 3'),
        _config(',\n  "num_key_value_heads": 2'),
    ),
)
