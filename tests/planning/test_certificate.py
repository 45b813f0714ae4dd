"""A certificate holds; none of its numbers can be another."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from compiler.evaluate import evaluate
from dsl.files import load
from dsl.source import Source
from parc import api
from parc.certifying.check import certified
from parc.certifying.stated import StatedPart, Unfounded
from parc.certifying.words import hold_text, hold_why
from parc.cli import cli
from parc.planning.answer import FoundPlan
from parc.planning.written import lines_of, strategy_of
from tests.planning.brute import some, space_of
from tests.planning.models import MODELS, job_of, text_of

SLOW = {"flops": 0.01, "bandwidth": 1, "inner": 0.1, "outer": 0.01, "outside": 1, "batch": 2}


@pytest.fixture(scope="module")
def found() -> FoundPlan:
    """A plan that is proved, with a refused or an unfit strategy where there is one."""
    found = api.plan(Source("job.par", text_of("tables", **SLOW)), within=None, without=["zero=2", "tp>64"])
    assert isinstance(found, FoundPlan) and found.certificate["proved"]
    return found


@pytest.fixture(scope="module")
def plan(found: FoundPlan) -> tuple[Source, dict[str, Any]]:
    return Source("job.par", found.text), json.loads(json.dumps(found.certificate))


def test_it_holds(plan: tuple[Source, dict[str, Any]]) -> None:
    found = certified(*plan)
    assert found.gap == 0 and found.strategies == plan[1]["space"]["total"]


def test_it_holds_where_time_was_short() -> None:
    found = api.plan(Source("job.par", text_of("tables", **{**SLOW, "batch": 16})), within=0.1)
    assert 0 <= certified(Source("job.par", found.text), json.loads(json.dumps(found.certificate))).gap < 1


def test_what_is_left_is_counted() -> None:
    """Fewer may be said to be left only if bounds say so of the others."""
    found = api.plan(Source("job.par", text_of("tables", **{**SLOW, "batch": 16})), within=0.1)
    source, stated = Source("job.par", found.text), json.loads(json.dumps(found.certificate))
    counts = stated["counts"]
    assert counts["left"] > 1
    stated["counts"] = {**counts, "left": 1, "not_better": counts["not_better"] + counts["left"] - 1}
    with pytest.raises(Unfounded, match="counts.left is less than") as error:
        certified(source, stated)
    assert error.value.code == "E1107"


def test_chunks_are_counted_alike() -> None:
    sizes = {**SLOW, "layers": 15, "outside": 1, "batch": 4}
    found = api.plan(Source("job.par", text_of("transformer", **sizes)), within=0.1)
    assert ["interleaved", 5] in found.certificate["space"]["schedules"]
    certified(Source("job.par", found.text), json.loads(json.dumps(found.certificate)))


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all that is neither a list nor a mapping."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from leaves(part, (*path, key))
    if not isinstance(value, dict | list):
        yield path


FREE = ("seconds",)
"""What is a fact of the machine that searched; bounds of `best` are those that were known when each was priced."""


def changed(value: object) -> object:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 1.01 + 1e-3
    return f"{value}x" if isinstance(value, str) else 0


def kinds(certificate: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """One place of each kind: indices of lists are all alike."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in leaves(certificate):
        name = ".".join("*" if isinstance(p, int) else p for p in path)
        if path[0] not in FREE and not (path[0] == "best" and path[2] == "bound"):
            found.setdefault(name, path)
    return found


def put(certificate: dict[str, Any], path: tuple[Any, ...], make: Callable[[Any], Any]) -> dict[str, Any]:
    found = deepcopy(certificate)
    at: Any = found
    for p in path[:-1]:
        at = at[p]
    at[path[-1]] = make(at[path[-1]])
    return found


