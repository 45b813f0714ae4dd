"""Known facts (design, section 5): exactly these collectives, no more, for hand-known strategies of one transformer layer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from compiler.driver import compile_job
from compiler.evaluate import evaluate
from compiler.program import Body, LocalRepeat, Program

ROOT = Path(__file__).parents[2]
GPT = ROOT / "examples" / "gpt.par"


def lowered(**params: int) -> Program:
    overrides = {k: str(v) for k, v in params.items()}
    return compile_job(evaluate(GPT, overrides)).program


def in_block(program: Program, function: str, axis: str) -> Counter[str]:
    """Collectives over `axis` in one iteration of the rolled block of a function."""
    found: Counter[str] = Counter()

    def walk(body: Body, inside: bool) -> None:
        for i in body.instrs:
            if isinstance(i.op, LocalRepeat):
                walk(i.op.body, True)
            elif inside and axis in getattr(i.op, "axes", ()) and i.op.mnemonic not in ("shard", "only_first"):
                found[i.op.mnemonic] += 1

    (body,) = (f.body for f in program.classes[0].functions if f.name == function)
    walk(body, False)
    return found


def outside(program: Program, function: str, axis: str) -> Counter[str]:
    """Collectives over `axis` outside of the block."""
    (body,) = (f.body for f in program.classes[0].functions if f.name == function)
    ops = [i.op for i in body.instrs if axis in getattr(i.op, "axes", ())]
    return Counter(op.mnemonic for op in ops if op.mnemonic not in ("shard", "only_first"))


def test_megatron_with_sequence_parallel() -> None:
    """Forward 2 all-gathers and 2 reduce-scatters a layer; backward the same and 2 gathers of saved inputs."""
    program = lowered(tp=2)
    assert in_block(program, "F", "tp") == {"all_gather": 2, "reduce_scatter": 2}
    assert in_block(program, "B", "tp") == {"all_gather": 4, "reduce_scatter": 2}


def test_data_parallel_communicates_gradients_only() -> None:
    program = lowered(dp=2)
    assert not in_block(program, "F", "dp") and not in_block(program, "B", "dp")
    weights = [s for s in program.classes[0].states if s.role == "weight"]
    assert outside(program, "U", "dp") == {"all_reduce": len(weights)}


def test_zero_1_is_one_reduce_scatter_and_one_all_gather_per_weight() -> None:
    program = lowered(dp=2, zero=1)
    weights = [s for s in program.classes[0].states if s.role == "weight"]
    found = outside(program, "U", "dp")
    assert found == {"reduce_scatter": len(weights), "all_gather": len(weights), "all_reduce": 1}  # the clip's norm


def test_gradient_accumulation_communicates_once() -> None:
    one, many = lowered(dp=2), lowered(dp=2, microbatches=4)
    assert outside(one, "U", "dp") == outside(many, "U", "dp")
    assert outside(many, "B", "dp") == {}


def test_gathered_context_parallel_is_two_all_gathers() -> None:
    assert in_block(lowered(cp=2), "F", "cp") == {"all_gather": 2}


@pytest.mark.parametrize("layers", [2, 200])
def test_text_does_not_grow_with_layers(layers: int) -> None:
    from compiler.text import show

    small, large = (len(show(lowered(layers=n, dp=2, tp=2))) for n in (2, layers))
    assert abs(large - small) <= 0.02 * small
