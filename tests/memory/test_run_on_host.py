"""`run update, take on host`: what the servers' processors compute is what the devices would have, bit for bit, in the
memory that is predicted, and at the price of their own roofline."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from compiler.cost.kernels.work import Hosted
from compiler.cost.price.kinds import HOSTS, Kind, Stream
from compiler.cost.price.pricer import HOST_WORK
from compiler.cost.time.simulate import Simulation
from compiler.driver import Compiled
from compiler.graph import Node
from compiler.memory.tiers import FIRST, HOST
from compiler.ops.comm import Comm
from compiler.ops.index import Take
from compiler.ops.move import Move
from compiler.program import FunctionPhase, Program
from compiler.text import parse_program, show
from compiler.verify import verify
from compiler.walk import walk
from dsl.diagnostics import ParcError
from parc.cli import cli
from runtime.prove import prove
from tests.memory import test_rows
from tests.memory.measured import exact
from tests.memory.test_offload import ALL, compiled, on_cluster, same_bits, text, with_rule

UPDATE = "run update on host"


def nodes(program: Program, update: bool = True) -> list[Node]:
    """Of the update, or of all else."""
    bodies = (f.body for c in program.classes for f in c.functions if (f.phase is FunctionPhase.UPDATE) == update)
    return [n for body in bodies for n, _ in walk(body)]


def alike(found: Compiled, plain: Compiled) -> None:
    """The same bits, in the memory that is predicted, and proved."""
    program = found.program
    assert verify(program) == ()
    assert parse_program(show(program)) == program
    same_bits(program, plain.program)
    exact(program)
    assert prove(found.training, program).equal


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("one device", UPDATE),
        ("data", f"offload optimizer to host; {UPDATE}"),
        ("ZeRO-1", f"{ALL}; {UPDATE}"),
        ("ZeRO-2", f"{ALL}; {UPDATE}"),
        ("ZeRO-3", f"offload optimizer to host; {UPDATE}"),
        ("tensors", f"offload optimizer to nvme; {UPDATE}"),
        ("a pipeline, clipped", f"{ALL}; {UPDATE}"),
        ("interleaved", f"offload optimizer, weights to host; {UPDATE}"),
        ("zero-bubble", f"{UPDATE} in block; offload weights to host"),
        ("changed places", f"offload optimizer to host; {UPDATE}"),
        ("what was before", UPDATE),
        ("a mean", f"{ALL}; {UPDATE}"),
        ("a loss scale", f"offload optimizer to host; {UPDATE}"),
        ("uneven pieces", f"{UPDATE} in block; offload weights to host"),
    ],
)
def test_an_update_there_changes_no_bit(name: str, rule: str) -> None:
    moved, plain = with_rule(name, rule)
    found = compiled(moved)
    alike(found, compiled(plain))
    there = [
        n for n in nodes(found.program) if n.outputs and n.outputs[0].memory == HOST and not isinstance(n.op, Move)
    ]
    assert any(n.op.pointwise for n in there)
    messages = [n for n in nodes(found.program) if isinstance(n.op, Comm) and n.op.message]
    assert all(v.memory == FIRST for n in messages for v in (*n.inputs, *n.outputs))


@pytest.mark.parametrize(
    ("params", "rule", "optimizer"),
    [
        ({"dp": 2, "microbatches": 2}, "offload rows to host\n  run take on host", "lazy_adam(lr = 0.1)"),
        ({"tp": 2, "layout": 1}, "offload rows to host\n  run update, take on host", "rowwise_adagrad(lr = 0.1)"),
        ({"dp": 2, "zero": 1}, "offload rows to nvme\n  run update on host", "adagrad(lr = 0.1)"),
        (
            {"pp": 2, "dp": 2, "microbatches": 2},
            "offload weights to host\n  run take on host in table",
            "sgd(lr = 0.1)",
        ),
        ({"dp": 2}, "offload rows to host\n  run update on host in table", "adam(lr = 0.1)"),
    ],
)
@pytest.mark.parametrize("narrow", [False, True])
def test_look_ups_there_change_no_bit(params: dict[str, int], rule: str, optimizer: str, narrow: bool) -> None:
    of = test_rows.NARROW if narrow else test_rows.TEXT
    found, plain = (test_rows.compiled(r, optimizer, of, **params) for r in (rule, ""))
    alike(found, plain)
    taken = [n for n in nodes(found.program, False) if isinstance(n.op, Take)]
    assert any(n.output.memory == HOST for n in taken) == ("take" in rule)


def test_no_state_comes_to_the_devices() -> None:
    """What rests on the hosts and is renewed there is not moved: gradients go there, and weights come back."""
    program = compiled(
        text(f"split b on dp; offload optimizer to host; {UPDATE}", optimizer="adamw(lr = 1e-2)")
    ).program
    moves = [n for n in nodes(program) if isinstance(n.op, Move)]
    weights = sum(s.role == "weight" for c in program.classes for s in c.states)
    back = [n for n in moves if n.op.target == FIRST]
    functions = {id(n) for n in back}
    assert len(functions) < len(back) == weights


# --- time ------------------------------------------------------------------------------------------------------------


def simulation(rule: str, host: str = "200 GB/s", compute: str = "2 TFLOP/s") -> Simulation:
    found = text(f"split b on dp; {rule}", optimizer="adamw(lr = 1e-2)").replace("hidden = 8", "hidden = 512")
    described = f"host memory 1 MiB, {host} over host * 1 GB/s\n  host compute {compute}"
    found = found.replace("host memory 1 MiB, 200 GB/s over host * 1 GB/s", described)
    return Simulation.of(compiled(on_cluster(found)))


def hosted(s: Simulation) -> list[Hosted]:
    works = (n.work for parts in s.features.parts for p in parts.values() for n, k in p.each() for _ in range(k))
    return [w for w in works if isinstance(w, Hosted)]


STATES = f"offload optimizer to host; {UPDATE}"
ELEMENTS = 512 + 512 + 4 * (512 + 512 + 2 * 512 * 2048 + 2048 + 512)


def test_the_hosts_have_a_roofline_of_their_own() -> None:
    """AdamW reads a gradient, a weight and two states, and writes all but the first: 7 times 4 bytes an element; two
    devices share the memory and the processors."""
    quick = simulation(STATES)
    moved = sum(w.bytes for w in hosted(quick))
    assert moved == pytest.approx(7 * 4 * ELEMENTS, rel=0.01)
    pricer = quick.pricer()
    for work in hosted(quick):
        priced = pricer.price(work, True)
        assert (priced.stream, priced.axes, priced.blocking) == (HOST_WORK, HOSTS, False)
        assert priced.ps == round(2 * max(work.bytes / 200e9, work.flops / 2e12) * 1e12)
    assert simulation(STATES, compute="2 GFLOP/s").seconds() > simulation(STATES, compute="4 GFLOP/s").seconds()
    pieces = [p for found in quick.record().values() for p in found]
    assert {p.kind for p in pieces if p.stream == Stream.HOST} == {Kind.HOSTED}


def test_less_crosses_the_links() -> None:
    """A gradient goes there, and of what rests there nothing comes and goes."""
    rest = "offload optimizer, weights to host"
    there, here = (simulation(r, "2000 GB/s").seconds() for r in (f"{rest}; {UPDATE}", rest))
    assert here - there == pytest.approx(2 * 4 * ELEMENTS / 32e9, rel=0.3)  # two states come in beside what goes


def test_it_is_shown_as_work_of_the_hosts(tmp_path: Path) -> None:
    """In what a step costs, in a trace and on the page."""
    found = on_cluster(text(f"split b on dp; {STATES}", optimizer="adamw(lr = 1e-2)"))
    slow = "host memory 1 MiB, 1 MB/s over 1 GB/s\n  host compute 1 GFLOP/s"
    file = tmp_path / "t.par"
    file.write_text(found.replace("host memory 1 MiB, 200 GB/s over host * 1 GB/s", slow))
    cost = CliRunner().invoke(cli, ["cost", str(file)])
    assert cost.exit_code == 0 and re.search(r"^host +\d", cost.output, re.M), cost.output
    assert "What the hosts compute, beside which nothing runs" in cost.output
    for command, word in (("trace", "on the host"), ("report", "what the hosts compute")):
        result = CliRunner().invoke(cli, [command, str(file), "-o", str(tmp_path / command)])
        assert result.exit_code == 0, result.output
        assert word in (tmp_path / command).read_text()


# --- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("E0542", "run take on host"),
        ("E0542", "offload rows to nvme; run take on host"),
        ("E0542", f"{UPDATE}; {UPDATE} in block"),
        ("E0573", "run forward on host"),
        ("E0573", "run update on nvme"),
        ("E0404", f"{UPDATE} in blok"),
    ],
)
def test_what_is_wrong_is_told_where_it_stands(code: str, rule: str) -> None:
    with pytest.raises(ParcError) as raised:
        if "rows" in rule:
            test_rows.compiled(rule.replace("; ", "\n  "))
        else:
            compiled(text(rule, "dp = 1"))
    d = next(d for d in raised.value.diagnostics if d.code == code)
    assert d.span is not None and d.help


@pytest.mark.parametrize(
    ("rules", "help"),
    [
        ("run take on host", "`offload rows to host`"),
        ("run take on host in table", "`offload rows to host in table`"),
        ("run take on host in block", "leave out `in …`, and let rows rest there: `offload rows to host`"),
        ("offload rows to host\n  run take on host in block", "leave out `in …`"),
    ],
)
def test_where_rows_are_looked_up_is_mended(rules: str, help: str) -> None:
    """What is advised is no error itself."""
    with pytest.raises(ParcError) as raised:
        test_rows.compiled(rules)
    assert [d.help for d in raised.value.diagnostics] == [help]


def test_hosts_of_which_nothing_is_known() -> None:
    with pytest.raises(ParcError) as raised:
        compiled(on_cluster(text(f"split b on dp; {UPDATE}")))
    assert [d.code for d in raised.value.diagnostics] == ["E0572"]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("host compute 3 GB/s", "E0212"),
        ("host compute 1 TFLOP/s, 2", "E0313"),
        ("host compute 1 TFLOP/s\n  host compute 1 TFLOP/s", "E0102"),
    ],
)
def test_descriptions_of_hosts_that_are_none(line: str, code: str) -> None:
    found = on_cluster(text("split b on dp")).replace("  nvme capacity", f"  {line}\n  nvme capacity")
    with pytest.raises(ParcError) as raised:
        compiled(found)
    assert code in [d.code for d in raised.value.diagnostics]


def test_hosts_without_memory_compute_nothing() -> None:
    found = on_cluster(text("split b on dp"))
    found = found.replace("host memory 1 MiB, 200 GB/s over host * 1 GB/s", "host compute 1 TFLOP/s")
    with pytest.raises(ParcError) as raised:
        compiled(found)
    assert [d.code for d in raised.value.diagnostics] == ["E0313"]
