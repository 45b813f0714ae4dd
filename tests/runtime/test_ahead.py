"""A device at speed starts what it can before the program says so: the order in which it posts messages, computes and
waits, noted by a communicator and kernels that keep a log; and the same bits whatever it starts early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from compiler.graph import Value
from compiler.layout import TIME
from compiler.program import LASTING, Program
from runtime.backend import Array
from runtime.data.synthetic import synthetic
from runtime.distribute import piece_of
from runtime.mesh import Mesh
from runtime.numpy.backend import Numpy
from runtime.rank import starts
from runtime.rank.compiled import CompiledRank
from runtime.rank.executor import RankExecutor
from runtime.rank.initial import OneDevice
from runtime.rank.interpreter import Rank
from tests.place.test_reductions import AS_THEY_COME, PIPELINE, REPLICAS, compiled
from tests.runtime import models, threads

LAYERS = 3
Entry = tuple[str, ...]
"""("run", function, micro-batch), ("product",), ("post" or "wait", kind, number of the call)."""


class Handle:
    """Notes when it is waited for."""

    def __init__(self, handle: Any, note: Callable[[], None]) -> None:
        self.handle, self.note = handle, note

    def done(self) -> bool:
        return bool(self.handle.done())

    def wait(self) -> Any:
        self.note()
        return self.handle.wait()


class LoggedPeers:
    """A communicator whose collectives are noted."""

    def __init__(self, peers: threads.Peers, log: list[Entry]) -> None:
        self.peers, self.log = peers, log

    def __getattr__(self, kind: str) -> Any:
        call = getattr(self.peers, kind)
        return partial(self._post, kind, call) if kind in ("all_reduce", "all_gather", "reduce_scatter") else call

    def _post(self, kind: str, call: Callable[..., Any], *arguments: Any) -> Handle:
        number = str(sum(e[0] == "post" for e in self.log))
        self.log.append(("post", kind, number))
        return Handle(call(*arguments), lambda: self.log.append(("wait", kind, number)))


class LoggedThreads(threads.Threads):
    log: list[Entry]

    def _peers(self, key: Any, rank: int, size: int) -> Any:
        return LoggedPeers(super()._peers(key, rank, size), self.log)


class LoggedNumpy(Numpy):
    """Notes products."""

    log: list[Entry]

    def plan(self, op: Any, *given: Any) -> Any:
        kernel = super().plan(op, *given)
        if op.mnemonic != "contract":
            return kernel

        def noted(*arguments: Any) -> Any:
            self.log.append(("product",))
            return kernel(*arguments)

        return noted


class LoggedRank(CompiledRank):
    """Notes its actions."""

    log: list[Entry]

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.log = []
        self.network.log = self.backend.log = self.log  # type: ignore[attr-defined]
        self.compiled = {key: partial(self._act, key[0], run) for key, run in self.compiled.items()}

    def _act(self, phase: str, run: Callable[..., None], d: CompiledRank, micro: int, ctx: Any) -> None:
        self.log.append(("run", str(phase), str(micro)))
        run(d, micro, ctx)


def run(found: Sequence[Rank], program: Program, number: int) -> None:
    """A step of all devices, a thread each."""
    mesh, batch = Mesh.of(program), synthetic(program.inputs, 0, number)
    types = {i.name: i.type for i in program.inputs}

    def pieces(device: Rank, name: str, var: Value) -> list[Array]:
        if name == "step":
            return [device.backend.copy(device.states["step"].array)]
        count = program.microbatches if TIME in var.layout.axes else 1
        at = [{**device.at, TIME: m} for m in range(count)]
        return [piece_of(batch[name], types[name], var.layout, mesh, c) for c in at]

    threads.step(found, pieces)


def logs(program: Program) -> list[list[list[Entry]]]:
    """By device and action of a step: what it noted, in order; the action first."""
    post, mesh = threads.Post(), Mesh.of(program)
    found: list[LoggedRank] = []
    for cls in program.classes:
        for g in cls.groups:
            for at in mesh.devices:
                backend = LoggedNumpy()
                network = LoggedThreads(post, mesh, g, at, backend)
                found.append(LoggedRank(OneDevice(program, cls, g, at, network, backend)))
                found[-1].begin()
    run(found, program, 0)
    actions = []
    for device in found:
        starts_at = [i for i, e in enumerate(device.log) if e[0] == "run"]
        actions.append([device.log[a:b] for a, b in zip(starts_at, [*starts_at[1:], len(device.log)], strict=True)])
    return actions


def of(actions: list[list[Entry]], *which: str) -> list[Entry]:
    """What an action noted."""
    return next(a for a in actions if a[0] == ("run", *which))


def posts(noted: list[Entry], kind: str) -> list[int]:
    """Where calls of a kind were made."""
    return [i for i, e in enumerate(noted) if e[:2] == ("post", kind)]


def products(noted: list[Entry]) -> list[int]:
    return [i for i, e in enumerate(noted) if e == ("product",)]


@pytest.mark.parametrize("count", [1, 2], ids="{} micro-batches".format)
def test_gradients_are_reduced_layer_by_layer_in_the_last_backward_pass(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every layer before the products of the next one; none in the update, none in earlier passes."""
    monkeypatch.setattr(starts, "BUCKET", 1)
    program = models.gpt("dp=2", f"microbatches={count}", f"layers={LAYERS}").program
    gradients = sum(s.role == "gradient" for s in program.classes[0].states)
    for actions in logs(program):
        scalars = posts(of(actions, "F" if count == 1 else "E", "0"), "all_reduce")
        assert scalars and not posts(of(actions, "U", "0"), "all_reduce")
        for micro in range(count - 1):
            assert not posts(of(actions, "B", str(micro)), "all_reduce")
        last = of(actions, "B", str(count - 1))
        made, work = posts(last, "all_reduce"), products(last)
        looped = (len(made) - 4) // LAYERS  # outside: wte, wpe, and the last norm's two
        assert len(made) == 4 + looped * LAYERS and gradients == 4 + looped
        inside = made[2:-2]
        for layer in range(LAYERS - 1):
            mine = inside[layer * looped : (layer + 1) * looped]
            assert sum(at > mine[-1] for at in work) >= (LAYERS - 1 - layer) * 2 * 6, "products of the layers to come"
        assert not [e for e in last if e[0] == "wait"], "the update waits for them"
        assert len([e for e in of(actions, "U", "0") if e[0] == "wait"]) >= len(made)


