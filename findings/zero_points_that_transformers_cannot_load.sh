#!/usr/bin/env bash
# An asymmetric 4-bit model that compressed-tensors itself has compressed does not load in transformers.
#
# Expected: what `ModelCompressor.compress_model` makes of a Llama (`pack-quantized`, 4 bits, groups of 16, with zero
#   points) is the layout that `from_pretrained` reads, as it is for symmetric weights: both go by the same package.
# Happens: compressed-tensors packs the zero points of 8 rows into a word (32 x 2 of them are 4 x 2 words), transformers
#   makes modules with one number for each (32 x 2), and refuses all matrices. With `ignore_mismatched_sizes=True` the
#   zero points of the file are dropped and others stand there, with a warning in the log and no error. The same model
#   with symmetric weights loads.
# Why it matters: whoever writes such folders by the specification of the package gets files that its main reader refuses, and
#   whoever reads them has to take zero points of either shape. Symmetric weights avoid both.
#
# Seen 2026-11-29: compressed-tensors 0.20.1, transformers 5.24.0, torch 2.13.0 (CPU), Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0+cpu transformers==5.24.0 \
  compressed-tensors==0.20.1 safetensors==0.8.0

cat > probe.py <<'PY'
import copy
import json
import os

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
)
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM


def saved(folder, symmetric):
    """A Llama of one layer, compressed by the package and saved as its readers expect it."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=40, tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    bits = QuantizationArgs(num_bits=4, symmetric=symmetric, strategy="group", group_size=16)
    scheme = QuantizationScheme(targets=["Linear"], weights=bits, format="pack-quantized")
    quantized = QuantizationConfig(
        config_groups={"all": scheme}, format="pack-quantized", ignore=["lm_head"], quantization_status="compressed"
    )
    apply_quantization_config(model, copy.deepcopy(quantized))
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            module.weight_scale.data.fill_(0.01)
        if hasattr(module, "weight_zero_point"):
            module.weight_zero_point.data.fill_(1)
    ModelCompressor(quantization_config=quantized).compress_model(model)
    os.makedirs(folder)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, f"{folder}/model.safetensors", metadata={"format": "pt"})
    described = model.config.to_dict()
    described["quantization_config"] = quantized.model_dump(mode="json") | {"quant_method": "compressed-tensors"}
    with open(f"{folder}/config.json", "w") as file:
        json.dump(described, file)


saved("symmetric", True)
_, info = LlamaForCausalLM.from_pretrained("symmetric", output_loading_info=True)
print("symmetric: mismatched", len(info["mismatched_keys"]), "missing", len(info["missing_keys"]))
assert not info["mismatched_keys"] and not info["missing_keys"]

saved("asymmetric", False)
name = "model.layers.0.self_attn.q_proj.weight_zero_point"
print("in the file:", name, tuple(load_file("asymmetric/model.safetensors")[name].shape))
try:
    LlamaForCausalLM.from_pretrained("asymmetric")
except Exception as error:
    print("asymmetric:", type(error).__name__, str(error).splitlines()[0][:100])
else:
    raise SystemExit("it loads now")
_, info = LlamaForCausalLM.from_pretrained("asymmetric", output_loading_info=True, ignore_mismatched_sizes=True)
found = {key[0]: (tuple(key[1]), tuple(key[2])) for key in info["mismatched_keys"]}
print("asymmetric, mismatches ignored:", len(found), "of 7 matrices,", name, found[name])
assert len(found) == 7 and found[name] == ((4, 2), (32, 2))
PY
venv/bin/python probe.py 2> log || { cat log; exit 1; }
echo "unchanged: packed zero points of compressed-tensors are not what transformers makes room for"
