"""The proof of a job that decodes: positions by themselves give what the whole forward pass gives there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from compiler.model import DECODE, PREFILL, Decoding, Training
from compiler.origin import Role
from compiler.program import InputDecl, Program
from dsl.data import dataclass
from runtime.executor import Executor
from runtime.generate.pages import PageTable
from runtime.prove.compare import Row, Tally
from runtime.prove.judge import Judge
from runtime.prove.proof import beginning, random_batch, started
from runtime.prove.rounding import measured
from runtime.prove.serial import SerialGradients, serial_gradients

Array = np.ndarray[Any, np.dtype[Any]]

DECODED = "decoded"
"""The kind of outputs that were made position by position."""

MOST = 2, 14
"""Chunks and single positions that are tried of long sequences."""


@dataclass(frozen=True, slots=True)
class Course:
    """How positions come: `chunks` of the prefill's length, then `steps` by themselves."""

    chunks: int
    steps: int

    @staticmethod
    def of(decoding: Decoding, size: int) -> Course:
        """Most of what there is: several chunks, so that one goes on from another, and some steps."""
        chunks = max(1, min(MOST[0], (size - 1) // decoding.prefill))
        return Course(chunks, min(MOST[1], size - chunks * decoding.prefill))

    def length(self, decoding: Decoding) -> int:
        """How many positions these are."""
        return sum(map(decoding.length, self.entries()))

    def entries(self) -> Sequence[str]:
        """One after the other."""
        return [PREFILL] * self.chunks + [DECODE] * self.steps


def prove_decoding(
    whole: Training,
    program: Program,
    decoding: Decoding,
    split: Course | None = None,
    seed: int = 0,
    tolerance: float | None = None,
    exact: bool = False,
    executor: Callable[..., Executor] | None = None,
) -> tuple[Row, ...]:
    """Run the entries `prefill` and `decode` over the positions of a batch, and compare the outputs with those of the
    serial forward pass of all positions: a row for each output.

    Args:
        whole: the graphs of `infer`.
        program: with both entries.
        decoding: along which dim.
        split: how the positions come; what `Course.of` has, if left out.
        others: as those of `prove`.
    """
    dim = decoding.dim
    inputs = [InputDecl.of(i) for i in whole.model.inputs]
    size = next(i.type.size(dim) for i in inputs if i.type.has(dim))
    split = split or Course.of(decoding, size)
    weights, states = beginning(whole, exact, None, 0)
    given = random_batch(inputs, seed, 0, exact)
    serial = serial_gradients(whole, weights, states, given, program.seed)
    types = {i.name: i.type for i in inputs}
    there = {i.name for i in program.inputs}

    def run_over(tables: Mapping[str, Array]) -> tuple[Executor, int, dict[str, Array]]:
        run = started(executor, program, 0, weights if exact else None)
        at, parts = 0, []
        for entry in split.entries():
            length = decoding.length(entry)
            last = "first" if entry == PREFILL else "next"
            batch = {
                f"{name}.{last}": np.take(x, range(at, at + length), types[name].index(dim))
                if types[name].has(dim)
                else x
                for name, x in given.items()
            }
            batch = {name: x for name, x in batch.items() if name in there} | dict(tables)
            parts.append(run.call(entry, batch).outputs)
            at += length
        return run, at, {name: _joined([p[name] for p in parts], axis) for name, axis in axes.items()}

    axes = {name: _axis(v.type.names, dim) for name, v in zip(whole.model.outputs, whole.model.of_outputs)}
    if decoding.pages is None:
        run, at, made = run_over({})
    else:
        run, at, made = _by_pages(run_over, PageTable.of(program, whole.model, decoding), split.length(decoding), whole)

    def so_far(found: SerialGradients) -> SerialGradients:
        cut = {n: x if axes[n] is None else np.take(x, range(at), axes[n]) for n, x in found.outputs.items()}
        return replace(found, outputs=cut)

    @cache
    def rounding() -> SerialGradients:
        return so_far(measured(whole, weights, states, given, program.seed, serial, run.added))

    tally = Tally()
    judge = Judge(whole, tally, tolerance, exact, run.added)
    expected = so_far(serial)
    judge.differentiated((Role.OUTPUT,), expected, replace(expected, outputs=made), rounding)
    return tuple(replace(r, kind=DECODED) for r in tally.rows.values())


def _by_pages(
    run_over: Callable[[Mapping[str, Array]], tuple[Executor, int, dict[str, Array]]],
    table: PageTable,
    positions: int,
    whole: Training,
) -> tuple[Executor, int, dict[str, Array]]:
    """The outputs of all sequences, of as many at a time as the pools have pages for, which lie anywhere in them."""
    made: dict[str, Array] = {}
    for rows, given in table.rounds(positions):
        run, at, found = run_over({table.name: given})
        for name, v in zip(whole.model.outputs, whole.model.of_outputs):
            if name not in made or not v.type.has(table.paging.rows):
                made[name] = found[name].copy()
                continue
            axis = v.type.index(table.paging.rows)
            for row in rows:
                made[name].swapaxes(0, axis)[row] = found[name].swapaxes(0, axis)[row]
    return run, at, made


def _axis(names: Sequence[str], dim: str) -> int | None:
    return names.index(dim) if dim in names else None


def _joined(parts: Sequence[Array], axis: int | None) -> Array:
    return parts[-1] if axis is None else np.concatenate(parts, axis)
