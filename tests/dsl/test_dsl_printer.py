"""`parc fmt`: canonical, idempotent, keeps the meaning and the comments."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsl import ast
from dsl.diagnostics import ParcError
from dsl.parser import parse, parse_with_comments
from dsl.printer import dump, format_source, print_tree
from tests.dsl.syntax_trees import files, words


def _examples(most: int) -> settings:
    return settings(max_examples=most, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def _round_trip(tree: ast.File) -> None:
    text = print_tree(tree)
    assert parse(text, "t") == tree
    assert format_source(text, "t") == text
    assert dump(tree)


@_examples(150)
@given(files)
def test_print_parse_round_trip(tree: ast.File) -> None:
    _round_trip(tree)


@pytest.mark.nightly
@_examples(5000)
@given(files)
def test_print_parse_round_trip_of_many(tree: ast.File) -> None:
    _round_trip(tree)


_TOKENS = st.sampled_from(
    words(
        "fn model x y f ( ) [ ] { } , = + - * if else repeat scan as block return over -> .. 1 2.5 strategy job split"
    )
    + words("on in not and == <")
    + ["\n", "\n", "{\n", "}\n", "30 GB", "# c\n"]
)
_COMMENTS = ["# one\n", " # two\n", "\n", "\n\n", "\n\n\n# three\n\n"]


@given(st.lists(_TOKENS, max_size=30).map(" ".join))
def test_any_tokens_parse_or_are_refused(text: str) -> None:
    try:
        formatted = format_source(text, "t")
    except ParcError as error:
        assert all(d.code.startswith("E0") and d.span for d in error.diagnostics)
    else:
        assert format_source(formatted, "t") == formatted


@given(st.text(max_size=40))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        parse(text, "t")
    except ParcError as error:
        assert error.diagnostics


def _comments_survive(tree: ast.File, data: st.DataObject) -> None:
    text = "".join(
        line + data.draw(st.sampled_from(["\n", *_COMMENTS])) for line in print_tree(tree).splitlines(keepends=False)
    )
    formatted = format_source(text, "t")
    assert parse(formatted, "t") == tree
    before, after = parse_with_comments(text, "t")[1].comments, parse_with_comments(formatted, "t")[1].comments
    assert sorted(c.text for c in after) == sorted(c.text for c in before)
    assert format_source(formatted, "t") == formatted
    assert not re.search(r"\n\n\n|[ \t]\n|^\n|\n\n$", formatted)


@_examples(100)
@given(files, st.data())
def test_comments_survive(tree: ast.File, data: st.DataObject) -> None:
    """Comments at random ends of lines and blank lines: the tree is the same, no comment is lost, fmt is stable."""
    _comments_survive(tree, data)


@pytest.mark.nightly
@_examples(3000)
@given(files, st.data())
def test_comments_survive_in_many(tree: ast.File, data: st.DataObject) -> None:
    """As above."""
    _comments_survive(tree, data)


@pytest.mark.parametrize(
    ("text", "formatted"),
    [
        ("", ""),
        ("\n\n", ""),
        ("# only a comment", "# only a comment\n"),
        ("param   x=1", "param x = 1\n"),
        ("param x = 1e-4 # c", "param x = 1e-4  # c\n"),
        ("param x = 1E4", "param x = 1e4\n"),
        ("param x = 007", "param x = 7\n"),
        ("param x = 30GB/s", "param x = 30 GB/s\n"),
        ("param x = ((1)+(2*3))", "param x = 1 + 2 * 3\n"),
        ("param x = (1+2)*3", "param x = (1 + 2) * 3\n"),
        ("param x = 1-(2-3)-4", "param x = 1 - (2 - 3) - 4\n"),
        ("param x = (2**3)**4", "param x = (2 ** 3) ** 4\n"),
        ("param x = 2**(3**4)", "param x = 2 ** 3 ** 4\n"),
        ("param x = (-2)**2", "param x = (-2) ** 2\n"),
        ("param x = -(2**2)", "param x = -2 ** 2\n"),
        ("param x = not (a and b)", "param x = not (a and b)\n"),
        ("param x = (not a) and b", "param x = not a and b\n"),
        ("param x = (a < b) == c", "param x = (a < b) == c\n"),
        ("param x = (a if b else c) if d else e", "param x = (a if b else c) if d else e\n"),
        ("param x = a if b else (c if d else e)", "param x = a if b else c if d else e\n"),
        ("param x = [1,2,]", "param x = [1, 2]\n"),
        ("param x = 2 in {1,\n 2}", "param x = 2 in {1, 2}\n"),
        ("param x = f((h,k)->d,over(a,b),c=0..n)", "param x = f((h, k) -> d, over (a, b), c = 0..n)\n"),
        ("device d() {}", "device d {\n}\n"),
        ("tactic t() {}", "tactic t() {\n}\n"),
        ("job j {\ntrain m() on c() using s\n}", "job j {\n  train m on c using s\n}\n"),
        ("fn f() {\n\n\nreturn  x\n\n}", "fn f() {\n  return x\n}\n"),
        ("use std.a\nfn f() {\nreturn x\n}\nparam x = 1", "use std.a\n\nfn f() {\n  return x\n}\n\nparam x = 1\n"),
        ("fn f() {\nif a {\nreturn x\n} else {\nif b {\nreturn y\n}\n}\n}",) * 1
        + ("fn f() {\n  if a {\n    return x\n  } else if b {\n    return y\n  }\n}\n",),
        ("param a = 1\r\n\r\n\r\nparam b = 2\r\n", "param a = 1\n\nparam b = 2\n"),
        ("\ufeffparam a = 1", "param a = 1\n"),
        ("fn f(x[ ..., d ],y[b , s]) {\nreturn x\n}", "fn f(x[..., d], y[b,s]) {\n  return x\n}\n"),
        ("strategy s {\nlayout a.b[d,f/tp/dp]\n}", "strategy s {\n  layout a.b[d, f/tp/dp]\n}\n"),
        (
            "strategy s {\npipeline b on pp, cuts [1], schedule gpipe()\n}",
            "strategy s {\n  pipeline b on pp, schedule gpipe, cuts [1]\n}\n",
        ),
    ],
)
def test_canonical(text: str, formatted: str) -> None:
    assert format_source(text, "t") == formatted
    assert format_source(formatted, "t") == formatted


def test_comments_stay_where_they_belong() -> None:
    text = """\
