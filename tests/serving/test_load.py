"""A load on the clock of the cost model, against what can be said of it by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from compiler.incremental.paged import Paging
from dsl.diagnostics import ParcError
from parc.cli import cli
from parc.serving_load import Quantiles, RequestLoad, ServingPrice, played
from tests.serving.sample import TEXT

CLUSTER = """
device small {
  compute f32 10 TFLOP/s
  memory 16 GiB, 400 GB/s
}

cluster box(devices) {
  device card = small
  level server = devices card over 30 GB/s, 1 us
}
"""


def test_quantiles() -> None:
    assert Quantiles.of([3.0]) == Quantiles(3.0, 3.0)
    assert Quantiles.of([float(x) for x in range(1, 201)]) == Quantiles(100.0, 198.0)
    assert Quantiles.of([2.0, 1.0, 9.0]) == Quantiles(2.0, 9.0)


def play(rate: float, prompt: int, output: int, rows: int = 4, count: int = 50, prefill: int = 8) -> ServingPrice:
    return played(RequestLoad(rate, (prompt, prompt), (output, output), count), rows, prefill, 0.5, 0.125)


def test_nobody_else_is_there() -> None:
    """21 tokens are two chunks and five positions; of 10 that are made, 9 take a position each."""
    found = play(1e-4, 21, 10)
    assert found.first_token == Quantiles(pytest.approx(2 * 0.5 + 5 * 0.125), pytest.approx(2 * 0.5 + 5 * 0.125))
    assert found.token.p50 == found.token.p99 == pytest.approx(0.125)
    assert found.together == 1 and found.most_waiting == 0 and found.busy < 0.01 and found.tokens == 500
    assert play(1e-4, 16, 1).first_token.p99 == pytest.approx(1.0)  # the first token comes of the last chunk


def test_more_than_can_be_done() -> None:
    """All come at once: with one row they go one after the other, with four side by side, but for their chunks."""
    one, four = play(1e6, 3, 10, rows=1), play(1e6, 3, 10, rows=4)
    assert one.seconds == pytest.approx(50 * 12 * 0.125, rel=1e-3) and one.busy == pytest.approx(1, abs=1e-3)
    assert one.most_waiting == 49 and one.tokens_per_second == pytest.approx(10 / (12 * 0.125), rel=1e-3)
    assert four.seconds == pytest.approx(13 * 12 * 0.125, rel=1e-2)  # the first one is alone for a call
    assert four.together == pytest.approx(50 / 13, rel=1e-2)
    assert four.first_token.p99 < one.first_token.p99 / 3


def test_chunks_take_turns_with_positions() -> None:
    """While one reads chunks of 0.5 s, another's tokens come after a chunk each, not after all of them."""
    alone = play(1e-4, 8, 40, count=1)
    found = played(RequestLoad(1e6, (8, 8), (40, 40), 4), 4, 8, 0.5, 0.125)
    assert alone.token.p99 == pytest.approx(0.125) and found.token.p99 < 0.14
    late = played(RequestLoad(0.4, (8, 80), (5, 5), 200), 4, 8, 0.5, 0.125)
    assert late.token.p99 <= 0.625 + 1e-9  # a chunk and a position


def test_pages() -> None:
    """Of a page for each whole text as many go side by side as there are pages; smaller ones are given back to the
    first, and what was read is read again; with room for all nothing is different."""
    load = RequestLoad(1e6, (3, 3), (10, 10), 50)

    def of(slots: int, pieces: int, pages: int) -> ServingPrice:
        return played(load, 4, 8, 0.5, 0.125, Paging("b", 4, 13, slots, pieces, pages))

    one, four = play(1e6, 3, 10, rows=1), play(1e6, 3, 10, rows=4)
    assert of(13, 1, 1).seconds == one.seconds and of(13, 1, 1).together == 1
    assert of(13, 2, 1).seconds == pytest.approx(25 * 12 * 0.125, rel=1e-2)
    assert of(13, 2, 2).as_json() == of(2, 4, 7).as_json() == four.as_json()
    short = of(2, 1, 7)
    assert short.interrupted > 25 and short.tokens == 500 and four.seconds < short.seconds
    assert short.seconds <= one.seconds + 1e-6


def test_what_is_good() -> None:
    limits = {"within": (1.0, 0.13)}
    load = RequestLoad(0.5, (8, 16), (4, 4), 400, **limits)  # type: ignore[arg-type]
    found = played(load, 4, 8, 0.5, 0.125)
    assert 0 < found.good < 400 and found.goodput == found.good / found.seconds
    assert played(RequestLoad(0.5, (8, 16), (4, 4), 400), 4, 8, 0.5, 0.125).good == 400
    assert played(load, 4, 8, 0.5, 0.125).as_json() == found.as_json()


def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "writer.par"
    text = TEXT.replace("writer(4, 256) using", "writer(4, 256) on box(2) using")
    path.write_text(text.replace('  data text("corpus.txt")\n', "") + CLUSTER)
    options = ["--serve", "50", "--prompt-tokens", "10..20", "--output-tokens", "30", "--within", "0.5,0.01"]
    done = CliRunner().invoke(cli, ["cost", str(path), *options, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["result"]["serving"]
    assert found["rows"] == 4 and found["tokens"] == 30_000 and found["tokens_per_second"] > 100
    assert found["token_seconds"]["p50"] >= found["decode_seconds"] > 0
    assert "time to the first token" in CliRunner().invoke(cli, ["cost", str(path), *options]).stdout
    for wrong in (["--prompt-tokens", "0"], ["--output-tokens", "9..3"], ["--within", "a"], ["--serve", "0"]):
        assert CliRunner().invoke(cli, ["cost", str(path), "--serve", "1", *wrong]).exit_code == 2
    for alone in (["--prompt-tokens", "4"], ["--output-tokens", "9"], ["--within", "1,1"], ["--requests", "1000"]):
        done = CliRunner().invoke(cli, ["cost", str(path), *alone])
        assert done.exit_code == 2 and f"`{alone[0]}` goes with `--serve RATE`" in done.stderr
    done = CliRunner().invoke(cli, ["cost", str(path), "--serve", "1", "--output-tokens", "250"])
    assert done.exit_code == 1 and "E0784" in done.stderr


def test_rates_that_no_clock_has(tmp_path: Path) -> None:
    for rate in ("1e-310", "0", "1e300", "nan"):
        done = CliRunner().invoke(cli, ["cost", str(tmp_path / "x.par"), "--serve", rate])
        assert done.exit_code == 2 and "--serve" in done.output


def test_loads_that_would_not_end_are_not_begun() -> None:
    with pytest.raises(ParcError, match="E0931"):
        play(1.0, 1, 10**7, count=10**5)
