"""Windows: of what is kept there are as many positions as are looked at, in a ring."""

from __future__ import annotations

import pytest

from compiler.driver import compile_job, joined
from compiler.evaluate import evaluate
from compiler.incremental.derive import incremental
from compiler.memory.peak import memory_use
from compiler.model import DECODING, INFER
from compiler.text import parse_program, show
from compiler.verify import verify
from dsl.source import NOWHERE, Source
from runtime.prove.decoding import Course, prove_decoding
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.incremental.serial import apart, model_of
from tests.incremental.test_derive import BY_HAND, LIMIT
from tests.incremental.test_strategies import MODEL, STRATEGIES
from tests.memory.measured import exact

SEEN = "iota(t) <= iota(s) and iota(s) - iota(t) < {}"
HAND = BY_HAND.format("MASKED")
FORMS = {
    "grouped": "  y = x + grouped_attention(x, 2, 1, window = {})",
    "by hand": HAND.replace("MASKED", f"where({SEEN}, raw, -30000.0)"),
    "a mask added": HAND.replace("MASKED", f"raw + where({SEEN}, 0.0, -1e9)"),
    "no softmax": "  dim t = s\n  z[b,s,t] = x @ rename(x, s -> t)\n"
    f"  y[b,s,d] = where({SEEN}, tanh(z), 0.0) @ rename(x, s -> t)",
    "every second": "  dim t = s\n  z[b,s,t] = x @ rename(x, s -> t)\n  far = iota(s) - iota(t)\n"
    f"  y[b,s,d] = where({SEEN} and far % 2 == 0, z, 0.0) @ rename(x, s -> t)",
    "places of positions": "  dim t = s\n  weight place[t,d] ~ normal(1.0)\n"
    "  z[b,s,t] = x @ (rename(x, s -> t) + place)"
    f"\n  y[b,s,d] = where({SEEN}, z, 0.0) @ (tanh(rename(x, s -> t)) * place)",
}  # fmt: skip


SPLITS = ((8,), (1,) * 8, (3, 5), (2, 2, 2, 2), (1, 3, 1, 3), (5, 2, 1), (4, 1, 1, 1, 1), (6, 1, 1))


def kept(body: str, length: int = 1, seq: int = 8) -> dict[str, str]:
    found = incremental(model_of(body, seq), "s", length, NOWHERE).states
    return {s.name: str(s.value.type) for s in found if s.value.type.dims}


@pytest.mark.parametrize("name", FORMS)
def test_all_of_them_equal_the_whole_pass(name: str) -> None:
    for window in (1, 3, 6):
        body = FORMS[name].replace("{}", str(window))
        model = model_of(body)
        assert all(f"t={window}" in type for type in kept(body).values()) and kept(body) == kept(body, 5)
        assert max(apart(model, s) for s in SPLITS) <= LIMIT
    assert all("t=8" in type for type in kept(FORMS[name].replace("{}", "8")).values())


ROWS = {
    "shift": "shift(p, s, by = 1)",
    "a sum": "cumsum(p, over s)",
    "a window": "rename(max(window(p, s -> (o, k), pad = 1), over k), o -> s)",
    "a pad": "slice(pad(p, s -> q, 2, 0, 0.0), q -> s, 1..9)",
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_pairs_that_are_kept_have_all_positions(name: str) -> None:
    """In a ring each of them would have another place when it is read."""
    body = f"  dim t = s, o = s, k = 2\n  key = rename(x, s -> t)\n  p[b,s,t] = where({SEEN.format(3)}, x @ key, 0.0)\n"
    body += f"  moved[b,s,t] = {ROWS[name]}\n  y[b,s,d] = where({SEEN.format(3)}, moved, 0.0) @ key"
    assert max(apart(model_of(body), split) for split in SPLITS) <= LIMIT


def test_whoever_looks_furthest_back_counts() -> None:
    """One value with two readers is kept once; of two attentions each has its own."""
    both = (
        "  dim t = s\n  key = rename(x, s -> t)\n  z[b,s,t] = x @ key\n"
        f"  y[b,s,d] = where({SEEN.format(2)}, z, 0.0) @ key + where({SEEN.format(5)}, tanh(z), 0.0) @ key"
    )
    assert list(kept(both).values()) == ["f64[b=2, t=5, d=8]"]
    whole = both.replace(SEEN.format(5), "iota(t) <= iota(s)")
    assert list(kept(whole).values()) == ["f64[b=2, t=8, d=8]"]
    for body in (both, whole):
        assert max(apart(model_of(body), split) for split in SPLITS) <= LIMIT
    layers = "  x = x + grouped_attention(x, 2, 1, window = 2)\n  y = x + attention(x, 2)"
    assert [t.partition("t=")[2][0] for t in kept(layers).values()] == ["2", "2", "8", "8"]


def test_scores_as_small_as_the_mask_are_none() -> None:
    """All that a softmax sees may lie below what the mask puts elsewhere: there is a place elsewhere, always."""
    low = BY_HAND.format(f"where({SEEN.format(3)}, raw - 1e4, -1e4)").replace("e / sum(e, over t)", "e")
    low = low.replace("mixed[b,s,h,k] = p @ value", f"mixed[b,s,h,k] = where({SEEN.format(3)}, p, 0.0) @ value")
    assert all("t=3" in type for type in kept(low).values())
    assert max(apart(model_of(low), split) for split in SPLITS) <= LIMIT


WINDOWED = MODEL.replace(
    "grouped_attention(rms_norm(x), 4, 2)", "grouped_attention(rms_norm(x), 4, 2, window = WINDOW)"
)
WINDOWED = WINDOWED.replace("    x = x + recurrent(x + shift(x, s, by = 1))\n", "").replace("repeat 4", "repeat 2")


@pytest.mark.parametrize(("strategy", "window"), [("serial", 2), ("megatron", 2), ("positions", 3), ("all", 3)])
def test_under_strategies(strategy: str, window: int) -> None:
    text = WINDOWED.replace("STRATEGY", STRATEGIES[strategy]).replace("WINDOW", str(window))
    job = evaluate(Source("net.par", text))
    whole, first, one = (compile_job(job, entry) for entry in (INFER, *DECODING))
    program = joined([first.program, one.program])
    assert verify(program) == () and parse_program(show(program)) == program and job.decoding is not None
    for executor in (Emulator, RankExecutor):
        (row,) = prove_decoding(whole.training, program, job.decoding, Course(1, 4), executor=executor)
        assert row.ok and row.error < 1e-9
    if strategy == "serial":
        assert exact(one.program) and exact(first.program)
        bytes = next(iter(memory_use(one.program).values()))["hbm"].roles["state"]
        assert bytes == 8 * 2 * 4 * (2 * 8 * 8 + 2 * window * 4) + 4
