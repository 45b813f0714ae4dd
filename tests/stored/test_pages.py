"""What a job that decodes keeps of positions, in pages that sequences share: the same by whole sequences and by single
positions, under every strategy, wherever the pages lie; and what the pools take."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from compiler.driver import Compiled, compile_job, decoding_program
from compiler.evaluate import evaluate
from compiler.memory.peak import memory_use
from compiler.model import DECODING
from compiler.ops.comm import Comm, Shard
from compiler.origin import Role
from compiler.program import Program
from compiler.text import parse_program, show
from compiler.verify import verify
from compiler.walk import walk
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc import api
from parc.api.compiling import compile
from parc.generating import generated, program_of
from runtime.generate.loop import CONTEXT, LENGTH, POOL
from runtime.generate.pages import PageTable
from runtime.generate.sampling import Sampling
from runtime.prove import prove_evaluation
from runtime.prove.decoding import Course, prove_decoding
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.memory.measured import exact
from tests.serving.sample import TEXT, written
from tests.stored.test_caches import GROUPED, LATENT, NET, TP

PAGES = "  store caches as paged(slots = {}, pages = {})\n"
DP = "  mesh (dp = 2)\n  split b on dp\n"
PP = "  mesh (pp = 2)\n  pipeline block on pp, schedule gpipe(microbatches = 2, over = b)\n"
ALL = (
    "  mesh (pp = 2, dp = 2, tp = 2)\n  split b on dp\n  tensor_parallel(tp)\n"
    "  pipeline block on pp, schedule gpipe(microbatches = 2, over = b)\n"
)
CP = "  mesh (cp = 2)\n  split t on cp\n"
INT8 = "  store caches as int8\n"
WINDOW = "grouped_attention(rms_norm(x), 4, 2, window = 5)"
MIXED = f"{GROUPED} as attention\n    x = x + {WINDOW} as near\n    y, e = moe(rms_norm(x), 4, 16, 2)\n    x = x + y"


SUM = "sum(x * x, over b)"
NEAR = """z[b,s,t] = tanh(x @ rename(x, s -> t))
    weight near[t] ~ normal(0.5)
    x[b,s,d] = x + 0.1 * (where(iota(t) <= iota(s), z * near, 0.0) @ rename(x, s -> t))"""
WHOLE = (MIXED, SUM, NEAR)
"""Layers that are written out."""


@cache
def lowered(layer: str, rules: str, batch: int = 4) -> Compiled:
    text = NET.replace("swiglu)\n", "swiglu, moe)\n", 1).replace("net(2, 12)", f"net({batch}, 12)")
    if layer == NEAR:
        text = text.replace("x = x + LAYER", "LAYER").replace("  repeat", "  dim t = s\n  repeat", 1)
    text = text.replace("LAYER as attention", layer if layer in WHOLE else f"{layer} as attention")
    return compile_job(evaluate(Source("net.par", text.replace("RULES", rules))))


def program(layer: str, rules: str) -> Program:
    return decoding_program(lowered(layer, rules).job)


@pytest.mark.parametrize(
    ("layer", "rules", "slots", "pages"),
    [
        (GROUPED, "  mesh (tp = 1)\n", 4, 12),  # room for all
        (MIXED, TP, 5, 4),  # for one sequence at a time, and a place of the last page is of none
        (LATENT, DP + INT8, 3, 16),
        (GROUPED, PP + INT8, 12, 2),  # one page is one sequence
        (GROUPED, ALL, 1, 48),  # one position
        (MIXED, CP + INT8, 4, 8),  # positions in parts: each has two of each page
    ],
)
def test_position_by_position_is_the_whole(layer: str, rules: str, slots: int, pages: int) -> None:
    whole = lowered(layer, rules + PAGES.format(slots, pages))
    assert whole.job.decoding is not None
    made = program(layer, rules + PAGES.format(slots, pages))
    assert verify(made) == () and parse_program(show(made)) == made
    for split in (Course(1, 9), Course(3, 3)):
        (row,) = prove_decoding(whole.training, made, whole.job.decoding, split, executor=Emulator)
        assert row.ok and row.error < 1e-9 and row.elements == 4 * 12 * 12, row


def test_each_device_by_itself() -> None:
    """Its memory is what was counted, and the pools are renewed where they lie: there is no second copy of any."""
    rules = DP + PAGES.format(4, 512)
    whole = lowered(GROUPED, rules)
    assert whole.job.decoding is not None
    made = program(GROUPED, rules)
    (row,) = prove_decoding(whole.training, made, whole.job.decoding, Course(2, 4), executor=RankExecutor)
    assert row.ok and row.error < 1e-9
    for entry in DECODING:
        one = compile_job(whole.job, entry)
        assert prove_evaluation(one.training, one.program, 1, executor=RankExecutor).ok
        assert exact(one.program)
        pool = 256 * 4 * 2 * 8 * 8  # keys of a layer: places, heads, numbers in f64
        for kinds in memory_use(one.program).values():
            used = kinds["hbm"]
            assert abs(used.roles[Role.STATE] - 4 * pool) <= 8  # the position, too
            assert used.bytes - used.roles[Role.STATE] < pool


def test_pools_have_layouts() -> None:
    """A pool for each part of the batch, of as many pages; windows keep a row for each sequence."""
    rules = {"serial": "  mesh (tp = 1)\n", "tensor": TP, "data": DP, "pipeline": PP, "all": ALL}
    cut = {name: show(program(GROUPED, of + PAGES.format(3, 24))) for name, of in rules.items()}
    line = "state block.attention.key.cache: f64[{}] = zeros"
    assert line.format("block=2, b=1, rows=72, h=2, k=8") in cut["serial"]
    assert line.format("block=2, b=1, rows=72, h=1/tp, k=8") in cut["tensor"]
    assert line.format("block=2, b=1/dp, rows=36, h=2, k=8") in cut["data"]
    assert line.format("block=1, b=1/mb, rows=36, h=2, k=8") in cut["pipeline"]
    assert line.format("block=1, b=1/mb/dp, rows=18, h=1/tp, k=8") in cut["all"]
    mixed = show(program(MIXED, TP + PAGES.format(3, 24)))
    assert "state block.near.key.cache: f64[block=2, b=4, t=5, h=1/tp, k=8]" in mixed


def test_positions_in_parts() -> None:
    """Each part has an equal part of every page, and so of any sequence; no message is sent for that."""
    sent, held = [], []
    for rules in (CP, CP + PAGES.format(4, 12), CP + PAGES.format(4, 6)):
        made = program(GROUPED, rules)
        bodies = [f.body for e in made.entries for cls in e.classes for f in cls.functions]
        nodes = [node for body in bodies for node, _ in walk(body)]
        sent.append(
            [
                (n.op.mnemonic, str(n.inputs[0].type))
                for n in nodes
                if isinstance(n.op, Comm) and not isinstance(n.op, Shard)
            ]
        )
        (kinds,) = memory_use(compile_job(lowered(GROUPED, rules).job, "decode").program).values()
        held.append(kinds["hbm"].roles[Role.STATE] - 4)
    assert sent[0] == sent[1] == sent[2] and sent[0]
    assert held[0] == held[1] == 2 * held[2]
    line = "state block.attention.key.cache: f64[block=2, b=1, t=1/cp, rows=12, h=2, k=8] = zeros"
    assert line in show(program(GROUPED, CP + PAGES.format(4, 6)))


def test_memory_is_the_pools() -> None:
    """Of half as many pages half as much, whatever the batch."""
    found = {}
    for pages in (12, 24):
        for batch in (4, 8):
            job = lowered(GROUPED, "  mesh (tp = 1)\n" + PAGES.format(4, pages), batch).job
            (kinds,) = memory_use(compile_job(job, "decode").program).values()
            found[pages, batch] = kinds["hbm"].roles[Role.STATE] - 4
    assert found[12, 4] == found[12, 8] == 12 * 4 * 2 * 2 * 2 * 8 * 8
    assert found[24, 4] == found[24, 8] == 2 * found[12, 4]


@pytest.mark.parametrize(
    ("layer", "rules", "code", "told"),
    [
        (GROUPED, "  mesh (tp = 1)\n  store caches as paged(pages = 4)\n", "E0470", "how many positions"),
        (GROUPED, "  mesh (tp = 1)\n  store caches as paged(16)\n", "E0470", "takes its numbers by name"),
        (GROUPED, "  mesh (tp = 1)\n  store caches as paged(slots = 4, size = 4)\n", "E0470", "has no `size`"),
        (GROUPED, "  mesh (tp = 1)\n  store caches as paged(slots = 65537)\n", "E0470", "1 to 65536"),
        (GROUPED, "  mesh (tp = 1)\n  store caches as paged(slots = 4) in block\n", "E0470", "whole model"),
        (GROUPED, "  mesh (tp = 1)\n" + PAGES.format(4, 12) * 2, "E0542", "of one kind"),
        (GROUPED, "  mesh (tp = 1)\n" + PAGES.format(4, 2), "E0542", "does not hold one whole sequence"),
        (GROUPED, DP + PAGES.format(4, 2**30), "E0542", "more rows than `int32` counts"),
        (GROUPED, "  mesh (tp = 1)\n  store caches as paged(slots = 4, slots = 8)\n", "E0111", "twice"),
        (GROUPED, DP + PAGES.format(4, 7), "E0542", "7 pages cannot be shared out to 2 pools"),
        (WINDOW, "  mesh (tp = 1)\n" + PAGES.format(4, 12), "E0542", "nothing of `net` is kept of all positions"),
        (GROUPED, CP + PAGES.format(3, 12), "E0542", "pages of 3 positions are not cut into 2 parts, of 12"),
        (GROUPED, CP + PAGES.format(8, 12), "E0542", "pages of 8 positions are not cut into 2 parts, of 12"),
        (LATENT, CP + INT8 + PAGES.format(4, 12), "E0542", "`s` and `t` are cut into 1 and into 2 parts"),
        (NEAR, CP + PAGES.format(4, 12), "E0542", "looks at positions `t` in their order"),
        (SUM, "  mesh (tp = 1)\n" + PAGES.format(4, 12), "E0542", "no sequences"),
    ],
)
def test_what_cannot_lie_in_pages_is_told(layer: str, rules: str, code: str, told: str) -> None:
    with pytest.raises(ParcError) as error:
        lowered(layer, rules)
    d = error.value.diagnostics[0]
    assert d.code == code and told in d.message and d.span is not None


def test_a_job_that_does_not_decode_has_no_pages() -> None:
    text = NET.replace("LAYER", GROUPED).replace("RULES", "  mesh (tp = 1)\n" + PAGES.format(4, 12))
    with pytest.raises(ParcError, match="E0542"):
        compile_job(evaluate(Source("net.par", text.replace("  decode over s, prefill 3\n", ""))))


def test_a_page_that_no_pool_has_is_refused() -> None:
    rules = DP + PAGES.format(4, 12)
    for executor in (Emulator, RankExecutor):
        run = executor(program(GROUPED, rules))
        tokens = np.zeros((4, 1), np.int32)
        for page in (6, -2):
            table = np.full((4, 3), -1, np.int32)
            table[3, 1] = page
            with pytest.raises(ParcError, match=f"E0788.*sequence 3 the page {page}, the pool has 0..6"):
                run.call("decode", {"tokens.next": tokens, "sequences.pages": table})


def test_who_has_which() -> None:
    """No page is two sequences', all come back, and nothing is given where not all is."""
    c = lowered(GROUPED, DP + PAGES.format(5, 8))
    assert c.job.decoding is not None
    table = PageTable.of(decoding_program(c.job), c.job.model, c.job.decoding)
    rng = np.random.default_rng(0)
    reached = [0] * 4
    full = 0
    for _ in range(300):
        row, positions = int(rng.integers(4)), int(rng.integers(1, 13))
        if rng.random() < 0.3:
            table.release(row)
            reached[row] = 0
        elif table.reach(row, positions):
            reached[row] = max(reached[row], positions)
        else:
            full += 1
        assert [int((t >= 0).sum()) for t in table.table] == [-(-n // 5) for n in reached]
        for piece in (table.table[:2], table.table[2:]):
            given = piece[piece >= 0]
            assert len(set(given)) == len(given) and (given < 4).all()
    assert full > 20


def test_pools_take_the_memory_of_what_is_had() -> None:
    """What the host knows of pages is of those that somebody had: a pool may have 500 million. A proof in more memory
    than there is, is refused before it begins."""
    rule = PAGES.format(1, 10**9)
    c = lowered(GROUPED, DP + rule)
    assert c.job.decoding is not None
    table = PageTable.of(decoding_program(c.job), c.job.model, c.job.decoding)
    (rows, drawn) = table.rounds(12)[0]
    for piece in (drawn[:2], drawn[2:]):
        assert len(set(piece.flat)) == 24 and piece.min() >= 0 and piece.max() > 10**6
    assert rows == [0, 1, 2, 3] and table.reach(3, 5) and table.counts == (5, 0, 10**9 - 5)
    table.release(3)
    assert table.counts == (0, 0, 10**9)
    text = NET.replace("LAYER", GROUPED).replace("RULES", DP + rule)
    with pytest.raises(ParcError, match="E0910.*running `serve` here"):
        api.verify(Source("net.par", text))


def test_a_table_that_states_no_range_is_plain_data() -> None:
    """Of a lowered program, which may say nothing of its data: beyond a pool there is nothing, which is no refusal."""
    made = program(GROUPED, DP + PAGES.format(4, 12))
    made = replace(made, inputs=tuple(replace(i, low=None, high=None) for i in made.inputs))
    run, tokens = Emulator(made), np.zeros((4, 1), np.int32)
    first, other = (
        run.call("decode", {"tokens.next": tokens, "sequences.pages": np.full((4, 3), page, np.int32)}).outputs
        for page in (-1, 6)
    )
    assert all(np.isfinite(x).all() for x in (*first.values(), *other.values()))


PROMPTS = ["To be, or not to be, that is", "Thou art a scholar; speak to it", "I", "What"]


def texts(path: Path, rule: str, steps: int) -> list[tuple[str, str]]:
    path = written(path, TEXT.replace("  split t on tp\n", rule).replace("writer(4, 256)", "writer(4, 64)"))
    compiled = compile(Source(str(path), path.read_text(), str(path)))
    made = generated(compiled, program_of(compiled), PROMPTS, steps, Sampling(3.0, None, 1.0, 7))
    return [(t.text, t.ended) for t in made.texts]


def test_texts_are_those_of_caches_without_pages(tmp_path: Path) -> None:
    """What has ended gives its pages back; what finds none ends there, and what it has made is right."""
    plain = texts(tmp_path, "", 60)
    assert texts(tmp_path, PAGES.format(8, 32), 60) == plain and len({t for t, _ in plain}) == 4
    assert [ended for _, ended in plain] == [CONTEXT, CONTEXT, LENGTH, LENGTH]
    short = texts(tmp_path, PAGES.format(8, 12), 60)
    assert [ended for _, ended in short] == [POOL, POOL, POOL, LENGTH]
    assert all(a.startswith(b) and b for (a, _), (b, _) in zip(plain, short, strict=True))
    with pytest.raises(ParcError, match=r"E0788.*the prompts take 10 pages"):
        texts(tmp_path, PAGES.format(8, 9), 4)
