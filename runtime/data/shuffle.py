"""The order in which examples come: epoch by epoch, each a permutation that is computed place by place.

A permutation of n numbers is a Feistel network (Luby and Rackoff 1988) on the least even number of bits that hold them,
walked along until it gives a number below n (Black and Rogaway 2002): so no step needs a table of all, any step can be
the first, and whoever asks for a place gets the same. Its keys are a hash of seed and epoch.
"""

from __future__ import annotations

import numpy as np

from runtime.inputs import Array
from runtime.numpy.create import hashed

_ROUNDS = 8


def chosen(step: int, size: int, total: int, seed: int, shuffle: bool) -> Array:
    """The numbers (int64 [size], below `total`) of the examples in the batch of a step (from 0); batches run across the
    ends of epochs. shuffle: each epoch has an order of its own; else they come as they are."""
    places = np.arange(step * size, (step + 1) * size, dtype=np.int64)
    within = places % total
    if not shuffle:
        return within
    for epoch in np.unique(places // total):
        here = places // total == epoch
        within[here] = permuted(within[here], total, seed, int(epoch))
    return within


def permuted(places: Array, total: int, seed: int, epoch: int) -> Array:
    """What stands at these places (int64, from 0 and below `total`) of the permutation of an epoch."""
    half = np.uint64(max(1, ((total - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    key = hashed(np.asarray(seed % 2**63, np.uint64), epoch)
    keys = [hashed(key, i) for i in range(_ROUNDS)]
    found = places.astype(np.uint64)
    beyond = np.ones(found.shape, bool)
    while beyond.any():
        left, right = found[beyond] >> half, found[beyond] & mask
        for k in keys:
            left, right = right, left ^ (hashed(k, right) & mask)
        found[beyond] = left << half | right
        beyond = found >= np.uint64(total)
    return found.astype(np.int64)
