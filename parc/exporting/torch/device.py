"""`Device` of an exported file: what runs its functions in the order of the schedule."""

from __future__ import annotations

from collections.abc import Collection

from parc.exporting.torch.chosen import chosen

_DEVICE = '''
class Device:
    """This device: its buffers, and what the step at hand has made so far."""

no entries|     def __init__(self, weights=None, compiled=False):
no entries|         self.state = {key: buffer(weights or {}, key, *what) for key, what in HERE.BUFFERS.items()}
entries|     def __init__(self, weights=None, compiled=False, here=HERE, lent=None):
entries|         self.given, self.compiled, self.here, self.others = weights, compiled, here, {}
entries|         shared = lent.state if lent else {}
entries|         self.state = {
entries|             key: shared[key] if key in shared else buffer(weights or {}, key, *what)
entries|             for key, what in here.BUFFERS.items()
entries|         }
timed|         self.parts = {
timed|             key: [buffer(weights or {}, key, *what, i=i) for i in range(SIZES[TIME])]
timed|             for key, what in <here>.BUFFERS.items()
timed|             if any(TIME in split for split in what[3])
timed|         }  # of states that each micro-batch has a part of its own of
entries| timed|         if lent:
entries| timed|             self.parts |= {key: parts for key, parts in lent.parts.items() if key in self.parts}
        self.lasting, self.steps, self.saved, self.batch, self.sent = set(self.state), 0, {}, {}, []
        for name in <here>.TRAINED.values():
            self.state[name].requires_grad_()
        wrap = (lambda f: torch.compile(f, fullgraph=True)) if compiled else lambda f: f
        self.functions = {name: wrap(getattr(<here>, name)) for name in <here>.ASKS}
        if <here>.TRAINED:
            self.functions["B"] = <here>.B

entries|     @torch.no_grad()
entries|     def call(self, entry, batch):
entries|         """Another entry of ENTRIES on the states as they are: what it tells of, where this device has it."""
entries|         if entry not in self.others:
entries|             self.others[entry] = Device(self.given, self.compiled, ENTRIES[entry], self)
entries|         other = self.others[entry]
entries|         other.state |= {name: x for name, x in self.state.items() if name in other.state}
entries|         other.steps = self.steps
entries|         told = other.step(batch)
entries|         self.state |= {name: x for name, x in other.state.items() if name in self.state}
entries|         return told
entries|
    @torch.no_grad()
    def step(self, batch):
        """One step on a batch (whole tensors by name): what it tells of, by name, where this device has it."""
        self.batch = {name: x.to(DEVICE) for name, x in batch.items()}
        <own>.schedule(self.run)
bounded|         for name, (low, high) in <own>.WITHIN.items():
bounded|             if not bool(((low <= self.state[name]) & (self.state[name] < high)).all()):
bounded|                 raise SystemExit(f"`{name}` has left {low}..{high}: what this step computes has no place")
staged|         for _, work in self.sent:  # its memory is needed until then
staged|             work.wait()
staged|         self.sent = []
outputs|         self.outputs = {
outputs|             key: [self.saved.pop((key, i)) for i in range(SIZES[TIME])] if parts else [self.state[key]]
outputs|             for key, (*_, parts) in HERE.OUTPUTS.items()
outputs|         }
ways|         for name, groups in SUMMED.items():  # of which each way through the model has a part
ways|             if name in self.state:
ways|                 self.state[name] = stage_reduce(self.state[name], "sum", groups)
        told = {told: self.state[name].item() for name, told in RESULTS.items() if name in self.state}
        self.state = {name: x for name, x in self.state.items() if name in self.lasting}
        self.steps += 1
        return told

    def run(self, name, i):
        """One function on micro-batch i."""
        inputs, loads, receives, highest = <own>.ASKS[name]
        given = {key: self.input(x, axes, i) for key, (x, axes) in inputs.items()}
staged|         own = stage_of(name)
staged|         given |= {key: self.receive(m, own + at, own, i, *what) for key, (m, at, *what) in receives.items()}
        kept = {key: self.saved.pop((key, i)) if last else self.saved[key, i] for key, last in loads.items()}
timed|         self.state |= {key: parts[i] for key, parts in self.parts.items()}
        with torch.set_grad_enabled(bool(<own>.TRAINED) and name == "F"):
            made = self.functions[name](i, given, self.state, kept)
timed|         for key, parts in self.parts.items():
timed|             parts[i] = self.state[key]
        for key, x in made.get("add", {}).items():
            there = self.state.get(key)
            both = torch.maximum if key in highest else torch.add
            self.state[key] = x.detach() if there is None else both(there, x.detach())
parted|         for key, x in made.get("part", {}).items():  # each micro-batch has a part of its own
parted|             self.state.setdefault(key, [None] * SIZES[TIME])[i] = x.detach()
        self.state |= made.get("put", {})
        self.saved |= {(key, i): x for key, x in made.get("save", {}).items()}
staged|         for key, x in made.get("send", {}).items():
staged|             message, _, ahead = key.rpartition(" to ")
staged|             self.send(message, x, own, own + int(ahead), i)

    def input(self, name, axes, i):
        """This device's piece of an input; without axes, the number of the step."""
        if axes is None:
            number = torch.tensor(self.steps, dtype=torch.int32, device=DEVICE)
            return self.state.get(name, number)
        return cut(self.batch[name], axes, i)
staged|
staged|     def send(self, name, x, own, to, i):
staged|         """A value to the device of the same place in another stage; it leaves while this one goes on."""
staged|         if HOMES[to] == GROUP:
staged|             self.saved[name, own, to, i] = x
staged|         else:
staged|             x = x.contiguous()
staged|             self.sent.append((x, dist.isend(x, peer(HOMES[to]), CHANNEL[name], tag(own, to, i))))
staged|
staged|     def receive(self, name, source, own, i, shape, dtype):
staged|         """What another stage has sent under this name for this micro-batch."""
staged|         if HOMES[source] == GROUP:
staged|             return self.saved.pop((name, source, own, i))
staged|         x = torch.empty(shape, dtype=dtype, device=DEVICE)
staged|         dist.recv(x, peer(HOMES[source]), CHANNEL[name], tag(source, own, i))
staged|         return x
'''


def device_class(facts: Collection[str]) -> str:
    """facts: `staged`, with messages between stages; `timed`, with states of each micro-batch; `parted`, with
    accumulators into which each micro-batch puts a part of its own; `bounded`, with states that stay in a range;
    `outputs`, of the last batch, kept; `entries`, with further entries, for each of which there is a device of its own
    that shares the first one's states."""
    here, own = ("here", "self.here") if "entries" in facts else ("HERE", "HERE")
    return chosen(_DEVICE, facts, here=here, own=own)
