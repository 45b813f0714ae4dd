# ruff: noqa: E501  (a rule and its edit are one line each)
"""The verifier: legal programs pass; each rule has a program that breaks it, in one edited line."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.graph import Dim, Graph, Type
from compiler.layout import Layout
from compiler.ops.comm import Relayout
from compiler.ops.effects import Write
from compiler.program import Program
from compiler.schedules import Turn, find_hang, loops, unroll
from compiler.schedules.actions import interleaved_ahead
from compiler.schedules.moments import in_time
from compiler.text import parse_located, parse_program
from compiler.verify import order, verify
from compiler.verify.stages import message_edges
from tests.program.mutations import KINDS, UNSEEN, mutations
from tests.program.samples import BATCH, LAYERS, PIPELINE


def codes(text: str) -> list[str]:
    program, where = parse_located(text)
    found = verify(program, where)
    assert all(d.span is not None for d in found if d.code != "E0650")
    return [d.code for d in found]


@pytest.mark.parametrize("text", [PIPELINE, LAYERS, BATCH])
def test_legal_programs(text: str) -> None:
    assert verify(parse_program(text)) == ()


def edited(text: str, old: str, new: str) -> str:
    assert text.count(old) >= 1, old
    return text.replace(old, new, 1)


P, L, W = PIPELINE, LAYERS, BATCH

RULES = [
    # values
    ("E0610", P, "relu %u", "relu %q"),
    ("E0610", L, "= add %z, %keep", "= add %z, %x"),  # not a parameter of the loop
    ("E0610", L, "yield %e.next", "yield %t"),
    ("E0611", P, "%h: f32[b=2/mb/dp, f=4/tp] = relu %u\n    %p", "%u: f32[b=2/mb/dp, f=4/tp] = relu %u\n    %p"),
    ("E0611", L, "%e.next: f32[b=2/dp, s=3/tp, k=2] = tanh", "%z: f32[b=2/dp, s=3/tp, k=2] = tanh"),
    ("E0612", P, "%u: f32[b=2/mb/dp, f=4/tp] = contract", "%u: f32[b=2/mb/dp, f=8/tp] = contract"),
    ("E0612", P, "contract %x, %w1", "contract %x"),
    ("E0612", L, "%x.moved: f32[b=2/dp, s=6, v=4/tp of 7]", "%x.moved: f32[b=2/dp, s=6, v=4/tp of 8]"),
    ("E0612", L, "repeat block 3 (", "repeat block 2 ("),
    ("E0612", L, "yield %c.next, %row", "yield %c.next"),
    ("E0612", L, "yield %c.next, %row", "yield %z, %c.next"),
    ("E0612", P, "send %y as y to 1", "send %y, %y as y to 1"),
    # layouts
    ("E0613", P, "%u: f32[b=2/mb/dp, f=4/tp] = contract", "%u: f32[b=2/mb/dp, f=4/dp] = contract"),
    ("E0613", P, "%g1: f32[d=4, f=4/tp] pending(dp sum)", "%g1: f32[d=4, f=4/tp] pending(dp mean)"),
    ("E0613", P, "f=4/tp] pending(mb sum, dp sum)", "f=4/tp] pending(dp sum, mb sum)"),
    ("E0613", P, "%w1: f32[d=4, f=4/tp] = read w1\n    %g1", "%w1: f32[d=1/mb, f=4/tp] = read w1\n    %g1"),
    ("E0613", P, "%w1: f32[d=4, f=4/tp] = read w1\n    %g1", "%w1: f32[d=2/pp, f=4/tp] = read w1\n    %g1"),
    ("E0614", P, "%h: f32[b=2/mb/dp, f=4/tp] = relu", "%h: f32[b=2/mb/dp, f=8] = relu"),
    ("E0614", P, "%w1: f32[d=4, f=4/tp] = read", "%w1: f32[d=2/tp, f=8] = read"),
    ("E0614", P, "%o: f32[b=2/mb/dp] = contract", "%o: f32[b=4/mb] = contract"),
    ("E0614", L, "%win: f32[b=2/dp, o=3/tp, k=3, v=7]", "%win: f32[b=2/dp, o=6, k=3, v=7]"),
    ("E0614", L, "window %wide dim", "window %y dim"),
    ("E0614", L, "%fold: f32[b=2/dp, s=5/tp halo(1, 1), v=7]", "%fold: f32[b=2/dp, s=3/tp, v=7]"),
    ("E0614", L, "%c: f32[b=2/dp, s=3/tp, v=7] = %x.back", "%c: f32[b=2/dp, s=3/tp, v=7] = %x.moved"),
    ("E0614", L, "%c: f32[b=2/dp, s=3/tp, v=7] = %x.back", "%c: f32[b=2/dp, s=6, v=7] = %x.back"),
    # pending sums
    ("E0615", P, "%p: f32[b=2/mb/dp, d=4] pending(tp sum) = contract", "%p: f32[b=2/mb/dp, d=4] = contract"),
    ("E0615", P, "%h: f32[b=2/mb/dp, f=4/tp] = relu", "%h: f32[b=2/mb/dp, f=4/tp] pending(cp sum) = relu"),
    ("E0615", P, "= sub %w2, %step2", "= sub %w2, %g2"),
    ("E0615", P, "write %w2.new to w2", "write %g2 to w2"),
    ("E0615", P, "%square: f32[f=4/tp, d=4] = mul %g2.sum, %g2.sum", "%square: f32[f=4/tp, d=4] pending(dp sum) = mul %g2, %g2"),
    ("E0615", P, "weight w3: f32[d=4] = ones", "weight w3: f32[d=4] pending(tp sum) = ones"),
    ("E0615", L, "%both: f32[] pending(dp sum, tp sum) = add %sum, %once", "%both: f32[] pending(dp sum, tp sum) = add %sum, %top.sum"),
    ("E0615", L, "%top.sum: f32[] pending(dp sum) = reduce %top", "%top.sum: f32[] pending(dp sum, tp max) = reduce %max"),
    ("E0615", L, "%rows: f32[block=3, b=2/dp] pending(tp sum)", "%rows: f32[block=3, b=2/dp]"),
    # padding
    ("E0616", L, "reduce %masked sum", "reduce %power sum"),
    ("E0616", L, "mask_pad %power v with -inf", "mask_pad %power v with 0.0"),
    ("E0616", L, "mask_pad %power v with 0.0", "mask_pad %power v with 1.0"),
    # collectives
    ("E0617", P, "all_reduce %p sum over tp", "all_reduce %p sum over dp"),
    ("E0617", P, "all_reduce %p sum over tp", "all_reduce %p max over tp"),
    ("E0617", P, "all_gather %w1.new.part d over dp", "all_gather %w1.new.part d over tp"),
    ("E0617", P, "all_gather %w1.new.part d over dp", "all_gather %w1.new.part e over dp"),
    ("E0617", P, "%w1.part: f32[d=2/dp, f=4/tp] = shard", "%w1.part: f32[d=2/tp, f=8] = shard"),
    ("E0617", P, "shard %w1 d over dp", "shard %w1 d over tp"),
    ("E0617", L, "all_to_all %x from s to v over tp", "all_to_all %x from s to s over tp"),
    ("E0617", L, "%x.moved from v to s over tp", "%x.moved from v to s over ()"),
    ("E0617", L, "= halo %y s over tp left 1 right 1", "= halo %y s over tp left 1 right 4"),
    ("E0617", L, "= halo %y s over tp left 1 right 1", "= halo %y b over tp left 1 right 1"),
    ("E0617", L, "= halo_add %fold s over tp left 1 right 1", "= halo_add %fold s over tp left 0 right 1"),
    ("E0617", L, "only_first %top.sum over tp", "only_first %top.sum over dp"),
    ("E0617", L, "yield %c.next, %row", "%r: f32[b=2/dp] pending(tp sum) = mask_pad %row b with 1.0\n      yield %c.next, %row"),
    ("E0618", P, "%l: f32[] pending(mb sum) = all_reduce %mean sum over dp", "%l: f32[] pending(dp sum) = all_reduce %mean sum over mb"),
    ("E0618", P, "all_reduce %p sum over tp", "all_reduce %p sum over pp"),
    ("E0618", P, "all_reduce %p sum over tp", "all_reduce %p sum over xx"),
    # buffers
    ("E0620", P, "%w3: f32[d=4] = read w3", "%w3: f32[d=4] = read w4"),
    ("E0620", P, "= input x", "= input y"),
    ("E0620", P, "save %u as u.saved", "save %u as w1"),
    ("E0620", P, "accumulate %l into loss", "write %l to loss"),
    ("E0620", P, "    save %y as", "    %early: f32[d=4] pending(dp sum) = read w3.grad\n    save %y as"),
    ("E0621", P, "input x: f32[b=16, d=4]", "input x: f32[b=15, d=4]"),
    ("E0621", P, "weight w1: f32[d=4, f=4/tp]", "weight w1: f32[d=2/tp, f=8]"),
    ("E0621", P, "weight w1: f32[d=4, f=4/tp]", "weight w1: f32[d=4, f=3/tp]"),
    ("E0621", P, "saved u.saved: f32[b=2/mb/dp, f=4/tp]", "saved u.saved: f32[b=4/mb, f=4/tp]"),
    ("E0622", P, "    accumulate %dw1 into w1.grad\n", ""),
    ("E0622", P, "accumulate %l into loss", "%once: f32[] = full 1.0\n    accumulate %once into loss"),
    ("E0623", P, "    write %w3.new to w3\n", ""),
    ("E0623", P, "write %w3.new to w3", "write %w3.new to w3\n    write %w3.new to w3"),
    ("E0624", P, "    %step2:", "    write %w2 to w2\n    %step2:"),
    ("E0624", P, "%g3: f32[d=4]", "write %w3 to w3\n    %again: f32[d=4] = read w3\n    %g3: f32[d=4]"),
    ("E0625", P, "    save %u as u.saved\n", ""),
    ("E0625", P, "= load u.saved last", "= load u.saved"),
    ("E0625", P, "= load y.saved last", "= full 1.0"),
    ("E0625", P, "save %u as u.saved", "save %u as u.saved\n    save %h as u.saved"),
    ("E0626", L, "%z: f32[b=2/dp, s=3/tp, v=7] = contract", "%q: f32[block=3, v=7, k=2] = read w\n      %z: f32[b=2/dp, s=3/tp, v=7] = contract"),
    # stages
    ("E0630", P, "send %y as y to 1", "send %y as z to 1"),
    ("E0630", P, "recv y from -1", "recv y from 1"),
    ("E0630", P, "    send %y as y to 1\n", ""),
    ("E0630", P, "send %y as y to 1", "send %y as y to 1\n    send %y as y to 1"),
    ("E0630", P, "send %y as y to 1", "send %x as y to 1\n    send %x as other to 1"),
    ("E0631", P, "as norm among (0, 1)", "as total among (0, 1)"),
    ("E0631", P, "as norm among (0, 1)", "as norm among (1)"),
    ("E0631", P, "sum as norm among", "max as norm among"),
    # order
    ("E0640", P, "    F[0]\n", ""),
    ("E0640", P, "for i in 0..4 { F[i] B[i] }", "for i in 0..5 { F[i] B[i] }"),
    ("E0640", P, "for i in 0..4 { F[i] B[i] }", "for i in 0..4 { F[i] B[i] W[i] }"),
    ("E0640", P, "    B[3]\n    U", "    U\n    B[3]"),
    ("E0640", P, "F[i + 1] B[i]", "F[i] B[i]"),
    ("E0640", P, "for i in 0..4 { F[i] B[i] }", "for i in 0..2 { F[2*i] B[2*i] }"),
    ("E0641", P, "for i in 0..4 { F[i] B[i] }", "for i in 0..4 { B[i] F[i] }"),
    ("E0642", P, "for i in 0..4 { F[i] B[i] }", "F[0..4]\n    B[0..4]"),
    # the frame
    ("E0671", P, "d=4]\n\nstage", "d=4]\ninput i: int32[b=16] in 3..3\n\nstage"),
    ("E0650", P, "stages 2", "stages 3"),
    ("E0650", P, "stage 1: devices 4..7", "stage 0: devices 0..3"),
    ("E0650", P, "loss loss: f32[]", "loss loss: f32[]\n  loss loss: f32[]"),
    ("E0650", P, "fn B {", "fn F {"),
    ("E0650", P, "fn B {", "fn E.1 {"),
    ("E0650", L, "  weight w:", "  loop block: 2 of 6 from 0\n  weight w:"),
    ("E0650", L, "  weight w:", "  loop block: 3 of 6 from 4\n  weight w:"),
    # of whole batches
    ("E0613", W, "    %whole: f32[] =", "    %w: f32[] pending(mb sum) = only_first %parts over mb\n    %whole: f32[] ="),
    ("E0615", W, "%whole: f32[] = all_reduce %parts sum over dp", "%whole: f32[] = div %parts, 2.0"),
    ("E0620", W, "accumulate %ratio into ratio", "accumulate %ratio into mean"),
    ("E0620", W, "accumulate %dw into w.grad", "accumulate %dw into w.grad\n    accumulate %one into most"),
    ("E0620", W, "    %w: f32[d=4] = read w\n    %g", "    %m: f32[] = read mean\n    %w: f32[d=4] = read w\n    %g"),
    ("E0622", W, "    accumulate %mean into mean\n", ""),
    ("E0622", W, "accumulate %mean into mean", "accumulate %mean into mean\n    accumulate %whole into mean"),
    ("E0622", W, "accumulate %most into most", "accumulate %most into ratio\n    accumulate %most into most"),
    ("E0622", W, "accumulate %loss into loss", "%top: f32[] pending(mb max) = all_reduce %most max over dp\n    accumulate %top into loss"),
    ("E0624", W, "%mean: f32[] = read mean\n    %all", "%mean: f32[] = read far\n    %all"),
    ("E0640", W, "    S[0]\n", ""),
    ("E0640", W, "    S[0]\n", "    S[0..2]\n"),
    ("E0640", W, "    P[0..2]\n", "    P[0]\n"),
    ("E0640", W, "    E[0]\n", ""),
    ("E0640", W, "    E[0]\n    U", "    U\n    E[0]"),
    ("E0641", W, "    P[0..2]\n    S[0]\n", "    S[0]\n    P[0..2]\n"),
    ("E0641", W, "    P.1[0..2]\n    S.1[0]\n    for i in 0..2 { F[i] B[i] }\n", "    for i in 0..2 { F[i] B[i] }\n    P.1[0..2]\n    S.1[0]\n"),
    ("E0641", W, "    for i in 0..2 { F[i] B[i] }\n    E[0]\n", "    E[0]\n    for i in 0..2 { F[i] B[i] }\n"),
    ("E0650", W, "fn S.1 {", "fn S.2 {"),
    ("E0650", W, "fn E {", "fn E.1 {"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "text", "old", "new"), RULES, ids=[f"{r[0]}-{i}" for i, r in enumerate(RULES)])
def test_rule(code: str, text: str, old: str, new: str) -> None:
    if "cp sum" in new:
        text = text.replace("tp=2)", "tp=2, cp=1)", 1)
    found = codes(edited(text, old, new))
    assert code in found, found


def test_messages_say_where_and_what_to_do() -> None:
    program, where = parse_located(edited(P, "send %y as y to 1", "send %p as y to 1"), "p.npu")
    (d,) = verify(program, where)
    assert d.span is not None
    text = edited(P, "send %y as y to 1", "send %p as y to 1")
    assert text[d.span.start : d.span.end] == "%y: f32[b=2/mb/dp, d=4] = recv y from -1"
    program, where = parse_located(edited(P, "= relu %u\n    %p", "= relu %p\n    %p"), "p.npu")
    (d, *_) = verify(program, where)
    assert str(d) == "error[E0610]: stage 0, F: %h = relu: %p is not defined before"


def test_what_text_cannot_say() -> None:
    """Programs that only exist as data."""
    program = parse_program(LAYERS)
    cls = program.classes[0]

    def with_first(f: int, **change: object) -> Program:
        functions = [*cls.functions]
        body = functions[f].body
        functions[f] = replace(
            functions[f], body=replace(body, nodes=(replace(body.nodes[0], **change), *body.nodes[1:]))
        )
        return program.with_classes((replace(cls, functions=tuple(functions)),))

    x = cls.functions[0].body.nodes[0].outputs[0]
    assert "E0613" in [d.code for d in verify(with_first(0, outputs=(replace(x, layout=Layout(())),)))]
    assert "E0613" in [d.code for d in verify(with_first(0, outputs=(replace(x, layout=Layout((("zz",), (), ()))),)))]
    assert "E0612" in [d.code for d in verify(with_first(0, op=Relayout(x.layout)))]
    assert "E0612" in [d.code for d in verify(with_first(0, op=Write("w")))]
    rank = replace(cls.states[0], type=Type("f32", (Dim("a", 2),)))
    assert "E0613" in [d.code for d in verify(program.with_classes((replace(cls, states=(rank, *cls.states[1:])),)))]
    odd = replace(cls.functions[0], body=replace(cls.functions[0].body, outputs=(x,)))
    assert "E0612" in [d.code for d in verify(program.with_classes((replace(cls, functions=(odd, cls.functions[1])),)))]
    assert "E0650" in [d.code for d in verify(replace(program, axes=program.axes * 2))]
    assert "E0650" in [d.code for d in verify(program.with_classes(()))]
    empty = replace(cls.functions[0], body=Graph("", (), (), ()))
    assert [d.code for d in verify(program.with_classes((replace(cls, functions=(empty, cls.functions[1])),)))] == [
        "E0622"
    ]


@pytest.mark.parametrize("text", [PIPELINE, LAYERS])
def test_mutations_are_noticed(text: str) -> None:
    program = parse_program(text)
    seen = set()
    for name, broken in mutations(program):
        kind = name.split(":")[0]
        seen.add(kind)
        assert broken != program, name
        if kind not in UNSEEN:
            assert verify(broken), name
    assert seen <= set(KINDS)


def test_every_kind_of_mutation_exists() -> None:
    seen = {name.split(":")[0] for text in (PIPELINE, LAYERS) for name, _ in mutations(parse_program(text))}
    assert seen >= set(KINDS) - {"swap", "still"}


def pipeline(p: int, m: int, schedules: list[str]) -> str:
    """A chain of p stages that send one value up and one down."""
    text = f"program chain\nmesh (mb={m} time, pp={p} place)\nstages {p}\ninput x: f32[b={m}]\n"
    for g in range(p):
        text += f"stage {g}: devices {g} {{\n  fn F {{\n"
        text += "    %x: f32[b=1/mb] = " + ("recv x from -1\n" if g else "input x\n")
        text += "    send %x as x to 1\n" if g < p - 1 else ""
        text += "  }\n  fn B {\n"
        text += "    %g: f32[b=1/mb] = " + ("recv g from 1\n" if g < p - 1 else "full 1.0\n")
        text += "    send %g as g to -1\n" if g else ""
        text += f"  }}\n  schedule {{\n{schedules[g]}\n  }}\n}}\n"
    return text


def test_a_million_micro_batches() -> None:
    m, p = 10**6, 4
    good = [f"F[0..{d}]\nfor i in 0..{m - d} {{ F[i + {d}] B[i] }}\nB[{m - d}..{m}]" for d in (3, 2, 1, 0)]
    assert codes(pipeline(p, m, good)) == []
    # Stage 0 runs too few ahead: it waits for a gradient whose activation it has not sent.
    late = [f"B[0]\nF[0..{m}]\nB[1..{m}]", *good[1:]]
    assert codes(pipeline(p, m, late)) == ["E0641"]
    # Stages 0 and 1 in circles, in the middle of the loop only.
    early = [f"F[0..1]\nfor i in 0..{m - 1} {{ F[i + 1] B[i] }}\nB[{m - 1}..{m}]"] * 3 + [good[3]]
    assert codes(pipeline(p, m, early)) == []
    stuck = [good[0], good[1], good[2], f"F[0..{m}]\nB[0..{m}]"]
    assert codes(pipeline(p, m, stuck)) == ["E0642"]


@settings(max_examples=60)
@given(st.integers(2, 4), st.integers(1, 90), st.data())
def test_shortened_schedules_hang_as_the_whole_ones_do(p: int, m: int, data: st.DataObject) -> None:
    """1F1B with any number of forwards ahead, on any stage: the verifier (which shortens them) against simulation."""
    near = st.integers(0, min(m, 12))
    ahead = [data.draw(near | near.map(lambda w: m - w) | st.integers(0, m)) for _ in range(p)]
    texts = [f"F[0..{w}]\nfor i in 0..{m - w} {{ F[i + {w}] B[i] }}\nB[{m - w}..{m}]" for w in ahead]
    text = pipeline(p, m, texts)
    program = parse_program(text)
    lists = [unroll(cls.schedule, 0) for cls in program.classes]
    hang = find_hang(lists, message_edges(program))
    assert codes(text) == (["E0642"] if hang is not None else [])
    rows = [loops(cls.schedule, 0, Turn.of(program)) for cls in program.classes]
    assert not in_time(rows, message_edges(program), program.homes) or hang is None


def chunked(p: int, v: int, m: int, schedules: list[str]) -> str:
    """A chain of p · v stages, dealt to p groups round and round."""
    text = f"program chain\nmesh (mb={m} time, pp={p} place)\nstages {p * v}\ninput x: f32[b={m}]\n"
    for g in range(p):
        text += f"stage {g}: devices {g} {{\n"
        for c in range(v):
            first, last, at = g == c == 0, g + c * p == p * v - 1, f".{c}" if c else ""
            text += f"  fn F{at} {{\n    %x: f32[b=1/mb] = " + ("input x\n" if first else "recv x from -1\n")
            text += "" if last else "    send %x as x to 1\n"
            text += f"  }}\n  fn B{at} {{\n    %g: f32[b=1/mb] = " + ("full 1.0\n" if last else "recv g from 1\n")
            text += "  }\n" if first else "    send %g as g to -1\n  }\n"
        text += f"  schedule {{\n{schedules[g]}\n  }}\n}}\n"
    return text


@settings(max_examples=40)
@given(st.integers(2, 3), st.integers(2, 6), st.integers(1, 200), st.data())
def test_rounds_that_are_left_out_hang_as_all_of_them_do(p: int, v: int, m: int, data: st.DataObject) -> None:
    """Interleaved chunks, in rounds of one length or of two, with other numbers of forwards ahead than should be."""
    turn = Turn(p, v, m)
    shift = st.integers(-3, 3) | st.integers(-m, m)
    ahead = [min(m * v, max(0, interleaved_ahead(turn, p - 1 - g) + data.draw(shift))) for g in range(p)]
    n = m * v
    text = chunked(
        p, v, m, [f"F.*[0..{w}]\nfor i in 0..{n - w} {{ F.*[i + {w}] B.*[i] }}\nB.*[{n - w}..{n}]" for w in ahead]
    )
    found = codes(text)
    with patch.object(order, "_shorten", lambda fixed, homes, program, m, v: (fixed, m)):
        assert codes(text) == found
