"""Continuous batching: a sequence's tokens are those that it has by itself, whoever shares the batch, and whenever."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsl.source import Source
from parc import api
from parc.serving.batching import batch_of, ports_of
from runtime.generate.loop import CONTEXT, LENGTH
from runtime.generate.rows import Made, RowBatch, SequenceAsked
from runtime.generate.sampling import Sampling
from runtime.generate.tokenizers import Tokenizer
from runtime.stacked import Emulator
from tests.serving.sample import TEXT, alone, written


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("batching"))


@pytest.fixture(scope="module")
def known(path: Path) -> Tokenizer:
    return begun(path)[1]


def begun(path: Path) -> tuple[RowBatch, Tokenizer]:
    compiled = api.compile(Source(str(path), path.read_text(), str(path)))
    ports, known = ports_of(compiled, None)
    return batch_of(compiled, ports, None, Emulator), known


@pytest.fixture(scope="module")
def batch(path: Path) -> RowBatch:
    return begun(path)[0]


def test_whoever_shares_the_batch(path: Path, batch: RowBatch, known: Tokenizer) -> None:
    """Sequences begin at drawn moments, of other lengths and temperatures; some are dropped, and some go on behind what
    was made of them before, as after a worker's end."""
    rng = random.Random(3)
    prompts = ["To be, or not to be, that is", "I", "Thou art a scholar; speak to it, Horatio."]
    wanted = [(p, n, t) for p in prompts for n, t in ((12, 0.0), (9, 0.9))]
    left, made, dropped = list(enumerate(wanted)), dict[int, list[Made]](), set[int]()
    together = 0
    while left or batch.busy:
        together = max(together, len(batch.rows) - batch.free)
        if left and batch.free and rng.random() < 0.4:
            key, (prompt, steps, temperature) = left.pop(0)
            before = made.setdefault(key, [])
            tokens = (*known.encode(prompt), *(m.token for m in before))
            batch.admit(key, SequenceAsked(tokens, steps, Sampling(temperature, None, 1.0, 5), len(before)))
        for m in batch.step() if batch.busy else ():
            made[m.key].append(m)
            if len(made[m.key]) == 5 and m.key % 2 == 0 and m.key not in dropped:
                dropped.add(m.key)
                batch.drop(m.key)
                left.append((m.key, wanted[m.key]))
    assert len(dropped) > 1 and together >= 3
    for key, (prompt, steps, temperature) in enumerate(wanted):
        assert known.decode([m.token for m in made[key]]) == alone(path, prompt, steps, temperature, 5)[0]
        assert [m.ended for m in made[key]] == [""] * (steps - 1) + [LENGTH]


def test_a_late_sequence_begins_before_an_early_one_ends(batch: RowBatch, known: Tokenizer) -> None:
    """A long prompt neither waits for others nor keeps them waiting: its chunks and their positions take turns."""
    batch.admit(1, SequenceAsked(tuple(known.encode("I")), 40))
    order = []
    for call in range(200):
        if call == 3:
            batch.admit(2, SequenceAsked(tuple(known.encode("To be, or not to be, that is the question" * 2)), 3))
        order += [m.key for m in batch.step()] if batch.busy else []
    assert order.count(1) == 40 and order.count(2) == 3
    first = order.index(2)
    assert order[first:].count(1) > 20 and order[3:first].count(1) >= 8


def test_caches_in_8_bits(tmp_path: Path) -> None:
    """Rows at positions of their own keep the rounded numbers that they keep by themselves."""
    path = written(tmp_path, TEXT.replace("  split t on tp\n", "  split t on tp\n  store caches as int8\n"))
    of, known = begun(path)
    prompts = ["To be, or not to be", "I", "Thou art a scholar"]
    made: dict[int, list[int]] = {key: [] for key in range(3)}
    for call in range(60):
        if call in (0, 2, 5):
            key = (0, 2, 5).index(call)
            of.admit(key, SequenceAsked(tuple(known.encode(prompts[key])), 10))
        for m in of.step() if of.busy else ():
            made[m.key].append(m.token)
    run: Any = of.run
    assert {x.dtype.name for x in run.states().values()} == {"uint32", "float32"}  # words and scales
    for key, prompt in enumerate(prompts):
        assert known.decode(made[key]) == alone(path, prompt, 10)[0]