def test_few_bytes_wait_for_the_end_of_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "BUCKET", 1 << 40)
    for actions in logs(models.gpt("dp=2", "microbatches=2").program):
        last = of(actions, "B", "1")
        assert posts(last, "all_reduce")[0] > products(last)[-1]
        assert not posts(of(actions, "U", "0"), "all_reduce")


def test_the_next_layers_weights_are_gathered_before_this_layer_computes() -> None:
    """In both passes: before a layer's first product the gathers of the layer behind it have been posted, so that none
    are left for the last one."""
    one, all_ = (logs(models.gpt("dp=2", "zero=3", f"layers={n}").program) for n in (1, LAYERS))
    for single, actions in zip(one, all_, strict=True):
        for phase in "FB":
            short, noted = of(single, phase, "0"), of(actions, phase, "0")
            made, work = posts(noted, "all_gather"), products(noted)
            gathers = (len(made) - len(posts(short, "all_gather"))) // (LAYERS - 1)
            layer = (len(work) - len(products(short))) // (LAYERS - 1)
            first = posts(short, "all_gather")[-gathers]  # what is gathered outside of the loop is so before it
            outside = sum(w < first for w in products(short))
            before = [sum(p < work[outside + k * layer] for p in made) for k in range(LAYERS)]
            assert gathers > 1 and layer > 1
            assert before == [min(before[0] + k * gathers, before[0] + (LAYERS - 2) * gathers) for k in range(LAYERS)]
            alone = sum(p < products(short)[outside] for p in posts(short, "all_gather"))
            assert before[0] == alone + gathers


def test_a_layers_gradients_are_not_waited_for_before_the_next_one_computes() -> None:
    """Reduced as they come (ZeRO-2, ZeRO-3), beside the products of the next layer."""
    for actions in logs(models.gpt("dp=2", "zero=3", f"layers={LAYERS}").program):
        noted = of(actions, "B", "0")
        made, work = posts(noted, "reduce_scatter"), products(noted)
        waited = {e[2]: i for i, e in enumerate(noted) if e[:2] == ("wait", "reduce_scatter")}
        beside = 0
        for at in made:
            until = waited.get(noted[at][2], len(noted))
            beside += sum(at < w < until for w in work) > 0
        each = (len(made) - 4) // LAYERS
        assert beside >= (LAYERS - 1) * each, "those of all layers but the last have products beside them"


PROGRAMS: list[Callable[[], Any]] = [
    lambda: models.gpt("dp=2"),
    lambda: models.gpt("dp=2", "microbatches=4", "zero=1"),
    lambda: models.gpt("dp=2", "tp=2", "cp=2", "zero=2", "microbatches=2"),
    lambda: models.gpt("dp=2", "zero=3", "microbatches=2"),
    lambda: models.gpt("pp=2", "dp=2", "microbatches=4", "zero=3"),
    lambda: models.gpt("pp=2", "dp=2", "microbatches=2"),
    lambda: compiled("rep = 2, dp = 2", *REPLICAS, "microbatches 2"),
    lambda: compiled("rep = 2, dp = 2", *REPLICAS, "microbatches 2", AS_THEY_COME),
    lambda: compiled("rep = 2, dp = 2", "data_parallel(rep)", "fsdp(dp)", "recompute block"),
    lambda: compiled("pp = 2, dp = 2", "data_parallel(dp)", PIPELINE.format("zero_bubble")),
    lambda: compiled("dp = 2, tp = 2", "data_parallel(dp)", "megatron(tp)", "optimizer_parallel(dp, 1)"),
]
BUCKETS = [1, 5000, 1 << 40]


@pytest.mark.parametrize(
    ("make", "bucket"),
    [
        pytest.param(p, b, id=f"{i}-{b}", marks=() if (i + j) % 3 == 0 else pytest.mark.nightly)
        for i, p in enumerate(PROGRAMS)
        for j, b in enumerate(BUCKETS)
    ],
)
def test_the_same_bits(make: Callable[[], Any], bucket: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As interpreted, with messages where the program has them."""
    monkeypatch.setattr(starts, "BUCKET", bucket)
    program = make().program
    want, found = RankExecutor(program), threads.devices(program, Numpy(), CompiledRank)
    for number in range(2):
        want.step(synthetic(program.inputs, 0, number))
        run(found, program, number)
        for device in found:
            device.end_step()
    for device in found:
        twin = next(d for d in want.devices[device.group] if d.at == device.at)
        for s in device.cls.states:
            if s.role in LASTING:
                assert device.states[s.name].array.tobytes() == twin.states[s.name].array.tobytes(), s.name