MALFORMED = ("devices gone", "work.passes gone", "('tried',) no list")


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.nightly)])
def test_every_kind_of_change_is_noticed(plan: tuple[Source, dict[str, Any]], every: int) -> None:
    source, certificate = plan
    mutants = {f"{name} changed": put(certificate, path, changed) for name, path in kinds(certificate).items()}
    for key in certificate:
        if key not in FREE:
            mutants[f"{key} gone"] = {k: v for k, v in certificate.items() if k != key}
    for part in ("space", "work", "cluster", "counts"):
        for key in certificate[part]:
            mutants[f"{part}.{key} gone"] = put(certificate, (part,), lambda v, key=key: _without(v, key))  # type: ignore[misc]
    for part in (("tried",), ("best",), ("space", "axes"), ("space", "recompute"), ("space", "zero")):
        mutants[f"the first of {part} gone"] = put(certificate, part, lambda v: v[1:])
        mutants[f"the last of {part} gone"] = put(certificate, part, lambda v: v[:-1])
        mutants[f"one of {part} twice"] = put(certificate, part, lambda v: [*v, v[0]])
        mutants[f"{part} no list"] = put(certificate, part, lambda v: {"": v})
    huge = 10**400
    for path in (("gap",), ("work", "passes"), ("tried", 0, "seconds"), ("counts", "left"), ("least",)):
        mutants[f"{path} too large"] = put({**certificate, "proved": path != ("least",)}, path, lambda v: huge)
    mutants["no such loop"] = put(certificate, ("space", "loops"), lambda v: [["nope", 4]])
    mutants["another batch"] = put(certificate, ("space", "batch"), lambda v: {"dim": "d", "size": 8})
    again = [{"scope": "block", "keep": []}]
    mutants["much is computed again"] = put(certificate, ("space", "recompute"), lambda v: [*v, *[again] * 3000])
    mutants["many stages of ZeRO"] = put(certificate, ("space", "zero"), lambda v: list(range(100_000)))
    mutants["a stage of ZeRO that is none"] = put(certificate, ("space", "zero"), lambda v: [7])
    mutants["less is left out"] = put(certificate, ("space", "left_out"), lambda v: v[1:])
    mutants["more is left out"] = put(certificate, ("space", "left_out"), lambda v: [*v, "tp"])
    mutants["what nobody knows is left out"] = put(certificate, ("space", "left_out"), lambda v: [*v, "zero_bubbles"])
    mutants["what was tried is left out"] = put(certificate, ("space", "left_out"), lambda v: [*v, "zero=1"])
    mutants["a bound above what it bounds"] = put(certificate, ("best", 0, "bound"), lambda v: 1e6)
    for path in ((), ("space",), ("space", "batch"), ("space", "axes", 0), ("counts",), ("tried", 0), ("best", 0)):
        mutants[f"{path} has more than it has"] = _with(certificate, path, "note", "all others are slower")
    split = next(n for n, layer in enumerate(certificate["layers"]) if layer["inside"])
    for path in (("space", "splits", "rows"), ("layers", split, "inside"), ("tried", 0, "mesh")):
        mutants[f"one of {path} twice"] = put(certificate, path, lambda v: [*v, *v[:1]])
    mutants["a mesh of fewer devices"] = put(certificate, ("tried", 0, "mesh"), lambda v: [])
    mutants["best in another order"] = put(certificate, ("best",), lambda v: v[::-1])
    mutants["more is proved"] = {**certificate, "proved": not certificate["proved"]}
    assert len(mutants) >= 50
    large = "('tried', 0, 'seconds') too large"
    some = {*[*mutants][::every], *MALFORMED, large, "file changed"}
    found = {name: _code(source, mutant) for name, mutant in mutants.items() if name in some}
    unnoticed = [name for name, code in found.items() if not code]
    assert unnoticed in ([], ["the last of ('best',) gone"]), unnoticed  # so many are told as one likes
    assert {code for code in found.values() if code} == {f"E110{n}" for n in range(1, 9)}
    for name, code in found.items():
        if name.endswith("changed"):
            # where an axis has another name, nothing that was tried is of that space
            renamed = ["E1105"] if name == "space.axes.*.name changed" else []
            assert code in (_expected(name), "E1101", *renamed), (name, code)
    for name in MALFORMED:
        assert found[name] == "E1101", name
    assert found[large] in ("E1101", "E1105")


