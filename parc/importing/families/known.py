"""The families that there are."""

from __future__ import annotations

from importlib import import_module

from parc.importing.described import Family

KNOWN = {
    "llama": "llama.LLAMA",
    "qwen2": "qwen.QWEN2",
    "qwen3": "qwen.QWEN3",
    "qwen3_moe": "qwen.QWEN3_MOE",
    "mistral": "mistral.MISTRAL",
    "mixtral": "mistral.MIXTRAL",
    "phi3": "phi.PHI3",
    "gemma2": "gemma.GEMMA2",
    "gemma3_text": "gemma.GEMMA3",
    "gpt2": "gpt2.GPT2",
    "bert": "bert.BERT",
    "vit": "vit.VIT",
    "t5": "t5.T5",
    "gpt_oss": "gpt_oss.GPT_OSS",
    "deepseek_v3": "deepseek.DEEPSEEK_V3",
}
"""`model_type` of a configuration -> its family: module and name."""


def family_of(model_type: str) -> Family:
    """The family of a `model_type`. Raises KeyError where it is none of ours."""
    module, _, name = KNOWN[model_type].partition(".")
    found: Family = getattr(import_module(f"parc.importing.families.{module}"), name)
    return found
