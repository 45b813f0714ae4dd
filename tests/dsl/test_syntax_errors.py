"""What the parser says: several errors at once, what was expected, and how to mend it."""

from __future__ import annotations

import pytest

from compiler.evaluate.pipelines import SCHEDULES
from dsl import ast
from dsl.diagnostics import Diagnostic, Diagnostics, ParcError, did_you_mean, fail, suggest
from dsl.parser import parse


def errors(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(ParcError) as caught:
        parse(text, "t")
    return caught.value.diagnostics


@pytest.mark.parametrize(
    ("text", "code", "help"),
    [
        ("param x == 3", "E0001", "`=` assigns"),
        ("model m {\n  h += f(h)\n}", "E0001", "written out: `h = h + …`"),
        ("fn f(x[s/(r, c)]) {\n}", "E0001", "each axis has a `/` of its own, the first cuts the whole: `s/r/c`"),
        ("fn f(x) {\n  weight w[d, f/[r]]\n}", "E0001", "an axis stands behind its `/`: `f/r`"),
        (
            "strategy s for m {\n  offload weights, optimizer to host prefetch 2 in block.mlp\n}",
            "E0001",
            "the scope comes before `prefetch`: `offload weights, optimizer to host in block.mlp prefetch 2`",
        ),
        ("strategy s for m {\n  offload rows to host cache 32 in t\n}", "E0001", "the scope comes before `cache`"),
        ("check x = 3", "E0001", "`==` compares"),
        ("model m {\n  x[b] := 3\n}", "E0001", "`=` assigns"),
        ("param x = [1, 2][0]", "E0001", "there is no indexing"),
        ("param x = a.b(1)", "E0001", "only functions can be called"),
        ("model m: {\n}", "E0001", "a body stands in braces"),
        ("param if = 3", "E0001", "is a word of the language"),
        ("// comment", "E0001", "a comment begins with `#`"),
        ("param x = 3;", "E0002", "a statement ends at the end of its line"),
        ("param x = a && b", "E0002", "write `and`"),
        ("param x = !a", "E0002", "write `not`"),
        ("param x = 2 ^ 3", "E0002", "a power is written `**`"),
        ("param x = 'abc'", "E0002", "double quotes"),
        ("param x = 2 × 3", "E0002", "write `*`"),
        ("param x = .5", "E0004", "write `0` before the point"),
        ("param x = 3 GiBB", "E0006", "did you mean `GiB`?"),
        ("param x = 3  GB", "E0006", "leave one space"),
        ("param x = 1 < 2 < 3", "E0007", "a < b and b < c"),
        ("strategy s {\n  pipeline b on pp, cuts [1], cuts [2]\n}", "E0008", None),
        ("param x = f(1 + 2 -> d)", "E0009", "`d -> (h, k)`"),
        ("parm x = 3", "E0010", "did you mean `param`?"),
        ("strategy s {\n  splt b on dp\n}", "E0010", "did you mean `split`?"),
        ("strategy s {\n  megatron tp\n}", "E0001", None),
        ("def f() {\n}", "E0010", "a function is `fn name(…) { … }`"),
        ("import std.layers", "E0010", "write `use std.layers (attention)`"),
        ("model m {\n  for x in y {\n  }\n}", "E0010", "a loop is `repeat count as name { … }`"),
        ("model m { loss 0 }", "E0011", "a body begins on a new line"),
        ("model m\n{\n}", "E0011", "the brace that opens a body stands on the line of its head"),
        ("fn f() {\n  return x }", "E0011", "the closing brace stands on a line of its own"),
        ("fn f() {\n  if a {\n  }\n  else {\n  }\n}", "E0011", "`} else {`"),
    ],
)
def test_each_error_says_how_to_mend_it(text: str, code: str, help: str | None) -> None:
    first = errors(text + "\n")[0]
    assert first.code == code, str(first)
    assert first.help is None if help is None else help in (first.help or ""), first.help


@pytest.mark.parametrize("head", ["model m", "fn f(x)"])
def test_a_forgotten_brace_is_one_error(head: str) -> None:
    """What stands in the body is read all the same, its mistakes told too."""
    body = "  repeat 2 as block {\n    x = x + 1\n  }\n  y = x\n"
    assert [d.code for d in errors(f"{head}\n{body}}}\nparam z = 3\n")] == ["E0011"]
    assert [d.code for d in errors(f"{head}\n{body}  z = = 2\n}}\nparam z = 3\n")] == ["E0011", "E0001"]
    inner = body.replace(" {", "")
    assert [d.code for d in errors(f"{head} {{\n{inner}}}\nparam z = 3\n")] == ["E0011"]
    assert [d.code for d in errors(f"{head}\n{body}}}\n}}\n")] == ["E0011", "E0005"]


def test_all_errors_are_found_at_once() -> None:
    text = "param x = 3 +\nparam y = 2\nfn f() {\n  x = = 2\n  y = 3\n  z = * 3\n  return 4 4\n}\nparam z = 1 GiBB\n"
    found = errors(text)
    assert [text.count("\n", 0, d.span.start) + 1 for d in found if d.span] == [1, 4, 6, 7, 9]


def test_one_mistake_is_one_error() -> None:
    body = "fn f() {\n  if a {\n    x = = 1\n  } else {\n    y = 2\n  }\n  return y\n}\nparam z = 2\n"
    assert len(errors(body)) == 1
    assert len(errors("modell m() {\n  dim b = 4\n  loss mean(x)\n}\nparam z = 2\n")) == 1


@pytest.mark.parametrize(
    ("word", "help"),
    [
        ("1f1b", "names begin with a letter: `one_f_one_b`"),
        ("1F1B", "names begin with a letter: `one_f_one_b`"),
        ("1f1b_interleaved", "names begin with a letter: `one_f_one_b_interleaved`"),
        ("2nd", "names begin with a letter: `two_nd`"),  # else an unknown unit
        ("128x", "names begin with a letter"),
    ],
)
def test_what_begins_like_a_number_where_a_name_stands_is_one_error(word: str, help: str) -> None:
    for text in (
        f"strategy s {{\n  split b, {word} on dp\n}}\n",
        f"model m {{\n  dim {word} = 2\n  {word} = 3\n}}\n",
    ):
        told = ("E0001", f"expected a name, found `{word}`", help)
        assert [(d.code, d.message, d.help) for d in errors(text)] == [told] * text.count(word)


@pytest.mark.parametrize(
    ("word", "help"),
    [
        ("1f1b", ": `one_f_one_b`"),
        ("1f1b_interleaved", "; there are `gpipe`, `one_f_one_b`, `interleaved`, `zero_bubble` and `by_hand`"),
        ("128x", "; there are `gpipe`, `one_f_one_b`, `interleaved`, `zero_bubble` and `by_hand`"),
    ],
)
def test_of_a_schedule_that_begins_like_a_number_only_those_are_proposed_that_there_are(word: str, help: str) -> None:
    text = f"strategy s {{\n  pipeline b on pp, schedule {word}(microbatches = 2)\n}}\n"
    assert [d.help for d in errors(text)] == [f"names begin with a letter{help}"]
    assert tuple(SCHEDULES) == ast.SCHEDULES


def test_a_malformed_number_is_one_error_wherever_it_stands() -> None:
    """Where a number may stand it is one; where neither may, nothing more is said."""
    assert [d.code for d in errors("param x = 1f1b\n")] == ["E0004"]
    assert [d.code for d in errors("strategy s {\n  mesh 1f1b\n}\n")] == ["E0004"]
    assert [d.code for d in errors("model m {\n  x = y 1f1b\n}\n")] == ["E0004"]


def test_findings_are_capped() -> None:
    assert len(errors("param x = = 2\n" * 500)) == 20


@pytest.mark.parametrize(
    "word", ["in", "over", "level", "keep", "memory", "split", "dim", "weight", "job", "on", "pad"]
)
def test_words_of_the_language_can_be_names(word: str) -> None:
    tree = parse(f"fn f({word}) {{\n  {word} = {word} * 2\n  return {word}, g({word} = 1)\n}}\n", "t")
    (function,) = tree.items
    assert isinstance(function, ast.Function)
    first = function.body[0]
    assert isinstance(first, ast.Assign) and first.targets[0].name.id == word


def test_diagnostics_collect() -> None:
    found = Diagnostics(cap=3)
    found.warning("E0001", "careful")
    found.raise_if_any()
    assert len(found) == 1 and not found.failed
    found.error("E0001", "wrong")
    found.error("E0001", "wrong")
    assert len(found) == 2 and found.failed and not found.full
    found.error("E0002", "wrong, too")
    found.warning("E0002", "beyond the cap")  # of warnings: errors have all of it to themselves
    found.error("E0003", "the last")
    found.error("E0002", "beyond the cap")
    assert found.full and [d.message for d in found] == ["careful", "wrong", "wrong, too", "the last"]
    with pytest.raises(ParcError) as caught:
        found.raise_if_any()
    assert str(caught.value) == "error[E0001]: wrong\nerror[E0002]: wrong, too\nerror[E0003]: the last"
    assert fail("E0003", "no").diagnostics == (Diagnostic("E0003", "no"),)


def test_suggestions() -> None:
    known = ["layers", "heads", "hidden", "GB", "vocab"]
    assert suggest("layer", known) == "layers" and suggest("HEADS", known) == "heads"
    assert suggest("layers", known) is None or suggest("layers", known) != "layers"
    assert suggest("zzz", known) is None and suggest("x" * 1000, known) is None
    assert did_you_mean("hiden", known) == "did you mean `hidden`?" and did_you_mean("q", known) is None


@pytest.mark.parametrize("word", ["on", "using", "where", "in"])
def test_a_keyword_of_another_statement_may_be_a_name(word: str) -> None:
    """Behind a call the parser's table has words of all statements in which a call can stand."""
    tree = parse(f"cluster pod() {{\n  level server = many() {word} over 1 GB/s, 1 us\n}}\n", "t")
    assert f"Name(id='{word}')" in repr(tree)


@pytest.mark.parametrize("unit", ["", "B", " GB", " PiB/s", " years", " ZFLOP"])
def test_a_number_too_large_in_base_units_is_an_error(unit: str) -> None:
    assert [d.code for d in errors(f"check 1e309{unit} <= 4{unit}\n")] == ["E0004"]
    if unit.strip() not in ("", "B"):
        assert [d.message for d in errors(f"check 1e308{unit} <= 4{unit}\n")] == ["this number is too large"]
