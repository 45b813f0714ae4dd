"""What is left out of a space: the rest is all that there was, for a search, its count and its certificate."""

from __future__ import annotations

import json
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from compiler.strategy import Strategy
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc import api
from parc.certifying.check import _space, certified
from parc.certifying.halves import HeldHalves
from parc.certifying.layers import LayerTable
from parc.certifying.left_out import NAMES, stated_left
from parc.certifying.stated import StatedPart, Unfounded
from parc.certifying.tally import SpaceTally, Tallied
from parc.cli import cli
from parc.planning.answer import FoundNothing, FoundPlan
from parc.planning.certificate import certificate
from parc.planning.firsts import firsts
from parc.planning.found import Counts, Found
from parc.planning.left_out import NOTHING_LEFT_OUT, SIZED, WORDS, left_out
from parc.planning.planning import Planned
from parc.planning.search import STEP
from parc.planning.space import PlanChoice, PlanSpace
from parc.planning.written import strategy_of
from tests.planning.brute import candidates, space_of
from tests.planning.models import job_of, text_of
from tests.planning.test_agreement import key_of

SMALL = {"transformer": {"outside": 2, "layers": 4, "batch": 4}, "tables": {}, "images": {}, "layers": {}}

LISTS = {
    "transformer": (
        *("pp", "cp", "tp", "gpipe", "interleaved", "zero_bubble,one_f_one_b", "zero=0", "zero=2..4", "zero=2"),
        *("recompute", "recompute=part", "recompute=products", "recompute=layers", "sequence", "heads", "ring"),
        *("zigzag", "outermost=pp", "outermost=dp", "tp>2,dp>2", "pp=3..", "chunks>1", "cp>1", "sp,ep,rows"),
        "gpipe,one_f_one_b,interleaved,zero_bubble",
        "cp,zero=2..4,gpipe,zero_bubble,recompute=products,tp>2",
    ),
    "tables": ("rows", "tp", "zero=0,rows"),
    "images": ("sx", "sp,sx", "sequence", "sx>1,dp>2"),
}


def has(of: Strategy, word: str, layers: tuple[str, ...]) -> bool:
    """Whether a strategy has what a name stands for; read off its rules."""
    sizes = {a.name: a.size for a in of.mesh}
    if ">" in word:
        name, most = word.split(">")
        return (
            max((p.chunks for p in of.pipelines), default=1) > int(most)
            if name == "chunks"
            else (sizes.get(name, 1) > int(most))
        )
    kinds = {"products" if r.keep else "layers" if r.scope in layers else "part" for r in of.recomputes}
    kind = next((k for k in ("products", "part", "layers") if k in kinds), "")
    sharded = max((len(r.classes) for r in of.shards), default=0)
    data = {"dp", "ep", "cp", "sp", "sx"} & sizes.keys()
    tables = any(r.axis == "dp" and len(r.dims) > 1 for r in of.splits)
    heads = any(r.axis == "cp" and len(r.dims) > 1 for r in of.splits)
    found = {
        *sizes,
        *(p.schedule for p in of.pipelines),
        *({f"zero={sharded}"} if data else ()),
        *({"recompute", f"recompute={kind}"} if kind else ()),
        *({"ring"} if of.implementations else ()),
        *({"zigzag"} if of.zigzags else ()),
        *({"rows"} if tables else ()),
        *({"heads"} if heads else ()),
        *({"sequence"} if any(r.axis == "tp" and {"s", "y", "x"} & {*r.dims} for r in of.splits) else ()),
        *({f"outermost={of.mesh[0].name}"} if {"pp", "dp"} <= sizes.keys() else ()),
    }
    return word in found


@cache
def whole(model: str) -> tuple[PlanSpace, dict[PlanChoice, Strategy]]:
    space, _ = space_of(job_of(model, **SMALL[model]))
    return space, {of: strategy_of(space, of) for of in candidates(space)}


