"""Each pass, by texts of what goes in and what comes out: fixtures/PASS/CASE.txt, with a line `---` between them.

`pytest tests/passes/test_fixtures.py --update-fixtures` writes what comes out anew: look at the changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from compiler.driver import run_passes
from compiler.graph import Graph, Names
from compiler.model import Init, Job, Model, Training, Weight
from compiler.passes.across import across
from compiler.passes.behind_scans import behind_scans
from compiler.passes.differentiate import (
    Derivative,
    Differentiated,
    add_in_own_type,
    close,
    merge,
    transposed,
    without_dead_code,
)
from compiler.passes.early_writes import early_writes, late_values
from compiler.passes.fuse import fuse
from compiler.passes.lower import lower
from compiler.passes.mark_regions import mark_regions
from compiler.passes.offload import Resting, offload
from compiler.passes.pipeline import NAMES, PASSES, Work
from compiler.passes.place.place import Placed
from compiler.passes.prune import prune
from compiler.passes.recompute import Recompute
from compiler.passes.simplify import anything, merge_equal, simplify
from compiler.passes.split import split
from compiler.passes.stage import ALL, stage
from compiler.passes.sum_in_own_type import sum_in_own_type
from compiler.program import on_updates
from compiler.strategy import OffloadRule, RecomputeRule
from compiler.text import parse_program, show
from compiler.text.stage_parser import parse_graph, parse_stage
from compiler.text.stages import show_graph
from compiler.walk import graph_values
from parc.cli.writing import write_file

FIXTURES = Path(__file__).parent / "fixtures"
CASES = sorted(FIXTURES.glob("*/*.txt"))


def graph(change: Callable[[Graph], Graph]) -> Callable[[str, str], str]:
    return lambda text, note: show_graph(change(parse_graph(text)))


def derivative(of: Graph) -> Derivative:
    """Of a graph whose first output is the loss; weights are the inputs whose names begin with `w`."""
    weights = tuple(Weight(v, Init("zeros")) for v in of.inputs if v.name.startswith("w"))
    return transposed(Model(of.name, (), weights, of), simplify(of))


def _divide(text: str, note: str) -> str:
    first, second, rest = text.split("\n", 2)
    job = parse_stage(rest)
    assert isinstance(job, Job)
    names = [dict.fromkeys(line.split()[1:]) for line in (first, second)]
    work = Work(job=job, whole=names[0], parts=names[1])
    PASSES[0].run(work)
    return shown(PASSES[0].made(work))


def _merged(g: Graph) -> Graph:
    nodes, env = merge_equal(g.nodes, anything)
    return replace(g, nodes=tuple(nodes), outputs=tuple(env.get(v, v) for v in g.outputs))


def _closed(text: str, note: str) -> str:
    done, _ = _both(text, note)
    return shown((done.forward, done.backward))


def _behind_scans(text: str, note: str) -> str:
    done, names = _both(text, note)
    weights = [v.name for v in done.forward.inputs if v.name.startswith("w")]
    return shown((behind_scans(done, weights, names).backward,))


def _both(text: str, note: str) -> tuple[Differentiated, Names]:
    """The two graphs of one; the note's last line may be a rule."""
    g = parse_graph(text)
    rules = [RecomputeRule()] if "recompute" in note.split("\n")[1:] else []
    found = without_dead_code(add_in_own_type(merge(derivative(g))))
    names = Names(v.name for v in graph_values(g))
    return close(found, Recompute(g, rules), names), names


def _update(text: str, note: str) -> str:
    job = parse_stage(text)
    assert isinstance(job, Job)
    return show_graph(run_passes(job, "update").training.update, "update")


def _sparse(text: str, note: str) -> str:
    job = parse_stage(text)
    assert isinstance(job, Job)
    training = run_passes(job, "sparse").training
    return shown((training.backward, training.update))


def _place(text: str, note: str) -> str:
    training = parse_stage(text)
    assert isinstance(training, Training)
    placed = run_passes(training, "place").placed
    return shown(placed.graphs, placed.sizes)


def read_placed(text: str) -> Placed:
    placed = parse_stage(text)
    assert isinstance(placed, Placed)
    return placed


def _stage(text: str, note: str) -> str:
    found = stage(read_placed(text))
    words = {None: "anywhere", ALL: "on all"}
    rows = [
        f"{title} {v} {words.get(s, s)}" for title in ("forward", "backward") for v, s in getattr(found, title).items()
    ]
    return (
        "\n".join([f"{found.stages} stages, cut into {found.cuts[0].counts if found.cuts else 'none'}", *rows]) + "\n"
    )


