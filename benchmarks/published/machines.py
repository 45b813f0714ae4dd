"""The devices, links and software of published rows: what they say, and what is assumed where they are silent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from benchmarks.published.accelerators import narrow, ratio, reached, scale, sheet
from benchmarks.published.facts import Row, Unsupported
from benchmarks.published.software import CORES, KNOWN, by_prefix, fast, fused, generation, kernel, software
from compiler.stacks import KEYWORDS
from dsl import ast
from dsl.parser import parse

TWINS = (("a100_80", "a100_40"), ("h100", "h100_hbm2e", "h200"), ("b200", "gb200"))
"""Devices of one generation: software that one does not state reaches what it reaches of the other. Between generations
it does not (H100 gives a fifth less of its peak than A100, whatever the software): a device's general numbers hold."""

LINKS = {"ICI 3D torus": 300.0, "ICI 2D": 180.0, "ICI 3D torus 90": 540.0, "HCCS": 392.0, "NVLink2": 150.0}
LINKS |= {"NVLink3": 300.0, "NVLink4": 450.0, "NVLink5": 900.0, "PCIe3": 16.0, "PCIe": 32.0, "PCIe5": 64.0}
"""GB/s per device and direction, all links together, where the row has no number: by the beginning of `intra_link`,
else by the data sheet of the accelerator."""


NARROW = 1.8
"""How many times faster products in fewer than 16 bits are, where nothing is known of the software."""


@cache
def library() -> Mapping[str, tuple[tuple[tuple[str, ...], str], ...]]:
    """Of each device of the standard library: the words before each setting's numbers, and the setting as written."""
    path = Path(__file__).resolve().parents[2] / "dsl" / "std" / "devices.par"
    text = path.read_text(encoding="utf-8")
    found = {}
    for item in parse(text, path.name).items:
        if hasattr(item, "body") and hasattr(item, "name"):
            settings = []
            for s in item.body:
                names = (v for v in s.values if isinstance(v, ast.Name))
                words = (s.keyword.id, *(w.id for w in s.words), *(v.id for v in names))
                settings.append((words, text[s.span.start : s.span.end].strip()))
            found[item.name.id] = tuple(settings)
    return found


def stacks(device: str) -> set[str]:
    """The software for which a device of the standard library states what it reaches, or that it is like other."""
    found = library().get(device, ())
    return {w[1] for w, _ in found if w[0] == "stack" or (w[0] == "efficiency" and len(w) == 3)}


def like(device: str, stack: str) -> str | None:
    """The stack that another is like, says a device of the library ("": what holds for none); None: it is its own."""
    return next((w[3] if len(w) > 3 else "" for w, _ in library()[device] if w[:2] == ("stack", stack)), None)


def stated(device: str, stack: str) -> dict[tuple[str, str], str]:
    """What a device of the library states for a stack, or for one that it is like (`compiler.stacks`): keyword and
    name -> the value as written."""
    base = like(device, stack)
    values = stated(device, base) if base is not None else {}
    for words, text in library()[device]:
        if words[0] in KEYWORDS and words[1:-1] == ((stack,) if stack else ()):
            values[words[0], words[-1]] = text.split(maxsplit=len(words))[-1]
    return values


def home(row: Row, name: str) -> tuple[str, str]:
    """The first of those names that a device of the library states, or one of its twins; and whose numbers they are.
    No name: the device's general efficiencies hold."""
    twins = next((twins for twins in TWINS if name in twins), (name,))
    for known in software(row, name):
        for at in sorted(twins, key=lambda twin: twin != name) if known else ():
            if known in stacks(at):
                return known, at
    return "", name


def stack(row: Row, name: str) -> str:
    """The software as a device of the library, or one of its twins, has it."""
    return home(row, name)[0]


def attention(row: Row, stack: str, device: str) -> dict[str, float]:
    """What a stack of a device has otherwise than the row says of its attention: whether it is one kernel, and what
    that reaches, where the stack has another."""
    found = {}
    values = stated(device, stack)
    if float(values.get(("efficiency", "fused_attention"), 0.0)) != float(fused(row)):
        found["fused_attention"] = float(fused(row))
    usual = fast(of.kernel, device) if (of := by_prefix(KNOWN, stack)) else stack.startswith(("fast", "megatron"))
    wanted = fast(kernel(row), device) if fused(row) else None
    if wanted is not None and wanted != usual:
        found["core"] = CORES[generation(device)][wanted]
    return found


def device(row: Row) -> tuple[str, str]:
    """The device's name, and its definition if it is not one of the standard library, or that states nothing of the
    row's software and a twin of it does. Raises `Unsupported` where too little is known."""
    of = sheet(row)
    known, at = home(row, of.like)
    more = max(1.0, ratio(row) / narrow(row))
    wide = narrow(row) > 1 and ("efficiency", "narrow") not in stated(at, known)
    other = attention(row, known, at)
    if of.known and at == of.like and not wide and not other:
        return of.like, ""
    lines = [f"compute {kind} {of.peak:g} TFLOP/s" for kind in ("f16", "bf16")]
    lines += [f"compute {kind} {of.single or of.peak / 16:g} TFLOP/s" for kind in ("f32", "f64")]
    lines.append(f"memory {of.memory:g} GB, {of.bandwidth:g} GB/s")
    lines += [text for words, text in library()[of.like] if words[0] in ("launch", "link", "cores", "cube", "tile")]
    for named, owner in dict.fromkeys((("", of.like), (known, at))):
        for (keyword, name), value in stated(owner, named).items():
            if keyword == "efficiency" and name in other:
                value = f"{other[name]:g}"
            elif name == "product" and scale(of, owner) != 1.0:
                value = f"{reached(float(value), of, owner):.3g}"
            elif name == "narrow" and more > 1.2:
                value = f"{float(value) * more:.3g}"
            words = (keyword, named, name) if named else (keyword, name)
            lines.append(" ".join((*words, value)))
    told = {name for keyword, name in stated(at, known) if keyword == "efficiency"}
    lines += [f"efficiency {known} {name} {n:g}".replace("  ", " ") for name, n in other.items() if name not in told]
    if wide:
        word = f"efficiency {known} narrow" if known else "efficiency narrow"
        lines.append(f"{word} {NARROW * more:g}")
    return "measured", "\n".join(["device measured {", *(f"  {line}" for line in lines), "}", "", ""])


def cluster(row: Row, name: str) -> str:
    """`name`: of the device."""
    of = sheet(row)
    devices, per_node = row.whole("n_dev"), max(1, row.whole("dev_per_node", 8))
    domain = re.search(r"NVL(\d+)", row["intra_link"])  # one domain of NVLink is larger than a node
    inside = max(n for n in range(1, (int(domain[1]) if domain else per_node) + 1) if devices % n == 0)
    intra = row.number("intra_GBps_dir_per_dev") or by_prefix(LINKS, row["intra_link"]) or of.inner
    inter = row.number("inter_Gbps_per_node") / 8 / per_node or of.outer
    intra, inter = intra or (1.0 if inside == 1 else 0.0), inter or (1.0 if inside == devices else 0.0)
    if not intra or not inter:
        raise Unsupported(f"links of {row['accel']} are not stated")
    known = stack(row, of.like)
    return (
        "cluster pod {\n"
        f"  device npu = {name}\n"
        f"  level server = {inside} npu over {intra:g} GB/s, 1 us\n"
        f"  level pod = {devices // inside} server over {inter:g} GB/s, 5 us\n"
        + ("  topology server full_mesh\n" if of.mesh and inside > 1 else "")
        + (f"  stack {known}\n" if known else "")
        + "}\n"
    )