@pytest.mark.parametrize(("model", "names"), [(model, names) for model, of in LISTS.items() for names in of])
def test_what_is_left_is_all_the_rest(model: str, names: str) -> None:
    """Of the whole space those that have nothing of it, and the size is a closed form; whoever checks a certificate
    goes through the very same."""
    every, strategies = whole(model)
    without = left_out([names])
    job = job_of(model, **SMALL[model])
    space, bounds = space_of(job, without)
    wanted = {
        key_of(of)
        for of, strategy in strategies.items()
        if not any(has(strategy, word, every.split.paths) for word in without.names)
    }
    schedules = {"gpipe", "one_f_one_b", "interleaved", "zero_bubble"}
    if not schedules <= {*without.names}:
        assert (len(wanted) < len(strategies)) == (names != "sp,ep,rows" or model != "transformer")
    # where one of both orders is left out, the cluster need not tell them apart
    other = [of for of in candidates(space) if of.rules.first == "data"] if "outermost=pp" in without.names else []
    found = [*candidates(space)]
    assert len({*found}) == len(found) == sum(map(space.legal, space.meshes())) <= space.total
    assert {key_of(of) for of in found} - {key_of(of) for of in other} == wanted - {key_of(of) for of in other}
    nothing = Planned(job, space, bounds, Found((), (), Counts(), None, 0.0), STEP)
    stated, floors = _space(StatedPart(json.loads(json.dumps(certificate(nothing, 1)))), job)
    tally = SpaceTally()
    halves = HeldHalves(stated, floors, lambda *of: job)
    theirs = dict(Tallied(stated, floors, LayerTable(stated, []), {}, {}, halves, STEP, inf, ()).below(tally))
    assert {*theirs} == {key_of(of) for of in found}
    assert (tally.total, tally.legal) == (space.total, len(found))


def test_both_sides_know_the_same_names() -> None:
    assert {*WORDS} == NAMES


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("zero=2..4", ("zero=2", "zero=3")),
        ("zero>1", ("zero=2", "zero=3")),
        ("zero=3..", ("zero=3",)),
        ("tp>8, tp=5..", ("tp>4",)),
        ("tp>1", ("tp",)),
        ("dp>1", ("dp>1",)),
        (" zero_bubble ,cp,, pp > 4", ("cp", "zero_bubble", "pp>4")),
        ("pp>4,pp", ("pp",)),
        ("", ()),
    ],
)
def test_how_it_is_said(text: str, names: tuple[str, ...]) -> None:
    assert left_out([text]).names == names == left_out(text.split(",")).names


@pytest.mark.parametrize(
    ("text", "span", "help"),
    [
        ("cp,zerobubble", (3, 13), "`zero_bubble`?"),
        ("dp", (0, 2), "`dp>1`"),
        ("zero=0..4", (0, 9), "zero=1..4"),
        ("zero=4", (0, 6), "0 to 3"),
        ("zero=3..3", (0, 9), "0 to 3"),
        ("tp>0", (0, 4), "`tp`"),
        ("chunks>0", (0, 8), "`chunks>1`"),
        ("dp>0", (0, 4), "`dp>1`"),
        ("cp, outermost=dp,outermost=pp", (0, 29), "one of them"),
        ("tp>" + "9" * 30, (0, 33), "tp>8"),
        ("x" * 5000, (0, 5000), "gpipe"),
        ("schedule>1", (0, 10), "gpipe"),
    ],
)
def test_what_cannot_be_left_out_is_told(text: str, span: tuple[int, int], help: str) -> None:
    with pytest.raises(ParcError) as error:
        left_out([text])
    (found,) = error.value.diagnostics
    assert found.code == "E0803" and found.span is not None and help in (found.help or "")
    assert (found.span.start, found.span.end) == span and len(found.message) < 200


def test_a_search_begins_at_what_is_left() -> None:
    """What is most like a strategy that has what is left out."""
    job = job_of("transformer", **SMALL["transformer"])
    names = "zero=1..4,recompute=layers,one_f_one_b,outermost=pp"
    space, _ = space_of(job, left_out([names]))
    every = space.everything
    assert every.without == NOTHING_LEFT_OUT and every.everything is every
    left = {*candidates(space)}
    begun = {first for of in list(candidates(every))[::7] for first in firsts(space, strategy_of(every, of))}
    assert begun and begun <= left


SLOW = {"flops": 0.01, "bandwidth": 1, "inner": 0.1, "outer": 0.01, "outside": 1, "batch": 2}
WITHOUT = ("rows,zero=3", "cp,tp>8")


@pytest.fixture(scope="module")
def plan() -> FoundPlan:
    found = api.plan(Source("job.par", text_of("tables", **SLOW)), within=None, without=WITHOUT)
    assert isinstance(found, FoundPlan) and found.certificate["proved"]
    return found


