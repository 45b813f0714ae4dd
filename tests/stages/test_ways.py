"""Several ways through a model (`chunks [[0, 1], [1, 0]]`): stages have copies, micro-batches go one way or another."""

from __future__ import annotations

import re
from itertools import accumulate
from pathlib import Path
from random import Random

import numpy as np
import pytest

import parc
from compiler.declared import range_of
from compiler.homes import Homes
from compiler.origin import Role
from compiler.program import FunctionPhase, Program
from compiler.schedules import Action
from compiler.schedules.by_hand import action_loops
from compiler.text import parse_program, show
from compiler.traffic import collectives
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc import api
from runtime.prove import random_batch
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.stages.build import judged
from tests.stages.orders import drawn_orders
from tests.stages.playing import played
from tests.stages.test_orders import text

EXAMPLE = (Path(__file__).parents[2] / "examples" / "schedules.par").read_text(encoding="utf-8")
LATE = EXAMPLE.partition("strategy dual_pipe for decoder {\n  mesh (pp = n)\n")[2].partition("\n}\n")[0]
PARAMS = "param n = {}\nparam m = {}\nparam h = n // 2\nparam k = m // 2\n"
BOTH = """
  pipeline block on pp, schedule by_hand(microbatches = 4), chunks [[0, 1], [1, 0]]
  order pp[0] {
    F[0] F[1] F1[2] B1[2] F1[3] B1[3] B[0] B[1]
  }
  order pp[1] {
    F1[2] F1[3] F[0] B[0] F[1] B[1] B1[2] B1[3]
  }
"""


def dual_pipe(n: int, m: int, rules: str = "", mesh: str = "", devices: int = 1) -> str:
    """The order of the example, on n places."""
    assert "chunks both_ways" in LATE
    return PARAMS.format(n, m) + text(LATE + rules, f"pp = {n}{mesh}", n * devices)


@pytest.mark.parametrize(
    "n, m", [(4, 8), *(pytest.param(n, m, marks=pytest.mark.nightly) for n, m in ((2, 6), (8, 24)))]
)
def test_dual_pipe(n: int, m: int) -> None:
    program = judged(dual_pipe(n, m), priced=True).program
    assert program.homes == Homes((*range(n), *reversed(range(n))), 2)


WITH = {
    "dp_zero": (", dp = 2", "\n  split b on dp\n  shard optimizer, gradients on dp"),
    "tp_recompute": (", tp = 2", "\n  split f on tp\n  recompute block"),
    "layers": (", tp = 2", "\n  split f on tp in block[2..6]\n  recompute block[0..3]"),
    "by_hand": (", tp = 2", "\n  implement block.mlp by tensor_parallel_mlp(tp)"),
    "zero_3": (", dp = 2", "\n  split b on dp\n  shard optimizer, gradients, weights on dp"),
    "offload": ("", "\n  offload optimizer, weights, activations to host"),
}


@pytest.mark.parametrize("beside", [pytest.param(w, marks=pytest.mark.nightly if w != "dp_zero" else ()) for w in WITH])
def test_dual_pipe_with_other_rules(beside: str) -> None:
    mesh, rules = WITH[beside]
    found = dual_pipe(2, 4, rules, mesh, 2 if mesh else 1)
    judged(found.replace(", 2 us\n", ", 2 us\n  host memory 1 GiB, 200 GB/s over 25 GB/s\n"), priced=True)


