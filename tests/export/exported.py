"""Runs exported files as a user would, one process per device, and compares them with the emulator.

One task of the processes (`tests.export.processes`) has many files: FOLDER of `exported.py FOLDER` has a folder for
each program.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from compiler.program import Program
from dsl.diagnostics import ParcError
from parc.exporting.torch.file import export_torch
from runtime.data.synthetic import synthetic
from runtime.stacked.emulator import Emulator
from tests.export.processes import PROCESSES, TIME_LIMIT

STEPS = 3
BACKEND = "aot_eager"
Batches = list[dict[str, Any]]


@dataclass(frozen=True)
class Ran:
    """What an exported file told of each step, all weights and states at the end, and its text."""

    program: Program
    text: str
    told: list[dict[str, float]]
    arrays: Mapping[str, Any]


def load(path: Path) -> ModuleType:
    """An exported file as a module."""
    name = f"{path.parent.name}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def compiling(backend: str = "") -> Iterator[None]:
    """With `torch.compile` for this backend: its own wants a compiler of C++."""
    import torch

    plain = torch.compile
    torch.compile = lambda f, **options: plain(f, backend=backend, **options)  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = plain


def tensors(program: Program, steps: int = STEPS) -> Batches:
    """Made-up batches."""
    import torch

    narrow = {"bf16": torch.bfloat16, "f16": torch.float16}
    types = {i.name: narrow[i.type.dtype] for i in program.inputs if i.type.dtype in narrow}
    made = (synthetic(program.inputs, program.seed, step) for step in range(steps))
    return [{k: torch.from_numpy(v.copy()).to(types.get(k)) for k, v in b.items()} for b in made]


def alone(program: Program, folder: Path, backend: str = "") -> Ran:
    """Trains on one device in this process; backend: of `torch.compile`, where it is to be used."""
    import torch

    folder.mkdir(exist_ok=True)
    file = folder / "train.py"
    file.write_text(text := export_torch(program))
    module = load(file)
    with compiling(backend):
        batches = iter(tensors(program))
        told = list(module.train(batches, STEPS, compiled=bool(backend), save=str(folder / "out.pt")))
    return Ran(program, text, told, torch.load(folder / "out.pt"))


def together(
    programs: Mapping[str, Program], folder: Path, compiled: Collection[str] = (), between: str = ""
) -> dict[str, Ran]:
    """Trains with each exported file, one process per device; compiled: those whose functions are compiled; between: an
    entry that is called on each batch behind its step, whose loss is told under its name."""
    import torch
    import torch.distributed as dist

    stores = []
    count = max(p.devices for p in programs.values())
    for i, (name, program) in enumerate(programs.items()):
        at = folder / f"{i:02}_{name}"
        at.mkdir()
        (at / "train.py").write_text(export_torch(program))
        torch.save(tensors(program), at / "data.pt")
        # A store for each, kept here as torchrun does it: a port that is let go may become another process's.
        stores.append(dist.TCPStore("localhost", 0, None, True, timedelta(seconds=TIME_LIMIT), wait_for_workers=False))
        (at / "world").write_text(f"{program.devices} {stores[-1].port} {BACKEND if name in compiled else ''}")
        (at / "between").write_text(between)
    PROCESSES.call(count, [__file__, str(folder)], {})
    del stores
    return {name: _read(program, folder / f"{i:02}_{name}") for i, (name, program) in enumerate(programs.items())}


def outcomes(programs: Mapping[str, Program], folder: Path) -> dict[str, str]:
    """Of each "proved", or what is wrong; where processes fail that run them all, each by processes of its own."""
    folder.mkdir(exist_ok=True)
    try:
        ran = together(programs, folder)
    except (AssertionError, ParcError) as error:
        if len(programs) == 1:
            return {name: str(error) for name in programs}
        alone = (outcomes({name: p}, folder / f"alone_{i}") for i, (name, p) in enumerate(programs.items()))
        return {name: what for found in alone for name, what in found.items()}
    return {name: _outcome(of) for name, of in ran.items()}


def _outcome(ran: Ran) -> str:
    try:
        judge(ran)
    except AssertionError as error:
        return f"not equal: {error}"
    return "proved"


def _read(program: Program, at: Path) -> Ran:
    import torch

    told = [torch.load(at / f"told.{r}") for r in range(program.devices)]
    merged = [{k: v for steps in reversed(told) for k, v in steps[i].items()} for i in range(STEPS)]
    return Ran(program, (at / "train.py").read_text(), merged, torch.load(at / "out.pt"))


def main(folder: str) -> None:
    """One process."""
    import torch

    rank = os.environ["RANK"]
    for at in sorted(Path(folder).iterdir()):
        world, port, *backend = (at / "world").read_text().split()
        if int(rank) >= int(world):
            continue
        os.environ.update(WORLD_SIZE=world, MASTER_PORT=port)
        module = load(at / "train.py")
        if int(world) > 1:
            module.connect()
        with compiling(*backend):
            batches = iter(torch.load(at / "data.pt"))
            if between := (at / "between").read_text():
                told, device = [], module.Device()
                for batch in batches:
                    told.append(device.step(batch))
                    found = device.call(between, batch)
                    told[-1] |= {between: found["loss"]} if "loss" in found else {}
                module.keep(device, str(at / "out.pt"))
            else:
                told = list(module.train(batches, STEPS, compiled=bool(backend), save=str(at / "out.pt")))
        torch.save(told, at / f"told.{rank}")
        if int(world) > 1:
            module.dist.destroy_process_group()


def judge(ran: Ran) -> None:
    """It computes what the emulator does: every loss and metric, and every weight and state after the steps, each at
    its own scale. What is in float64 throughout must agree closely. In float32 Adam's first steps divide tiny gradients
    by themselves, rounding and all; of 16 bits only what is told is compared, for the same reason."""
    own = ran.text[ran.text.index("BUFFERS = {") :]  # the library's functions name types that they are not called with
    narrow = "bfloat16" in own or "float16" in own
    tolerance = 3e-2 if narrow else 1e-3 if "torch.float32" in own else 1e-6
    emulator = Emulator(ran.program)
    for step, told in enumerate(ran.told):
        result = emulator.step(synthetic(ran.program.inputs, ran.program.seed, step))
        for name, want in {"loss": result.loss, **result.metrics, **result.reports}.items():
            assert np.isclose(told[name], float(want), rtol=tolerance, atol=1e-6), (step, name, told[name], float(want))
    arrays = {**emulator.weights(), **emulator.states()}
    assert set(ran.arrays) == set(arrays)
    if narrow:
        return
    for name, array in arrays.items():
        got, want = ran.arrays[name].double().numpy(), np.asarray(array, np.float64)
        assert got.shape == want.shape and np.isfinite(got).all(), name
        worst, scale = np.abs(got - want).max(initial=0.0), np.abs(want).max(initial=0.0)
        assert worst <= tolerance * max(scale, 1e-6), (name, worst, scale)


if __name__ == "__main__":
    main(sys.argv[1])
