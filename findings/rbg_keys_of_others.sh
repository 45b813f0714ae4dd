#!/usr/bin/env bash
# JAX's "rbg" keys: in a vmap only the first key counts. A request's own seed does nothing, and shards are drawn otherwise than the whole.
#
# Expected: jax.vmap(f)(keys) is f of each key, and so is a shard_map of it over devices: keys are how JAX makes random numbers
#   independent of how a program is spread. "rbg" and "unsafe_rbg" are the faster kinds of keys, which are recommended on TPUs.
# Happens: with either of them the numbers of the whole batch are drawn from its first key. Four keys:
#                                                                       threefry      rbg, unsafe_rbg
#       tokens sampled for requests 1, 2, 3, each with its own seed
#           when that seed is another one                               others        the same
#           when request 0 has another seed                             the same      others
#           when the request is alone                                   the same      others
#       first weights of 4 experts, vmap(init)(keys)
#           on one device, or on 4 by sharding of the keys              the same      the same
#           shard_map over 2 or 4 devices of vmap over the local ones   the same      others for all but the first device's
#           a loop over the keys, or lax.map                            the same      others for all but the first
#   No warning. (Two batches whose first keys are equal are equal, whatever stands behind.)
# Why it matters: seeds per request, per sample or per layer are what makes a run repeatable however it is batched, split or
#   resumed. Here a sample's dropout depends on its neighbour, the answer to a seeded request on who came first, and the same seed
#   gives other experts in another layout, so that a sharded run can not be compared with a serial one. Draw in one call for the whole
#   batch from one key, or map over keys with lax.map, or keep to threefry.
#
# Seen 2026-11-30: jax and jaxlib 0.10.2, numpy 2.4.6, Python 3.11, Linux x86-64, CPU (4 forced host devices).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6

cat > probe.py <<'PY'
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

COUNT, TOKENS, VOCABULARY = 4, 12, 1000


def keys_of(seeds, kind):
    return jnp.stack([jax.random.key(seed, impl=kind) for seed in seeds])


def sampled(keys):
    """The tokens of each request: TOKENS of them, all equally likely."""
    return np.asarray(jax.vmap(lambda key: jax.random.categorical(key, jnp.zeros((TOKENS, VOCABULARY))))(keys))


def weights(key):
    return jax.random.normal(key, (8, 8))


def sharded(keys, devices):
    """The weights of all experts, each device those of its own keys; and the same by sharding of the keys alone."""
    mesh = jax.make_mesh((devices,), ("expert",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    spread = jax.device_put(keys, NamedSharding(mesh, PartitionSpec("expert")))
    by_hand = jax.shard_map(jax.vmap(weights), mesh=mesh, in_specs=PartitionSpec("expert"), out_specs=PartitionSpec("expert"))
    return np.asarray(jax.jit(by_hand)(spread)), np.asarray(jax.jit(jax.vmap(weights))(spread))


def alike(a, b):
    return [bool(np.array_equal(x, y)) for x, y in zip(a, b)]


for kind in ("threefry2x32", "rbg", "unsafe_rbg"):
    whole = sampled(keys_of([10, 11, 12, 13], kind))
    own = alike(whole[1:], sampled(keys_of([10, 21, 22, 23], kind))[1:])
    first = alike(whole[1:], sampled(keys_of([20, 11, 12, 13], kind))[1:])
    alone = [alike(whole[i:], sampled(keys_of([10 + i], kind)))[0] for i in range(1, COUNT)]
    keys = jax.random.split(jax.random.key(0, impl=kind), COUNT)
    experts = np.asarray(jax.vmap(weights)(keys))
    four, by_sharding = sharded(keys, 4)
    two, _ = sharded(keys, 2)
    looped, mapped = np.stack([np.asarray(weights(key)) for key in keys]), np.asarray(jax.lax.map(weights, keys))
    print(f"{kind}: requests 1 to 3 are the same when their own seeds are others {own}, when that of request 0 is {first}, when alone {alone}")
    print(
        f"{kind}: experts are those of one device by sharding {alike(experts, by_sharding)}, shard_map over 4 {alike(experts, four)},"
        f" over 2 {alike(experts, two)}, loop {alike(experts, looped)}, lax.map {alike(experts, mapped)}", flush=True,
    )
    assert alike(experts, by_sharding) == [True] * COUNT
    assert alike(looped, mapped) == alike(looped, four) == [True] * COUNT  # one key for each device
    if kind == "threefry2x32":
        assert own == [False] * 3 and first == alone == [True] * 3
        assert all(all(alike(experts, other)) for other in (four, two, looped))
    else:
        assert own == [True] * 3 and first == alone == [False] * 3, "each key counts now"
        assert alike(experts, four) == alike(experts, looped) == [True, False, False, False], "each key counts now"
        assert alike(experts, two) == [True, True, False, False], "each key counts now"
PY
JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=4 venv/bin/python -W ignore probe.py 2> stderr.txt || { cat stderr.txt; exit 1; }
echo "unchanged: of a batch of rbg keys only the first one counts"
