"""Known facts (design, section 5): exactly these collectives for known strategies of one transformer layer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from compiler.driver import compile_job
from compiler.evaluate import evaluate
from compiler.graph import Graph
from compiler.ops.call import Call
from compiler.ops.elementwise import Map
from compiler.ops.repeat import Repeat
from compiler.program import Program
from dsl.source import Source

ROOT = Path(__file__).parents[2]
GPT = ROOT / "examples" / "gpt.par"


def lowered(**params: int) -> Program:
    overrides = {k: str(v) for k, v in params.items()}
    return compile_job(evaluate(GPT, overrides)).program


def in_block(program: Program, function: str, axis: str) -> Counter[str]:
    """Collectives over `axis` in one iteration of the rolled block of a function."""
    found: Counter[str] = Counter()

    def walk(body: Graph, inside: bool) -> None:
        for i in body.nodes:
            if isinstance(i.op, Repeat):
                walk(i.op.body, True)
            elif isinstance(i.op, Call):
                walk(i.op.body, inside)
            elif inside and axis in getattr(i.op, "axes", ()) and i.op.mnemonic not in ("shard", "only_first"):
                found[i.op.mnemonic] += 1

    (body,) = (f.body for f in program.classes[0].functions if f.phase == function)
    walk(body, False)
    return found


def outside(program: Program, function: str, axis: str) -> Counter[str]:
    """Collectives over `axis` outside of the block."""
    (body,) = (f.body for f in program.classes[0].functions if f.phase == function)
    called = [n for i in body.nodes if isinstance(i.op, Call) for n in i.op.body.nodes]
    ops = [i.op for i in (*body.nodes, *called) if axis in getattr(i.op, "axes", ())]
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


def test_a_device_updates_its_shard_only() -> None:
    """Decay of the weight, too, which is there as a whole."""
    program = lowered(dp=2, zero=1)
    (update,) = (f.body for f in program.classes[0].functions if f.phase == "U")
    whole = [
        v.name for i in update.nodes if isinstance(i.op, Map) for v in i.outputs if v.type.dims and not v.layout.axes
    ]
    assert whole == []


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


def under(lines: str, **params: int) -> Program:
    """The GPT under a strategy written out."""
    text = GPT.read_text().replace(
        "strategy hybrid for gpt {", f"strategy hand for gpt {{\n{lines}\n}}\nstrategy hybrid for gpt {{"
    )
    source = Source(str(GPT), text, str(GPT))
    overrides = {k: str(v) for k, v in params.items()}
    return compile_job(evaluate(source, overrides, strategy="hand")).program


def test_tensor_parallel_is_two_all_reduces_each_way() -> None:
    program = under("  mesh (tp = 4)\n  split h, f, v on tp", tp=4)
    assert in_block(program, "F", "tp") == {"all_reduce": 2}
    assert in_block(program, "B", "tp") == {"all_reduce": 2}


def test_ulysses_is_four_all_to_alls_forward() -> None:
    program = under("  mesh (cp = 4)\n  ulysses(cp)", cp=4)
    assert in_block(program, "F", "cp") == {"all_to_all": 4}


def test_zero_3_gathers_each_weight_where_it_is_read() -> None:
    program = under("  mesh (dp = 2)\n  split b on dp\n  shard optimizer, gradients, weights on dp", dp=2)
    weights = [s for s in program.classes[0].states if s.role == "weight" and s.name.startswith("block.")]
    assert in_block(program, "F", "dp") == {"all_gather": len(weights)}
    assert in_block(program, "B", "dp")["reduce_scatter"] == len(weights)
    assert set(outside(program, "U", "dp")) <= {"all_reduce"}  # the clip's norm


def test_stages_send_to_their_neighbours_only() -> None:
    program = lowered(pp=2, microbatches=4, dp=2)
    kinds = [Counter(i.op.mnemonic for f in c.functions for i in f.body.nodes) for c in program.classes]
    assert [(k["send"], k["recv"]) for k in kinds] == [(1, 1), (1, 1)]
    assert all(k["stage_reduce"] == 2 for k in kinds)  # the tied embedding's gradient, the clip's norm
