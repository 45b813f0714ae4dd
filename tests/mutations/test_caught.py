"""The oracle has power: of every known technique's program, each mutation is refused by the verifier, or run and seen
to compute something else. CI takes an eighth of each kind of mutation, `pytest -m nightly` all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from compiler.driver import Compiled
from compiler.graph import Node
from compiler.ops.effects import Send
from compiler.program import Program
from compiler.verify import verify
from dsl.diagnostics import ParcError
from runtime.prove import prove
from tests.golden.cases import CASES, DOUBLE, Case
from tests.program.mutations import KINDS, UNSEEN, mutations

# Adam hides a factor of the gradient, a schedule that is past its warm-up the warm-up: those programs are not taken.
TAKEN = [c for c in CASES if c.axes or c.name in ("example_resnet", "example_recsys", "example_towers")]

_SHIFT = (
    "what is subtracted from the scores before exp, and divided out again, has no gradient: rounding alone goes there"
)
_LAST, _TURN = "block.attention.ring.last", "block.attention.ring.turn.attended"

SAME = {
    "max: reduce block.moe.mul, block.moe.place": "at most one addend is not 0",
    "max: reduce accuracy.where, accuracy.picked": "at most one addend is not 0, and no largest logit is negative",
    "max: reduce mse.mul.grad.mul_1, pair.grad.sum": "the dim has size 1",
    "max: reduce update_8.pow, update_8.sum": "the weight of the head has one column",
    "swap: contrast_1.unit.rsqrt and contrast.unit_1.rsqrt": "both are of the same tower",
    "cross: contrast.unit_1.out and contrast_1.unit.out": "both are of the same tower",
    f"scale: map {_LAST}.higher.grad, {_LAST}.higher.grad.mul": _SHIFT,
    f"scale: map {_TURN}.higher.grad_2, {_TURN}.higher.grad.mul": _SHIFT,
    f"max: reduce {_LAST}.max.grad.cast, {_LAST}.max.grad.sum": _SHIFT,
    f"max: reduce {_TURN}.max.grad.cast, {_TURN}.max.grad.sum": _SHIFT,
    f"swap: block.attention.top_1.saved and {_LAST}.max.saved": _SHIFT,  # both only say where that gradient goes
    f"swap: block.attention.ring.turn.top.saved_1 and {_TURN}.max.saved_1": _SHIFT,
}
"""Mutations that change nothing, and why."""


def crossed(program: Program) -> Iterator[tuple[str, Program]]:
    """Two messages of one type, of one function to one peer, carry each other's value."""
    for c, cls in enumerate(program.classes):
        for f, function in enumerate(cls.functions):
            sends = [(n, i) for n, i in enumerate(function.body.nodes) if isinstance(i.op, Send)]
            for (m, a), (n, b) in zip(sends, sends[1:]):
                assert isinstance(a.op, Send) and isinstance(b.op, Send)
                x, y = a.inputs[0], b.inputs[0]
                if x is y or (x.type, x.layout) != (y.type, y.layout):
                    continue
                instrs: list[Node] = [*function.body.nodes]
                del instrs[m]
                instrs[n - 1 : n] = [replace(a, inputs=b.inputs), replace(b, inputs=a.inputs)]
                body = replace(function.body, nodes=tuple(instrs))
                functions = [*cls.functions]
                functions[f] = replace(function, body=body)
                classes = [*program.classes]
                classes[c] = replace(cls, functions=tuple(functions))
                yield f"cross: {a.op.name} and {b.op.name} ({c})", program.with_classes(classes)


def caught(compiled: Compiled, broken: Program) -> str:
    """ "verifier" or "proof", by what finds it; nothing if nothing does."""
    if verify(broken):
        return "verifier"
    try:
        seen = any(
            not prove(compiled.training, broken, steps).ok for steps in (1, 2)
        )  # most are seen in the first step
        return "proof" if seen else ""
    except ParcError:  # such as reports that differ between the stages
        return "proof"


def judged(case: Case, step: int) -> Counter[tuple[str, str]]:
    """How often each kind was caught by what; fails for each one that was not. step: of each kind every so many."""
    compiled = case.compile(DOUBLE)
    found: Counter[tuple[str, str]] = Counter()
    missed = []
    seen: Counter[str] = Counter()
    for name, broken in [*mutations(compiled.program), *crossed(compiled.program)]:
        kind = name.partition(":")[0]
        seen[kind] += 1
        if seen[kind] % step != 1 % step or name.rpartition(" (")[0] in SAME:
            continue
        by = caught(compiled, broken)
        found[kind, by] += 1
        if not by:
            missed.append(name)
    assert not missed, "\n".join(missed)
    return found


@pytest.mark.parametrize("case", TAKEN, ids=lambda c: c.name)
def test_an_eighth_of_each_kind_is_caught(case: Case) -> None:
    found = judged(case, 8)
    kinds = {kind for kind, _ in found}
    assert kinds >= {"scale", "lost", "stale"} and kinds <= {*KINDS, "cross"}
    for kind in kinds - {*UNSEEN, "cross"}:  # a broken layout, message, buffer or order is found without running it
        assert found[kind, "proof"] == 0, kind


@pytest.mark.nightly
def test_all_are_caught_and_every_kind_occurs() -> None:
    total: Counter[tuple[str, str]] = Counter()
    for case in TAKEN:
        total += judged(case, 1)
    print({f"{kind} by {by}": n for (kind, by), n in sorted(total.items())})
    seen = {kind for kind, _ in total}
    assert set(KINDS) <= seen <= {*KINDS, "cross"}  # messages of one type to one peer are rare
