"""The rank interpreter on a backend that is not numpy: the interface is all that it uses."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.driver import Compiled
from compiler.graph import Value
from compiler.layout import TIME
from compiler.ops.base import Op
from compiler.program import LASTING
from compiler.text import parse_located
from runtime.backend import Array
from runtime.comm import Handle, Then, Wait
from runtime.data.synthetic import synthetic
from runtime.distribute import piece_of
from runtime.mesh import Mesh
from runtime.numpy.backend import Numpy
from runtime.rank.buffers import HeldArray
from runtime.rank.compiled import CompiledRank
from runtime.rank.executor import RankExecutor
from runtime.rank.interpreter import Rank
from runtime.stacked import Emulator
from tests.program.samples import pair
from tests.runtime import models, threads
from tests.runtime.lists import Cells, Lists
from tests.test_imports import loaded_by

SMALL = ("batch=4", "seq=4", "hidden=8", "heads=2", "vocab=6")
CASES = {
    "tensors and states split": lambda: models.linear(
        "dp = 2, tp = 3", "split b on dp", "split i on tp", "shard optimizer, gradients, weights on dp", dtype="f64"
    ),
    "uneven": lambda: models.linear("dp = 3", "split b on dp pad", dtype="f64"),
    "random bits in a loop": lambda: models.dropout("dp = 2", "split b on dp"),
    "stages": lambda: models.double_gpt("pp=2", "dp=2", "microbatches=2", *SMALL),
    "a table by rows": lambda: models.double_gpt("tp=2", *SMALL),
}


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_plain_lists_compute_what_numpy_computes(make: object) -> None:
    compiled = make()  # type: ignore[operator]
    assert isinstance(compiled, Compiled)
    program, backend = compiled.program, Lists()
    want, run = Emulator(program), RankExecutor(program, backend=backend)
    for step in range(2):
        batch = synthetic(program.inputs, 0, step)
        one, two = want.step(batch, gradients=True), run.step(batch, gradients=True)
        np.testing.assert_allclose(two.loss, one.loss, rtol=1e-12)
        for name, g in one.gradients.items():
            np.testing.assert_allclose(two.gradients[name], g, rtol=1e-9, atol=1e-12 * np.abs(g).max(), err_msg=name)
    for name, x in {**want.weights(), **want.states()}.items():
        got = {**run.weights(), **run.states()}[name]
        np.testing.assert_allclose(got, x, rtol=1e-7, atol=1e-9 * np.abs(x).max(), err_msg=name)
    assert backend.calls
    assert all(
        isinstance(h.array, Cells) for devices in run.devices.values() for d in devices for h in d.states.values()
    )


def test_a_device_is_interpreted_without_numpy() -> None:
    assert loaded_by("import runtime.rank.interpreter, runtime.rank.collectives, runtime.comm") == set()


@pytest.mark.parametrize("kind", [Rank, CompiledRank])
@pytest.mark.parametrize(
    "options", [("dp=2", "zero=3"), ("pp=2", "dp=2", "microbatches=2"), ("tp=2", "cp=2")], ids=",".join
)
def test_devices_whose_calls_block_give_the_same_bits(options: tuple[str, ...], kind: type[Rank]) -> None:
    """One thread per device, each with what it knows itself, without a hub and without turns."""
    program = models.gpt(*options).program
    mesh, batch = Mesh.of(program), synthetic(program.inputs, 0, 0)
    want = RankExecutor(program)
    found = threads.devices(program, Numpy(), kind)
    types = {i.name: i.type for i in program.inputs}

    def pieces(device: Rank, name: str, var: Value) -> list[Array]:
        if name == "step":
            return [device.backend.copy(device.states["step"].array)]
        count = program.microbatches if TIME in var.layout.axes else 1
        at = [{**device.at, TIME: m} for m in range(count)]
        return [piece_of(batch[name], types[name], var.layout, mesh, c) for c in at]

    for _ in range(2):
        want.step(batch)
        threads.step(found, pieces)
        for device in found:
            device.end_step()
    for device in found:
        twin = next(d for d in want.devices[device.group] if d.at == device.at)
        weights = [s.name for s in device.cls.states if s.role in LASTING]
        assert weights and (kind is not Rank or twin.ledger.peak == device.ledger.peak)
        for name in weights:
            np.testing.assert_array_equal(device.states[name].array, twin.states[name].array)


AHEAD = pair(
    "ahead",
    "%first: f32[b=4] = all_gather %x b over dp",
    "%last: f32[b=4] = repeat layer 3 (",
    "  %given: f32[b=4] = %first,",
    "  %own: f32[b=2/dp] with %x,",
    ") {",
    "  %next: f32[b=4] = all_gather %own b over dp",
    "  %used: f32[b=4] = exp %given",
    "  yield %next",
    "}",
    "%total: f32[] = reduce %last sum over (b)",
)


def test_results_are_waited_for_where_they_are_read() -> None:
    """A loop that fetches what its next iteration needs has two messages under way at a time."""
    log: list[str] = []

    class Logged(Rank):
        def coming(self, op: Op, handle: Handle[Array], var: Value) -> Wait[HeldArray]:
            def there(x: Array) -> Array:
                log.append(f"{self.at['dp']} has {var.name}")
                return x

            log.append(f"{self.at['dp']} wants {var.name}")
            return super().coming(op, Then(handle, there), var)

    class Executor(RankExecutor):
        device = Logged

    program = parse_located(AHEAD)[0]
    run = Executor(program)
    batch = synthetic(program.inputs, 0, 0)
    np.testing.assert_allclose(run.step(batch).loss, batch["x"].sum(), rtol=1e-6)
    assert [what[2:] for what in log if what[0] == "0"] == [
        *["wants first", "wants next", "has first", "wants next", "has next", "wants next", "has next", "has next"]
    ]
