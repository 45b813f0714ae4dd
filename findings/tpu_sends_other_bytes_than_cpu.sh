#!/usr/bin/env bash
# JAX: what a program sends on forced host devices is not what it sends on TPUs: up to 512 times the bytes, or the half.
#
# Expected: a sharded program that is compiled for four CPU devices (xla_force_host_platform_device_count) has the collectives that
#   four TPUs have: shardings decide them, in a pass that knows no hardware. That is how layouts are tried out and counted.
# Happens: libtpu compiles for a TPU that is not there. Results of the collectives of the same jitted functions, four devices:
#                                                    CPU                            TPU v5e
#       top 8 of sharded logits, 64 x 32768          all logits: 8 MiB              8 candidates of each: 16 KiB
#       cumsum along a sharded dim, 4096 x 128       all of it: 2 MiB               sums of blocks: 16 KiB
#       f32 weights gathered for a matmul (ZeRO-3)   f32: 16 MiB                    bf16: 8 MiB, as the matmul takes them
#       bf16 MLP, tensor and sequence parallel       all-gather and all-reduce      all-gather in bf16, and an all-reduce in bf16
#                                                    in f32                         in the body of a fusion that is a reduce-scatter
#   The CPU's cumsum also costs 32 times the operations. Who counts "all-reduce" in the TPU's text finds one that is none.
# Why it matters: the sizes of JAX's collectives on host devices are neither what a TPU sends nor a bound on it, in either
#   direction: they change with pieces of the compiler that only one of both has (a partitioned top_k and prefix sum, the order
#   of cast and gather, bf16 arithmetic). Whoever compares a planner with them compares it with the CPU. The number of
#   operands and their dims agree more often than types and bytes do.
#
# Seen 2026-11-30: jax 0.10.2, libtpu 0.0.51 (v5e, 2 x 2), numpy 2.4.6, Python 3.11, Linux x86-64 without a TPU.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 libtpu==0.0.51 numpy==2.4.6

cat > probe.py <<'PY'
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

DEVICES = {"CPU": jax.devices("cpu"), "TPU": topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices}
B, D, H, KIB = 512, 1024, 4096, 2**10
WIDTH = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2}
OP = re.compile(r" = ([^=]*?) (all-reduce|all-gather|reduce-scatter|all-to-all)(?:-start)?\(")


def mlp(x, up, down):
    return jax.nn.gelu(x @ up) @ down


def top(x):
    return jax.lax.top_k(x, 8)


def sums(x):
    return jnp.cumsum(x, 0)


def product(x, w):
    return x @ w


# a function, its arguments (shape, type, layout) and the layout of its result
CASES = {
    "top_k": (top, [((64, 32768), "float32", P(None, "x"))], P()),
    "cumsum": (sums, [((4096, 128), "float32", P("x"))], P("x")),
    "ZeRO-3": (product, [((B, D), "float32", P("x")), ((D, H), "float32", P("x"))], P("x")),
    "MLP": (mlp, [((B, D), "bfloat16", P("x")), ((D, H), "bfloat16", P(None, "x")), ((H, D), "bfloat16", P("x", None))], P("x")),
}


def compiled(name, kind):
    """The collectives of a case on a kind of device (op, types, KiB of results), the whole text, and its operations."""
    function, arguments, result = CASES[name]
    mesh = Mesh(np.array(DEVICES[kind][:4]), ("x",))
    shapes = [jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, layout)) for shape, dtype, layout in arguments]
    made = jax.jit(function, out_shardings=NamedSharding(mesh, result)).lower(*shapes).compile()
    text, found = made.as_text(), []
    for results, op in OP.findall(text):
        arrays = re.findall(r"(\w+)\[([\d,]*)\]", results)
        size = sum(WIDTH[dtype] * math.prod(map(int, filter(None, dims.split(",")))) for dtype, dims in arrays)
        found.append((op, "+".join(dtype for dtype, _ in arrays), size / KIB))
    return sorted(found), text, made.cost_analysis()["flops"]


seen = {(name, kind): compiled(name, kind) for name in CASES for kind in DEVICES}
for (name, kind), (found, _, operations) in seen.items():
    print(f"{name:7} {kind}: {found}, {operations:.4g} operations")


def sizes(name, kind):
    return sum(size for _, _, size in seen[name, kind][0])


def types(name, kind):
    return {dtype for _, dtype, _ in seen[name, kind][0]}


assert sizes("top_k", "CPU") == 8192 and sizes("top_k", "TPU") == 16, "top_k is partitioned alike now"
assert sizes("cumsum", "CPU") == 2048 and sizes("cumsum", "TPU") == 16, "cumsum is partitioned alike now"
assert seen["cumsum", "CPU"][2] > 30 * seen["cumsum", "TPU"][2]
assert seen["ZeRO-3", "CPU"][0] == [("all-gather", "f32", 16384)] and seen["ZeRO-3", "TPU"][0] == [("all-gather", "bf16", 8192)]
assert types("MLP", "CPU") == {"f32"} and types("MLP", "TPU") == {"bf16"} and sizes("MLP", "CPU") == 2 * sizes("MLP", "TPU")
assert all([op for op, _, _ in seen["MLP", kind][0]] == ["all-gather", "all-reduce"] for kind in DEVICES)
scattered = ["calls=%all-reduce-scatter" in seen["MLP", kind][1] for kind in DEVICES]
assert scattered == [False, True], "the TPU's all-reduce is written otherwise now"
PY
export JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=4
export TPU_SKIP_MDS_QUERY=1 TPU_ACCELERATOR_TYPE=v5litepod-4 TPU_WORKER_HOSTNAMES=localhost TPU_WORKER_ID=0  # no TPU is asked for
venv/bin/python -W ignore probe.py 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: compiled for host devices, programs send other bytes than on TPUs"