def test_the_last_place(path: Path, batch: RowBatch, known: Tokenizer) -> None:
    batch.admit(7, SequenceAsked((3,) * 254, 100))
    made = []
    while batch.busy:
        made += batch.step()
    assert [m.ended for m in made] == ["", "", CONTEXT]
    with pytest.raises(ValueError, match="257 tokens, there are 256 positions"):
        batch.admit(8, SequenceAsked((3,) * 257, 1))


def texts_of(batch: RowBatch, wanted: list[tuple[int, ...]], steps: int) -> tuple[list[list[Made]], int]:
    """What one row makes of them, one after the other, and in how many calls."""
    found, calls = [], 0
    for tokens in wanted:
        batch.admit(0, SequenceAsked(tokens, steps))
        made: list[Made] = []
        while batch.busy:
            made, calls = made + batch.step(), calls + 1
        found.append(made)
    return found, calls


RECURRENT = TEXT.replace(
    "    x = x + attention(layer_norm(x), 4)\n", "    x = x + rename(gru(x, over f), f -> d)\n"
).replace("repeat 2 as block {\n", "repeat 2 as block {\n    dim f = 32\n")


@pytest.mark.parametrize("rewinds", [True, False])
def test_what_a_row_has_is_not_read_again(path: Path, known: Tokenizer, rewinds: bool) -> None:
    """The same tokens, in fewer calls: where all positions are kept, of any beginning that two texts share; where only
    what they sum up to is, of whoever goes on exactly where the last one ended."""
    if rewinds:
        text = TEXT
    else:
        text = RECURRENT.replace("(attention, layer_norm, mlp)", "(gru, layer_norm, mlp)").replace(
            "  split t on tp\n", ""
        )
    compiled = api.compile(Source(str(path), text, str(path)))
    ports, _ = ports_of(compiled, None)
    first = tuple(known.encode("To be, or not to be, that is the question"))
    before = batch_of(compiled, ports, None, Emulator, reuse=False)
    assert batch_of(compiled, ports, None, Emulator).rewinds == rewinds
    (made,), _ = texts_of(before, [first], 10)
    whole = (*first, *(m.token for m in made))
    wanted = [first, (*whole, 3, 4, 5), (*whole[:-1], 3, 4, 5), (*first[:-4], 1), first, (7, *first)]
    want, slow = texts_of(before, wanted, 10)
    found, fast = texts_of(batch_of(compiled, ports, None, Emulator), wanted, 10)
    assert [[m.token for m in made] for made in found] == [[m.token for m in made] for made in want]
    reused = [made[0].reused for made in found]
    read = len(whole) - 1
    if rewinds:
        assert reused == [0, read, read, len(first) - 4, len(first) - 4, 0] and fast < slow
    else:
        assert reused == [0, read, 0, 0, 0, 0] and fast < slow
    assert all(m.reused == 0 for made in [*want, *(made[1:] for made in found)] for m in made)


def test_choices_are_rows_of_one_prompt(path: Path, batch: RowBatch, known: Tokenizer) -> None:
    for i in range(3):
        batch.admit(i, SequenceAsked(tuple(known.encode("To be")), 6, Sampling(1.0, None, 1.0, 9), 0, i))
    texts: dict[int, list[int]] = {0: [], 1: [], 2: []}
    while batch.busy:
        for m in batch.step():
            texts[m.key].append(m.token)
    assert tuple(map(known.decode, texts.values())) == alone(path, "To be", 6, 1.0, 9, 3)


