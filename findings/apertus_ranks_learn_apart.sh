#!/usr/bin/env bash
# transformers: under its own plan for tensor parallelism, Apertus' activations get other gradients on each rank.
#
# Expected: `from_pretrained(..., tp_plan="auto")` gives each rank the loss and the gradients of the whole model, so that what is
#   on all ranks alike stays alike. It does for Llama, Qwen3, Mixtral, DeepSeek-V3, gpt-oss and some 20 more.
# Happens: Apertus' activation (xIELU) has two learnt numbers per layer, which all channels share. The plan splits the channels
#   over ranks, so that a rank's gradient of the two is that of its channels; nothing adds them up. (The plan does it for the
#   norms of queries and keys, "replicated_with_grad_allreduce", and has no entry for the activation.) On two ranks:
#       loss, logits and 13 of 15 gradients are those of one process; those of alpha_p and alpha_n are not, and not the
#       same on the ranks; their sum over ranks is the right one. After a step of SGD the two numbers differ between ranks.
#   No warning. Each rank goes on with its own activation, so that one half of the channels has another function than the other,
#   and the checkpoint is that of rank 0.
# Why it matters: logits compared once show nothing, and neither does the loss. Whatever is inside a split region and not
#   split itself needs its gradient summed over the region's ranks: biases, norms, and learnt numbers in an activation.
#
# Seen 2026-11-30: transformers 5.24.0, accelerate 1.15.0, torch 2.13.0 (CPU, gloo), Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 numpy==2.4.6

cat > probe.py <<'PY'
import logging
import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

RANKS, RATE = 2, 0.1
SIZES = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, vocab_size=96,
    max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False,
)


def stepped(model):
    """The loss of a batch and the gradient of each parameter, by name, after one step of SGD with them."""
    tokens = torch.arange(24).reshape(2, 12) * 7 % 93 + 3
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=RATE).step()
    return loss.item(), {name: parameter.grad for name, parameter in model.named_parameters()}


def whole(part, want):
    """All ranks' parts of a gradient put together, as far as it is split: of the shape that is wanted."""
    part = part.full_tensor() if hasattr(part, "full_tensor") else part
    for dim in range(part.dim()):
        if part.shape[dim] != want.shape[dim]:
            parts = [torch.empty_like(part) for _ in range(RANKS)]
            dist.all_gather(parts, part.contiguous())
            return torch.cat(parts, dim)
    return part


def rank_of(rank, port, folder):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS), LOCAL_WORLD_SIZE=str(RANKS), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    logging.disable(logging.CRITICAL)
    dist.init_process_group("gloo")
    from transformers import ApertusForCausalLM

    want_loss, want = torch.load("want.pt")
    model = ApertusForCausalLM.from_pretrained(folder, tp_plan="auto", dtype=torch.float32, attn_implementation="eager")
    loss, found = stepped(model)
    off = []
    for name in sorted(want):
        if not torch.allclose(whole(found[name], want[name]), want[name], rtol=1e-3, atol=1e-5):
            off.append(name)
    values = {name: parameter for name, parameter in model.named_parameters() if name in off}
    if rank == 0:
        print(f"loss {loss:.5f} (one process {want_loss:.5f}), gradients that are off: {len(off)} of {len(want)}")
        assert abs(loss - want_loss) < 1e-5
        assert [name.rsplit(".", 1)[1] for name in off] == ["alpha_n", "alpha_p"], "the plan has the activation's parameters now"
    for name in off:
        grads, after = [[torch.empty_like(one) for _ in range(RANKS)] for one in (found[name], values[name])]
        dist.all_gather(grads, found[name])
        dist.all_gather(after, values[name].detach())
        if rank == 0:
            print(f"{name}: gradients {[round(one.item(), 5) for one in grads]}, right is {want[name].item():.5f}; afterwards {[one.item() for one in after]}")
            assert torch.allclose(sum(grads), want[name], rtol=1e-3, atol=1e-6) and not torch.equal(*after)
    dist.destroy_process_group()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    from transformers import ApertusConfig, ApertusForCausalLM

    torch.manual_seed(0)
    model = ApertusForCausalLM._from_config(ApertusConfig(**SIZES), attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained("model")
    torch.save(stepped(model), "want.pt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(rank_of, (port, "model"), nprocs=RANKS)
PY
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python -W ignore probe.py 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: each rank learns its own activation"
