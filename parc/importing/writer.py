"""A job as text: a model's parts, a cluster, a strategy of well-known tactics, an optimizer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from dsl.data import dataclass
from dsl.library import outline
from dsl.printer import format_source
from dsl.source import Source
from parc.importing.cluster import cluster_lines
from parc.importing.described import Described, block

MOST = 2**20 + 1
"""Degrees are below it: there are as many devices at most."""

TOGETHER = 8
"""Texts of which an encoder makes vectors at once."""


@dataclass(frozen=True, slots=True)
class Degrees:
    """Of how many devices each axis is. again: whether layers are computed again in the backward pass."""

    dp: int = 1
    tp: int = 1
    ep: int = 1
    zero: int = 0
    again: bool = False


def job_text(
    name: str,
    of: Described,
    title: Sequence[str],
    degrees: Degrees,
    cluster: tuple[int, str] | None,
    precision: str,
) -> str:
    """The canonical text of the job. title: lines of the comment that it begins with."""
    model = [*block(f"model {name}", [*of.head, *of.body])]
    strategy = _strategy(name, of, degrees)
    body = "\n\n".join(["\n".join(of.functions), "\n".join(model)] if of.functions else ["\n".join(model)])
    rest = "\n".join(strategy)
    job = "\n".join(_job(name, of, cluster, precision))
    devices = " * ".join(_axes(of, degrees))
    parts = [
        "\n".join(f"# {line}" if line else "#" for line in title),
        _uses(f"{body}\n{rest}\n{job}", cluster),
        _params("The model, as published.", of.params),
        _params("A step." if of.trains else "What is computed at once.", _batch(of, degrees)),
        _params("How it is split.", {**_degrees(of, degrees), "devices": devices}),
        body,
        *(["\n".join(cluster_lines(cluster[1], cluster[0]))] if cluster else []),
        rest,
        job,
    ]
    return format_source("\n\n".join(parts) + "\n", name)


def _params(title: str, params: Mapping[str, str]) -> str:
    return "\n".join([f"# {title}", *(f"param {name} = {value}" for name, value in params.items())])


def _batch(of: Described, degrees: Degrees) -> dict[str, str]:
    each = 1 if of.trains else TOGETHER
    batch = {"batch": f"{degrees.dp * degrees.ep * each} in 1..1048577", "microbatches": f"1 in 1..{MOST}"}
    if of.own_length:
        return batch
    seq, most = min(of.positions or of.usual, of.usual), of.positions + 1 if of.positions else 1048577
    return {**{name: f"{seq} in 1..{most}" for name in of.lengths}, **batch}


def _axes(of: Described, degrees: Degrees) -> dict[str, int]:
    """The axes of the mesh, major to minor: pipeline, data, experts or context, tensor."""
    more = {"ep": degrees.ep} if of.experts else {"cp": 1} if of.sequence else {}
    return {"pp": 1, "dp": degrees.dp, **more, "tp": degrees.tp}


def _degrees(of: Described, degrees: Degrees) -> dict[str, str]:
    found = {name: f"{n} in 1..{MOST}" for name, n in _axes(of, degrees).items()}
    if not of.trains:
        return found
    return {**found, "zero": f"{degrees.zero} in {{0, 1, 2, 3}}", "again": "true" if degrees.again else "false"}


def _strategy(name: str, of: Described, degrees: Degrees) -> list[str]:
    """The strategy: data, tensor, pipeline and context (or expert) parallelism, ZeRO, layers computed again."""
    axes = _axes(of, degrees)
    lines = [f"mesh ({', '.join(f'{a} = {a}' for a in axes)})", "data_parallel(dp)"]
    lines += ["split e, b on ep"] if "ep" in axes else ["context_parallel(cp)"] if "cp" in axes else []
    lines += ["megatron(tp)" if of.sequence else "tensor_parallel(tp)"]
    if of.trains:
        lines += ["optimizer_parallel(dp, zero)"]
        lines += ["optimizer_parallel(ep, zero)"] if "ep" in axes else []
        lines += block("if again", [f"recompute {loop}" for loop in of.row])
    cut = f"pipeline {', '.join(of.row)} on pp, schedule one_f_one_b(microbatches = microbatches, over = b)"
    lines += ["if pp > 1 {", f"  {cut}", "} else {", "  microbatches microbatches over b", "}"]
    return block(f"strategy hybrid for {name}", lines)


def _job(name: str, of: Described, cluster: tuple[int, str] | None, precision: str) -> list[str]:
    on = " on pod(devices)" if cluster else ""
    if not of.trains:
        return block(
            "job embed", [f"infer {name}{on} using hybrid", f"precision {precision}", "data synthetic", "seed 7"]
        )
    rate = "warmup_cosine(step, 3e-4, 2000, 100000, low = 3e-5)"
    lines = [
        f"train {name}{on} using hybrid",
        f"optimizer adamw(lr = {rate}, beta2 = 0.95, decay = 0.1, clip = 1.0)",
        f"precision {precision}, master f32",
        "data synthetic",
        "seed 7",
    ]
    return block("job pretrain", lines)


def _uses(text: str, cluster: tuple[int, str] | None) -> str:
    """What the text takes from the standard library."""
    lines = [f"use std.devices ({cluster[1]})"] if cluster else []
    layers = _called(text, "layers")
    tactics = [n for n in _called(text, "tactics") if n != "moe"]
    optimizers = ["use std.optimizers (adamw, warmup_cosine)"] if "adamw(" in text else []
    lines += [f"use std.layers ({', '.join(layers)})", *optimizers]
    return "\n".join([*lines, f"use std.tactics ({', '.join(tactics)})"])


def _called(text: str, module: str) -> list[str]:
    words = set(re.findall(r"(\w+)\(", text))
    return sorted(words & {item.name.id for item in outline(_standard(module)) if item.name.id})


def _standard(module: str) -> Source:
    from dsl.files import STD

    path = STD / f"{module}.par"
    return Source(f"<std>/{module}.par", path.read_text(encoding="utf-8"))


def wrapped(words: Iterable[str], width: int = 100) -> list[str]:
    """Words as lines of a comment."""
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
