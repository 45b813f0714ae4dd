#!/usr/bin/env bash
# Megatron's cross entropy with label smoothing depends on tensor parallelism, and the ranks do not agree on the loss.
#
# Expected: a vocabulary that is split over tp ranks gives the loss and the gradients of the whole one, on every rank: that
#   is what vocab_parallel_cross_entropy is for, and without smoothing it does.
# Happens: with label_smoothing each rank takes its own part of the vocabulary for the whole one. The mean of the log
#   probabilities is that of its own part and never summed over ranks, and each wrong token gets the share of a vocabulary
#   of V / tp tokens. 0.1 of smoothing, 64 tokens, the right loss is 5.0097:
#       tp 1   loss 5.0097                                   gradients of a token's logits sum to 0
#       tp 2   loss 5.0046 on rank 0, 5.0138 on rank 1       ... to -0.10
#       tp 4   losses from 5.0003 to 5.0172                  ... to -0.32
#   The targets add up to 1 + (tp - 1) x smoothing instead of 1. No warning.
# Why it matters: tp is chosen for memory and speed and must not change what is learnt. Here wrong tokens get tp times the
#   smoothing; the gradient of a common shift of all logits, which is 0 for every softmax, never is: logits grow step by
#   step; and decisions that ranks make by their own loss (skip a step, stop early) part them. Runs with other tp are no
#   check on each other, and a checkpoint that goes on with another tp goes on with another loss.
#
# Seen 2026-11-30: megatron-core 0.16.1, torch 2.13.0 (CPU, gloo), Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check megatron-core==0.16.1 torch==2.13.0 numpy==2.4.6

cat > probe.py <<'PY'
import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

TOKENS, VOCABULARY = 12, 64


def rank_of(rank, ranks, folder):
    """Cross entropy with a vocabulary that is split over `ranks`, against that of torch, which smooths alike."""
    store = dist.FileStore(os.path.join(folder, f"store{ranks}"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import vocab_parallel_cross_entropy

    parallel_state.initialize_model_parallel(tensor_model_parallel_size=ranks)
    torch.manual_seed(0)
    logits = torch.randn(TOKENS, 1, VOCABULARY)
    target = torch.randint(VOCABULARY, (TOKENS, 1))
    for smoothing in (0.0, 0.1):
        mine = logits.chunk(ranks, -1)[rank].clone().requires_grad_()
        loss = vocab_parallel_cross_entropy(mine, target, smoothing).mean()
        loss.backward()
        losses, gradients = ([torch.empty_like(t) for _ in range(ranks)] for t in (loss, mine))
        dist.all_gather(losses, loss.detach())
        dist.all_gather(gradients, mine.grad)
        gradient = torch.cat(gradients, -1)[:, 0] * TOKENS
        whole = logits[:, 0].clone().requires_grad_()
        # Megatron spreads the smoothed share over all tokens but the right one, torch over all
        want = torch.nn.functional.cross_entropy(whole, target[:, 0], label_smoothing=smoothing * VOCABULARY / (VOCABULARY - 1))
        want.backward()
        if rank == 0:
            total = gradient.sum(-1).mean().item()
            seen = " ".join(f"{one.item():.4f}" for one in losses)
            print(f"tp {ranks}, smoothing {smoothing}: loss of each rank {seen} (torch {want.item():.4f}), gradients of a token sum to {total:.4f}")
            right = torch.allclose(gradient, whole.grad * TOKENS, atol=1e-6) and all(abs(one - want) < 1e-5 for one in losses)
            assert right == (smoothing == 0 or ranks == 1), "the split is right now, or was wrong before"
            if not right:
                assert max(losses) - min(losses) > 0.001, "the ranks agree now"
                share = VOCABULARY // ranks
                assert abs(total + (ranks - 1) * smoothing * share / (share - 1)) < 1e-4
    dist.destroy_process_group()


if __name__ == "__main__":
    for ranks in (1, 2, 4):
        multiprocessing.spawn(rank_of, (ranks, sys.argv[1]), nprocs=ranks)
PY
OMP_NUM_THREADS=1 venv/bin/python -W ignore probe.py "$dir" 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: smoothed cross entropy depends on tensor parallelism"
