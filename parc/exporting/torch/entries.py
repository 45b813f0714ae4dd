"""Further entries of an exported file: each has functions and a schedule of its own, on the states of the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compiler.program import DeviceClass
from parc.exporting.torch.writer import string, tuple_of

Classes = Sequence[tuple[str, DeviceClass]]
"""Each with the name of its namespace."""

_CALL = '''
    @torch.no_grad()
    def call(self, entry, batch):
        """Another entry of ENTRIES on the states as they are: what it tells, by name, where this device has it."""
        if entry not in self.others:
            self.others[entry] = Device(self.given, self.compiled, ENTRIES[entry], self)
        other = self.others[entry]
        other.state |= {name: x for name, x in self.state.items() if name in other.state}
        other.steps = self.steps
        told = other.step(batch)
        self.state |= {name: x for name, x in other.state.items() if name in self.state}
        return told
'''

_STATE = """\
        shared = lent.state if lent else {}
        self.state = {
            key: shared[key] if key in shared else buffer(weights or {}, key, *what)
            for key, what in here.BUFFERS.items()
        }
"""

_LENT = """\
        if lent:
            self.parts |= {key: parts for key, parts in lent.parts.items() if key in self.parts}
"""


def namespace(entry: str) -> str:
    """The class that has what an entry runs; of devices that differ, with more behind it."""
    return f"entry_{entry}"


def listed(entries: Mapping[str, Classes]) -> str:
    """What further entries run on this device."""
    lines = ["ENTRIES = {}  # what else can be asked for, and what this device runs for it"]
    for entry, classes in entries.items():
        there = f"ENTRIES[{string(entry)}] ="
        if len(classes) == 1:
            lines.append(f"{there} {classes[0][0]}")
            continue
        for name, cls in classes:
            lines += [f"if GROUP in {tuple_of(map(str, cls.groups))}:", f"    {there} {name}"]
    return "\n".join(lines)


def device_of_entries(text: str, timed: bool) -> str:
    """The class `Device` of a file that has further entries: it knows whose functions it runs, and calls others."""
    head, _, rest = text.partition("    def __init__(self, weights=None, compiled=False):\n")
    own = "here.BUFFERS.items()}\n"
    _, _, after = rest.replace("HERE", "here").partition(own)
    setup, mark, others = after.partition("    @torch.no_grad()\n")
    return "".join(
        [
            head,
            "    def __init__(self, weights=None, compiled=False, here=HERE, lent=None):\n",
            "        self.given, self.compiled, self.here, self.others = weights, compiled, here, {}\n",
            _STATE,
            setup.replace("        self.lasting,", _LENT * timed + "        self.lasting,", 1),
            _CALL.lstrip("\n") + "\n",
            mark,
            others.replace("here.", "self.here."),
        ]
    )


def main_of_entries(text: str, entries: Sequence[str]) -> str:
    """`train` and `main` of such a file: it can be told to call others when all steps are done."""
    text = text.replace("compiled=False, save=None):", "compiled=False, save=None, device=None):")
    text = text.replace(
        "    device = Device(weights, compiled)\n", "    device = device or Device(weights, compiled)\n"
    )
    text = text.replace(
        "that all weights and states go to.\n",
        "that all weights and states go to.\n    device: one that goes on, in place of a new one.\n",
        1,
    )
    options = "".join(
        f'    options.add_argument("--{e}", type=int, default=0, help="how many batches behind the steps")\n'
        for e in entries
    )
    text = text.replace("    o = options.parse_args()\n", options + "    o = options.parse_args()\n")
    text = text.replace(
        "train(data, o.steps, weights, o.compile, o.save)", "train(data, o.steps, save=o.save, device=device)"
    )
    text = text.replace(
        "    for number, told in enumerate(",
        "    device = Device(weights, o.compile)\n    for number, told in enumerate(",
        1,
    )
    calls = "".join(
        f"    for number, (_, batch) in enumerate(zip(range(o.{e}), data if o.data else batches()), 1):\n"
        f"        tell({string(e)}, number, device.call({string(e)}, batch))\n"
        for e in entries
    )
    return text.replace("{others}", calls)
