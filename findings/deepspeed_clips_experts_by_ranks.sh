#!/usr/bin/env bash
# DeepSpeed: without ZeRO gradients of a mixture of experts are clipped by a mean over ranks, or by a norm that leaves the experts out.
#
# Expected: gradient_clipping is a limit of the norm of all gradients; with ZeRO-1 it is, however the experts are placed.
# Happens: one step of SGD on 4 ranks, 8 experts, gradients all right and far above the limit of 1; length of the step by learning rate:
#                                              experts on each rank: 8     4      2    (ep_size 1, 2, 4)
#       float32, ZeRO stage 0                                        1    1.4    1.9
#       bfloat16, ZeRO stage 0                                       4.5  4.5    4.5
#       float32 and bfloat16, ZeRO stage 1                           1     1      1
#   In float32 each rank takes the norm of what it holds, its own experts, and the mean of these norms is
#   the divisor: towards sqrt(ep_size) too small when nearly all weights are experts'. In bfloat16, with an optimizer of torch's, the norm is
#   that of what is not an expert; get_global_grad_norm() gives it (in float32 none), and the experts are divided by it as well.
# Why it matters: the limit loosens with expert parallelism (by that rule up to eight-fold on 64 ranks), and a run that explodes is blamed on the experts.
#   Squares of norms may be added up over ranks, once for what is split and once in all for what is not; never norms. Check the length
#   of one step of SGD.
#
# Seen 2026-12-01: deepspeed 0.19.8, torch 2.13.0 (CPU, gloo), numpy 2.4.6, Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 setuptools deepspeed==0.19.8

cat > probe.py <<'PY'
import contextlib
import io
import logging
import os
import socket

import torch
import torch.distributed as dist

WIDTH, EXPERTS, TOKENS, RANKS, RATE = 8, 8, 256, 4, 1.0
WANT = {(0, False): (1.0, 1.4, 1.9), (0, True): (4.5, 4.5, 4.5), (1, False): (1.0, 1.0, 1.0), (1, True): (1.0, 1.0, 1.0)}


def worker(rank, port):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS), LOCAL_SIZE=str(RANKS))
    import deepspeed
    from deepspeed.moe.layer import MoE
    from deepspeed.moe.utils import split_params_into_different_moe_groups_for_optimizer as by_experts

    logging.disable(logging.CRITICAL)
    deepspeed.init_distributed("gloo", verbose=False)

    def step(stage, half, placed, limit):
        """What one step takes from the dense weights and from all experts, divided by the learning rate, and the norm that is reported."""
        random = torch.Generator().manual_seed(3)
        first, gate = torch.randn(EXPERTS, WIDTH, WIDTH, generator=random) / 10, torch.randn(EXPERTS, WIDTH, generator=random) / 4
        inputs, targets = torch.randn(TOKENS, WIDTH, generator=random), 30 * torch.randn(TOKENS, WIDTH, generator=random)

        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                expert = torch.nn.Linear(WIDTH, WIDTH, bias=False)
                self.moe = MoE(WIDTH, expert, num_experts=EXPERTS, ep_size=placed, k=1, drop_tokens=False, use_rts=False)

            def forward(self, x):
                return self.moe(x)[0]

        model, here = Model(), EXPERTS // placed
        layer = model.moe.deepspeed_moe
        with torch.no_grad():
            layer.gate.wg.weight.copy_(gate)
            for index, expert in enumerate(layer.experts.deepspeed_experts):
                expert.weight.copy_(first[rank % placed * here + index])
        optimizer = torch.optim.SGD(by_experts({"params": list(model.parameters()), "name": "all"}), lr=RATE)
        config = dict(train_micro_batch_size_per_gpu=TOKENS // RANKS, gradient_clipping=limit, zero_optimization={"stage": stage})
        config.update(bf16={"enabled": half}, zero_allow_untested_optimizer=True)
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        before = [p.detach().float().clone() for p in model.parameters()]
        x, y = (one.chunk(RANKS)[rank].to(torch.bfloat16 if half else torch.float32) for one in (inputs, targets))
        engine.backward((engine(x) - y).float().square().sum(1).mean())
        engine.step()
        taken = [(old - new.detach().float()) / RATE for old, new in zip(before, model.parameters())]
        own = torch.stack([t for t, (name, _) in zip(taken, model.named_parameters()) if "experts" in name])
        dense = [t for t, (name, _) in zip(taken, model.named_parameters()) if "experts" not in name]
        parts = [torch.empty_like(own) for _ in range(RANKS)]
        dist.all_gather(parts, own)
        return dense[0], torch.cat(parts[:placed]), engine.get_global_grad_norm()

    alone = {}
    for (stage, half), want in WANT.items():
        lengths = []
        for placed in (1, 2, 4):
            with contextlib.redirect_stdout(io.StringIO()):
                free, clipped = step(stage, half, placed, 0.0), step(stage, half, placed, 1.0)
            gradient = torch.cat([free[0].flatten(), free[1].flatten()])
            assert (gradient - alone.setdefault(half, gradient)).norm() < 0.02 * gradient.norm(), "gradients differ"
            lengths.append(round(torch.cat([clipped[0].flatten(), clipped[1].flatten()]).norm().item(), 1))
            if rank == 0:
                said = "no norm" if clipped[2] is None else f"a norm of {float(clipped[2]):.3g}"
                norms = f"dense {free[0].norm().item():.3g}, experts {free[1].norm().item():.3g}"
                print(f"ZeRO {stage}, {'bfloat16' if half else 'float32'}, ep_size {placed}: {norms}; it says {said} and takes {lengths[-1]}", flush=True)
        assert tuple(lengths) == want, "it clips otherwise now"
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(worker, (port,), RANKS)
PY
export PATH="$dir/venv/bin:$PATH" TORCH_EXTENSIONS_DIR="$dir/built" # it builds a small library for the CPU (ninja, g++)
DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 venv/bin/python -W ignore probe.py 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: experts loosen DeepSpeed's clipping"
