"""Memory to the byte: by hand for small programs, measured by the private-buffers executor for others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.memory.peak import memory_use
from compiler.program import FunctionPhase, Program
from compiler.text import parse_located
from dsl.diagnostics import ParcError
from runtime.data.synthetic import synthetic
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.runtime import models

HEAD = "program p\nmesh (mb={m} time)\ninput x: f32[b=16]\n\nstage 0: devices 0 {{\n"


def program(states: str, forward: str, backward: str = "", schedule: str = "F[0..{m}]", m: int = 4) -> Program:
    """A program of one device; `x` is 16 floats, 4 per micro-batch: 64 bytes of input."""
    text = HEAD.format(m=m)
    text += "".join(f"  {line}\n" for line in states.split("\n") if line)
    for name, body in ((FunctionPhase.FORWARD, forward), (FunctionPhase.BACKWARD, backward)):
        if body:
            text += f"  fn {name} {{\n" + "".join(f"    {line}\n" for line in body.split("\n")) + "  }\n"
    text += "  schedule {\n" + "".join(f"    {s}\n" for s in schedule.replace("{m}", str(m)).split("\n")) + "  }\n}\n"
    return parse_located(text)[0]


def peak(p: Program, memory: str = "hbm") -> int:
    """The replayed peak, which is measured too: in two steps, as the first could differ."""
    run = RankExecutor(p)
    for step in range(2):
        run.step(synthetic(p.inputs, 0, step))
    use = memory_use(p)[0]
    assert run.peaks[0][0] == {m: u.bytes for m, u in use.items()}
    assert sum(use[memory].roles.values()) == use[memory].bytes
    return use[memory].bytes


X = "%x: f32[b=4/mb] = input x\n"
INPUT = 16 * 4


def test_operands_are_let_go_after_results_are_allocated() -> None:
    chain = X + "%y: f32[b=4/mb] = exp %x\n%z: f32[b=4/mb] = exp %y\n%u: f32[b=4/mb] = exp %z"
    assert peak(program("", chain)) == INPUT + 2 * 16
    kept = X + "%y: f32[b=4/mb] = exp %x\n%z: f32[b=4/mb] = exp %y\n%u: f32[b=4/mb] = add %z, %y"
    assert peak(program("", kept)) == INPUT + 3 * 16


def test_views_share_their_operands_buffer() -> None:
    body = X + "%y: f32[b=4/mb] = exp %x\n%z: f32[c=4/mb] = rename %y b -> c\n"
    body += "%u: f32[c=4/mb, d=9] = broadcast %z to (c=4, d=9)"
    assert peak(program("", body)) == INPUT + 16


SAVED = "saved s: f32[b=4/mb]"
SAVE = X + "%y: f32[b=4/mb] = exp %x\nsave %y as s"


@pytest.mark.parametrize("m", [2, 4, 8])
def test_saved_values_of_all_micro_batches_in_flight(m: int) -> None:
    piece = 16 * 4 // m
    size = f"f32[b={16 // m}/mb]"
    forward = SAVE.replace("f32[b=4/mb]", size)
    backward = f"%s: {size} = load s last\n%t: {size} = exp %s"
    saved = SAVED.replace("f32[b=4/mb]", size)
    all_first = program(saved, forward, backward, "F[0..{m}]\nB[0..{m}]", m)
    assert peak(all_first) == INPUT + m * piece + piece
    in_turn = program(saved, forward, backward, "for i in 0..{m} { F[i] B[i] }", m)
    assert peak(in_turn) == INPUT + 2 * piece


def test_what_is_moved_is_there_twice_until_the_last_reader() -> None:
    forward = X + "%y: f32[b=4/mb] = exp %x\n%far: f32[b=4/mb] in host = move %y from hbm to host\nsave %far as s"
    backward = "%far: f32[b=4/mb] in host = load s last\n%s: f32[b=4/mb] = move %far from host to hbm\n"
    backward += "%t: f32[b=4/mb] = exp %s"
    p = program(SAVED + " in host", forward, backward, "F[0..4]\nB[0..4]")
    assert peak(p) == INPUT + 2 * 16
    assert peak(p, "host") == 4 * 16


def test_the_first_accumulation_takes_the_buffer() -> None:
    states = "gradient g: f32[b=16] of w"
    body = "%y: f32[b=16] pending(mb sum) = full 1.0\naccumulate %y into g"
    assert peak(program(states, body, schedule="F[0]")) == 64
    assert peak(program(states, body)) == 2 * 64
    used = body + "\n%z: f32[b=16] pending(mb sum) = neg %y"
    assert peak(program(states, used, schedule="F[0]")) == 3 * 64  # y is still needed, so the buffer is a copy


LOOP = """\
%y: f32[b=4/mb] = exp %x
%i: int32[block={n}] = iota
%z: f32[b=4/mb], %all: f32[block={n}, b=4/mb] = repeat block {n} (
  %c: f32[b=4/mb] = %y,
  %at: int32[] each %i,
) {{
  %d: f32[b=4/mb] = exp %c
  %e: f32[b=4/mb] = neg %d
  yield %e, %c
}}
%end: f32[b=4/mb] = exp %z"""


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_loops(n: int) -> None:
    """Stacks of results from the beginning; in an iteration the carry and its successor, two at a time."""
    assert peak(program("", X + LOOP.format(n=n))) == INPUT + n * 16 + n * 4 + 2 * 16


def test_the_replay_does_not_unroll_loops() -> None:
    p = program("", X + LOOP.format(n=10**7), schedule="F[0]")
    assert memory_use(p)[0]["hbm"].bytes == INPUT + 10**7 * 20 + 2 * 16


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_a_carry_that_begins_smaller(n: int) -> None:
    """The first is a view of one element, later ones are whole; three values of an iteration are alive at once."""
    loop = LOOP.replace("exp %x", "broadcast %o").replace("neg %d", "add %d, %c")
    body = X + "%o: f32[] = full 1.0\n" + loop.format(n=n)
    assert peak(program("", body)) == INPUT + n * 16 + n * 4 + 2 * 16 + (16 if n > 1 else 4)


NAMES = ("a", "b", "c")


@given(st.permutations(NAMES), st.sets(st.sampled_from(NAMES)), st.integers(1, 9), st.booleans())
def test_carries_that_take_turns(order: list[str], fresh: set[str], count: int, outer: bool) -> None:
    """Carries of one loop move from one to another, some are new in each iteration; two begin as one buffer."""
    body = [f"  %{n}.new: f32[b=4/mb] = exp %{n}" for n in sorted(fresh)]
    nexts = [f"%{n}.new" if n in fresh else f"%{n}" for n in order]
    lines = ["%y: f32[b=4/mb] = exp %x", "%z: f32[b=4/mb] = exp %x"]
    results = ", ".join(f"%r{i}: f32[b=4/mb]" for i in range(3))
    lines += [f"{results} = repeat block {count} (", "  %a: f32[b=4/mb] = %y,", "  %b: f32[b=4/mb] = %y,"]
    lines += ["  %c: f32[b=4/mb] = %z,", ") {", *body, f"  yield {', '.join(nexts)}", "}"]
    lines += ["%s: f32[b=4/mb] = add %r0, %r1", *(["%t: f32[b=4/mb] = add %y, %z"] if outer else [])]
    peak(program("", X + "\n".join(lines)))


def test_too_little_memory_is_refused_before_the_run() -> None:
    compiled = models.gpt("dp=2")
    need = memory_use(compiled.program)[0]["hbm"]
    Emulator(compiled.program, {"hbm": need.bytes})
    with pytest.raises(ParcError) as caught:
        Emulator(compiled.program, {"hbm": need.bytes - 1})
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E0701"
    notes = "\n".join(n for n, _ in diagnostic.notes)
    assert "by role: saved" in notes and "block.mlp.w1: f32[block=2, d=16, f=64] (weight)" in notes
    assert "B[0] of stage 0" in diagnostic.message


def test_micro_batches_take_less() -> None:
    few, many = models.gpt("microbatches=1"), models.gpt("microbatches=4")
    assert memory_use(many.program)[0]["hbm"].bytes < memory_use(few.program)[0]["hbm"].bytes