@pytest.mark.parametrize("n, m", [(2, 4), (4, 8), (4, 22), (8, 16), (16, 48)])
def test_what_dual_pipe_waits_and_holds(n: int, m: int) -> None:
    """n/2 - 1 passes, where they take equally long; else no more than (n/2 - 1) (F&B + B - 3 W), as it is published (B
    with its W); and it holds what n + 1 passes save."""
    found = dual_pipe(n, m).replace("repeat 8", f"repeat {n}").replace("b = 24", f"b = {m}")
    rules = parc.evaluate(Source("main.par", found)).job.strategy.pipelines
    lists = [[a for loop in action_loops(rows) for a in loop.actions()] for rows in rules[0].orders]
    for f, b, w in ((1, 1, 1), (10, 12, 8), (10, 15, 6)):
        waited = played(lists, rules[0].where(n), {"F": f, "B": b, "W": w}) - m * (f + b + w)
        assert waited == (n // 2 - 1) * f if f == b == w else waited <= (n // 2 - 1) * ((f + b + w) + (b + w) - 3 * w)
    by = {FunctionPhase.FORWARD: 1, FunctionPhase.BACKWARD: -1}
    assert max(max(accumulate(by.get(a.kind, 0) for a in mine)) for mine in lists) == n + 1


@pytest.mark.parametrize("executor", [Emulator, RankExecutor])
def test_copies_stay_the_same_bits(executor: type[Emulator | RankExecutor]) -> None:
    program = parc.compile(Source("main.par", text(BOTH))).program
    run = executor(program)
    for step in range(2):
        run.step(random_batch(program.inputs, 0, step))
    found: dict[object, list[bytes]] = {}
    for decl, cls, group, array in run.pieces((Role.WEIGHT, Role.OPTIMIZER)):
        part = range_of(decl, cls)
        key = decl.logical, None if part is None else part.start.at(group)
        found.setdefault(key, []).append(np.ascontiguousarray(array).tobytes())
    assert {len(copies) for copies in found.values()} == {2, 4}  # of the table, at both ends of each way, 4
    assert all(len(set(copies)) == 1 for copies in found.values())


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(1, 12))])
def test_random_ways(seed: int) -> None:
    rng = Random(seed)
    places, chunks, ways = rng.choice([(2, 1, 2), (2, 2, 2), (3, 1, 3), (3, 2, 2), (4, 1, 2)])
    first = rng.sample([g for g in range(places) for _ in range(chunks)], places * chunks)
    homes = Homes(tuple((g + way) % places for way in range(ways) for g in first), ways)
    count = ways * rng.choice([1, 2])
    listed = [list(homes.groups[at : at + homes.way]) for at in range(0, len(homes), homes.way)]
    rule = f"  pipeline block on pp, schedule by_hand(microbatches = {count}), chunks {listed}\n"
    orders = drawn_orders(rng, homes, rng.choice(["FB", "FBW"]), count)
    rule += "\n".join(f"  order pp[{g}] {{\n    {order}\n  }}" for g, order in enumerate(orders))
    assert judged(text(rule, f"pp = {places}", places)).program.homes == homes


def test_an_evaluation_goes_both_ways() -> None:
    both = api.emit(Source("main.par", text(BOTH)), "program", entries=("train_step", "evaluate"))
    program = parse_program(both)
    assert not verify(program) and show(program) == both
    assert "for i in 0..2 { F[i] F.1[i + 2] }" in both.partition("entry evaluate")[2]


def test_traffic_counts_each_way() -> None:
    """What is told is what the devices send."""
    program = parc.compile(Source("main.par", text(BOTH))).program
    run = Emulator(program)
    run.step(random_batch(program.inputs, 0, 0))
    told = [c for c in collectives(program) if c.op == "send"]
    assert [c.count for c in told] == [2, 2, 2, 2]
    assert sum(c.bytes for c in told) == sum(
        t.bytes for v in run.traffic.values() for (op, _), t in v.items() if op == "send"
    )


WRONG = {
    ("F1[3] F[0]", "F1[1] F[0]"): ("E0443", "`F1[1]`"),
    ("F1[2] F1[3] F[0]", "F1[2] F[0]"): ("E0443", "nowhere"),
    ("F[0] F[1] F1[2]", "F[0] F[0..2] F1[2]"): ("E0443", "twice"),
    ("[[0, 1], [1, 0]]", "[[0, 1], [0, 1]]"): ("E0443", "stage 0 is on `pp[0]` for two ways"),
    ("[[0, 1], [1, 0]]", "[[0, 1], [1, 0, 1, 0]]"): ("E0443", "other stages"),
    ("[[0, 1], [1, 0]]", "[[0, 0], [1, 1]]"): ("E0443", "0 chunks"),
    ("[[0, 1], [1, 0]]", "[[0, 1], [1, 2]]"): ("E0410", "places 0 to 1"),
    ("[[0, 1], [1, 0]]", "[[0, 1], 1]"): ("E0443", "a list of places"),
    ("microbatches = 4", "microbatches = 3"): ("E0443", "equally many"),
    ("F1[2] F1[3] F[0] B[0]", "F[0] B[0] F1[2] F1[3]"): (
        "E0444",
        "`pp[0]` waits before `F1[2]` for",
    ),
    ("by_hand(microbatches = 4)", "one_f_one_b(microbatches = 4)"): ("E0446", "one way"),
}


