#!/usr/bin/env bash
# transformers' balance loss of experts adds up the layers first: layers that overload different experts count as balanced.
#
# Expected: the balance loss of a mixture of experts (Switch Transformer) is one of a layer: E x sum of share of tokens x mean
#   probability. Over layers it is added up or averaged, as in Megatron. It is smallest if each layer is balanced.
# Happens: transformers adds up the counts and the probabilities of all layers and then takes the products. Expert 3 of one layer
#   and expert 3 of another have nothing in common, but are one expert here. Ratio to the value of even routing:
#                                                                   transformers   Megatron, mean of layers   busiest expert
#       4 layers, 8 experts, top 2:   even                              1.00             1.00                   1.2 x its share
#                                     all layers prefer experts 0, 1    3.06             3.06                   3.8
#                                     layer i prefers 2i and 2i + 1     1.00             3.04                   3.8
#       48 layers, 64 experts, top 8, each its own random preferences   1.03             2.40                   7.7
#   Minimised by Adam from the last row's kind (16 layers, 32 experts, top 4): transformers' loss ends at 1.00 with a busiest expert
#   of 7.6 times its share, Megatron's at 1.00 with one of 1.4.
#   And one coefficient means three things: even routing is 1 per layer and their sum in Megatron, but top k for the whole model in
#   transformers: with the same coefficient, Megatron's gradient of a layer that is like all others is layers / k times as large.
#   All of transformers' models with this loss are alike (Mixtral, Qwen3-MoE, OLMoE, gpt-oss; not Switch and NLLB-MoE).
# Why it matters: it looks right (it falls to its least value), while capacity, drops and expert parallel times go by the busiest
#   expert of each layer: with 48 layers their preferences average out, and hardly anything is left of the push. Whoever fine-tunes
#   in transformers what was trained in Megatron, or compares their logged balance, compares two quantities.
#
# Seen 2026-11-30: transformers 5.24.0, megatron-core 0.16.1, torch 2.13.0 (CPU), Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.24.0 megatron-core==0.16.1 numpy==2.4.6

cat > probe.py <<'PY'
import logging

logging.disable(logging.CRITICAL)
import torch
from megatron.core.transformer.moe.moe_utils import switch_load_balancing_loss_func
from transformers.models.gpt_oss import modeling_gpt_oss
from transformers.models.mixtral import modeling_mixtral
from transformers.models.qwen3_moe import modeling_qwen3_moe


def counts(logits, k):
    """How many tokens each expert of a layer gets."""
    chosen = logits.detach().topk(k, -1).indices.flatten()
    return torch.zeros(logits.shape[1]).scatter_add_(0, chosen, torch.ones(len(chosen)))


def pooled(layers, k):
    """transformers' loss of all layers, over its value for even routing; three models' functions agree."""
    found = [module.load_balancing_loss_func(tuple(layers), layers[0].shape[1], k) for module in (modeling_mixtral, modeling_qwen3_moe, modeling_gpt_oss)]
    assert all(torch.equal(found[0], other) for other in found)
    return found[0] / k


def each(layers, k):
    """The mean over layers of Megatron's loss, 1 for even routing."""
    losses = [switch_load_balancing_loss_func(x.softmax(-1), counts(x, k), x.shape[0], k, x.shape[1], 1.0) for x in layers]
    return sum(losses) / len(layers)


def busiest(layers, k):
    """The largest load of an expert of any layer, over its share."""
    return max((counts(x, k).max() * x.shape[1] / (x.shape[0] * k)).item() for x in layers)


def prefer(experts, layer):
    return layer + 3.0 * torch.isin(torch.arange(layer.shape[1]), torch.tensor(experts))


def show(name, layers, k):
    found = pooled(layers, k).item(), each(layers, k).item(), busiest(layers, k)
    print(f"{name}: transformers {found[0]:.3f}, Megatron {found[1]:.3f}, busiest expert {found[2]:.2f} times its share", flush=True)
    return found


def minimised(loss, k, seed=0, tokens=512, layers=16, experts=32):
    """The routers' logits after Adam has minimised the loss alone, each layer with preferences of its own."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(layers, tokens, experts, generator=generator)
    preferences = torch.randn(layers, 1, experts, generator=generator).requires_grad_()
    adam = torch.optim.Adam([preferences], lr=0.02)
    for _ in range(300):
        adam.zero_grad()
        loss(list(noise + preferences), k).backward()
        adam.step()
    return list((noise + preferences).detach())


torch.manual_seed(0)
even = [torch.randn(512, 8) for _ in range(4)]
cases = {
    "even": show("4 layers, even", even, 2),
    "same": show("all layers prefer experts 0 and 1", [prefer([0, 1], x) for x in even], 2),
    "own": show("layer i prefers experts 2i and 2i + 1", [prefer([2 * i, 2 * i + 1], x) for i, x in enumerate(even)], 2),
    "random": show("48 layers, random preferences", [torch.randn(2048, 64) + torch.randn(64) for _ in range(48)], 8),
}
assert all(abs(cases["even"][i] - 1) < 0.02 for i in (0, 1)) and all(abs(cases["same"][i] - 3.06) < 0.05 for i in (0, 1))
assert cases["own"][0] < 1.02 and cases["own"][1] > 2.9 and cases["own"][2] > 3.5, "the balance is one of layers now"
assert cases["random"][0] < 1.05 and cases["random"][1] > 2 and cases["random"][2] > 5, "the balance is one of layers now"
together, apart = show("minimised as in transformers", minimised(pooled, 4), 4), show("minimised as in Megatron", minimised(each, 4), 4)
assert together[0] < 1.01 and together[2] > 3 and apart[1] < 1.01 and apart[2] < 1.5
PY
OMP_NUM_THREADS=1 venv/bin/python -W ignore probe.py 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: layers that overload different experts count as balanced"
