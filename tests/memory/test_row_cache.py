"""`offload rows to host cache N`: rows that were used last stay with the devices. No bit changes, and what is predicted
of memory and fetched rows is what is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import parc
from compiler.cost.kernels.work import Copy, Vector
from compiler.cost.time.simulate import Simulation
from compiler.driver import compile_job
from compiler.evaluate import evaluate_file
from compiler.memory.peak import memory_use
from compiler.memory.tiers import FIRST, SLOT, WAYS
from compiler.origin import Role
from compiler.program import Program
from compiler.row_caches import cache_bytes
from compiler.text import parse_program, show
from compiler.verify import verify
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc.estimate import assumed_hits
from runtime.data.synthetic import synthetic
from runtime.numpy.cached import CachedTable
from runtime.numpy.disk import DiskArray
from runtime.prove import prove
from runtime.rank.executor import RankExecutor
from runtime.stacked import Emulator
from tests.memory.measured import exact
from tests.memory.test_offload import same_bits
from tests.memory.test_rows import CLUSTER, RULE, TEXT, compiled

CACHE = f"{RULE} cache 32"

CASES = {
    "data, micro-batches": ({"dp": 2, "microbatches": 2}, CACHE, "lazy_adam(lr = 0.1)"),
    "by rows": ({"tp": 2, "layout": 1}, CACHE, "adagrad(lr = 0.1)"),
    "on disk": ({"dp": 2}, CACHE.replace("host", "nvme"), "rowwise_adagrad(lr = 0.1)"),
    "a pipeline": ({"pp": 2, "dp": 2, "microbatches": 2}, CACHE, "rowwise_adagrad(lr = 0.1)"),
    "one of two": ({"dp": 2, "zero": 1}, f"{RULE} in second cache 64 hits 0.5\n  {RULE}", "adagrad(lr = 0.1)"),
}


def cached(program: Program) -> dict[str, int]:
    """Rows that are kept, by buffer."""
    return {s.name: s.cache.rows for c in program.classes for s in c.states if s.cache is not None}


@pytest.mark.parametrize("name", CASES)
def test_no_bit_changes(name: str) -> None:
    params, rule, optimizer = CASES[name]
    found, plain = (compiled(r, optimizer, **params) for r in (rule, ""))
    program = found.program
    assert cached(program) and verify(program) == ()
    assert parse_program(show(program)) == program
    same_bits(program, plain.program)
    run, stacked = exact(program), Emulator(program)
    for step in range(2):
        stacked.step(synthetic(program.inputs, 0, step))
    assert run.caches and run.caches == stacked.caches
    assert prove(found.training, program).equal


def test_it_takes_so_many_bytes() -> None:
    """Of 96 rows of 16 bytes, of a state of 4 bytes a row, and what is told of each."""
    programs = [compiled(rule).program for rule in (f"{RULE} cache 96", RULE)]
    more, less = (memory_use(p)[0][FIRST].bytes for p in programs)
    assert more - less == 2 * 96 * (16 + SLOT) + 2 * 96 * (4 + SLOT)
    assert more - less == sum(cache_bytes(s, programs[0].sizes) for c in programs[0].classes for s in c.states)


def test_a_table_that_is_smaller_has_room_for_all_of_it() -> None:
    assert set(cached(compiled(f"{RULE} cache 4096").program).values()) == {608}


@pytest.mark.parametrize("disk", [False, True])
def test_a_cache_is_a_table_whatever_is_asked_for(disk: bool) -> None:
    """Against a plain array; more is asked for than a set has room for, among it."""
    rng = np.random.default_rng(0)
    plain = rng.standard_normal((500, 3)).astype(np.float32)
    table = CachedTable(DiskArray.of(plain) if disk else plain.copy(), 2 * WAYS)
    for size in (1, 10, 200, 64, 3, 64, 1, 400):
        numbers = rng.zipf(1.3, size) % 500
        np.testing.assert_array_equal(table.picked(numbers, 1), plain[numbers])
        renewed = np.unique(np.concatenate([numbers, rng.integers(0, 500, size // 3)]))
        rows = rng.standard_normal((len(renewed), 3)).astype(np.float32)
        np.testing.assert_array_equal(table.to_renew(renewed), plain[renewed])
        table.put(renewed, rows)
        plain[renewed] = rows
        np.testing.assert_array_equal(table.read(), plain)
    d = table.directory
    there = d.number[d.number >= 0]
    assert len(set(there)) == len(there) == 2 * WAYS and (there % 2 == np.repeat([0, 1], WAYS)[d.number >= 0]).all()


def test_those_used_last_are_there() -> None:
    table = CachedTable(np.arange(1000, dtype=np.float32), WAYS)
    table.picked(np.arange(WAYS), 1)
    table.picked(np.arange(5), 1)
    table.picked(np.arange(100, 100 + WAYS - 5), 1)
    assert (table.asked, table.fetched, table.returned) == (2 * WAYS, 2 * WAYS - 5, 0)
    table.picked(np.arange(5), 1)
    assert table.fetched == 2 * WAYS - 5


def test_what_is_asked_for_twice_is_fetched_once() -> None:
    table = CachedTable(np.arange(1000, dtype=np.float32), WAYS)
    table.picked(np.full(10, 3), 1)
    assert (table.asked, table.fetched) == (10, 1)


def _moved(rule: str, **params: int) -> tuple[list[int], int]:
    """Bytes of copies between memories, and how many kernels there are."""
    text = CLUSTER + TEXT.replace("using plain", "on box using plain")
    parts = [p for of in Simulation.of(compiled(rule, text=text, **params)).features.parts for p in of.values()]
    works = [node.work for part in parts for node, _ in part.each()]
    return [w.bytes for w in works if isinstance(w, Copy)], sum(isinstance(w, Vector) for w in works)


def test_the_price_is_of_rows_that_are_not_there() -> None:
    """A quarter of them is fetched and returned; of weights nothing is fetched to be renewed."""
    (plain, few), (stated, many) = (_moved(rule) for rule in (RULE, f"{CACHE} hits 0.75"))
    taken, renewed = 16 * 64 + 48 * 64 + 16 * 64, 64 * 64 + 16 * 64
    assert sum(plain) == taken + 4 * renewed
    assert 4 * sum(stated) == taken + 3 * renewed
    assert many - few == 3 + 2 * 4  # what is there is read and written here
    assert not _moved(f"{CACHE} hits 1")[0]


@pytest.mark.parametrize(("skewed", "optimizer"), [(True, "sgd(lr = 0.1)"), (False, "adagrad(lr = 0.1)")])
def test_of_a_table_that_several_have_the_price_is_of_what_moves(skewed: bool, optimizer: str) -> None:
    """Each device renews the rows that others have looked up, too: at the hits that are measured the price moves as
    many rows as the emulator."""
    text = TEXT.replace("tables(users, 4, batch) using plain", "tables(users, 16, batch) on box using plain")
    params = {"users": 3200, "batch": 32, "dp": 2}
    found = compiled(f"{RULE} cache 256", optimizer, CLUSTER + text, **params)
    run, rng = Emulator(found.program), np.random.default_rng(0)
    for _ in range(30):
        batch = synthetic(found.program.inputs, 0, 0)
        for i in found.program.inputs:
            if i.type.dtype == "int32":
                numbers = rng.zipf(1.3, i.type.shape) if skewed else rng.integers(0, 3200, i.type.shape)
                batch[i.name] = (numbers % 3200).astype(np.int32)
        run.step(batch)
    assert all(0 < used.hits < 1 for used in run.caches.values())
    rules = "\n  ".join(f"{RULE} in {name} cache 256 hits {used.hits:.6f}" for name, used in run.caches.items())
    priced = Simulation.of(compiled(rules, optimizer, CLUSTER + text, **params)).features.parts
    copies = [n.work for of in priced for p in of.values() for n, _ in p.each() if isinstance(n.work, Copy)]
    tallies = [t for g in run.groups.values() for t in g.tallies.values()]
    fetched, returned = (sum(w.bytes for w in copies if w.target == to) / 64 * 2 * 30 for to in (FIRST, "host"))
    assert fetched == pytest.approx(sum(t.fetched for t in tallies), rel=0.02)
    assert returned == pytest.approx(sum(t.returned + t.directory.dirty.sum() for t in tallies), rel=0.02)


def test_where_nothing_is_stated_all_rows_are_asked_for_alike_often() -> None:
    (found, _), (stated, _) = (_moved(rule, users=3200) for rule in (CACHE, f"{CACHE} hits 0.01"))
    assert found == stated


@pytest.mark.parametrize(
    ("code", "rule", "optimizer"),
    [
        ("E0575", CACHE, "adam(lr = 0.1)"),
        ("E0576", f"{RULE} cache 100", "adagrad(lr = 0.1)"),
        ("E0576", f"{RULE} cache 0", "adagrad(lr = 0.1)"),
        ("E0576", "offload optimizer to host cache 32", "adagrad(lr = 0.1)"),
        ("E0577", f"{CACHE} hits 1.5", "adagrad(lr = 0.1)"),
    ],
)
def test_what_is_wrong_is_told_where_it_stands(code: str, rule: str, optimizer: str) -> None:
    with pytest.raises(ParcError) as raised:
        compiled(rule, optimizer)
    d = next(d for d in raised.value.diagnostics if d.code == code)
    assert d.span is not None and d.help


@pytest.mark.parametrize(
    ("pad", "optimizer", "why"), [("", "adam(lr = 0.1)", "changes the weight"), (" pad", "adagrad(lr = 0.1)", "uneven")]
)
def test_why_more_than_rows_are_needed_is_told(pad: str, optimizer: str, why: str) -> None:
    text = TEXT.replace("microbatches microbatches over b", f"microbatches microbatches over b{pad}")
    with pytest.raises(ParcError) as raised:
        compiled(CACHE, optimizer, text, microbatches=3 if pad else 2)
    assert why in str(raised.value.diagnostics[0].help)


def test_a_program_that_says_otherwise_is_refused() -> None:
    text = show(compiled(CACHE).program)
    for wrong in ("cache 33", "cache 0", "cache 32 hits 2.0"):
        assert "E0619" in {d.code for d in verify(parse_program(text.replace("cache 32", wrong, 1)))}
    near = text.replace(" in host cache 32", " cache 32")
    assert {d.code for d in verify(parse_program(near))} >= {"E0619"}


def test_it_is_as_good_as_its_rows_are_hot() -> None:
    """Of a stream by Zipf's law, with a tenth of the rows kept, and of one without it."""
    program = compiled(f"{RULE} cache 64", users=640, batch=16).program
    rates = []
    for likely in (1 / np.arange(1, 641) ** 1.2, np.ones(640)):
        run, rng = RankExecutor(program), np.random.default_rng(1)
        for _ in range(12):
            batch = {i.name: rng.standard_normal(i.type.shape).astype(np.float32) for i in program.inputs}
            for i in program.inputs:
                if i.type.dtype == "int32":
                    batch[i.name] = rng.choice(640, i.type.shape, p=likely / likely.sum()).astype(np.int32)
            run.step(batch)
        found = run.caches["table"]
        assert found.asked == 12 * 4 * 16 and 0 < found.returned < found.fetched
        rates.append(found.hits)
    assert rates[0] > 0.6 > 0.2 > rates[1] > 0.05


