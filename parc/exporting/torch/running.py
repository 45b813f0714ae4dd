"""The end of an exported file: what runs its functions in the order of the schedule, and `main`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from compiler.declared import bounded
from compiler.layout import TIME
from compiler.ops.effects import Accumulate
from compiler.origin import Role
from compiler.program import ALL_CHUNKS, LASTING, DeviceClass, For, Program, Run, listed
from parc.exporting.torch import entries
from parc.exporting.torch.chosen import chosen
from parc.exporting.torch.device import device_class
from parc.exporting.torch.entries import Classes
from parc.exporting.torch.writer import DTYPES, string, tuple_of


class Running(NamedTuple):
    """Texts, and the functions of the library that they call."""

    parts: list[str]
    helpers: list[str]


_STAGES = '''
def stage_of(name):
    """The stage whose code a function of this group is: `F_1` is of the group's second chunk."""
    return [stage for stage, home in enumerate(HOMES) if home == GROUP][int(name.partition("_")[2] or 0)]


def peer(group):
    """The rank of the device of the same place in another group."""
    at, rank = dict(AT), 0
    for axis in reversed(PLACES):
        group, at[axis] = divmod(group, SIZES[axis])
    for axis, stride in STRIDES.items():
        rank += at[axis] * stride
    return rank


def tag(source, to, i):
    """A number for a message between two stages (NCCL takes none: there the order of a channel's messages tells)."""
    return (i * len(HOMES) + source) * len(HOMES) + to
