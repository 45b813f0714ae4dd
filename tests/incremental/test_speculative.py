"""A second model that guesses changes nothing about what is drawn: not the tokens without a temperature, not how likely
each text is with one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import parc
from compiler.graph import Dim, Type
from compiler.model import AHEAD, DECODE, PREFILL
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc.cli import cli
from runtime.generate.loop import Ports
from runtime.generate.reader import LAST, RowReader
from runtime.generate.sampling import Sampling
from runtime.generate.speculative import speculate

Array = np.ndarray[Any, np.dtype[Any]]

# --- all that can happen, with how likely it is -----------------------------------------------------------


class Table:
    """A model whose scores are drawn for each beginning, of which it knows only what it was given to read."""

    def __init__(self, seed: int, vocabulary: int, rows: int, places: int) -> None:
        self.seed, self.vocabulary = seed, vocabulary
        self.has = np.full((rows, places), -1)
        self.known: dict[tuple[int, ...], Array] = {}

    def scores(self, beginning: tuple[int, ...]) -> Array:
        if beginning not in self.known:
            assert -1 not in beginning
            drawn = np.random.default_rng([self.seed, len(beginning), *beginning])
            self.known[beginning] = 1.5 * drawn.standard_normal(self.vocabulary)
        return self.known[beginning]

    def call(self, entry: str, given: Mapping[str, Array]) -> Any:
        tokens, places = given[f"tokens.{LAST[entry]}"], given["at"]
        found = np.zeros((*tokens.shape, self.vocabulary))
        for row, at in enumerate(places):
            for i in range(tokens.shape[1]) if at >= 0 else ():
                self.has[row, at + i] = tokens[row, i]
                found[row, i] = self.scores(tuple(map(int, self.has[row, : at + i + 1])))
        return SimpleNamespace(outputs={"scores": found})


def reader(seed: int, vocabulary: int, places: int, rows: int = 2) -> RowReader:
    type = Type("int32", (Dim("b", rows), Dim("s", places)))
    ports = Ports("tokens", type, "s", vocabulary, "scores", (0, 1, 2))
    run: Any = Table(seed, vocabulary, rows, places)
    return RowReader(run, ports, 1, dict.fromkeys((PREFILL, DECODE, AHEAD), ("at",)))


class Course:
    """One of all courses: the first choices are given, behind them the first that is possible is taken."""

    def __init__(self, given: tuple[int, ...]) -> None:
        self.given, self.taken, self.likely = given, (), 1.0
        self.others: list[tuple[int, ...]] = []

    def __call__(self, shares: Array, stream: int, row: int, place: int) -> int:
        at = len(self.taken)
        possible = [int(i) for i in np.flatnonzero(shares > 0)]
        if at < len(self.given):
            choice = self.given[at]
        else:
            choice = possible[0]
            self.others += [(*self.taken, i) for i in possible[1:]]
        self.taken: tuple[int, ...] = (*self.taken, choice)
        self.likely *= shares[choice] / shares.sum()
        return choice


@pytest.mark.parametrize(
    ("vocabulary", "ahead", "steps", "sampling"),
    [
        (5, 1, 2, Sampling(1.0)),
        (5, 2, 1, Sampling(0.7)),
        (3, 2, 2, Sampling(1.3)),
        (5, 2, 2, Sampling(1.0, top_k=3, top_p=0.95)),
        pytest.param(5, 2, 2, Sampling(1.0), marks=pytest.mark.nightly),
    ],
)
def test_each_text_is_as_likely_as_without_guesses(vocabulary: int, ahead: int, steps: int, sampling: Sampling) -> None:
    """All courses of the loop that decodes, added up by their texts, beside what the first model alone says."""
    prompt, places = [1, 0], 8
    likely: dict[tuple[int, ...], float] = defaultdict(float)
    target, draft = reader(1, vocabulary, places), reader(2, vocabulary, places)
    work: list[tuple[int, ...]] = [()]
    taken = guessed = 0
    while work:
        course = Course(work.pop())
        target.read[:] = draft.read[:] = [0, 0]
        found = speculate(target, draft, [prompt], steps, sampling, ahead, chance=course)
        likely[found.sequences[0].tokens] += course.likely
        work += course.others
        assert found.guesses is not None
        taken, guessed = taken + found.guesses.taken, guessed + found.guesses.made
    assert 0 < taken < guessed
    alone: Any = Table(1, vocabulary, 2, places)
    expected: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(steps):
        expected = {
            (*text, token): share * p
            for text, share in expected.items()
            for token, p in enumerate(sampling.shares(alone.scores((*prompt, *text))[None])[0])
            if p > 0
        }
    assert likely.keys() == expected.keys()
    assert max(abs(likely[text] - expected[text]) for text in expected) < 1e-12


def test_what_is_drawn_hangs_on_seed_row_and_position_alone() -> None:
    """A row beside another is what it is by itself; another seed draws something else."""

    def drawn(prompts: list[list[int]], seed: int) -> list[tuple[int, ...]]:
        sides = reader(1, 5, 30), reader(2, 5, 30)
        return [s.tokens for s in speculate(*sides, prompts, 20, Sampling(1.0, seed=seed), 3).sequences]

    both = drawn([[1, 0, 2], [3]], 5)
    assert drawn([[1, 0, 2]], 5) == both[:1] and drawn([[1, 0, 2], [2, 2]], 5)[0] == both[0]
    assert drawn([[1, 0, 2], [3]], 6) != both


# --- real models ------------------------------------------------------------------------------------------

MODEL = """\
use std.layers (attention, embedding, grouped_attention, layer_norm, linear, mlp)
use std.tactics (data_parallel, megatron)

