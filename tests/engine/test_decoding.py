"""Decoding on an engine: what is kept is renewed in its memory, and attended to by one call."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

pytest.importorskip("torch")

from compiler.driver import Compiled, compile_job, decoding_program  # noqa: E402
from compiler.evaluate import evaluate  # noqa: E402
from compiler.program import Program  # noqa: E402
from compiler.walk import walk  # noqa: E402
from dsl.source import Source  # noqa: E402
from parc.row_programs import movable, rewinding  # noqa: E402
from parc.serving.batching import ports_named, rows_program  # noqa: E402
from runtime.generate.beams import beam_search  # noqa: E402
from runtime.generate.sampling import Sampling  # noqa: E402
from runtime.generate.speculative import speculate  # noqa: E402
from runtime.prove.decoding import Course, prove_decoding  # noqa: E402
from runtime.stacked import Emulator  # noqa: E402
from runtime.torch.engine import ProcessPool  # noqa: E402
from runtime.torch.fusing.fuse import fused  # noqa: E402
from runtime.torch.fusing.ops import FusedActivation, FusedPlacedAttention, FusedProductSum  # noqa: E402
from tests.engine.conftest import PROCESSES  # noqa: E402
from tests.incremental.test_in_place import CACHE, RING  # noqa: E402
from tests.incremental.test_strategies import MODEL, STRATEGIES  # noqa: E402
from tests.incremental.test_windows import WINDOWED  # noqa: E402

PLAIN = MODEL.replace("    x = x + recurrent(x + shift(x, s, by = 1))\n", "").replace(
    "mlp(layer_norm(x), 16)", "mlp(layer_norm(x), 16, tanh = true)"
)

PAGED = PLAIN.replace("STRATEGY", "STRATEGY  store caches as paged(slots = 3, pages = 8)\n")


@cache
def compiled(text: str, strategy: str) -> Compiled:
    text = text.replace("STRATEGY", STRATEGIES[strategy]).replace("WINDOW", "2")
    return compile_job(evaluate(Source("net.par", text)))


def program(text: str, strategy: str) -> Program:
    return decoding_program(compiled(text, strategy).job)


@pytest.mark.parametrize("strategy", ["serial", "megatron", "positions", "pipeline"])
@pytest.mark.parametrize("text", [WINDOWED, PLAIN], ids=["windowed", "plain"])
def test_new_positions_are_proved(pool: ProcessPool, text: str, strategy: str) -> None:
    """Chunks behind chunks too, whose queries see what is before them and their own."""
    found = compiled(text, strategy)
    assert found.job.decoding is not None and found.program.devices <= PROCESSES
    made = program(text, strategy)
    for course in (Course(1, 4), Course(2, 0)):
        rows = prove_decoding(found.training, made, found.job.decoding, course, executor=pool.executor)
        assert rows and all(r.ok for r in rows)


def test_products_of_integers(pool: ProcessPool) -> None:
    """The integers are the serial program's, and so are their sums."""
    rules = "STRATEGY  store weights as int8\n  store activations as int8 in block.mlp\n"
    found = compiled(PLAIN.replace("STRATEGY", rules), "megatron")
    made = program(PLAIN.replace("STRATEGY", rules), "megatron")
    assert found.job.decoding is not None
    rows = prove_decoding(found.training, made, found.job.decoding, Course(1, 4), executor=pool.executor)
    assert rows and all(r.ok and r.error < 1e-9 for r in rows)


def test_what_is_kept_is_renewed_in_its_memory(pool: ProcessPool) -> None:
    run = pool.executor(program(WINDOWED, "serial"))
    run.states()  # it is there then
    device = run.leader.devices[run.number]

    def lies(name: str) -> int:
        return int(device.states[name].array.data_ptr())

    tokens = np.arange(16, dtype=np.int32).reshape(4, 4) % 12
    run.call("prefill", {"tokens.first": tokens})
    where, before = (lies(CACHE), lies(RING)), run.states()
    kept = {name: x.copy() for name, x in before.items()}
    for step in range(2):
        run.call("decode", {"tokens.next": tokens[:, step : step + 1]})
        assert (lies(CACHE), lies(RING)) == where
    assert all((before[name] == x).all() for name, x in kept.items())  # who has asked keeps what it was
    assert (run.states()[CACHE] != before[CACHE]).any()