def test_the_shipped_ratings() -> None:
    """What the example states of its caches is what is measured, to a hundredth of all look-ups."""
    file = Path(__file__).parent.parent.parent / "examples" / "embeddings_10tb.par"
    program = parc.compile(file, job="small_with_hot_rows").program
    stated = {s.logical: s.cache.hits for c in program.classes for s in c.states if s.cache and s.role is Role.WEIGHT}
    run = Emulator(program)
    for batch in parc.batches(file, 100, job="small_with_hot_rows"):
        run.step(batch)
    assert {name: round(used.hits, 2) for name, used in run.caches.items()} == stated
    assert set(stated) == {"student_table", "lecturer_table"}


def test_what_has_whole_gradients_in_any_case_has_none() -> None:
    """Exported files and programs to compare with, which keep no lists of rows, are none the worse for the rule."""
    text = TEXT.replace("  split b on dp\n", f"  {CACHE}\n  split b on dp\n").replace("OPTIMIZER", "adagrad(lr = 0.1)")
    job = evaluate_file(Source("t.par", text.replace("SCHEDULE", "gpipe")), {}).job
    assert cached(compile_job(job).program) and not cached(compile_job(job, lists=False).program)


def test_the_price_says_what_it_goes_by() -> None:
    text = CLUSTER + TEXT.replace("using plain", "on box using plain")
    found = assumed_hits(compiled(f"{RULE} in table cache 64 hits 0.5\n  {CACHE}", text=text, tp=2, layout=1).program)
    assert [(c.table, c.rows, c.of, c.hits, c.stated) for c in found] == [
        ("table", 64, 300, 0.5, True),
        ("second", 32, 600, 32 / 600, False),
    ]
