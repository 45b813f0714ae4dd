"""The devices, links and software of published rows: what they say, and what is assumed where they are silent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar

from benchmarks.published import mixture
from benchmarks.published.accelerators import accelerator, narrow, ratio, scale, sheet
from benchmarks.published.facts import Row, Unsupported
from compiler.stacks import KEYWORDS
from dsl import ast
from dsl.parser import parse

T = TypeVar("T")

TWINS = (("a100_80", "a100_40"), ("h100", "h100_hbm2e", "h200"), ("b200", "gb200"))
"""Devices of one generation: software that one does not state reaches what it reaches of the other. Between generations
it does not (H100 gives a fifth less of its peak than A100, whatever the software): a device's general numbers hold."""

STACKS = {
    "megatron_sc21": "megatron_2021",
    "korthikanti": "megatron_2022",
    "megatron_readme": "megatron_2021",
    "megatron2020": "megatron_2020",
    "megatron_bridge": "megatron_core",
    "mcore": "megatron_core",
    "vtrain": "vtrain",
    "bloom": "bloom",
    "llmfoundry": "composer",
    "torchtitan": "torchtitan",
    "maxtext": "maxtext",
    "pax": "pax",
    "bert_dle": "dle",
    "ascend_modellink": "modellink",
    "ascend_mindformers": "mindformers",
}
"""The software, by the beginning of `family`."""

SOURCES = (
    ("torchtitan", "torchtitan"),
    ("maxtext", "maxtext"),
    ("llm.?foundry|mosaic|composer", "composer"),
    ("bigscience", "bloom"),
    ("vtrain", "vtrain"),
    ("sc21", "megatron_2021"),
    ("activation recomp", "megatron_2022"),
    ("megatron.?(bridge|core)|mcore|nemo", "megatron_core"),
    ("mindformers", "mindformers"),
    ("modellink|mindspeed", "modellink"),
    ("pax|jax.?toolbox", "pax"),
    ("te fused|transformer.?engine", "megatron_core"),
)
"""The same by words of `family`, `source` or `attn`, where the beginning of the family says nothing."""

UNFUSED = {"megatron_2020", "megatron_2021", "megatron_2022", "vtrain", "bloom"}
"""Software from before fused attention."""

LINKS = {"ICI 3D torus": 300.0, "ICI 2D": 180.0, "ICI 3D torus 90": 540.0, "HCCS": 392.0, "NVLink2": 150.0}
LINKS |= {"NVLink3": 300.0, "NVLink4": 450.0, "NVLink5": 900.0, "PCIe3": 16.0, "PCIe": 32.0, "PCIe5": 64.0}
"""GB/s per device and direction, all links together, where the row has no number: by the beginning of `intra_link`,
else by the data sheet of the accelerator."""


GRAPHS = (26, 6)
"""The release of Megatron-Bridge since which layers with experts run as CUDA graphs (the host does not wait for the
numbers of positions), and experts within bounds have one kernel for what is between their products."""

NARROW = 1.8
"""How many times faster products in fewer than 16 bits are, where nothing is known of the software."""


def by_prefix(table: Mapping[str, T], name: str) -> T | None:
    """The value of the longest key that `name` starts with."""
    found = [key for key in table if name.startswith(key)]
    return table[max(found, key=len)] if found else None


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


def fused(row: Row) -> bool:
    """Whether attention is one kernel: as the row says, else as its software had it."""
    if row["attn"]:
        return not row["attn"].lower().startswith("unfused")
    return base(row) not in UNFUSED and not accelerator(row).startswith("V100")


def base(row: Row) -> str:
    """The software, without its variants; empty if it is not known."""
    said = f"{row.family} {row['source']} {row['attn']}".lower()
    found = next((name for words, name in SOURCES if re.search(words, said)), "")
    return by_prefix(STACKS, row.family) or found


def software(row: Row) -> list[str]:
    """Names of stacks that would hold for a row, the most special first: what the row says of compilation, of messages
    that are hidden in products, of mended hosts and of narrow types are stacks of their own, and so are Megatron-Core's
    experts of its later releases, and those with bounds."""
    of = base(row)
    said = f"{row['precision']} {row['notes']}".lower()
    variants = []
    if narrow(row) > 1:
        variants.append("float4" if narrow(row) == 4 else "float8_rowwise" if "rowwise" in said else "float8")
    release = re.search(r"\b(2\d)\.(\d\d)", row["source"])  # NeMo's: 26.06 and so on
    new = release is not None and (int(release[1]), int(release[2])) >= GRAPHS
    if of == "megatron_core" and mixture.mixed(row) and (new or mixture.clamped(row)):
        variants.append("graphs" if new else "clamped")
    if re.search(r"async ?tp", said):
        variants.append("async")
    if "eager" in said and "compile" not in said:
        variants.append("eager")
    if "pure" in said:
        variants.append("pure")
    if "numa fix" in said:
        variants.append("numa")
    names = ["_".join([of, *variants]), *(f"{of}_{v}" for v in variants)] if of else []
    if narrow(row) > 1:  # where nothing is known of the software in these types, `device` adds the factor in general
        names += [f"{of}_float8", of] if of else []
        names += [*(v for v in variants if v.startswith("float")), "float8"]
    return [*names, of] if of else [*names, "" if fused(row) else "unfused"]


def home(row: Row, name: str) -> tuple[str, str]:
    """The first of those names that a device of the library states, or one of its twins; and whose numbers they are.
    No name: the device's general efficiencies hold."""
    twins = next((twins for twins in TWINS if name in twins), (name,))
    for known in software(row):
        for at in sorted(twins, key=lambda twin: twin != name) if known else ():
            if known in stacks(at):
                return known, at
    return "", name


def stack(row: Row, name: str) -> str:
    """The software as a device of the library, or one of its twins, has it."""
    return home(row, name)[0]


def device(row: Row) -> tuple[str, str]:
    """The device's name, and its definition if it is not one of the standard library, or that states nothing of the
    row's software and a twin of it does. Raises `Unsupported` where too little is known."""
    of = sheet(row)
    known, at = home(row, of.like)
    more = max(1.0, ratio(row) / narrow(row))
    wide = narrow(row) > 1 and ("efficiency", "narrow") not in stated(at, known)
    if of.known and at == of.like and not wide:
        return of.like, ""
    lines = [f"compute {kind} {of.peak:g} TFLOP/s" for kind in ("f16", "bf16")]
    lines += [f"compute {kind} {of.single or of.peak / 16:g} TFLOP/s" for kind in ("f32", "f64")]
    lines.append(f"memory {of.memory:g} GB, {of.bandwidth:g} GB/s")
    lines += [text for words, text in library()[of.like] if words[0] in ("launch", "link", "cores", "cube", "tile")]
    for named, owner in dict.fromkeys((("", of.like), (known, at))):
        for (keyword, name), value in stated(owner, named).items():
            times = scale(of, owner) if name == "product" else more if name == "narrow" and more > 1.2 else 1.0
            words = (keyword, named, name) if named else (keyword, name)
            lines.append(" ".join((*words, value if times == 1.0 else f"{float(value) * times:.3g}")))
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