def test_its_certificate_says_and_holds_it(plan: FoundPlan) -> None:
    """Each name of it that is gone or another, and each more, is noticed where it makes a difference."""
    source, stated = Source("job.par", plan.text), json.loads(json.dumps(plan.certificate))
    assert stated["space"]["left_out"] == ["cp", "zero=3", "rows", "tp>8"]
    told = certified(source, stated).space
    assert "without cp, rows, tp>8, zero=3" in told and "ZeRO 0, 1, 2;" in told

    def changed(left: Any) -> None:
        with pytest.raises(Unfounded) as error:
            certified(source, {**stated, "space": {**stated["space"], "left_out": left}})
        assert error.value.code.startswith("E11"), left

    for name in ("zero=3", "rows"):
        changed([n for n in stated["space"]["left_out"] if n != name])
    for more in ("tp", "zero=0", "zero=2", "tp>1", "dp>1", "nope", "dp", "tp>08", "tp>x", "zero=4", 3, "cp"):
        changed([*stated["space"]["left_out"], more])
    for no_list in ({}, None, "cp"):
        changed(no_list)


def test_what_was_left_out_cannot_be_tried(plan: FoundPlan) -> None:
    """A row of what is left out is refused, whatever it says of its price."""
    source, stated = Source("job.par", plan.text), json.loads(json.dumps(plan.certificate))
    row = next(n for n, of in enumerate(stated["tried"]) if of["zero"])
    for change in ({"zero": 3}, {"rows": ["u"]}):
        tried = [{**of, **change} if n == row else of for n, of in enumerate(stated["tried"])]
        with pytest.raises(Unfounded) as error:
            certified(source, {**stated, "tried": tried})
        assert error.value.code == "E1105"


def test_around_the_best_nothing_is_tried_of_it() -> None:
    """Cuts, and layers of which some are computed again."""
    text = text_of("transformer", inside=2, outside=1, layers=5, batch=4, memory=0.28, flops=0.001)
    only = "cp,tp,dp>1,gpipe,interleaved,zero_bubble"
    for name, other in (("cuts", "again"), ("recompute=some", "cuts")):
        found = api.plan(Source("job.par", text), within=None, without=[only, name])
        assert isinstance(found, FoundPlan)
        there = {key for of in found.certificate["around"] for key in ("cuts", "again") if of[key]}
        assert there == {other}
    first = {"cuts": [2], "again": [], "places": None}
    row = StatedPart(first, "around[0]")
    with pytest.raises(Unfounded, match="has what is left out: cuts"):
        stated_left(StatedPart(["cuts"], "left_out")).hold_around(row)


def test_cases_have_it_all() -> None:
    text = "param batch = 4\n" + text_of("layers", batch="batch", outer=100, flops=0.0005)  # type: ignore[arg-type]
    found = api.plan_cases(Source("job.par", text), devices=(2, 4), without=("tp",), within=None)
    source, stated = Source("job.par", found.found.text), json.loads(json.dumps(found.certificate))
    assert stated["asked"]["without"] == ["tp"]
    certified(source, stated)
    for left in ([], ["tp", "cp"], None):
        with pytest.raises(Unfounded):
            certified(source, {**stated, "asked": {**stated["asked"], "without": left}})


OPEN = """
strategy mine for net {
  mesh (dp = auto, tp = auto)
  split b on dp
  split f on tp
}
"""


def test_numbers_that_are_open_have_no_such_space() -> None:
    text = text_of("layers", batch=4).replace("train net on pod", "train net on pod using mine") + OPEN
    with pytest.raises(ParcError, match="E0803"):
        api.plan(Source("job.par", text), within=None, without=["tp"])
    assert api.plan(Source("job.par", text), within=None)


def test_nothing_that_is_left_is_told() -> None:
    with pytest.raises(FoundNothing, match="without tp, dp>1, none of the 0 strategies can be") as error:
        api.plan(Source("job.par", text_of("layers", batch=4)), within=None, without=["tp,dp>1"])
    assert "--without" in str(error.value.diagnostics[0].help)


def test_the_command_says_it(tmp_path: Path) -> None:
    (tmp_path / "job.par").write_text(text_of("layers", batch=4, outside=1))
    out, page = str(tmp_path / "p.par"), str(tmp_path / "p.html")
    args = ["plan", str(tmp_path / "job.par"), "-o", out, "--without", "tp,zero>1", "--report", page]
    found = CliRunner().invoke(cli, args)
    assert found.exit_code == 0 and "without tp, zero=2, zero=3: axes dp (data)\n" in found.output, found.output
    assert "tp, zero=2, zero=3" in (tmp_path / "p.html").read_text()
    told = CliRunner().invoke(cli, [*args, "--without", "nope"])
    assert told.exit_code == 1 and "error[E0803]: `nope` is nothing" in told.output and "^^^^" in told.output


def test_names_are_told() -> None:
    """In the page of the docs, each."""
    text = (Path(__file__).parents[2] / "docs" / "plan.md").read_text()
    assert not [name for name in (*WORDS, *SIZED) if f"`{name}`" not in text]