def test_what_is_told_of_likelihoods(batch: RowBatch, known: Tokenizer) -> None:
    batch.admit(1, SequenceAsked(tuple(known.encode("To be")), 4, likely=80))
    made = []
    while batch.busy:
        made += batch.step()
    for m in made:
        shares = np.exp([x for _, x in m.likeliest])
        assert abs(shares.sum() - 1) < 1e-9 and (np.diff(shares) <= 0).all()
        assert m.likeliest[0] == (m.token, m.share)


def paged(path: Path, rule: str, reuse: bool = True) -> RowBatch:
    compiled = api.compile(Source(str(path), TEXT.replace("  split t on tp\n", f"  {rule}\n"), str(path)))
    return batch_of(compiled, ports_of(compiled, None)[0], None, Emulator, reuse)


def test_rows_have_pages_as_they_grow(path: Path, batch: RowBatch, known: Tokenizer) -> None:
    """In a pool of one whole sequence four rows wait, give their pages to earlier ones and go on again; some are
    dropped. Tokens are what they are without pages, no page is two rows', and in the end nobody has any."""
    of = paged(path, "store caches as paged(slots = 16, pages = 16)")
    assert of.pages is not None
    rng = random.Random(1)
    wanted = {k: tuple(rng.randrange(80) for _ in range(rng.choice((3, 40, 90)))) for k in range(8)}
    made: dict[int, list[Made]] = {k: [] for k in wanted}
    left, waited = list(wanted), 0
    while left or of.busy:
        if left and of.free and rng.random() < 0.3:
            key = left.pop(0)
            of.admit(key, SequenceAsked(wanted[key], 50, Sampling(0.9, None, 1.0, 5)))
        for m in of.step() if of.busy else ():
            made[m.key].append(m)
            if m.key == 5 and len(made[5]) == 9:
                of.drop(5)
        waited = max(waited, len(of.waiting))
        mine = [set(t[t >= 0]) for t in of.pages.table]
        assert sum(map(len, mine)) == len(set().union(*mine)) == of.pages.counts[0]  # their prompts are others
    assert waited and of.interrupted and of.pages.counts[0] == 0
    for key, tokens in wanted.items():
        batch.admit(key, SequenceAsked(tokens, 50 if key != 5 else 9, Sampling(0.9, None, 1.0, 5)))
        alone = []
        while batch.busy:
            alone += batch.step()
        assert [m.token for m in made[key]] == [m.token for m in alone]


def test_sequences_that_begin_alike_share_pages(path: Path, known: Tokenizer) -> None:
    """Whole pages, of rows that go on and of those that are gone; each reads its own rest, and tokens stay the same."""
    prompt = tuple(known.encode("To be, or not to be, that is the question"))  # two pages and some
    made: dict[bool, list[list[int]]] = {}
    for reuse in (True, False):
        of = paged(path, "store caches as paged(slots = 16, pages = 24)", reuse)
        assert of.pages is not None
        found: dict[int, list[Made]] = {k: [] for k in range(4)}
        asked = [prompt, (*prompt, 5), (*prompt[:20], 7), prompt]
        for k, tokens in enumerate(asked):
            of.admit(k, SequenceAsked(tokens, 12))
            for _ in range(8):
                for m in of.step() if of.busy else ():
                    found[m.key].append(m)
            if k == 1:
                shared = [t.tolist() for t in of.pages.table if (t >= 0).any()]
                assert (shared[0][:2] == shared[1][:2]) == reuse and shared[0][2] != shared[1][2]
        while of.busy:
            for m in of.step():
                found[m.key].append(m)
        assert [found[k][0].reused for k in range(4)] == ([0, 32, 16, 32] if reuse else [0] * 4)
        used, kept, free = of.pages.counts
        assert used == 0 and (kept > 0) == reuse and kept + free == 24
        made[reuse] = [[m.token for m in found[k]] for k in range(4)]
    assert made[True] == made[False] and all(len(t) == 12 for t in made[True])
