"""`check` in bodies: what functions, models and optimizers state of their arguments and dims."""

from __future__ import annotations

import pytest

from compiler.evaluate import check_file
from dsl.diagnostics import Diagnostic
from dsl.source import Source
from tests.evaluate.programs import JOB

TEXT = """fn paired(check[..., d], wide = 2) {
  IN_FUNCTION
  dim pair = d // wide, k = wide
  return split(check, d -> (pair, k))
}
model m() {
  dim b = 4, d = 6
  input x : f32[b,d]
  weight w[d]
  IN_MODEL
  check = x * w
  loss mean(paired(check))
}
optimizer plain(lr) {
  IN_OPTIMIZER
  w = w - lr * g
}
"""


def findings(**lines: str) -> tuple[Diagnostic, ...]:
    text = TEXT + JOB.replace("PRECISION", "f32").replace("sgd", "plain")
    for place in ("IN_FUNCTION", "IN_MODEL", "IN_OPTIMIZER"):
        text = text.replace(place, lines.get(place, ""))
    return check_file(Source("main.par", text))


@pytest.mark.parametrize(
    ("place", "test", "found", "notes"),
    [
        ("IN_FUNCTION", "d % wide == 1 or wide > d", "0 == 1 or 2 > 6", ["d = 6", "wide = 2"]),
        ("IN_MODEL", "not b * 2 >= d + 2", "not 8 >= 8", ["b = 4", "d = 6"]),
        ("IN_OPTIMIZER", "lr  >=  1.0", "0.1 >= 1", ["lr = 0.1"]),
    ],
)
def test_what_does_not_hold_is_told_with_its_values(place: str, test: str, found: str, notes: list[str]) -> None:
    (one,) = findings(**{place: f"check {test}"})
    assert one.code == "E0217" and one.message == f"`{' '.join(test.split())}` does not hold: {found}"
    assert [n[0] for n in one.notes][: len(notes)] == notes
    assert not findings(**{place: f"check not ({test})"}) and not findings(**{place: f"check ({test}) == false"})


def test_what_relies_on_it_is_not_looked_at() -> None:
    """One error, not those that follow from it; a variable may be called `check` all the same."""
    (one,) = findings(IN_FUNCTION="check wide == 0\n  dim nothing = wide - 2")
    assert one.code == "E0217"
    (one,) = findings(IN_FUNCTION="dim nothing = wide - 2")
    assert one.code == "E0206"


def test_of_what_is_known_only() -> None:
    assert [d.code for d in findings(IN_MODEL="check x > 0.0")] == ["E0210"]
    assert [d.code for d in findings(IN_MODEL="check d")] == ["E0210"]
    assert [d.code for d in findings(IN_MODEL="check nobody == 1")] == ["E0101"]
