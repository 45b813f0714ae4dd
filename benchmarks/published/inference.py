"""Published latencies of inference against predictions: `python -m benchmarks.published.inference [CSV] [--fit]`.

A row is a prompt that is read and tokens that are made of it, by a GPT: its job infers and decodes, and takes as long
as the prefill, which makes the first token, and each further position over the context in the middle. `--fit` finds
what serving software reaches of a device (nothing of training moves), and tells the errors of rows that were left out.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import parc
from benchmarks.published.facts import FOLDER, Row, Unsupported, load
from benchmarks.published.fit import Pairs, Problem, Sample, calibration, fit
from benchmarks.published.group import Group
from benchmarks.published.lines import efficiencies
from benchmarks.published.machines import cluster as links
from benchmarks.published.machines import device, sheet
from benchmarks.published.score import table
from compiler.cost.price.calibration import Calibration
from compiler.cost.time.simulate import Simulation
from compiler.driver import compile_job
from compiler.model import DECODING, Cluster
from dsl.source import Source

INFERENCE = FOLDER / "inference.csv"
VOCABULARY = 51200
"""GPT's, where a row does not say."""

STACK, FAMILY = "faster_transformer", "ft_infer"
SOFTWARE = (FAMILY, "kipply", "nemo_infer")
"""Beginnings of the names of families that were measured with it; fitted is on the first."""

GROUP = Group(
    STACK,
    ("a100_80",),
    (STACK,),
    ("product", "vector", "inner", "inner_half", "alpha", "host", "fusion"),
    fixed={"fused_attention": 1.0},
    priors={"alpha": (4.0, 1.0), "host": (4e-6, 0.7), "inner_half": (1e6, 1.0)},
)
"""Hosts of a loop in C++ dispatch sooner than those of training; messages of one position are a matter of latency."""

FITTED = {"fused_attention": 1.0, "product": 0.67, "vector": 0.78, "inner": 0.6, "inner_half": 5.1e6}
FITTED |= {"alpha": 2.06, "host": 1e-5, "fusion": 0.94}
"""What `--fit` finds, as `a100_80` of the standard library states it."""


def measured(row: Row) -> float | None:
    """Seconds from the prompt to the last token."""
    if row["latency_ms"]:
        return row.number("latency_ms") / 1000
    if row["tok_s_dev"] and row["batch"] and row["gen_len"]:
        return row.number("batch") * row.number("gen_len") / (row.number("tok_s_dev") * row.number("n_dev", 1.0))
    return row.seconds


def job(row: Row) -> str:
    """The row in the language. Raises `Unsupported` for what has no words, or is not stated."""
    if row["offload"] not in ("", "none", "gpu"):
        raise Unsupported(f"offload: {row['offload']}")
    if row.gated or row.whole("kv_heads", row.whole("heads")) != row.whole("heads"):
        raise Unsupported("inference of models other than GPT")
    for column in ("layers", "hidden", "heads", "batch", "prompt_len", "gen_len", "tp"):
        if not row[column]:
            raise Unsupported(f"{column} is not stated")
    if row["precision"].lower().startswith("int8"):
        raise Unsupported("it is not stated how weights of 8 bits rest")
    name, own = device(row)
    tp, pp, prompt = row.whole("tp"), row.whole("pp"), row.whole("prompt_len")
    unit, words = 128 * tp, row.whole("vocab", VOCABULARY)
    heads, layers = row.whole("heads"), row.whole("layers")
    if heads % tp or layers % pp:
        raise Unsupported(f"{heads} heads on {tp} devices, or {layers} layers in {pp} stages")
    width = row.whole("ffn", 4 * row.whole("hidden"))
    stages = "  pipeline block on pp, schedule gpipe(microbatches = 1, over = b)\n" if pp > 1 else ""
    context = prompt + (row.whole("gen_len") + 1) // 2
    return (
        (f"use std.devices ({name})\n" if name != "measured" else "")
        + "use std.layers (attention, layer_norm, mlp)\nuse std.tactics (tensor_parallel)\n\n"
        + own
        + "model gpt {\n"
        + f"  dim b = {row.whole('batch')}, s = {context}, d = {row.whole('hidden')}, v = {-(-words // unit) * unit}\n"
        + "  input tokens : int32[b,s] in 0..v\n  weight wte[v,d], wpe[s,d]\n"
        + "  x[b,s,d] = take(wte, tokens, over v) + wpe\n"
        + f"  repeat {layers} as block {{\n    x = x + attention(layer_norm(x), {heads})\n"
        + f"    x = x + mlp(layer_norm(x), {width})\n  }}\n"
        + "  logits[b,s,v] = layer_norm(x) @ wte\n  output logits\n}\n\n"
        + links(row, name)
        + f"\nstrategy plan for gpt {{\n  mesh (pp = {pp}, tp = {tp})\n  tensor_parallel(tp)\n{stages}}}\n\n"
        + f"job answer {{\n  infer gpt on pod({pp * tp}) using plan\n  precision f16, master f32\n"
        + f"  decode over s, prefill {prompt}\n}}\n"
    ).replace("cluster pod {", "cluster pod(devices) {")