def _split(text: str, note: str) -> str:
    placed = read_placed(text)
    done = split(placed, stage(placed)).placed
    assert done.late is not None
    return shown((done.backward, done.late), placed.sizes)


def _across(text: str, note: str) -> str:
    placed = read_placed(text)
    done, over = across(*split(placed, stage(placed)))
    told = [f"{name} {what}" for facts in (over.pieces, over.closing) for name, what in facts.items()]
    return shown((done.update,), placed.sizes) + "\n".join(told) + "\n"


def _lower(text: str, note: str) -> str:
    placed = read_placed(text)
    done, staged = split(placed, stage(placed))
    done, over = across(done, staged)
    return show(lower(done, staged, over))


def _late_values(text: str, note: str) -> str:
    return show(on_updates(parse_program(text), lambda _, b: replace(b, nodes=tuple(late_values(b.nodes)))))


def _early_writes(text: str, note: str) -> str:
    program = parse_program(text)
    weights = {s.logical for c in program.classes for s in c.states if s.role == "weight"}
    together = {
        s.name: next(w for w in sorted(weights, key=len, reverse=True) if s.logical.startswith(w))
        for c in program.classes
        for s in c.states
        if s.role in ("weight", "optimizer")
    }
    return show(on_updates(program, lambda _, b: replace(b, nodes=tuple(early_writes(b.nodes, together)))))


def _offload(text: str, note: str) -> str:
    """The note's second line has the rule: classes, memory, distance."""
    program = parse_program(text)
    *classes, memory, ahead = note.split("\n")[1].split()
    states = {s.logical: s for c in program.classes for s in c.states}
    owner = {n: n.rpartition(".")[0] for n, s in states.items() if s.role == "optimizer"}
    loops = {w: frozenset(d.name for d in states[w].type.dims[:1] if d.name == "block") for w in owner.values()}
    saved = {n: n for n, s in states.items() if s.role == "saved"}
    of = Resting({"optimizer": owner, "weights": {w: w for w in loops}, "activations": saved}, owner, loops)
    return show(offload(program, [OffloadRule(tuple(classes), memory, None, int(ahead))], [], of))


def _fuse(text: str, note: str) -> str:
    return show(fuse(parse_program(text)))


def _mark_regions(text: str, note: str) -> str:
    return show(mark_regions(parse_program(text)))


RUN: dict[str, Callable[[str, str], str]] = {
    "divide": _divide,
    "simplify": graph(simplify),
    "transpose": lambda text, note: show_graph(derivative(parse_graph(text)).graph),
    "merge_equal": graph(_merged),
    "sum_in_own_type": graph(lambda g: replace(g, nodes=tuple(sum_in_own_type(g.nodes, g.outputs, {})))),
    "prune": graph(prune),
    "close": _closed,
    "behind_scans": _behind_scans,
    "update": _update,
    "sparse": _sparse,
    "place": _place,
    "stage": _stage,
    "split": _split,
    "across": _across,
    "lower": _lower,
    "late_values": _late_values,
    "early_writes": _early_writes,
    "mark_regions": _mark_regions,
    "offload": _offload,
    "fuse": _fuse,
}


def shown(graphs: object, sizes: dict[str, int] | None = None) -> str:
    assert isinstance(graphs, tuple)
    return "\n".join(show_graph(g, "graph", sizes or {}) for g in graphs)


def parts(file: Path) -> tuple[str, str, str]:
    """The note, what goes in, what comes out."""
    text = file.read_text(encoding="utf-8")
    before, _, after = text.partition("---\n")
    lines = before.splitlines(keepends=True)
    notes = [line for line in lines if line.startswith("# ")]
    return "".join(n[2:] for n in notes), "".join(lines[len(notes) :]), after


@pytest.mark.parametrize("file", CASES, ids=lambda f: f"{f.parent.name}-{f.stem}")
def test_pass(file: Path, request: pytest.FixtureRequest) -> None:
    note, before, after = parts(file)
    got = RUN[file.parent.name](before, note)
    if request.config.getoption("--update-fixtures"):
        head = file.read_text(encoding="utf-8").partition("---\n")[0]
        write_file(str(file), f"{head}---\n{got}")
        return
    assert got == after
    assert after.strip() != before.strip() and not before.strip().endswith(after.strip())


def test_every_pass_has_three() -> None:
    assert tuple(RUN) == NAMES
    for name in NAMES:
        assert len([f for f in CASES if f.parent.name == name]) >= 3, name
