"""Beam search: with beams enough for all texts the best of all, with fewer what transformers finds; rows are copied to
rows, whatever the layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import parc
from compiler.driver import compile_job
from compiler.evaluate import evaluate
from compiler.model import MOVE, PREFILL
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc.cli import cli
from parc.row_programs import movable
from runtime.generate.beams import beam_search
from runtime.generate.reader import RowReader
from runtime.stacked import Emulator
from tests.incremental import test_strategies as strategies
from tests.incremental.test_speculative import FILE, PROMPTS, Table, reader

Array = np.ndarray[Any, np.dtype[Any]]


class MovedTable(Table):
    """Whose rows can be copied to each other."""

    copies = 0

    def call(self, entry: str, given: Mapping[str, Array]) -> Any:
        if entry != MOVE:
            return super().call(entry, given)
        self.has[given["target"]] = self.has[given["source"]]
        self.copies += 1
        return None


def table(vocabulary: int, rows: int, places: int = 8, seed: int = 1) -> RowReader:
    found = reader(seed, vocabulary, places, rows)
    run: Any = MovedTable(seed, vocabulary, rows, places)
    found.run, found.data = run, {**found.data, MOVE: ("source", "target")}
    return found


def logs(of: RowReader, beginning: Sequence[int]) -> Array:
    model: Any = of.run
    x = model.scores(tuple(beginning))
    found: Array = x - np.log(np.exp(x).sum())
    return found


@pytest.mark.parametrize("penalty", [1.0, 0.0, 2.0, -0.5])
@pytest.mark.parametrize("end", [None, 2])
def test_with_enough_beams_it_is_the_best_of_all(penalty: float, end: int | None) -> None:
    """Of all texts of three tokens, or that end before by a token of the three."""
    prompt, steps = (1, 0), 3
    of = table(3, 27)
    best: dict[tuple[int, ...], float] = {}
    for text in product(range(3), repeat=steps):
        if end in text:
            text = text[: text.index(end) + 1]
        each = [logs(of, (*prompt, *text[:i]))[token] for i, token in enumerate(text)]
        best[text] = sum(each) / len(text) ** penalty
    found = beam_search(of, [prompt], steps, 27, penalty, lambda tokens: tokens[-1] == end)
    expected = max(best, key=lambda text: best[text])
    assert found.sequences[0].tokens == expected
    assert found.sequences[0].score == pytest.approx(best[expected], abs=1e-12)


def searched(of: RowReader, prompt: Sequence[int], steps: int, beams: int) -> tuple[int, ...]:
    """The same without rows and ends: the best texts of each length."""
    running: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for _ in range(steps):
        more = [
            (score + p, (*text, token)) for score, text in running for token, p in enumerate(logs(of, (*prompt, *text)))
        ]
        running = sorted(more, reverse=True)[:beams]
    return running[0][1]


@pytest.mark.parametrize("beams", [2, 3, 5])
def test_rows_go_on_from_each_other(beams: int) -> None:
    """Several prompts side by side; of N texts that go on fewer than N are copied."""
    prompts = [[1, 0, 2], [3], [2, 2]]
    of = table(5, 3 * beams, 14)
    found = beam_search(of, prompts, 10, beams)
    for prompt, made in zip(prompts, found.sequences):
        assert made.tokens == searched(of, prompt, 10, beams)
        assert beam_search(table(5, beams, 14), [prompt], 10, beams).sequences[0] == made
    run: Any = of.run
    assert 0 < run.copies < 10 * 3 * (beams - 1)


@pytest.mark.parametrize("name", strategies.STRATEGIES)
def test_a_row_is_copied_and_nothing_else(name: str) -> None:
    text = strategies.MODEL.replace("STRATEGY", strategies.STRATEGIES[name])
    rows = movable(compile_job(evaluate(Source("net.par", text))))
    assert (MOVE in rows.data) == ("pipeline block" not in strategies.STRATEGIES[name])
    assert verify(rows.program) == ()
    of, _ = rows.reader(None, Emulator, 12)
    tokens = np.arange(16).reshape(4, 4) * 5 % 12
    of.call(PREFILL, {row: list(map(int, tokens[row])) for row in range(4)})
    before = of.run.states()
    of.copy([(3, 1), (0, 2)])
    after = of.run.states()
    assert before.keys() == after.keys() and len(before) > 4
    for name, x in before.items():
        at = rows.kept[name].names.index("b")
        expected = np.take(x, [0, 3, 0, 3], at)
        assert (after[name] == expected).all() and (x != expected).any()


@pytest.mark.parametrize("params", [{"tp": 2, "dp": 2}, {"pp": 2}])
def test_layouts_change_nothing(params: dict[str, int]) -> None:
    def made(**given: Any) -> list[tuple[tuple[int, ...], float | None]]:
        found = parc.generate(FILE, PROMPTS[:2], 6, job="write", double=True, beams=2, **given)
        return [(t.tokens, t.score) for t in found.texts]

    one = made()
    for (tokens, score), (others, other) in zip(one, made(params=params)):
        assert tokens == others and score == pytest.approx(other, abs=1e-9)
    assert made(length_penalty=0.0)[0][1] == pytest.approx(6 * float(one[0][1] or 0), abs=1e-9)


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParcError, match="3 prompts of 2 beams each for a batch of 4"):
        parc.generate(FILE, PROMPTS, 6, job="write", beams=2)
    file = tmp_path / "net.par"
    file.write_text(FILE.text)
    given = ["generate", str(file), "--job", "write", "--prompt", "a", "--steps", "3"]
    for wrong in (
        ["--beams", "2", "--temperature", "1"], ["--beams", "2", "--draft", "x"], ["--length-penalty", "2"],
        ["--beams", "2", "--length-penalty", "11"], ["--ahead", "3"],
    ):  # fmt: skip
        assert CliRunner().invoke(cli, [*given, *wrong]).exit_code == 2
    done = CliRunner().invoke(cli, [*given, "--beams", "4", "--length-penalty", "0.5", "--json"])
    assert done.exit_code == 0 and '"score": -' in done.stdout


@pytest.mark.parametrize("penalty", [10.0, -10.0])
def test_the_strongest_length_penalties_are_numbers(penalty: float) -> None:
    """That of the longest and of the shortest text; they were no numbers beyond."""
    found = beam_search(table(5, 4, 300), [[1]], 300, 4, penalty, stopped_by(2)).sequences[0]
    assert found.score is not None and np.isfinite(found.score)


@pytest.mark.parametrize(
    "wrong",
    [{"beams": 0}, {"beams": 2, "length_penalty": np.nan}, {"temperature": np.nan}, {"temperature": -1.0}, {"top_k": 0},
     {"top_p": 0.0}, {"stops": [""]}, {"steps": 0}, {"draft": parc.api.DraftModel(FILE, 0)}],
)  # fmt: skip
def test_numbers_out_of_their_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{[*wrong][-1]}"):
        parc.generate(FILE, PROMPTS[:1], **{"steps": 2, "job": "write", **wrong})


def stopped_by(end: int) -> Callable[[Sequence[int]], bool]:
    return lambda tokens: tokens[-1] == end


def test_it_finds_what_transformers_finds() -> None:
    """The same weights, beams, ends and length penalties."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from benchmarks.decode import MODEL, weights_of

    config = transformers.GPT2Config(
        vocab_size=37, n_positions=24, n_embd=32, n_layer=2, n_head=4, bos_token_id=None, eos_token_id=None
    )
    torch.manual_seed(0)
    peer = transformers.GPT2LMHeadModel(config).eval().double()
    with torch.no_grad():
        for p in peer.parameters():
            p.add_(0.2 * torch.randn_like(p))
    text = MODEL.format(batch=8, context=24, hidden=32, vocab=37, layers=2, heads=4, prompt=4)
    job = evaluate(Source("gpt.par", text.replace("precision f32", "precision f64")))
    rows = movable(compile_job(job))
    weights = weights_of(peer, 2, 4)
    rng = np.random.default_rng(1)
    ended = 0
    for beams, penalty in product((2, 4), (0.0, 1.0, 2.0)):
        prompts = rng.integers(0, 37, (8 // beams, 5))
        ends: list[int | None] = [None]
        for end in ends:
            given = torch.from_numpy(prompts)
            with torch.no_grad():
                expected = peer.generate(
                    given, attention_mask=torch.ones_like(given), num_beams=beams, max_new_tokens=12, do_sample=False,
                    length_penalty=penalty, eos_token_id=end, pad_token_id=36, early_stopping=False,
                )  # fmt: skip
            of = rows.reader(None, lambda program, initial: Emulator(program, initial=weights), 37)[0]
            stops = stopped_by(end) if end is not None else lambda tokens: False
            found = beam_search(of, prompts.tolist(), 12, beams, penalty, stops)
            for made, want in zip(found.sequences, expected[:, 5:].tolist()):
                assert list(made.tokens) == want[: len(made.tokens)] and set(want[len(made.tokens) :]) <= {36}
                ended += made.ended == "stop"
            if end is None:
                ends += [found.sequences[0].tokens[3], found.sequences[-1].tokens[7]]
    assert ended > 3
