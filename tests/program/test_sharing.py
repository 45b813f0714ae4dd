"""Classes that differ in iterations and schedule only: printed once, read back whole, and still errors have places."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import parc
from compiler.graph import Dim
from compiler.ops.repeat import Repeat
from compiler.program import Program
from compiler.text import Site, parse_located, parse_program, show
from compiler.text import parser as text_parser
from compiler.text.sharing import extent, recounted, with_code_of
from compiler.verify import verify
from dsl.diagnostics import ParcError

GPT = Path(__file__).resolve().parents[2] / "examples" / "gpt.par"


@pytest.fixture(scope="module")
def uneven() -> Program:
    """Stages of 1, 2, 2, 1 and 1 layers."""
    return parc.compile(GPT, params={"layers": 7, "pp": 5, "microbatches": 8}).program


def test_stages_of_other_length_are_as_those_of_the_first(uneven: Program) -> None:
    assert [c.groups for c in uneven.classes] == [(0,), (1, 2), (3,), (4,)]
    text = show(uneven)
    assert parse_program(text) == uneven and show(parse_program(text)) == text
    third = text[text.index("\nstage 3: devices 3 as 1..2 {\n") : text.index("\nstage 4:")]
    assert third.count("\n") < 16 and "fn " not in third and "loop block: 1 of 7 from 5" in third


def test_the_code_that_is_taken_over_has_the_other_number_of_iterations(uneven: Program) -> None:
    two, one = parse_program(show(uneven)).classes[1:3]
    stacks = {s.name: s.type.dims[0] for s in one.states if s.type.dims and s.type.dims[0].name == "block"}
    assert stacks and set(stacks.values()) == {Dim("block", 1)}
    loops = [(i.op.label, i.op.count) for f in one.functions for i in f.body.nodes if isinstance(i.op, Repeat)]
    assert {count for label, count in loops if label == "block"} == {1}
    assert with_code_of(one, two) == one and recounted(two.functions, {}) is two.functions
    assert extent(one) == extent(two) > 500


def test_classes_whose_code_differs_are_printed_in_full(uneven: Program) -> None:
    changed = uneven.classes[2]
    state = replace(changed.states[0], role="counter")
    program = uneven.with_classes(
        (*uneven.classes[:2], replace(changed, states=(state, *changed.states[1:])), uneven.classes[3])
    )
    text = show(program)
    assert " as " not in "".join(line for line in text.splitlines() if line.startswith("stage"))
    assert parse_program(text) == program


def test_the_length_of_the_text_does_not_depend_on_layers() -> None:
    def length(layers: int, microbatches: int) -> int:
        params = {"layers": layers, "pp": 8, "microbatches": microbatches, "batch": 512}
        return len(parc.emit(GPT, params=params))

    base = length(16, 16)
    for layers, microbatches in ((8, 8), (19, 64), (200, 512), (203, 8)):
        assert length(layers, microbatches) == pytest.approx(base, rel=0.02)


def test_shared_code_has_the_place_of_the_code(uneven: Program) -> None:
    text = show(uneven)
    _, where = parse_located(text)
    for part in ("fn", "state"):
        assert where.find(Site(2, part, 1)) == where.find(Site(1, part, 1)) != where.find(Site(1))
    assert where.find(Site(2, "fn", 0, (3,))) == where.find(Site(1, "fn", 0, (3,))) != where.find(Site(1, "fn"))
    assert where.find(Site(2, "schedule")) != where.find(Site(1, "schedule"))
    span = where.find(Site(2))
    assert span is not None and text[span.start :].startswith("stage 3:")


@pytest.mark.parametrize(
    ("stage", "old", "new"),
    [
        (3, "block: 1 of 7 from 5", "block: 2 of 7 from 5"),
        (3, "block: 1 of 7 from 5", "block: 1 of 7 from 4"),
        (4, "block: 1 of 7 from 6", "block: 1 of 8 from 6"),
        (4, "block: 1 of 7 from 6", "block: 1 of 8 from 7"),
    ],
)
def test_every_iteration_belongs_to_one_stage(uneven: Program, stage: int, old: str, new: str) -> None:
    text = show(uneven)
    at = text.index(f"\nstage {stage}:")
    found = verify(*parse_located(text[:at] + text[at:].replace(old, new, 1)))
    assert [d.code for d in found] == ["E0650"] and found[0].span is not None and "block" in found[0].message


@pytest.mark.parametrize(
    ("code", "old", "new"),
    [
        ("E0606", " as 1..2 {", " as 2 {"),
        ("E0606", " as 1..2 {", " as 4 {"),
        ("E0606", "  loop block: 1 of 7 from 5\n", ""),
        ("E0601", "  loop block: 1 of 7 from 5\n", "  loop block: 1 of 7 from 5\n  counter odd: int32[]\n"),
        ("E0601", "  loop block: 1 of 7 from 5\n", "  loop block: 1 of 7 from 5\n  fn F {\n  }\n"),
        ("E0601", " as 1..2 {", " as {"),
        ("E0606", "devices 3 as 1..2", "devices 4 as 1..2"),
    ],
)
def test_wrong_references(uneven: Program, code: str, old: str, new: str) -> None:
    text = show(uneven)
    at = text.index("\nstage 3:")
    with pytest.raises(ParcError) as caught:
        parse_program(text[:at] + text[at:].replace(old, new, 1))
    assert {d.code for d in caught.value.diagnostics} == {code}


def test_what_is_taken_over_is_bounded(uneven: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_parser, "MAX_SHARED", extent(uneven.classes[1]) - 1)
    with pytest.raises(ParcError) as caught:
        parse_program(show(uneven))
    assert [d.code for d in caught.value.diagnostics] == ["E0608"]
