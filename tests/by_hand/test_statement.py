"""`implement SCOPE by FN(…)` as a statement: what it may replace, what it is given, in tactics, beside other rules."""

from __future__ import annotations

import pytest

import parc
from compiler.evaluate import check_file, evaluate
from dsl.diagnostics import ParcError
from dsl.source import Source
from tests.by_hand.files import file
from tests.stages.build import judged

MLP = file("mlp", "tensor_parallel_mlp(tp)", "tp = 2")
RULE = "implement block.mlp by tensor_parallel_mlp(tp)"


def changed(*changes: tuple[str, str], text: str = MLP) -> str:
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


FUNCTIONS = """
fn scanned(y) {
  return each(y)
}

fn each(y[b, s, d]) {
  total = zeros(b, d)
  scan over s as step {
    total = total + halved(y)
    y = total
  }
  return y
}

fn halved(y) {
  return 0.5 * y
}

fn counted(y[b, s, d]) {
  state seen[d] ~ zeros
  seen = seen + 1.0
  return y * 1.0
}

fn same(y) {
  return y
}

fn unused(y, z) {
  return y * 1.0
}

fn by_hand(y, tp) {
  return y * 1.0
}

fn with_other(y, z, tp) {
  return y * z
}

cluster"""

REFUSED = {
    "no such scope": ((("implement block.mlp", "implement block.mpl"),), "E0404"),
    "a loop": ((("implement block.mlp", "implement block"),), "E0420"),
    "a tensor": ((("implement block.mlp", "implement block.mlp.u"),), "E0420"),
    "no such function": ((("by tensor_parallel_mlp(tp)", "by tensor_parallel(tp)"),), "E0103"),
    "a model": ((("by tensor_parallel_mlp(tp)", "by net(tp)"),), "E0114"),
    "twice": (((f"  {RULE}\n", f"  {RULE}\n  {RULE}\n"),), "E0420"),
    "no axis": ((("by tensor_parallel_mlp(tp)", "by tensor_parallel_mlp()"),), "E0110"),
    "an axis that is none": ((("by tensor_parallel_mlp(tp)", "by tensor_parallel_mlp(dp)"),), "E0101"),
    "a number for an axis": ((("by tensor_parallel_mlp(tp)", "by tensor_parallel_mlp(2)"),), "E0432"),
    "one too many": ((("by tensor_parallel_mlp(tp)", "by tensor_parallel_mlp(tp, 3)"),), "E0111"),
    "what it has already": ((("by tensor_parallel_mlp(tp)", "by tensor_parallel_mlp(tp, x = 3)"),), "E0109"),
    "before the mesh": ((("  mesh (tp = 2)\n", ""), (f"  {RULE}\n", f"  {RULE}\n  mesh (tp = 2)\n")), "E0101"),
    "an axis of stages": (
        ((f"  {RULE}\n", f"  {RULE}\n  pipeline block on tp, schedule gpipe(microbatches = 2)\n"),),
        "E0407",
    ),
    "in a scan": (
        (
            ("cluster", FUNCTIONS),
            ("mlp(y, 16)", "scanned(y)"),
            (RULE, "implement block.scanned.each.step.halved by by_hand(tp)"),
        ),
        "E0420",
    ),
    "with a state": (
        (("cluster", FUNCTIONS), ("mlp(y, 16)", "counted(y)"), (RULE, "implement block.counted by by_hand(tp)")),
        "E0420",
    ),
    "what makes nothing": (
        (("cluster", FUNCTIONS), ("mlp(y, 16)", "same(y) + halved(y)"), (RULE, "implement block.same by by_hand(tp)")),
        "E0404",
    ),
    "what the scope does not use": (
        (
            ("cluster", FUNCTIONS),
            ("  repeat 2", "  o = y * y\n  repeat 2"),
            ("mlp(y, 16)", "unused(y, o)"),
            (RULE, "implement block.unused by with_other(tp)"),
        ),
        "E0421",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_implemented(name: str) -> None:
    changes, code = REFUSED[name]
    with pytest.raises(ParcError) as found:
        evaluate(Source("main.par", changed(*changes)))
    assert found.value.diagnostics[0].code == code, found.value


def test_tactics_implement() -> None:
    """Narrowed to a scope, with a parameter for the axis; functions are those that the tactic's file sees."""
    tactic = "tactic narrow(a) {\n  implement mlp by tensor_parallel_mlp(a)\n}\n\nstrategy"
    by_tactic = changed(("strategy", tactic), (RULE, "narrow(tp) in block"))
    one, other = (parc.compile(Source("main.par", text)).program for text in (MLP, by_tactic))
    assert one == other


def test_several_scopes_have_implementations_of_their_own() -> None:
    text = changed(
        ("0.5 * mlp(y, 16)", "0.5 * mlp(y, 16) + mlp(y, 8) as second"), (f"  {RULE}\n", f"  {RULE}\n  {RULE}\n")
    )
    text = text.replace(f"{RULE}\n  {RULE}", f"{RULE}\n  implement block.second by sequence_parallel_mlp(tp)")
    text = text.replace("(tensor_parallel_mlp)", "(tensor_parallel_mlp, sequence_parallel_mlp)")
    judged(text)


def test_strategies_that_no_job_uses_are_looked_at() -> None:
    wrong = "\nstrategy other for net {\n  mesh (tp = 3)\n  implement block.mlp by tensor_parallel_mlp(tp)\n}\n"
    assert [d.code for d in check_file(Source("main.par", MLP + wrong))] == ["E0429"]


def test_a_model_speaks_of_no_pieces() -> None:
    for old, new in (
        ("mlp(y, 16)", "all_reduce(y, s)"),
        ("weight first", "weight first[s/tp, d], other"),
        ("  y = x0", "  y[b/tp, s, d] = x0"),
    ):
        with pytest.raises(ParcError) as found:
            evaluate(Source("main.par", changed((old, new))))
        assert found.value.diagnostics[0].code == "E0431"