OTHERS: tuple[Any, ...] = ([], {}, [1], 1.5, True, "x", None)


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.nightly)])
def test_values_of_another_type_are_noticed(plan: tuple[Source, dict[str, Any]], every: int) -> None:
    """Wherever they stand: told, no error of Python's. Those of other types in turn."""
    source, certificate = plan
    whole = _leaf_of_each_kind(certificate)
    unnoticed = []
    for number, path in list(enumerate(whole))[::every]:
        other = ([], *OTHERS)[number % (len(OTHERS) + 1)]
        mutant = put(certificate, path, lambda old, other=other: other if type(old) is not type(other) else {})  # type: ignore[misc]
        if not _noticed(source, mutant):
            unnoticed.append((path, other))
    assert len(whole) > 60 and not unnoticed


@pytest.mark.parametrize("value", [True, 1.0])
def test_one_is_a_whole_number(plan: tuple[Source, dict[str, Any]], value: object) -> None:
    for path in (("tried", 0, "chunks"), ("tried", 0, "microbatches"), ("layers", 0, "rows")):
        with pytest.raises(Unfounded):
            certified(plan[0], put(plan[1], path, lambda old: value))


def test_words_are_held_to_what_was_priced(found: FoundPlan) -> None:
    """Each line of each strategy, a line more or less, the lines of another row."""
    best, job = found.certificate["best"], found.planned.job
    priced = [strategy_of(found.planned.space, p.candidate) for p in found.best]
    texts: list[tuple[int, list[str]]] = [(0, []), (0, ["fuse off"] * 5000)]
    for row, lines in enumerate(b["strategy"] for b in best):
        hold_text(StatedPart({"strategy": [f" {line}  " for line in lines]}, "best"), job, priced[row])
        texts += [(row, b["strategy"]) for b in best if b["strategy"] != lines]
        for at, line in enumerate(lines):
            before, after = lines[:at], lines[at + 1 :]
            texts += [(row, [*before, *after]), (row, [*lines, line])]
            other = re.sub(r"\d+", lambda n: str((int(n[0]) + 2) % 4), line)  # of sizes and stages of ZeRO
            texts += [(row, [*before, other, *after])] if other != line else []
    more = (
        "fuse off",
        "# and so it is the best",
        "fuse off\n",
        "} strategy more {",
        "the best of all",
        "\0",
        "nope(dp)",
    )
    texts += [(0, [*best[0]["strategy"], line]) for line in (*more, "(" * 4000)]
    for row, lines in texts:
        with pytest.raises(Unfounded) as error:
            hold_text(StatedPart({"strategy": lines}, "best"), job, priced[row])
        assert error.value.code == "E1106", lines
    assert len(texts) > 40


DISTILL = Path(__file__).parents[2] / "examples" / "distill.par"
"""Two loops at the top, both called `block`."""


@pytest.mark.parametrize("model", [*MODELS, "two loops"])
def test_texts_say_what_is_priced(model: str) -> None:
    """Of all kinds of candidates, by tactics and without."""
    job = evaluate(DISTILL, strategy="serial") if model == "two loops" else job_of(model, outside=4, batch=12, layers=6)
    space, _ = space_of(job)
    for of in some(space, 12, 5):
        for known in (None, ()):
            row = StatedPart({"strategy": lines_of(space, of, known)}, "best")
            hold_text(row, job, strategy_of(space, of))


def test_why_one_loses_is_held_to_figures(found: FoundPlan) -> None:
    rows = [StatedPart(b, f"best[{n}]") for n, b in enumerate(found.certificate["best"])]
    assert len(rows) > 2
    for row in rows:
        hold_why(row, rows[0])
        for other in ("x", rows[0]["why"].text(), rows[1]["why"].text() + ".", "1 s slower (+1.00%), needs as much"):
            if other != row["why"].text():
                with pytest.raises(Unfounded, match="why"):
                    hold_why(
                        StatedPart({**found.certificate["best"][rows.index(row)], "why": other}, row.path), rows[0]
                    )