'''

_TURN = '''
def turn(name, k, chunks):
    """Which chunk and which micro-batch the k-th run of an interleaved schedule is of."""
    count, groups = SIZES.get(TIME, 1), math.prod(SIZES[a] for a in PLACES)
    size, longer = divmod(count, max(1, count // groups))  # of a round of micro-batches; rounds with one more
    first, start = (size + 1) * longer, (size + 1) * longer * chunks
    if k < start:
        size, first, start = size + 1, 0, 0
    round, rest = divmod(k - start, size * chunks)
    chunk, i = divmod(rest, size)
    chunk = chunk if name == "F" else chunks - 1 - chunk
    return (f"{name}_{chunk}" if chunk else name), first + round * size + i
'''

_BUFFER = '''
PIECES = {}  # of each buffer: the whole tensor's name and shape, its place in front, the spans that are here


def buffer(given, key, name, seed, whole, axes, dtype, kind, arguments, loop=None, front=(), i=0):
    """This device's piece of a tensor: of one that is given, or as it begins. loop: the dim of a loop's iterations, the
    first that this stage has, and how many; front: the iterations of loops that it is of, whose dims the tensor has in
    front; i: the micro-batch, of what each has a part of its own of."""
    starts, shape, spans = [], [], []
    for dim, (size, split) in enumerate(zip(whole[len(front):], axes)):
        _, first, size = loop if loop and loop[0] == dim else (dim, 0, size)
        low, used, length = span(size, split, i)
        shape.append(length)
        starts.append(first + min(low, size))
        spans.append((starts[-1], starts[-1] + used))
    PIECES[key, i] = name, whole, front, spans
    if name not in given:
        return initial(kind, arguments, seed, whole, [*front, *starts], [*[1] * len(front), *shape], dtype).view(shape)
    x = given[name].to(DEVICE, dtype)[front][tuple(slice(*span) for span in spans)].clone()
    for dim, size in enumerate(shape):
        x = filled(x, dim, size)
    return x
'''

_CONNECT = '''
def connect():
    """Makes the groups of processes: along axes, between stages, and a channel for each message."""
    if WORLD != int(os.environ.get("WORLD_SIZE", 1)):
        raise SystemExit(f"this program runs on {WORLD} devices: torchrun --nproc-per-node {WORLD} {__file__}")
    if DEVICE.type == "cuda":
        torch.cuda.set_device(DEVICE)
    dist.init_process_group("nccl" if DEVICE.type == "cuda" else "gloo")
    every = [{axis: rank // stride % SIZES[axis] for axis, stride in STRIDES.items()} for rank in range(WORLD)]

    def coordinate(at, axes):
        return tuple(at[axis] for axis in axes)

    for axes in AXES:
        others = [axis for axis in STRIDES if axis not in axes]
        for place in sorted({coordinate(at, others) for at in every}):
            ranks = [rank for rank, at in enumerate(every) if coordinate(at, others) == place]
            group = dist.new_group(ranks)
            if RANK in ranks:
                GROUPS[axes] = group, [ranks.index(r) for r in sorted(ranks, key=lambda r: coordinate(every[r], axes))]
    for groups in STAGE_GROUPS:
        for place in sorted({coordinate(at, [a for a in STRIDES if a not in PLACES]) for at in every}):
            ranks = []
            for rank, at in enumerate(every):
                number = 0
                for axis in PLACES:
                    number = number * SIZES[axis] + at[axis]
                if number in groups and coordinate(at, [a for a in STRIDES if a not in PLACES]) == place:
                    ranks.append(rank)
            group = dist.new_group(ranks)
            if RANK in ranks:
                BETWEEN[groups] = group
    for name in CHANNELS:
        CHANNEL[name] = dist.new_group()
'''

_OUTPUTS = '''
def outputs(device):
    """What the last batch has put out: whole tensors by name, on process 0."""
    mine = []
    for key, (name, whole, axes, loop, _) in HERE.OUTPUTS.items():
        for i, x in enumerate(device.outputs[key]):
            spans = []
            for dim, (size, split) in enumerate(zip(whole, axes)):
                _, first, size = loop if loop and loop[0] == dim else (dim, 0, size)
                low, used, _ = span(size, split, i)
                spans.append((first + min(low, size), first + min(low, size) + used))
            mine.append((name, whole, spans, x.detach().cpu()))
several|     every = [None] * WORLD if RANK == 0 else None
several|     dist.gather_object(mine, every)
several|     if RANK:
several|         return {}
no several|     every = [mine]
    found = {}
    for name, shape, spans, x in (piece for pieces in every for piece in pieces):
        there = found.setdefault(name, torch.empty(shape, dtype=x.dtype))
        there[tuple(slice(*s) for s in spans)] = x[tuple(slice(0, high - low) for low, high in spans)]
    return found
'''

_MAIN = '''
held| def train(batches, steps, weights=None, compiled=False, save=None, device=None):
no held| def train(batches, steps, weights=None, compiled=False, save=None):
    """Trains on batches from an iterator; yields what each step tells, on the devices that have it.

    weights: whole tensors by name in place of initial ones. save: the file that all weights and states go to.
held|     device: one that goes on, in place of a new one.
    """
    torch.set_float32_matmul_precision("highest")
held|     device = device or Device(weights, compiled)
no held|     device = Device(weights, compiled)
    for _, batch in zip(range(steps), batches):
        yield device.step(batch)
    if save:
        keep(device, save)


def main():
    """Trains on made-up data and tells of each step."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=10)
    options.add_argument("--weights", help="a file of torch.save: whole tensors by name, in place of initial ones")
    options.add_argument("--save", help="the file that all weights and states go to at the end")
    options.add_argument("--compile", action="store_true", help="torch.compile of each function")
    options.add_argument("--data", help="a file of torch.save: a list of batches, in place of made-up ones")
outputs|     options.add_argument("--outputs", help="a file for torch.save: all outputs, whole tensors by name")
<options>
    o = options.parse_args()
several|     connect()
    weights = torch.load(o.weights) if o.weights else None
    data = torch.load(o.data) if o.data else batches()
held|     device = Device(weights, o.compile)
outputs|     found = []
held|     for number, told in enumerate(train(data, o.steps, save=o.save, device=device), 1):
no held|     for number, told in enumerate(train(data, o.steps, weights, o.compile, o.save), 1):
        tell("step", number, told)
outputs|         found += [outputs(device)] if o.outputs else []
outputs| several|     if o.outputs and RANK == 0:
outputs| no several|     if o.outputs:
outputs|         torch.save(found, o.outputs)
<calls>
several|     dist.barrier()  # others may still wait for what this process has sent
several|     dist.destroy_process_group()


def tell(what, number, told):
    """Prints what a step told, once."""
    if told<first>:
        print(f"{what} {number}: " + ", ".join(f"{name} {value:.6g}" for name, value in told.items()), flush=True)


if __name__ == "__main__":
    main()
'''


def text(
    program: Program, classes: Classes, results: Mapping[str, str], others: Mapping[str, Classes] | None = None
) -> Running:
    """classes: each with the name of its namespace ("": the file itself); results: buffers that a step tells of, and
    what they are called; others: the classes of further entries."""
    several, staged = program.devices > 1, program.groups > 1
    named = ", ".join(f"{string(name)}: {string(shown)}" for name, shown in results.items())
    heads = [_here(classes), f"RESULTS = {{{named}}}  # buffers that a step tells of"]
    heads += [_first(program)] if several else []
    summed = summed_results(program)
    if summed:
        groups = ", ".join(f"{string(name)}: {tuple_of(map(str, of))}" for name, of in summed.items())
        heads.append(f"SUMMED = {{{groups}}}  # of these, the groups that have parts of what is told")
    every = [*classes, *(c for found in (others or {}).values() for c in found)]
    timed = any(TIME in s.layout.split_axes for _, c in every for s in c.states if s.role in LASTING)
    parted = any(listed(s) for _, c in every for s in c.states)
    told = not results and any(s.role is Role.OUTPUT for _, c in classes for s in c.states)
    found = {
        "several": several,
        "staged": staged,
        "timed": timed,
        "parted": parted,
        "bounded": any(bounded(c) for _, c in every),
        "entries": bool(others),
        "outputs": told,
        "ways": bool(summed),
    }
    found["held"] = bool(others) or told
    facts = {name for name, holds in found.items() if holds}
    heads += [entries.listed(others)] if others else []
    parts = [_BUFFER, "\n".join(heads), device_class(facts)]
    parts += [_STAGES] if staged else []
    if any(_interleaved(cls) for _, cls in every):
        parts.append(_TURN)
    parts += [_CONNECT] if several else []
    parts += [_keep(several, timed, bool(others))] + ([chosen(_OUTPUTS, facts)] if told else [])
    parts += [_batches(program), _main(facts, [*(others or ())])]
    return Running(parts, ["cut", "initial", "span", "filled", *(["stage_reduce"] if summed else [])])


def summed_results(program: Program) -> dict[str, tuple[int, ...]]:
    """What the passes of several groups add up for the loss and the metrics, with these groups: nothing, where there is
    one way through the model."""
    found: dict[str, set[int]] = {}
    for cls in (c for e in program.entries for c in e.classes if program.homes.ways > 1):
        added = {i.op.name for f in cls.functions for i in f.body.nodes if isinstance(i.op, Accumulate)}
        for s in cls.states:
            if s.role in (Role.LOSS, Role.METRIC) and s.name in added:
                found.setdefault(s.name, set()).update(cls.groups)
    return {name: tuple(sorted(groups)) for name, groups in found.items()}


def _interleaved(cls: DeviceClass) -> bool:
    for element in cls.schedule:
        if isinstance(element, Run) and element.chunk == ALL_CHUNKS:
            return True
        if isinstance(element, For) and any(chunk == ALL_CHUNKS for _, chunk, _ in element.steps):
            return True
    return False


def _here(classes: Classes) -> str:
    """Which functions this device has: the only place where devices differ."""
    if not classes[0][0]:
        return 'HERE = __import__("sys").modules[__name__]  # the functions above'
    lines = [f"if GROUP in {tuple_of(map(str, cls.groups))}:\n    HERE = {name}" for name, cls in classes]
    return "\n".join(lines)


def _first(program: Program) -> str:
    """The device that tells of a step: the first of those that have the loss."""
    losses = (g for c in program.classes for g in c.groups if any(s.role is Role.LOSS for s in c.states))
    return f"FIRST = GROUP == {min(losses, default=0)} and not any(AT[axis] for axis in AT if axis not in PLACES)"


def _keep(several: bool, timed: bool, more: bool) -> str:
    held = "device.parts[key][i] if key in device.parts else device.state[key]" if timed else "device.state[key]"
    own = " if key in device.state" if more else ""  # others may hold more than the first
    lines = [
        "def keep(device, path):",
        '    """Writes all weights and states as whole tensors by name."""',
        f"    mine = [(*where, ({held}).detach().cpu()) for (key, i), where in PIECES.items(){own}]",
    ]
    if several:
        lines += [
            "    every = [None] * WORLD if RANK == 0 else None",
            "    dist.gather_object(mine, every)",
            "    if RANK:",
            "        return",
        ]
    else:
        lines.append("    every = [mine]")
    lines += [
        "    found = {}",
        "    for name, shape, front, spans, x in (piece for pieces in every for piece in pieces):",
        "        there = found.setdefault(name, torch.empty(shape, dtype=x.dtype))[front]",
        "        there[tuple(slice(*s) for s in spans)] = x[tuple(slice(0, high - low) for low, high in spans)]",
        "    torch.save(found, path)",
    ]
    return "\n".join(lines)


def _batches(program: Program) -> str:
    lines = [
        "def batches():",
        '    """Made-up data, the same on all devices: batches of whole tensors by name. Put your own here."""',
        "    numbers = torch.Generator().manual_seed(SEED)",
        "    while True:",
        "        yield {",
    ]
    for i in program.inputs:
        shape, dtype = tuple_of(map(str, i.type.shape)) if i.type.dims else "()", DTYPES[i.type.dtype]
        if i.type.is_float:
            made = f"torch.randn({shape}, generator=numbers, dtype=torch.float32).to({dtype})"
        else:
            low = i.low or 0
            high = i.high if i.high is not None else low + 2
            made = f"torch.randint({low}, {high}, {shape}, generator=numbers).to({dtype})"
        lines.append(f"            {string(i.name)}: {made},")
    return "\n".join([*lines, "        }"])


def _main(facts: Collection[str], others: Sequence[str]) -> str:
    first = " and FIRST" if "several" in facts else ""
    return chosen(_MAIN, facts, first=first, options=entries.options(others), calls=entries.calls(others))
