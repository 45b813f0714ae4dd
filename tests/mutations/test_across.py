"""Updates that read across the stages of a loop: what is left out of them is found by the verifier, without running."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate
from compiler.graph import Graph, Node, Type, Value
from compiler.layout import Layout
from compiler.ops.effects import Read, StageReduce
from compiler.ops.elementwise import Map
from compiler.ops.reduce import Reduce
from compiler.program import Program
from compiler.verify import verify
from tests.mutations.test_caught import caught
from tests.passes.test_across import RULES, STEPS, source
from tests.program.mutations import UNSEEN, _edited, _with, mutations

TAKEN = [(name, rule) for name in ("norm", "max", "columns") for rule in (RULES[1], RULES[3])]


def compiled(name: str, rule: str) -> Compiled:
    return compile_job(evaluate(source(STEPS[name][0], rule)))


def updates(program: Program) -> Iterator[tuple[int, int, Graph]]:
    """Class, number and body of each U."""
    for c, cls in enumerate(program.classes):
        for f, function in enumerate(cls.functions):
            if function.phase == "U":
                yield c, f, function.body


def missing_chunks(program: Program) -> Iterator[tuple[str, Program]]:
    """One addend is left out of what a class brings to a reduction between stages; regions might lack a result."""
    for c, f, body in updates(program):
        made = {v: (i, instr) for i, instr in enumerate(body.nodes) for v in instr.outputs}
        row = [n for instr in body.nodes if isinstance(instr.op, StageReduce) for n in instr.inputs]
        for value in row:
            i, instr = made[value]
            if isinstance(instr.op, Map) and instr.op.fn in ("add", "maximum") and len(instr.inputs) == 2:
                row += instr.inputs
                for kept in instr.inputs:
                    yield (
                        f"{value.name} is {kept.name} ({c})",
                        _with(program, c, f, _edited(replace(body, regions=()), (i,), kept)),
                    )


@pytest.mark.parametrize(("name", "rule"), TAKEN)
def test_all_mutations_are_caught(name: str, rule: str) -> None:
    job = compiled(name, rule)
    found: Counter[tuple[str, str]] = Counter()
    for what, broken in list(mutations(job.program))[::2]:
        by = caught(job, broken)
        assert by, what
        found[what.partition(":")[0], by] += 1
    for kind in {kind for kind, _ in found} - {*UNSEEN}:
        assert found[kind, "proof"] == 0, kind


@pytest.mark.parametrize(("name", "rule"), TAKEN)
def test_what_all_stages_do_wrong_is_found_without_running(name: str, rule: str) -> None:
    """They leave the reduction out, or take another."""
    program = compiled(name, rule).program
    broken = [b for what, b in mutations(program) if what.startswith("apart")]
    other = program
    for c, f, body in updates(program):
        instrs = [
            replace(i, op=replace(i.op, fn="max" if i.op.fn == "sum" else "sum"))
            if isinstance(i.op, StageReduce)
            else i
            for i in body.nodes
        ]
        other = _with(other, c, f, replace(body, nodes=tuple(instrs)))
    assert broken and other != program
    for b in (*broken, other):
        assert {d.code for d in verify(b)} == {"E0632"}


@pytest.mark.parametrize("name", ["norm", "max", "columns"])
def test_every_chunk_counts(name: str) -> None:
    broken = list(missing_chunks(compiled(name, RULES[3]).program))
    assert broken
    for what, b in broken:
        assert {d.code for d in verify(b)} == {"E0632"}, what


def test_nothing_but_the_loop_reads_across_its_iterations_in_forward_and_backward() -> None:
    program = compiled("own", RULES[0]).program
    functions = [
        (f, function) for f, function in enumerate(program.classes[0].functions) if function.phase.value in "FB"
    ]
    assert len(functions) == 2
    for f, function in functions:
        body = function.body
        reads = ((i, n.outputs[0]) for i, n in enumerate(body.nodes) if isinstance(n.op, Read))
        at, weight = next((i, v) for i, v in reads if v.type.has("block"))
        dims = tuple(d for d in weight.type.dims if d.name != "block")
        layout = Layout(weight.layout.dims[1:])
        total = Node(Reduce("sum", ("block",)), (weight,), (Value("total", Type("f64", dims), layout=layout),))
        half = Node(Map("mul", (None, 0.5)), (weight,), (replace(weight, name="total"),))
        bad, good = (
            _with(program, 0, f, replace(body, nodes=(*body.nodes[: at + 1], more, *body.nodes[at + 1 :])))
            for more in (total, half)
        )
        assert not verify(good)
        assert {d.code for d in verify(bad)} == {"E0632"}


def test_what_two_stages_hold_counts_once() -> None:
    """A clip's norm, to which the last stage adds a weight that the first counts already."""
    text = source("g").text.replace("mine(lr = 0.1)", "mine(lr = 0.1, clip = 0.5)")
    text = text.replace("v[b,f] = h @ u\n", "v[b,f] = h @ u\n    v = v + 0.1 * (h @ a)\n")
    program = compile_job(evaluate(replace(source("g"), text=text))).program
    assert not verify(program)
    c, f, body = list(updates(program))[-1]
    at = next(i for i, n in enumerate(body.nodes) if isinstance(n.op, StageReduce) and "norm" in n.op.key)
    old = body.nodes[at].inputs[0]
    leaf = next(v for i in body.nodes[:at] for v in i.outputs if v.name.startswith("a.grad") and not v.type.dims)
    twice = Node(Map("add", (None, None)), (old, leaf), (Value("twice", leaf.type, layout=leaf.layout),))
    both = replace(body.nodes[at], inputs=twice.outputs)
    broken = _with(program, c, f, replace(body, nodes=(*body.nodes[:at], twice, both, *body.nodes[at + 1 :])))
    found, *more = verify(broken)
    assert not more, (found, more)
    assert found.code == "E0632" and "a.grad counts on stages 0 and 1" in found.message