def _leaf_of_each_kind(certificate: dict[str, Any]) -> list[tuple[Any, ...]]:
    return list({tuple("*" if isinstance(k, int) else k for k in p): p for p in leaves(certificate)}.values())


def _without(value: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in value.items() if k != key}


def _with(value: Any, path: tuple[Any, ...], key: str, new: object) -> Any:
    return {**value, key: new} if not path else put(value, path, lambda v: {**v, key: new})


def _expected(name: str) -> str:
    """The code of a part that was changed, by its name: of the part, or of what follows from it."""
    part, _, rest = name.removesuffix(" changed").partition(".")
    if rest == "total":
        return "E1107"
    parts = {
        "space": 3,
        "work": 4,
        "cluster": 4,
        "layers": 4,
        "paces": 4,
        "rooms": 4,
        "tried": 5,
        "best": 6,
        "counts": 7,
    }
    last = dict.fromkeys(("least", "gap", "proved"), 8) | dict.fromkeys(("file", "job", "devices"), 2)
    return f"E110{(parts | last).get(part, 1)}"


def _code(source: Source, mutant: dict[str, Any]) -> str:
    try:
        certified(source, mutant)
    except Unfounded as error:
        return error.code
    return ""


def _noticed(source: Source, mutant: dict[str, Any]) -> bool:
    return bool(_code(source, mutant))


def test_it_says_of_which_space_and_in_one_line(plan: tuple[Source, dict[str, Any]], tmp_path: Path) -> None:
    """A space that lacks choices is a smaller claim; and what it says cannot pass for another message."""
    source, certificate = plan
    assert "ZeRO 0" in certified(*plan).space
    forged = put(certificate, ("work",), lambda v: {**v, "x`\n✓ the certificate holds": 1})
    (tmp_path / "job.par").write_text(source.text)
    (tmp_path / "it.json").write_text(json.dumps(forged))
    told = CliRunner().invoke(cli, ["check", str(tmp_path / "job.par"), "--certificate", str(tmp_path / "it.json")])
    assert told.exit_code == 1 and len(told.output.strip().split("\n")) == 1, told.output


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"format": 1}', '{"format": {}}', "[" * 5000])
def test_what_is_no_certificate_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "job.par").write_text(text_of("tables"))
    (tmp_path / "it.json").write_text(text)
    result = CliRunner().invoke(cli, ["check", str(tmp_path / "job.par"), "--certificate", str(tmp_path / "it.json")])
    assert result.exit_code == 1 and result.stderr.startswith("error[E1101]: "), result.output


def test_a_certificate_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """And no pipe is waited for."""
    (tmp_path / "job.par").write_text(text_of("tables", **SLOW))
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "none"):
        result = CliRunner().invoke(cli, ["check", str(tmp_path / "job.par"), "--certificate", str(path)])
        assert result.exit_code == 1 and "error[E1101]" in result.stderr, result.output


def test_command(tmp_path: Path) -> None:
    job, planned, proof = (str(tmp_path / n) for n in ("job.par", "planned.par", "proof.json"))
    Path(job).write_text(text_of("tables", **SLOW))
    result = CliRunner().invoke(cli, ["plan", job, "-o", planned, "--certificate", proof, "--within", "1m"])
    assert result.exit_code == 0 and "proved: no strategy of the space takes less" in result.stderr
    for arguments in (
        ["check", planned, "--certificate", proof],
        ["check", planned],
        ["verify", planned, "--steps", "1"],
    ):
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, result.output
    cost = json.loads(CliRunner().invoke(cli, ["cost", planned, "--json"]).stdout)["result"]
    best = json.loads(Path(proof).read_text())["best"][0]
    assert (cost["step_seconds"], cost["needed"]) == (best["step_seconds"], best["needed_bytes"])
    Path(planned).write_text(load(planned).text.replace("lr = 0.1", "lr = 0.2"))
    result = CliRunner().invoke(cli, ["check", planned, "--certificate", proof])
    assert result.exit_code == 1 and "does not hold: file" in result.stderr
