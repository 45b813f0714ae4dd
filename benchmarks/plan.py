"""What a search for a strategy takes: `python -m benchmarks.plan [--within 10] [--only NAME] [--around]`.

Per job: what became of the candidates, the best step, how much better the rest can be at most, seconds of CPU, and what
the process needs of memory. Each job has a process of its own. `--around`: with what is tried around the best, as the
command does, for a quarter as long again; the best step is that of both. Of GPT-3 and PanGu there are rows of what a
framework can run (`--without`), too.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from time import process_time

from compiler.evaluate import evaluate_file
from dsl.source import Source
from parc.api.importing import init
from parc.planning import planning, refining, search
from parc.planning.left_out import left_out
from parc.planning.planning import plan, resized
from parc.planning.refining import refined

EXAMPLES = Path(__file__).parent.parent / "examples"

UNET = {"size": "512", "channels": "256", "blocks": "8", "heads": "16", "groups": "32", "batch": "256"}
"""A diffusion model of 1.1 billion weights, of images of 512 x 512: 56 residual blocks, two samples to a device."""

JOBS: dict[str, tuple[str, int, dict[str, str]]] = {
    "GPT-3 175B on 1,024": ("megatron_175b.par", 1024, {}),
    "GPT-3 175B on 4,096": ("megatron_175b.par", 4096, {}),
    "PanGu 200B on 2,048": ("pangu_200b.par", 2048, {}),
    "DeepSeek-V3 671B on 2,048": ("deepseek_v3.json", 2048, {"batch": "8192", "seq": "4096"}),
    "recsys on 64": ("recsys.par", 64, {"batch": "65536"}),
    "ResNet on 128": ("resnet.par", 128, {"batch": "4096", "size": "128", "channels": "64"}),
    "U-Net on 128": ("unet.par", 128, {**UNET, "devices": "128"}),
    "three towers on 256": (
        "towers.par",
        256,
        {"hidden": "2048", "pixels": "12288", "samples": "8192", "batch": "4096"},
    ),
}
"""By name: the file, devices, and values of parameters. A configuration of a public model (beside this file) becomes a
job of H100s."""

MEGATRON = "gpipe,zero_bubble,zero=2..4,recompute=products,rows,offload,places"
"""What Megatron-LM had not, from its 3D parallelism (Narayanan and others, SC21, arXiv:2104.04473) to 2024: schedules
are 1F1B and interleaved stages (`megatron/core/pipeline_parallel/schedules.py`; zero bubbles are in a fork of others,
arXiv:2401.10241), its distributed optimizer shards states alone (`--use-distributed-optimizer`), and it computes whole
layers again, of any number of layers, or the core of attention (`--recompute-granularity`; Korthikanti and others,
arXiv:2205.05198), to which `recompute=part`, all of attention, is nearest. Interleaved stages want layers that come out
even and micro-batches that are a multiple of the stages there, which is not asked for here: the space is larger than
what it runs."""

FRAMEWORKS = {
    "Megatron-LM of 2023": f"{MEGATRON},cp,outermost=dp,cuts",
    "Megatron-LM of 2024": MEGATRON,
}
"""What is left out. Before the end of 2023 it had sequence parallelism, but no axis for positions (context parallelism
came with Megatron Core 0.4, heads in their place in 2024), stages were outermost (`--use-tp-pp-dp-mapping` is of 2024),
and had as many layers each (`--decoder-first-pipeline-num-layers`, 2024)."""

LARGE = ("GPT-3 175B on 1,024", "GPT-3 175B on 4,096", "PanGu 200B on 2,048")

ROWS: dict[str, tuple[str, str]] = {
    **{name: (name, "") for name in JOBS},
    **{f"{name}, {framework}": (name, framework) for framework in FRAMEWORKS for name in LARGE},
}
"""By name: the job, and what framework runs it (any that there is in the language: empty)."""

HALVES = {"unet.par"}
"""Files that speak of f32, so that a proof tells more, of jobs that compute in bf16."""


def source(file: str, devices: int) -> Source:
    """The job's text."""
    if file.endswith(".json"):
        return Source(file, init(Path(__file__).parent / file, cluster=(devices, "h100")).text)
    text = (EXAMPLES / file).read_text()
    return Source(str(EXAMPLES / file), text.replace("precision f32,", "precision bf16,") if file in HALVES else text)


def measured(name: str, within: float, around: bool) -> str:
    """A row of the table."""
    job_name, framework = ROWS[name]
    file, devices, params = JOBS[job_name]
    without = left_out([FRAMEWORKS[framework]] if framework else [])
    for module in (planning, search, refining):
        vars(module)["monotonic"] = process_time  # other processes are not to be counted
    text = source(file, devices)  # of a configuration a strategy is chosen, which is no part of a search
    began = process_time()
    job = evaluate_file(text, params, None, "serial").job
    assert job.cluster is not None
    if devices != job.cluster.devices:
        job = replace(job, cluster=resized(job.cluster, devices))
    planned = plan(job, within=within, without=without)
    found, counts = planned.found, planned.found.counts
    least = found.fitting[0].price.seconds if found.fitting else None
    if around and found.fitting:
        least = refined(text, params, planned, job.cluster, within).least
    best = "none" if least is None else f"{least:.4g} s"
    row = [
        name,
        f"{counts.total - counts.numbers:,}",
        f"{counts.too_large + counts.not_better:,}",
        f"{counts.priced + sum(counts.refused.values()):,}",
        f"{counts.left:,}",
        best,
        f"{found.gap:.1%}",
        f"{process_time() - began:.1f} s",
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB",
    ]
    return f"| {' | '.join(row)} |"


def main() -> None:
    """All jobs, or one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--within", type=float, default=10.0, help="seconds of CPU that a search may take")
    parser.add_argument("--only", choices=ROWS, help="this job alone, in this process")
    parser.add_argument("--around", action="store_true", help="with what is tried around the best")
    given = parser.parse_args()
    if given.only:
        print(measured(given.only, given.within, given.around), flush=True)
        return
    print("| job | legal | left out by bounds | priced | left | best step | at most better by | CPU | memory |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in ROWS:
        command = [sys.executable, "-m", "benchmarks.plan", "--within", str(given.within), "--only", name]
        subprocess.run([*command, *(["--around"] if given.around else [])], check=True)


if __name__ == "__main__":
    main()
