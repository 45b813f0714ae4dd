"""What a device with its software reaches of its peaks: a handful of numbers, fitted on published steps.

They stand with the devices in the standard library, by name, for all software or for one stack:

    efficiency product 0.83                 # a share
    efficiency host 20 us                   # a time
    efficiency megatron_2021 vector 0.7     # only with `stack megatron_2021` in the cluster
    stack megatron_2022 like megatron_2021  # a stack inherits what is not stated for it (`stacks.py`)
"""

from __future__ import annotations

from dataclasses import fields, replace

from compiler import stacks
from compiler.model import Cluster, Device
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Calibration:
    """Shares are of the peak or the link; times in seconds, sizes in bytes.

    product:      share of the peak that a large product reaches once its tiles and waves are full
    ramp:         k0: a product over K reaches K/(K+k0) of that
    core:         products of fused attention, as a share of `product`
    vector:       share of the memory bandwidth that element-wise kernels (and thin products) reach
    launch:       device time that a kernel takes at least, besides its work
    host:         time in which the host dispatches a kernel: a floor for short ones
    grouped:      time that the product of each of several experts takes at least: the host waits for how many positions
                  each has, and then dispatches one by one, with casts to narrow types
    fusion:       0: element-wise ops are kernels of their own; 1: all runs of them are one kernel
    inner, outer: share of the links inside a server, and between servers, that long messages reach
    inner_half, outer_half: messages of this size (per device) reach half of that
    bucket:       bytes after which a message of weights or gradients is cut into several (0: each is one message)
    alpha:        share of the cluster's latencies per step of a collective, 1 as stated
    slowdown:     computation beside communication takes this much longer
    jitter:       computation takes this much longer with each doubling of the servers: all wait for the latest host
    hidden:       share of the last backward pass beside which gradients are reduced (0: after it)
    hidden_gather: share of the first forward pass beside which weights that were updated are gathered (0: before it)
    fixed:        once per step: optimizer's host work, logging, data
    fused_attention: 1: scores stay in the kernel, with a causal mask half of them is computed
    ahead:        in a backward pass over layers that are gathered: of the next layer's gather and of this layer's
        reduction this share change places, so that the gather goes first (1: all of it; 0: it queues behind)
    balanced:     1: of masked attention all devices compute alike much, as positions are dealt out (zigzag, striped);
        0: the last piece of positions, which are cut in their order, sees most, and all wait for it
    reentrant:    1: a layer that runs again in the backward pass does so as a whole; 0: as far as that needs it
    prefetch:     1: collectives of weights and gradients inside a pass run beside computation
    overlap:      share of the messages of activations that goes beside the products that make or take them, in pieces
    ring:         share of the messages of keys and values (and of their gradients) that goes beside the products of
        attention with them, piece after piece around a ring, as far as these take as long; 0: all are gathered before
    exchange:     the same as `overlap` of all-to-alls, which no product takes in pieces: beside what does not need them
    distinct:     1: of copies in an all-to-all (of a position for its experts) one goes to each node and device
    narrow:       products with weights are in fewer than 16 bits: this many times the peak of 16
    scattered:    1: of what devices of a stage send alike each sends a part; the next stage gathers them in its servers
    blocking_sends: 1: a stage goes on when what it sends has gone
    wire, gradient_wire: bytes per element at most, with which weights are gathered and gradients reduced, where
        computation is in 16 bits
    """

    product: float = 0.74
    ramp: float = 110.0
    core: float = 0.42
    vector: float = 0.8
    launch: float = 4e-6
    host: float = 1.5e-5
    grouped: float = 0.0
    fusion: float = 0.85
    inner: float = 0.8
    outer: float = 0.7
    inner_half: float = 8e6
    outer_half: float = 2e6
    bucket: float = 0.0
    alpha: float = 1.0
    slowdown: float = 0.1
    jitter: float = 0.0
    hidden: float = 0.0
    hidden_gather: float = 0.0
    fixed: float = 1e-2
    fused_attention: float = 0.0
    balanced: float = 0.0
    reentrant: float = 0.0
    ahead: float = 0.0
    prefetch: float = 1.0
    overlap: float = 0.0
    ring: float = 0.0
    exchange: float = 0.0
    distinct: float = 0.0
    narrow: float = 1.0
    scattered: float = 0.0
    blocking_sends: float = 0.0
    wire: float = 2.0
    gradient_wire: float = 2.0

    def changed(self, **values: float) -> Calibration:
        """Replaces some values, by name; KeyError for an unknown name."""
        unknown = values.keys() - NAMES
        if unknown:
            raise KeyError(f"there is no parameter {', '.join(sorted(unknown))}")
        return replace(self, **values)


NAMES = frozenset(f.name for f in fields(Calibration))

# The defaults are for a device of which nothing is known: what those that were measured have in common, each device and
# each family of rows with a factor of its own. `inner_half`: from bus bandwidths of 8 A100 (`collectives`).
DEFAULT = Calibration()


def calibration(device: Device, stack: str = "") -> Calibration:
    """Of a device with a software stack. A stack of which the device speaks has what is stated for it and for the
    stacks that it is like (`stacks.lineage`): what is stated for no stack does not hold for it, unless it is like that.
    Everything that is not stated has its default."""
    launch = {keyword: written[0] for keyword, written in device.settings if keyword == "launch"}
    return DEFAULT.changed(**launch | stacks.stated(device, "efficiency", stack))


def of_cluster(cluster: Cluster, fuses: bool = True) -> Calibration:
    """Of the cluster's device with the cluster's software stack. fuses: whether the strategy lets anything run as one;
    if not (`fuse off`), each instruction is a kernel that reads and writes all that it has, whatever the stack can."""
    found = calibration(cluster.device, cluster.stack)
    return found if fuses else found.changed(fusion=0.0, fused_attention=0.0)
