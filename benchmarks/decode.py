"""CPU seconds per token of a GPT that decodes: `parc`'s loop of generation on the emulator beside transformers'
`generate` with its cache, the same weights, one thread.

Both are measured in turns in one process; what counts is the median of the ratios of the turns. Tokens are greedy, and
have to be the same.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from compiler.driver import compile_job, decoding_program
from compiler.evaluate import evaluate
from dsl.source import NOWHERE, Source
from runtime.executor import Executor
from runtime.generate.loop import Ports, generate
from runtime.generate.sampling import Sampling
from runtime.stacked import Emulator
from runtime.torch.engine import Engine

Array = np.ndarray[Any, np.dtype[Any]]

LIMITS = {"emulator": 1.3, "torch": 1.0}
"""Times transformers' seconds: of a token, and of the prefill."""

MODEL = """\
use std.layers (attention, layer_norm, mlp)

model gpt() {{
  dim b = {batch}, s = {context}, d = {hidden}, v = {vocab}
  input tokens : int32[b,s] in 0..v
  weight wte[v,d], wpe[s,d] ~ normal(0.02)
  x[b,s,d] = take(wte, tokens, over v) + wpe
  repeat {layers} as block {{
    x = x + attention(layer_norm(x), {heads}, key_bias = true)
    x = x + mlp(layer_norm(x), 4 * {hidden}, tanh = true)
  }}
  logits[b,s,v] = layer_norm(x) @ wte
  output logits
}}

job serve {{
  infer gpt()
  precision f32
  decode over s, prefill {prompt}
}}
"""


def weights_of(model: Any, layers: int, heads: int) -> dict[str, Array]:
    """The weights of transformers' GPT-2 by the names that they have here."""
    from torch import Tensor

    named: dict[str, Tensor] = model.state_dict()

    def of(name: str) -> Array:
        return named[f"transformer.{name}"].numpy()

    def stacked(name: str) -> Array:
        return np.stack([of(f"h.{i}.{name}") for i in range(layers)])

    found = {"wte": of("wte.weight"), "wpe": of("wpe.weight")}
    found |= {"layer_norm.gain": of("ln_f.weight"), "layer_norm.bias": of("ln_f.bias")}
    for mine, theirs in (("layer_norm", "ln_1"), ("layer_norm_1", "ln_2")):
        found |= {f"block.{mine}.gain": stacked(f"{theirs}.weight"), f"block.{mine}.bias": stacked(f"{theirs}.bias")}
    matrix, bias = stacked("attn.c_attn.weight"), stacked("attn.c_attn.bias")
    hidden = matrix.shape[1]
    for i, name in enumerate("qkv"):
        part = slice(i * hidden, (i + 1) * hidden)
        found[f"block.attention.w{name}"] = matrix[..., part].reshape(layers, hidden, heads, -1)
        found[f"block.attention.b{name}"] = bias[..., part].reshape(layers, heads, -1)
    found["block.attention.wo"] = stacked("attn.c_proj.weight").reshape(layers, heads, -1, hidden)
    found["block.attention.bo"] = stacked("attn.c_proj.bias")
    for i, name in ((1, "c_fc"), (2, "c_proj")):
        found |= {f"block.mlp.w{i}": stacked(f"mlp.{name}.weight"), f"block.mlp.b{i}": stacked(f"mlp.{name}.bias")}
    return found


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds, and the result."""
    begun = time.process_time()
    result = function()
    return time.process_time() - begun, result


def bandwidth(bytes: int = 1 << 28) -> float:
    """Bytes per CPU second at which memory is read."""
    data = np.ones(bytes // 4, np.float32)
    return max(bytes / seconds(data.max)[0] for _ in range(5))


def measured(batch: int, args: argparse.Namespace, engine: Engine | None) -> list[tuple[float, float]]:
    """Ratios of the turns, (prefill, token); prints the seconds."""
    import torch
    import transformers

    torch.set_num_threads(1)
    layers, hidden, heads, context = args.layers, args.hidden, args.hidden // 64, args.context
    vocab, prompt = args.vocab, args.context - args.tokens
    config = transformers.GPT2Config(
        vocab_size=vocab, n_positions=context, n_embd=hidden, n_layer=layers, n_head=heads, eos_token_id=None,
        bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    peer = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for p in peer.parameters():
            p.add_(0.02 * torch.randn_like(p))
    text = MODEL.format(
        batch=batch, context=context, hidden=hidden, vocab=vocab, layers=layers, heads=heads, prompt=prompt
    )
    job = evaluate(Source("gpt.par", text))
    assert job.decoding is not None
    ports = Ports.of(compile_job(job, "infer").training.model, job.decoding, NOWHERE)
    program, weights = decoding_program(job, last=True), weights_of(peer, layers, heads)
    run: Executor = Emulator(program, initial=weights) if engine is None else engine.executor(program, weights)
    # Caches are there already, as a service has them: of the last text nothing is read that lies behind the position.
    begin = {name: x * 0 for name, x in run.states().items() if x.dtype.kind == "i"}
    tokens = np.random.default_rng(1).integers(0, vocab, (batch, prompt))
    prompts = tokens.tolist()

    def mine(count: int) -> Array:
        run.put(begin)
        found = generate(run, ports, job.decoding, prompts, count, Sampling())  # type: ignore[arg-type]
        return np.array([s.tokens for s in found.sequences])

    def theirs(count: int) -> Array:
        given = torch.from_numpy(tokens)
        with torch.no_grad():
            found = peer.generate(
                given, attention_mask=torch.ones_like(given), max_new_tokens=count, do_sample=False, pad_token_id=0
            )
        return found[:, prompt:].numpy()

    ratios, count = [], args.tokens
    for turn in range(args.rounds + 1):
        (first, _), (first_peer, _) = seconds(lambda: mine(1)), seconds(lambda: theirs(1))
        (all, made), (all_peer, expected) = seconds(lambda: mine(count)), seconds(lambda: theirs(count))
        assert (made == expected).all(), "other tokens"
        token, token_peer = ((a - f) / (count - 1) for a, f in ((all, first), (all_peer, first_peer)))
        print(
            f"batch {batch} turn {turn}: prefill {first:.3f} s, transformers {first_peer:.3f}; "
            f"token {token * 1e3:.1f} ms, transformers {token_peer * 1e3:.1f}", flush=True,
        )  # fmt: skip
        if turn:  # the first one makes what later ones have
            ratios.append((first / first_peer, token / token_peer))
    read = sum(p.numel() for p in peer.parameters()) * 4 + 2 * layers * batch * context * hidden * 4
    rate = bandwidth()
    print(f"a token reads {read / 1e6:.0f} MB: {read / rate * 1e3:.1f} ms at the {rate / 1e9:.1f} GB/s of memory")
    return ratios


def main() -> int:
    """Print the medians; 1 where one is above the bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("layers", 12), ("hidden", 768), ("vocab", 50257), ("context", 512), ("tokens", 32)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--engine", choices=tuple(LIMITS), default="emulator")
    args = parser.parse_args()
    late, limit = False, LIMITS[args.engine]
    with Engine() if args.engine == "torch" else nullcontext() as engine:
        for batch in args.batch or (1, 8):
            ratios = measured(batch, args, engine)
            for what, found in zip(("prefill", "token"), zip(*ratios)):
                print(f"batch {batch}, {what}: {median(found):.2f} times transformers (at most {limit})")
                late |= median(found) > limit
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
