"""Memory that nobody needs any more is written over, and no other: with poison in it, results stay what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from compiler.graph import Graph, Value  # noqa: E402
from compiler.layout import TIME  # noqa: E402
from compiler.ops.base import Op  # noqa: E402
from compiler.ops.elementwise import Map  # noqa: E402
from compiler.program import LASTING, Program  # noqa: E402
from compiler.text import parse_located  # noqa: E402
from runtime.backend import Array, Kernel, LocalValue, Position  # noqa: E402
from runtime.data.synthetic import synthetic  # noqa: E402
from runtime.distribute import piece_of  # noqa: E402
from runtime.mesh import Mesh  # noqa: E402
from runtime.rank.compiled import CompiledRank  # noqa: E402
from runtime.rank.dying import dying  # noqa: E402
from runtime.rank.initial import OneDevice  # noqa: E402
from runtime.rank.interpreter import Rank  # noqa: E402
from runtime.torch.backend import Torch  # noqa: E402
from runtime.torch.fusing.fuse import fused  # noqa: E402
from runtime.torch.fusing.ops import FusedProductSum  # noqa: E402
from tests.program.samples import pair  # noqa: E402
from tests.runtime import models, threads  # noqa: E402


class Careful(Torch):
    """Writes nothing over."""

    def makes(self, op: Op) -> bool:
        return False


class Poisoning(Torch):
    """Leaves no number in any operand that is said to be nobody's."""

    def __init__(self) -> None:
        super().__init__()
        self.poisoned = 0

    def plan_over(
        self, op: Op, ins: Sequence[LocalValue], outs: Sequence[LocalValue], position: Position, operand: int
    ) -> Kernel | None:
        kernel = self.plan(op, ins, outs, position)

        def run(ctx: Any, *given: Any) -> Any:
            found = kernel(ctx, *given)
            own = tuple(self.own(r) for r in found) if isinstance(found, tuple) else self.own(found)
            self.poison(given[operand])
            return own

        return run

    def poison(self, x: Any) -> None:
        self.poisoned += 1
        x.fill_(torch.nan if x.is_floating_point() else 1)


class FusedRank(CompiledRank):
    """As the engine's."""

    def __init__(self, device: OneDevice) -> None:
        super().__init__(replace(device, cls=fused(device.cls, "cpu")))


def trained(program: Program, backend: Torch, kind: type[CompiledRank]) -> Mapping[str, Any]:
    """What all devices have after two steps."""
    mesh, batch = Mesh.of(program), synthetic(program.inputs, 0, 0)
    types = {i.name: i.type for i in program.inputs}
    found = threads.devices(program, backend, kind)

    def pieces(device: Rank, name: str, var: Value) -> list[Array]:
        if name == "step":
            return [device.backend.copy(device.states["step"].array)]
        count = program.microbatches if TIME in var.layout.axes else 1
        at = [{**device.at, TIME: m} for m in range(count)]
        parts = [piece_of(batch[name], types[name], var.layout, mesh, c) for c in at]
        return [backend.from_host(p, types[name].dtype) for p in parts]

    for _ in range(2):
        threads.step(found, pieces)
        for device in found:
            device.end_step()
    names = [(i, s.name) for i, d in enumerate(found) for s in d.cls.states if s.role in LASTING]
    return {f"{name} of {i}": found[i].states[name].array for i, name in names}


@pytest.mark.parametrize("fuse", [False, True], ids=["written out", "fused"])
@pytest.mark.parametrize(
    "options",
    [("dp=2", "zero=3"), ("pp=2", "dp=2", "microbatches=2"), ("tp=2", "cp=2"), ("dp=2", "zero=2", "microbatches=2")],
    ids=",".join,
)
def test_nobody_reads_what_is_written_over(
    options: tuple[str, ...], fuse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, kind = models.double_gpt(*options).program, FusedRank if fuse else CompiledRank
    poison, reduced = Poisoning(), threads.Peers.all_reduce

    def all_reduce(peers: threads.Peers, x: Any, fn: str, spare: bool = False) -> threads.Later:
        found = reduced(peers, x, fn)
        if spare and isinstance(peers.backend, Poisoning):
            poison.poison(x)
        return found

    monkeypatch.setattr(threads.Peers, "all_reduce", all_reduce)
    want = trained(program, Careful(), kind)
    for backend in (poison, Torch()):
        found = trained(program, backend, kind)
        for name, x in want.items():
            torch.testing.assert_close(found[name], x, rtol=1e-9, atol=1e-11, msg=name)
    assert poison.poisoned > 20


TEXT = pair(
    "memory",
    "%mine: f32[b=2/dp] = exp %x",
    "%view: f32[c=2/dp] = rename %mine (b -> c)",
    "%sum: f32[c=2/dp] = add %view, %view",
    "%twice: f32[b=2/dp] = add %mine, %mine",
    "%last: f32[b=2/dp] = neg %twice",
    "%kept: f32[b=2/dp] = exp %last",
    "%all: f32[b=4] = all_gather %kept b over dp",
    "%read: f32[b=2/dp] = neg %kept",
    "%more: f32[b=4] = exp %all",
    "%total: f32[] = reduce %more sum over (b)",
)


def body() -> Graph:
    program, _ = parse_located(TEXT)
    return program.classes[0].functions[0].body


def named(kept: Sequence[str] = ()) -> dict[str, list[str]]:
    found = dying(body(), lambda op: isinstance(op, Map), kept)
    return {node.outputs[0].name: [node.inputs[k].name for k in at] for node, at in found.items() if node.outputs}


def test_views_and_messages_keep_memory() -> None:
    """What is read later under another name, twice by one node, or is on its way in a message, is not written over."""
    found = named()
    assert "mine" not in found, "it reads what the program was given"
    assert "sum" not in found and "twice" not in found, "both operands lie in one memory"
    assert found["last"] == ["twice"] and found["kept"] == ["last"]
    assert "read" not in found, "the message may not have left"
    assert found["more"] == ["all"]


def test_what_somebody_keeps_is_not_written_over() -> None:
    assert "kept" not in named(["last"]) and named(["last"])["last"] == ["twice"]


def test_products_add_up_where_the_sum_is() -> None:
    """The derivative by what three products read is one sum."""
    cls = fused(models.gpt().program.classes[0], "cpu")
    nodes = [n for f in cls.functions for loop in f.body.nodes if hasattr(loop.op, "body") for n in loop.op.body.nodes]
    sums = [n for n in nodes if isinstance(n.op, FusedProductSum)]
    assert len(sums) >= 2