def test_what_is_kept_is_attended_to_by_one_call() -> None:
    for entry in program(PLAIN, "serial").entries:
        (cls,) = entry.classes
        ops = [n.op for f in fused(cls, "cpu").functions for n, _ in walk(f.body)]
        assert sum(isinstance(op, FusedPlacedAttention) for op in ops) == 2
        assert any(isinstance(op, FusedActivation) for op in ops)
        assert any(isinstance(op, FusedProductSum) for op in ops)
        assert all(
            not isinstance(n.op, FusedPlacedAttention) for f in fused(cls, "cuda").functions for n, _ in walk(f.body)
        )


@pytest.mark.parametrize(
    ("strategy", "text"), [("serial", PLAIN), ("megatron", PLAIN), ("data", PLAIN), ("data", PAGED)]
)
def test_guesses_and_beams_are_the_emulators(pool: ProcessPool, strategy: str, text: str) -> None:
    found, prompts = compiled(text, strategy), [[3, 1], [7, 5, 2]]
    both = rewinding(found, 3), rewinding(compiled(PLAIN, "serial"))
    moved = movable(found)
    made = []
    for executor in (pool.executor, Emulator):
        sides = [side.reader(None, executor, 12)[0] for side in both]
        guessed = speculate(*sides, prompts, 5, Sampling(1.0, seed=3), 2)
        best = beam_search(moved.reader(None, executor, 12)[0], prompts, 5, 2)
        made.append([s.tokens for s in (*guessed.sequences, *best.sequences)])
    assert made[0] == made[1]


def test_rows_at_positions_of_their_own(pool: ProcessPool) -> None:
    """Beside each other, begun anew, and gone back, as on the emulator."""
    found = compiled(PLAIN, "serial")
    rows = rows_program(found, ports_named(found))
    ours, theirs = pool.executor(rows.program), Emulator(rows.program)
    ours.put(theirs.weights())
    rng = np.random.default_rng(1)
    for entry, length, places in (
        ("prefill", 4, (0, 0, -1, 0)), ("decode", 1, (4, -1, 0, 4)), ("decode", 1, (2, 0, 1, -1)),
        ("prefill", 4, (-1, 1, 2, 3)), ("decode", 1, (3, 5, 6, 7)),
    ):  # fmt: skip
        tokens = rng.integers(0, 12, (4, length)).astype(np.int32)
        name = "tokens.first" if entry == "prefill" else "tokens.next"
        given = {name: tokens, rows.positions[entry]: np.array(places, np.int32)}
        mine, expected = (run.call(entry, given).outputs["logits"] for run in (ours, theirs))
        there = [i for i, at in enumerate(places) if at >= 0]
        np.testing.assert_allclose(mine[there], expected[there], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("strategy", ["data", "megatron"])
def test_caches_in_pages(pool: ProcessPool, strategy: str) -> None:
    """Positions by themselves are proved, and pools are renewed in their memory."""
    found = compiled(PAGED, strategy)
    assert found.job.decoding is not None
    made = program(PAGED, strategy)
    rows = prove_decoding(found.training, made, found.job.decoding, Course(1, 4), executor=pool.executor)
    assert rows and all(r.ok for r in rows)
    run = pool.executor(made)
    run.states()  # it is there then
    device = run.leader.devices[run.number]
    tokens, table = np.ones((4, 1), np.int32), np.arange(12, dtype=np.int32).reshape(4, 3) % 4
    where = set()
    for _ in range(3):
        run.call("decode", {"tokens.next": tokens, "sequences.pages": table})
        where.add(int(device.states[CACHE].array.data_ptr()))
    assert len(where) == 1
