"""Rows of models that more than one test takes, as a table of published rows writes them."""

LATENT = {
    "arch": "moe-mla", "model": "DeepSeek-V2-Lite", "hidden": "2048", "ffn": "10944", "glu": "1", "heads": "16",
    "kv_heads": "16", "head_dim": "", "vocab": "102400", "experts": "64", "topk": "6", "sp": "0", "moe_ffn": "1408",
    "shared_ffn": "2816", "dense_layers": "1", "precision": "bf16", "n_dev": "4",
}  # fmt: skip
"""A mixture of experts with latent attention, on four devices; without its number of layers."""
