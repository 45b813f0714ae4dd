"""`docs/compositions.md`: what becomes of each cell of the matrix, as a page; and what such a page says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from tests.matrix.cells import SMALL, TACTICS, TRIPLES, Cell, applicable, chosen, senseless
from tests.matrix.cells import cells as cells_of
from tests.matrix.judge import PROVED, SEED, STEPS, Outcome

Outcomes = Mapping[str, Outcome]
"""Of each cell, by its name."""

COMMAND = "python -m tests.matrix"
SIZES = {1: "single tactics", 2: "pairs", 3: "triples"}
YES, APART = "·", ""

HEAD = f"""\
# Compositions

Every example under every tactic and under every pair of tactics, and under some triples: compiled, verified, and proved
equal to the serial program in loss, gradients, weights and optimizer state over {STEPS} steps in f64, or refused by an
error. `{COMMAND}` writes this page. The tactics stand at its end, and in `tests/matrix/cells.py`.
"""

KEY = f"""\
`{YES}` proved; a code: refused by it; empty: the two do not compose, for both say how micro-batches run, or name one
axis. On the diagonal stands each tactic by itself.
"""


def render(outcomes: Outcomes, made: str) -> str:
    """The page. made: with what it was made; outcomes: of all `chosen` cells."""
    cells = chosen()
    of = f"{len(cells_of(3)):,}"
    parts = [
        HEAD,
        f"Made with {made}; data of seed {SEED}; triples: one in {TRIPLES} of {of}.\n",
        _summary(cells, outcomes),
        "## By example\n",
        KEY,
    ]
    for example in SMALL:
        parts.append(_of_example(example, [c for c in cells if c.example == example], outcomes))
    parts += ["## Refused\n", _refused(cells, outcomes), "## The tactics\n", _tactics()]
    return "\n".join(parts)


def _summary(cells: Sequence[Cell], outcomes: Outcomes) -> str:
    lines = ["| | cells | without sense | sensible | proved | refused | proved of the sensible |", "|---|" + "--:|" * 6]
    for size, title in [*SIZES.items(), (0, "all")]:
        mine = [c for c in cells if size in (0, len(c.tactics))]
        sensible = [c for c in mine if not senseless(c)]
        proved = sum(outcomes[str(c)].what == PROVED for c in sensible)
        share = f"{100 * proved / len(sensible):.1f} %"
        counts = len(mine), len(mine) - len(sensible), len(sensible), proved, len(sensible) - proved
        lines.append(f"| {title} | {' | '.join(f'{n:,}' for n in counts)} | {share} |")
    return "\n".join(lines) + "\n"


def _of_example(example: str, cells: Sequence[Cell], outcomes: Outcomes) -> str:
    tactics = applicable(example)
    numbers = [TACTICS.index(t) + 1 for t in tactics]
    lines = [f"### {example}\n", f"| | | {' | '.join(map(str, numbers))} |", "|--:|---|" + ":-:|" * len(numbers)]
    for number, row in zip(numbers, tactics):
        found = []
        for column in tactics[: tactics.index(row) + 1]:
            name = str(Cell(example, (row,) if row is column else (column, row)))
            found.append(_mark(outcomes[name]) if name in outcomes else APART)
        found += [APART] * (len(tactics) - len(found))
        lines.append(f"| {number} | {row.name} | {' | '.join(found)} |")
    triples = [c for c in cells if len(c.tactics) == 3]
    proved = sum(outcomes[str(c)].what == PROVED for c in triples)
    return "\n".join([*lines, "", f"Triples: {proved} of {len(triples)} proved.\n"])


def _mark(outcome: Outcome) -> str:
    return YES if outcome.what == PROVED else outcome.what


def _refused(cells: Iterable[Cell], outcomes: Outcomes) -> str:
    """By code and reason, the most frequent first."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for c in cells:
        if outcomes[str(c)].what != PROVED:
            groups.setdefault((outcomes[str(c)].what, outcomes[str(c)].why), []).append(c)
    lines = ["| code | reason | makes sense | cells |", "|---|---|---|---|"]
    for (code, why), mine in sorted(groups.items(), key=lambda g: (-len(g[1]), g[0])):
        sense = "no: " + senseless(mine[0]) if senseless(mine[0]) else "yes"
        lines.append(f"| {code} | {why.replace('|', '/')} | {sense} | {', '.join(f'`{c}`' for c in mine)} |")
    if len(lines) == 2:
        return "None.\n"
    return "\n".join(lines) + "\n"


def _tactics() -> str:
    lines = ["| | tactic | mesh | rules |", "|--:|---|---|---|"]
    for number, t in enumerate(TACTICS, 1):
        axes = ", ".join(f"{a} = {n}" for a, n in t.axes)
        lines.append(f"| {number} | {t.name} | {axes} | {'; '.join(f'`{r}`' for r in t.rules)} |")
    return "\n".join(lines) + "\n"


def read(page: str) -> dict[str, Outcome]:
    """What a page says of each cell: of singles and pairs by its tables, of triples by their lists."""
    refused = dict[str, Outcome]()
    for code, why, cells in re.findall(
        r"^\| (E\d{4}[^|]*|[a-z][^|]*) \| ([^|]*) \| (?:yes|no: [^|]*) \| (.*) \|$", page, re.M
    ):
        refused.update((name, Outcome(code, why)) for name in re.findall(r"`([^`]+)`", cells))
    found: dict[str, Outcome] = {}
    for example, table, proved, of in re.findall(
        r"^### (\w+)\n\n(.*?)\n\nTriples: (\d+) of (\d+) proved", page, re.M | re.S
    ):
        heads, _, *rows = ([x.strip() for x in line.strip("|").split("|")] for line in table.split("\n"))
        names = {number: name for number, name, *_ in rows}
        for number, name, *marks in rows:
            for column, mark in zip(heads[2:], marks):
                cell = f"{example}-{name}" if column == number else f"{example}-{names[column]}+{name}"
                if mark == YES:
                    found[cell] = Outcome(PROVED)
                elif mark != APART:
                    found[cell] = refused.get(cell, Outcome(mark))
        triples = [str(c) for c in chosen() if c.example == example and len(c.tactics) == 3]
        assert len(triples) == int(of) and sum(t not in refused for t in triples) == int(proved), example
        found.update((t, refused.get(t, Outcome(PROVED))) for t in triples)
    return found


def counts(outcomes: Outcomes) -> str:
    """How many became what."""
    return ", ".join(f"{n} {what}" for what, n in Counter(o.what for o in outcomes.values()).most_common())