# of the file

# of the function
fn f(x) {  # of the head
  # of the first statement
  y = x  # behind it

  # alone

  repeat 3 as r {  # of the loop
    # only this
  }  # behind the loop
  if a {  # then
    y = 1
    # last of then
  } else {  # else
    # before the inner if
    if b {
      y = 2
    }
  }
  return y
  # last
}
# directly behind
"""
    expected = text.replace("}\n# directly", "}\n\n# directly")
    assert format_source(text, "t") == expected
    assert format_source(expected, "t") == expected


def test_comments_between_brackets_move_up() -> None:
    text = "param x = f(1,  # one\n  # two\n  2)  # three\n"
    assert format_source(text, "t") == "# one\n# two\nparam x = f(1, 2)  # three\n"


@pytest.mark.parametrize(
    "text",
    [
        "param x = not 1.28e-307 TFLOP/s in a..b\n",
        "param x = dim in (1 if 2 else 3).x..4\n",
        "param x = y in -1..2\n",
        "param x = y in (a if b else c).d..2\n",
        "cluster c {\n  level x = not 1 y over -1 GB/s, not 2\n  level z = 2 x over (a if b else c).d, 1 us\n}\n",
        "cluster c {\n  level x = (8) s over 1 GB/s, 1 s\n  level y = 2 * n8 B over 1 GB/s, 1 s\n}\n",
        "device d {\n  memory over -1 GB/s\n  memory over [1] over 2\n}\n",
        "device d {\n  memory size over -1 GB/s\n  memory size over (a if b else c).d\n}\n",
        "strategy s {\n  microbatches 8 over b\n  recompute keep\n  recompute keep keep, x\n}\n",
        "fn f() {\n  over = 1\n  in = over in\n}\n".replace(" in\n}", " * 2\n  return in\n}"),
    ],
)
def test_words_that_are_names_elsewhere(text: str) -> None:
    """What a word means is decided by what can follow it, not by the first character of it."""
    assert format_source(text, "t") == text


def test_parentheses_that_go_away_take_no_comment_and_no_line_with_them() -> None:
    text = "job j {\n  precision x, loss_scale (1 + (\n    2 if a else 3\n  ))  # c\n  train (m)\n}\n".replace(
        "(m)", "m"
    )
    assert format_source(text, "t") == ("job j {\n  precision x, loss_scale 1 + (2 if a else 3)  # c\n  train m\n}\n")
    assert format_source("fn f() {\n  x = ((a))  # c\n  y = (b\n  )\n  # d\n}\n", "t") == (
        "fn f() {\n  x = a  # c\n  y = b\n  # d\n}\n"
    )


def test_long_lines_break_at_the_longest_bracket() -> None:
    words = ", ".join(f"parameter_number_{i}" for i in range(7))
    lines = format_source(f"param x = first(1, 2) + second({words})", "t").splitlines()
    assert lines[0] == "param x = first(1, 2) + second("
    assert lines[1] == "  parameter_number_0,"
    assert lines[-1] == ")"