param dp = 1 in 1..9
param tp = 1 in 1..9
param pp = 1 in 1..9

model net(layers) {
  dim b = 4, s = 16, d = 16, v = 256
  input tokens : int32[b,s] in 0..v
  weight place[s,d] ~ normal(1.0)
  x = embedding(tokens, over v, over d, std = 1.0) + place
  repeat layers as block {
    x = x + attention(layer_norm(x), 4, std = 0.5)
    x = x + mlp(layer_norm(x), 32, std = 0.5)
  }
  logits = linear(layer_norm(x), over v, bias = false, std = 0.5) as head
  output logits
}

model near() {
  dim b = 4, s = 16, d = 16, v = 256
  input tokens : int32[b,s] in 0..v
  x = embedding(tokens, over v, over d, std = 1.0)
  x = x + grouped_attention(layer_norm(x), 4, 2, window = 3)
  logits = linear(layer_norm(x), over v, bias = false, std = 0.5) as head
  output logits
}

model other() {
  dim b = 2, s = 16, d = 16, v = 256
  input tokens : int32[b,s] in 0..v
  x = embedding(tokens, over v, over d, std = 1.0)
  logits = linear(x, over v, bias = false, std = 0.5) as head
  output logits
}

strategy plan for net {
  mesh (pp = pp, dp = dp, tp = tp)
  data_parallel(dp)
  megatron(tp)
  if pp > 1 {
    pipeline block on pp, schedule gpipe(microbatches = 2, over = b)
  }
}

job write {
  infer net(2) using plan
  decode over s, prefill 4
}

job small {
  infer net(1)
  decode over s, prefill 2
}

job window {
  infer near()
  decode over s
}

job few {
  infer other()
  decode over s
}

job letters {
  infer net(1)
  data text("examples/data/corpus.txt")
  decode over s
}
"""
FILE = Source("net.par", MODEL)
PROMPTS = ("To be", "What is i", "I")


def draft(job: str = "small", ahead: int = 2) -> parc.api.DraftModel:
    return parc.api.DraftModel(FILE, ahead, options={"job": job, "double": True})


def texts(guesses: parc.api.DraftModel | None, steps: int = 7, **given: Any) -> list[tuple[tuple[int, ...], str]]:
    found = parc.generate(FILE, PROMPTS, steps, job="write", double=True, draft=guesses, **given)
    assert (found.guesses is None) == (guesses is None)
    return [(t.tokens, t.ended) for t in found.texts]


@pytest.mark.parametrize("params", [{}, {"tp": 2}, {"dp": 2}, {"pp": 2}])
def test_the_likeliest_are_those_of_the_first_model(params: dict[str, int]) -> None:
    """To the end of the places, where one by one is read. With another seed of weights the draft guesses badly, the
    model itself guesses all."""
    alone = texts(None, 30, params=params)
    assert texts(draft(), 30, params=params) == alone
    assert {ended for _, ended in alone} == {"context"}


def test_a_model_that_guesses_its_own_tokens_is_always_right() -> None:
    found = parc.generate(FILE, PROMPTS, 8, job="write", double=True, draft=draft("write"))
    assert found.guesses is not None and found.guesses.taken == found.guesses.made > 0
    assert found.singles < 8


def test_layouts_change_nothing() -> None:
    sampled = {"temperature": 0.9, "top_k": 40, "seed": 5}
    one = texts(draft(), **sampled)
    assert texts(draft(), params={"tp": 2, "dp": 2}, **sampled) == one
    assert texts(draft(), **{**sampled, "seed": 6}) != one


def test_a_stop_ends_it() -> None:
    whole = parc.generate(FILE, ["I"], 9, job="write", draft=draft())
    stop = next(c for c in whole.texts[0].text[2:] if c.isascii())
    cut = parc.generate(FILE, ["I"], 9, job="write", draft=draft(), stops=[stop])
    assert cut.texts[0].ended == "stop"
    assert cut.texts[0].text == whole.texts[0].text[: whole.texts[0].text.index(stop)]


@pytest.mark.parametrize(
    ("job", "ahead", "told"),
    [
        ("window", 3, "cannot go back"),
        ("few", 3, "2 rows for 3"),
        ("letters", 3, "others than the 256"),
        ("small", 16, "16 tokens cannot be guessed"),
    ],
)
def test_what_is_refused(job: str, ahead: int, told: str) -> None:
    with pytest.raises(ParcError, match=told) as caught:
        texts(draft(job, ahead))
    assert caught.value.diagnostics[0].code == "E0787"


def test_too_many_prompts_are_no_fault_of_the_draft() -> None:
    few = parc.api.DraftModel(FILE, 2, options={"job": "few"})
    with pytest.raises(ParcError, match="E0784.*3 prompts for a batch of 2"):
        parc.generate(FILE, PROMPTS, 3, job="few", draft=few)


def test_the_command(tmp_path: Path) -> None:
    file = tmp_path / "net.par"
    file.write_text(MODEL)
    given = ["generate", str(file), "--job", "write", "--prompt", "To be", "--steps", "6"]
    done = CliRunner().invoke(cli, [*given, "--draft", str(file), "--draft-job", "small", "--ahead", "2"])
    assert done.exit_code == 0, done.stderr
    assert "taken" in done.stderr and "tokens/s" in done.stderr
    assert done.stdout == CliRunner().invoke(cli, given).stdout
    lost = CliRunner().invoke(cli, [*given, "--draft-job", "small"])
    assert lost.exit_code == 2 and "--draft FILE" in lost.stderr