@pytest.mark.parametrize("change", WRONG)
def test_wrong_ones(change: tuple[str, str]) -> None:
    code, words = WRONG[change]
    wrong = BOTH.replace(*change)
    if change[1].startswith("F[0] B[0]"):  # each end waits for the other
        wrong = wrong.replace("F[0] F[1] F1[2] B1[2]", "F1[2] B1[2] F[0] F[1]")
    with pytest.raises(ParcError) as error:
        parc.compile(Source("main.par", text(wrong)))
    (found,) = error.value.diagnostics
    assert found.code == code and words in found.message + str(found.help), found.message


@pytest.mark.parametrize("line", ["metric top = max(abs(x))", "shown = x\n  output shown"])
def test_what_all_micro_batches_make_together_has_one_way(line: str) -> None:
    found = text(BOTH).replace("  logits[b, v]", f"  {line}\n  logits[b, v]")
    with pytest.raises(ParcError) as error:
        parc.compile(Source("main.par", found))
    assert [d.code for d in error.value.diagnostics] == ["E0446"]


JOINED = r"\n    (?P<name>%block\.\S+): \S+\[.*\] = stage_reduce (?P<operand>%\S+) sum as (?P<key>{}) among \(0, 1\)"


def mutants(program: Program) -> dict[str, tuple[str, str]]:
    """By what is wrong, the code and a text of the program that has it."""
    whole = show(program)
    at = whole.index("\nstage 1:")
    here, there = whole[:at], whole[at:]
    first = re.search(JOINED.format(r"\S+"), here)
    assert first is not None
    second = re.search(JOINED.format(re.escape(first["key"].replace("#0", "#1"))), here)
    assert second is not None and first["key"] != second["key"]

    def apart(text: str) -> str:
        found = re.search(JOINED.format(re.escape(first["key"])), text)
        assert found is not None
        return re.sub(rf"{found['name']}(?![\w.])", found["operand"], text.replace(found[0], ""))

    mixed = first[0].replace(first["operand"] + " ", second["operand"] + " ")
    mixed += second[0].replace(second["operand"] + " ", first["operand"] + " ")
    came = "\n    %x: f32[b=6/mb, d=4] = recv block.x from -1"
    goes = "\n    send %x_1 as block.x to 1"
    crossed = there.replace(came, f"{came}\n    send %x as other to 1")
    crossed = crossed.replace(goes, f"\n    %other: f32[b=6/mb, d=4] = recv other from -1{goes}")
    return {
        "not joined": ("E0632", apart(here) + apart(there)),
        "a maximum": ("E0632", whole.replace(f" sum as {first['key']} ", f" max as {first['key']} ")),
        "of another stage": ("E0632", here.replace(first[0] + second[0], mixed) + there),
        "of other micro-batches": ("E0640", whole.replace("F.1[2]", "F.1[1]", 1)),
        "from another way": ("E0630", here + crossed),
        "on one place": ("E0650", whole.replace("(0, 1), (1, 0)", "(0, 1), (0, 1)")),
        "other iterations": ("E0650", whole.replace("4 of 8 from 4 chunk 1", "4 of 8 from 0 chunk 1")),
        "other stages": ("E0601", whole.replace("(0, 1), (1, 0)", "(0, 1), (1)")),
        "no stages": ("E0650", whole.replace("(0, 1), (1, 0)", "(), ()")),
    }


def test_wrong_programs() -> None:
    program = parc.compile(Source("main.par", text(BOTH))).program
    for what, (code, wrong) in mutants(program).items():
        assert wrong != show(program), what
        try:
            codes = {d.code for d in verify(parse_program(wrong))}
        except ParcError as error:
            codes = {d.code for d in error.diagnostics}
        assert code in codes, (what, codes)


def test_unpaired_actions_are_actions() -> None:
    """Chunks of a group are counted through all ways: the second way's stage of a place comes last."""
    homes = Homes((0, 1, 1, 0, 1, 0, 0, 1), 2)
    assert [list(homes.of(g)) for g in (0, 1)] == [[0, 3, 5, 6], [1, 2, 4, 7]]
    assert list(homes.copies(5)) == [1, 5] and homes.span(5, 6) == range(3, 6) and homes.way == 4
    assert str(Action(FunctionPhase.FORWARD, homes.chunk(5), 3)) == "F.2[3]"
