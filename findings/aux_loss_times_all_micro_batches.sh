#!/usr/bin/env bash
# transformers' Trainer multiplies the coefficient of the experts' balance loss by accumulation steps and by devices.
#
# Expected: 16 samples in one batch, in 4 micro-batches, or on 2 ranks are the same step. The Trainer divides the sum of the tokens'
#   losses by the number of tokens of all micro-batches and ranks, so it is for the cross entropy.
# Happens: that division is made inside of the model, and a mixture of experts then adds router_aux_loss_coef x balance loss, a mean
#   that knows nothing of it. Nobody divides it any more: it is added up over micro-batches, and before DDP averages ranks each
#   rank's whole loss is multiplied by their number. Weight of the balance loss in the step, as a multiple of the coefficient
#   (Mixtral with output_router_logits=True, 16 equal samples, so that each micro-batch has the same balance loss):
#       accumulation steps                                    1      2      4
#       1 process                                             1      2      4
#       2 processes                                           2      4      8
#       2 processes, average_tokens_across_devices=False      1      2      4
#   The cross entropy's gradient is the same in all of them, and so is the reported loss less the balance loss's share of it. All
#   models that add the loss so are alike (Qwen3-MoE, OLMoE, gpt-oss, ...). No warning.
# Why it matters: 64 devices and 8 accumulation steps make a coefficient of 0.001 one of 0.5: routers learn balance and little
#   else. A recipe that is right on one device is another one on two, and a coefficient found on a cluster is meaningless
#   elsewhere. Whatever is added to a mean over tokens of the whole batch has to be divided by the number of its parts.
#
# Seen 2026-11-30: transformers 5.24.0, accelerate 1.15.0, torch 2.13.0 (CPU, gloo), Python 3.11, Linux x86-64.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 datasets==5.2.0 numpy==2.4.6

cat > probe.py <<'PY'
import logging
import os
import socket
import tempfile

import torch
import torch.multiprocessing as multiprocessing

SAMPLES, COEFFICIENT = 16, 0.5
SIZES = dict(
    vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, num_local_experts=4,
    num_experts_per_tok=2, output_router_logits=True, max_position_embeddings=64,
)
TOKENS = torch.arange(16) * 7 % 61


def small(coefficient):
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**SIZES, router_aux_loss_coef=coefficient))


def step(coefficient, each, steps, **more):
    """The gradients that the Trainer's step is made with (SGD, rate 1), and the loss that it reports."""
    from transformers import Trainer, TrainingArguments

    model = small(coefficient)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(dir=os.getcwd()), per_device_train_batch_size=each, gradient_accumulation_steps=steps, max_steps=1,
        learning_rate=1.0, optim="sgd", max_grad_norm=0.0, lr_scheduler_type="constant", use_cpu=True, disable_tqdm=True, report_to=[],
        save_strategy="no", logging_strategy="no", **more,
    )
    data = [{"input_ids": TOKENS, "labels": TOKENS}] * SAMPLES
    loss = Trainer(model=model, args=arguments, train_dataset=data).train().training_loss
    return {name: before[name] - parameter.detach() for name, parameter in model.named_parameters()}, loss


def rank_of(rank, ranks, port, cases):
    logging.disable(logging.CRITICAL)
    if ranks > 1:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
        )
    model, batch = small(0.0), TOKENS[None].repeat(SAMPLES, 1)
    balance = model(input_ids=batch, labels=batch).aux_loss
    router = next(name for name, _ in model.named_parameters() if name.endswith("gate.weight"))
    (right,) = torch.autograd.grad(balance, [dict(model.named_parameters())[router]])
    entropy = None
    for steps, more, want in cases:
        each = SAMPLES // ranks // steps
        (with_it, loss), (without, plain) = step(COEFFICIENT, each, steps, **more), step(0.0, each, steps, **more)
        share = (with_it[router] - without[router]) / COEFFICIENT
        times = ((share * right).sum() / (right * right).sum()).item()
        entropy = without if entropy is None else entropy
        if rank == 0:
            reported = (loss - plain) / COEFFICIENT / balance.item()
            print(f"{ranks} processes, {steps} accumulation steps {more or ''}: {times:.4f} times the coefficient, in the reported loss {reported:.4f}", flush=True)
            assert abs(times - want) < 1e-3 and abs(reported - want) < 1e-2, "the balance loss has another weight now"
            assert (share - want * right).norm() < 1e-3 * share.norm()
            assert all(torch.allclose(without[name], entropy[name], atol=1e-5) for name in without), "the cross entropy is another one"


if __name__ == "__main__":
    alone = {"average_tokens_across_devices": False}
    for ranks, cases in {
        1: [(1, {}, 1), (2, {}, 2), (4, {}, 4)],
        2: [(1, {}, 2), (4, {}, 8), (1, alone, 1), (4, alone, 4)],
    }.items():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        multiprocessing.spawn(rank_of, (ranks, port, cases), nprocs=ranks)
PY
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python -W ignore probe.py > stdout.txt 2> stderr.txt || { cat stdout.txt stderr.txt; exit 1; }
grep "times the coefficient" stdout.txt
echo "unchanged: the balance loss is added up over micro-batches and devices"
