"""Caches in pages where rows are copied and go back: beams share the pages of their common beginning, and guesses that
are not taken give theirs back. Texts are those of caches without pages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import parc
from compiler.driver import compile_job
from compiler.evaluate import evaluate
from compiler.incremental.paged import Paging
from compiler.memory.peak import memory_use
from compiler.model import DECODE, MOVE
from compiler.origin import Role
from compiler.text import parse_program, show
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc.generating import Generation
from parc.row_programs import movable
from runtime.generate.pages import PageTable
from runtime.rank.executor import RankExecutor
from tests.incremental.test_speculative import MODEL, PROMPTS

MIXED = MODEL.replace(
    "    x = x + mlp(", "    x = x + grouped_attention(layer_norm(x), 4, 2, window = 3, std = 0.5)\n    x = x + mlp("
)
"""With a window beside, of which each row keeps the last positions."""

SPLIT = MODEL.replace("tp = tp)", "tp = tp, cp = 2)\n  split t on cp")
WIDE = MODEL.replace("d = 16", "d = 32")


def source(pages: int = 0, slots: int = 3, model: str = MODEL, rules: str = "", every: str = "net") -> Source:
    """pages: 0: caches without."""
    paged = f"  store caches as paged(slots = {slots}, pages = {pages})\n" if pages else ""
    found = model.replace("strategy plan for net {\n", f"strategy plan for net {{\n{paged}{rules}")
    small = f"strategy plain for net {{\n  mesh (dp = 1)\n{paged}}}\n\njob small {{\n  infer net(1) using plain"
    return Source("net.par", found.replace("job small {\n  infer net(1)", small))


def made(of: Source, count: int, steps: int = 9, **given: Any) -> Generation:
    return parc.generate(of, PROMPTS[:count], steps, job="write", double=True, **given)


def told(of: Generation) -> list[tuple[tuple[int, ...], str, float | None]]:
    return [(t.tokens, t.ended, None if t.score is None else round(t.score, 9)) for t in of.texts]


# --- beams --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "beams", "count", "slots", "model", "rules"),
    [
        ({}, 4, 1, 3, MODEL, ""),
        ({"tp": 2}, 2, 2, 1, WIDE, "  store caches as int8\n"),  # a page is a position: nothing is ever copied
        ({"dp": 2}, 2, 2, 5, MIXED, ""),  # a pool for each prompt, windows beside
        ({}, 2, 2, 4, SPLIT, ""),  # positions in parts
        ({"pp": 2}, 2, 2, 4, MIXED, ""),  # and of each micro-batch, where rows without pages would go by the host
    ],
)
def test_beams_find_the_same(
    params: dict[str, int], beams: int, count: int, slots: int, model: str, rules: str
) -> None:
    plain = made(source(0, model=model, rules=rules), count, beams=beams, params=params)
    found = made(source(64, slots, model, rules), count, beams=beams, params=params)
    assert told(found) == told(plain) and plain.pages is None
    assert found.pages is not None and found.pages.most < found.pages.whole == beams * count * -(-16 // slots)


def test_beams_have_the_memory_of_their_pages() -> None:
    """Four beams in the memory of less than two whole rows, since they share their beginning; with less, the search
    ends where there is no page, with what was found so far."""
    plain = made(source(), 1, 9, beams=4)
    few = made(source(9, 2), 1, 9, beams=4)
    assert few.pages is not None and few.pages.most <= 9 < few.pages.whole // 3
    assert few.texts[0].ended == "pages" and 1 <= len(few.texts[0].tokens) < 9
    for pages in (13, 14, 15):
        found = made(source(pages, 2), 1, 9, beams=4)
        if found.texts[0].ended == "length":
            break
    assert told(found) == told(plain)
    held = {}
    for name, of in {"pages": source(15, 2), "rows": source()}.items():
        (kinds,) = memory_use(compile_job(evaluate(of, job="write"), DECODE).program).values()
        held[name] = kinds["hbm"].roles[Role.STATE]
    assert held["pages"] < held["rows"] / 2


@pytest.mark.parametrize(
    ("params", "beams", "count", "model", "pools"),
    [({"dp": 2}, 4, 1, MODEL, 2), ({"dp": 4}, 2, 2, MIXED, 4), ({"pp": 2, "dp": 2}, 4, 1, MODEL, 4)],
)
def test_beams_of_a_prompt_lie_in_several_pools(
    params: dict[str, int], beams: int, count: int, model: str, pools: int
) -> None:
    """On other devices, or in other micro-batches: with the same texts; where a pool has no pages for one that is to go
    on there, the search ends."""
    plain = made(source(0, model=model), count, beams=beams, params=params)
    found = made(source(64, 3, model), count, beams=beams, params=params)
    assert told(found) == told(plain) and all(t.ended != "pages" for t in found.texts)
    few = made(source(6 * pools, 3, model), count, beams=beams, params=params)
    assert few.pages is not None and few.pages.most <= few.pages.of
    assert told(few) == told(plain) if pools == 4 else few.texts[0].ended == "pages" and few.texts[0].tokens


def test_prompts_beyond_the_pool_are_told() -> None:
    with pytest.raises(ParcError, match="E0788.*the prompts take 8 pages of 2 positions, the pool has 6"):
        made(source(6, 2, MODEL.replace("s = 16", "s = 12")), 2, beams=2)


@pytest.mark.parametrize(
    ("model", "rules"), [(MODEL, {}), (MIXED, {"tp": "2", "dp": "2"}), (MIXED, {"pp": "2"}), (MODEL, {"dp": "2"})]
)
def test_a_page_is_copied_and_nothing_else(model: str, rules: dict[str, str]) -> None:
    """And, of what lies in rows, a row, each within its part of the batch; on devices by themselves."""
    rows = movable(compile_job(evaluate(source(32, 3, model), rules, "write")))
    assert verify(rows.program) == () and parse_program(show(rows.program)) == rows.program
    assert len(rows.data[MOVE]) == (4 if model is MIXED else 2) and rows.paging is not None
    parts, beside = rows.paging.pieces, 4 // rows.paging.pieces
    of, _ = rows.reader(None, RankExecutor, 256)
    before = {n: np.random.default_rng(i).random(x.shape, x.dtype) for i, (n, x) in enumerate(of.run.states().items())}
    of.run.put(before)
    given = {name: np.full(parts, -1, np.int32) for name in rows.data[MOVE]}
    for name, number in zip(rows.data[MOVE][::-1], (2, 5, beside - 1, 0)):
        given[name][parts - 1] = number  # to page 2, from page 5; to the last row of the part, from the first one
    of.run.call(MOVE, given)
    copied = set()
    for name, x in of.run.states().items():
        dims, expected = rows.kept[name].names, before[name].copy()
        at = dims.index("b")
        front = np.moveaxis(expected, at, 0)
        if "rows" in dims:
            pool = np.moveaxis(front[-1], dims.index("rows") - 1, 0)
            pool[6:9] = pool[15:18]
            copied.add("page")
        else:
            front[-1] = front[-beside]
            copied.add("row")
        assert (x == expected).all() and ((x != before[name]).any() or beside == 1)
    assert copied == ({"page", "row"} if model is MIXED else {"page"})


def test_pages_of_several() -> None:
    """Rows fork, write, go back and end at random: what each has written is what it reads, no page that several have is
    written, and all are free in the end."""
    table = PageTable("pages", Paging("b", 4, 20, 3, 2, 9))
    rng = np.random.default_rng(0)
    memory = np.full((2, 27), -1)
    texts: list[list[int]] = [[] for _ in range(4)]
    lines = [(row // 2, lambda at, row=row: int(table.table[row, at // 3]) * 3 + at % 3) for row in range(4)]
    seen = dict.fromkeys(("full", "copied", "forked", "back"), 0)
    for _ in range(1500):
        row, kind = int(rng.integers(4)), rng.random()
        piece, line = lines[row]
        if kind < 0.1:
            table.release(row)
            texts[row] = []
        elif kind < 0.25 and texts[row]:
            other = row ^ 1
            table.release(other)
            table.fork(row, other)
            texts[other] = [*texts[row]]
            seen["forked"] += 1
        elif kind < 0.45:
            keep = int(rng.integers(len(texts[row]) + 1))
            table.back(row, keep)
            seen["back"] += len(texts[row]) > keep
            texts[row] = texts[row][:keep]
        elif (length := int(rng.integers(1, 9))) + len(texts[row]) <= 20:
            before = table.counts
            copies = table.own(row, len(texts[row]), len(texts[row]) + length)
            if copies is None:
                assert table.counts == before
                seen["full"] += 1
                continue
            for a, b in copies:
                memory[piece, b * 3 : b * 3 + 3] = memory[piece, a * 3 : a * 3 + 3]
            seen["copied"] += len(copies)
            for token in rng.integers(1000, size=length):
                memory[piece, line(len(texts[row]))] = token
                texts[row].append(int(token))
        for (of, at), text in zip(lines, texts, strict=True):
            assert [memory[of, at(i)] for i in range(len(text))] == text
        used = sum(len({int(p) for p in table.table[i : i + 2].flat if p >= 0}) for i in (0, 2))
        assert table.counts == (used, 0, 18 - used) and table.most >= used
    assert min(seen.values()) > 20, seen
    for row in range(4):
        table.release(row)
    assert table.counts == (0, 0, 18)


# --- guesses ------------------------------------------------------------------------------------------------


def guessed(target: Source, draft: Source | None, steps: int = 7, **given: Any) -> Generation:
    guesses = None if draft is None else parc.api.DraftModel(draft, 2, options={"job": "small", "double": True})
    return made(target, 3, steps, draft=guesses, **given)


@pytest.mark.parametrize(
    ("target", "draft", "params"),
    [(64, 0, {}), (0, 24, {"tp": 2}), (24, 24, {"dp": 2}), (64, 24, {"pp": 2})],
)
def test_guesses_change_nothing(target: int, draft: int, params: dict[str, int]) -> None:
    """Of either model or both; of tokens that are drawn, too."""
    sampled = {"temperature": 0.9, "top_k": 40, "seed": 5, "params": params}
    for more, steps in ((sampled, 7), ({"params": params}, 30)):
        plain = guessed(source(), source(), steps, **more)
        found = guessed(source(target), source(draft), steps, **more)
        assert told(found) == told(plain) and found.guesses == plain.guesses
        assert (found.pages is not None) == (target > 0)


def test_rejected_guesses_give_their_pages_back() -> None:
    """Where there is a page for each position that is told, texts are the same, whatever there is for guesses; with
    less, some end before."""
    plain = guessed(source(), None, 5)
    need = sum(len(p) + 4 for p in PROMPTS)
    for pages in (need - 3, need):
        found = guessed(source(pages, 1), source(), 5)
        ended = [t.ended for t in found.texts]
        assert all(a.tokens == b.tokens[: len(a.tokens)] for a, b in zip(found.texts, plain.texts))
        assert ended == ["length"] * 3 if pages == need else "pages" in ended
        assert found.pages is not None and found.guesses is not None and found.pages.most <= pages
    tight = guessed(source(), source(18, 1), 5)
    assert told(tight) == told(plain) and tight.guesses is not None
    free = guessed(source(), source(64, 1), 5)
    assert free.guesses is not None and tight.guesses.made < free.guesses.made
    with pytest.raises(ParcError, match="E0788.*the prompts take 4 pages of 8 positions, the pool of the draft has 2"):
        guessed(source(), source(2, 8), 5)
