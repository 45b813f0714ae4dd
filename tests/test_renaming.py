"""Names are for people: a file under other names gives the same program, plan, traffic, memory and price."""

from __future__ import annotations

from typing import Any

import pytest

from compiler.driver import Compiled, compile_job
from compiler.evaluate import evaluate_file
from compiler.memory.peak import memory_use
from compiler.text import parse_program, show
from compiler.traffic import collectives
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc import api
from tests.golden.cases import CASES, EXAMPLES, Case
from tests.property.costs import cluster_text
from tests.property.draw_strategy import draw
from tests.renaming import Names, difference, drawn_names, rename

SEEDS = range(3000, 3030)
NIGHTLY = range(3030, 4000)


def compiled(text: str, params: dict[str, str]) -> Compiled | tuple[str, ...]:
    """What becomes of a file, or the codes of its errors."""
    try:
        return compile_job(evaluate_file(Source("drawn.par", text, str(EXAMPLES / "drawn.par")), params).job)
    except ParcError as error:
        return tuple(d.code for d in error.diagnostics)


def figures(found: Compiled | tuple[str, ...]) -> Any:
    """All that must be the same but for names."""
    if isinstance(found, tuple):
        return found
    program = found.program
    assert verify(program) == ()
    assert parse_program(show(program)) == program
    memory = [
        [(kind, p.bytes, list(p.roles.items())) for kind, p in use.items()] for use in memory_use(program).values()
    ]
    result = [program, memory, collectives(program)]
    if found.job.cluster is not None:
        e = api.estimate(found)
        t = e.timeline
        result += [t.step_seconds, t.mfu, t.hfu, t.bubble, t.traffic, t.exposed_by_axis]
        result += [[(m.peak, m.reserved, m.needed, list(m.roles.items())) for m in e.memory]]
        result += [[(s.products, s.vectors, s.update, s.host, s.bubble, s.exposed, s.links, s.sends) for s in t.spent]]
        result += [[h.seconds for h in e.helps], [f.moment.roles for f in e.fullest]]
    return result


def same(text: str, names: dict[str, str], params: dict[str, str] | None = None) -> str | None:
    """Where the file under these names gives something else; None if nowhere."""
    params = params or {}
    before = figures(compiled(text, params))
    after = figures(compiled(rename(text, names), {names.get(k, k): v for k, v in params.items()}))
    return difference(before, after, Names())


@pytest.mark.parametrize("case", [c for c in CASES if c.name.startswith("example")], ids=lambda c: c.name)
def test_examples(case: Case) -> None:
    text = case.file.read_text(encoding="utf-8")
    names = drawn_names(text, len(text))
    assert same(text, names, case.params) is None, names


@pytest.mark.parametrize("seed", SEEDS)
def test_drawn_models(seed: int) -> None:
    text = cluster_text(draw(seed))
    names = drawn_names(text, seed)
    assert same(text, names) is None, names