@dataclass(frozen=True, slots=True)
class Answer:
    """A prompt and so many tokens made of it, ready to be priced again and again."""

    prefill: Simulation
    decode: Simulation
    tokens: int

    @property
    def cluster(self) -> Cluster:
        return self.prefill.cluster

    def seconds(self, calibration: Calibration | None = None) -> float:
        """From the prompt to the last token; the prefill makes the first."""
        return self.prefill.seconds(calibration) + (self.tokens - 1) * self.decode.seconds(calibration)


def answer(row: Row) -> Answer:
    """Compiles both entries. A prefill that goes on puts out its last position only."""
    found = parc.compile(Source(f"{row}.par", job(row))).job
    assert found.decoding is not None
    found = replace(found, decoding=replace(found.decoding, last=True))
    prefill, decode = (Simulation.of(compile_job(found, entry)) for entry in DECODING)
    return Answer(prefill, decode, row.whole("gen_len"))


def sampled(row: Row) -> Sample | str:
    """The row with its programs, or why it has none."""
    try:
        seconds = measured(row)
        if not seconds:
            raise Unsupported("no latency is stated")
        made = answer(row)
        made.seconds()  # features are kept
        stack = STACK if row.family.startswith(SOFTWARE) else ""
        return Sample(row, made, sheet(row).like, stack, seconds)
    except Unsupported as reason:
        return str(reason)
    except parc.ParcError as error:
        return f"the job does not compile: {error.diagnostics[0].code}"


def collect(rows: Iterable[Row], jobs: int = 1) -> tuple[list[Sample], Counter[str]]:
    """The rows that have a job, and how many have none, by reason."""
    if jobs > 1:
        with ProcessPoolExecutor(jobs) as pool:
            tried = list(pool.map(sampled, list(rows), chunksize=4))
    else:
        tried = [sampled(row) for row in rows]
    return [s for s in tried if not isinstance(s, str)], Counter(s for s in tried if isinstance(s, str))


def predicted(s: Sample) -> float:
    """Seconds with what was fitted of the row's software, else with what the device states for none."""
    return s.simulation.seconds(calibration(GROUP, FITTED) if s.stack == STACK else None)


def left_out(found: Sequence[Sample], by: Callable[[Row], str]) -> Pairs:
    """Each part of the rows as a fit on the others has it: (predicted, measured)."""
    made: Pairs = {}
    for part in dict.fromkeys(by(s.row) for s in found):
        problem = Problem(GROUP, [s for s in found if by(s.row) != part])
        cal = calibration(GROUP, problem.values(fit(problem))[STACK])
        made[part] = [(s.simulation.seconds(cal), s.seconds) for s in found if by(s.row) == part]
    return made


BY: dict[str, Callable[[Row], str]] = {"model": lambda row: row["model"], "devices": lambda row: row["n_dev"]}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("csv", nargs="?", type=Path, default=INFERENCE)
    parser.add_argument("--family", help="rows of this family only")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each Nth row only")
    parser.add_argument("--fit", action="store_true", help="fit what the software reaches, and leave rows out of it")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    options = parser.parse_args(arguments)
    rows = [r for r in load(options.csv) if r["gen_len"] and options.family in (None, r.family)]
    found, missing = collect(rows[:: options.every], options.jobs)
    if options.fit:
        own = [s for s in found if s.row.family == FAMILY]
        problem = Problem(GROUP, own)
        x = fit(problem)
        print("\n".join(efficiencies(GROUP, problem.values(x))))
        print(f"# {len(own)} rows, mean |error| {np.abs(np.expm1(problem.plain(x))).mean():.1%}")
        for name, by in BY.items():
            print(table(f"left out by {name}", left_out(own, by)))
    made: Pairs = {}
    for s in found:
        made.setdefault(s.row.family, []).append((predicted(s), s.seconds))
    if made:
        print(table("latency", made))
    for reason, count in missing.most_common():
        print(f"{count} without a job: {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
