"""Questions about sizes of axes are asked once of sizes that are the same where they look."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

from compiler.regions.asked import RegionQuestions


def test_answers_are_those_of_asking_each_time() -> None:
    asked = list[str]()

    def first(sizes: Mapping[str, int]) -> int:
        asked.append("first")
        return sizes["a"] * (sizes["b"] if sizes["a"] > 2 else 1)

    def missing(sizes: Mapping[str, int]) -> int:
        asked.append("missing")
        return sizes.get("d", 7)

    def whole(sizes: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
        asked.append("whole")
        return tuple(sizes.items())

    questions = RegionQuestions({"a": 1, "b": 1, "c": 1})
    for question in (first, missing, whole):
        questions.ask(question)
    cases = [dict(zip("abc", sizes, strict=True)) for sizes in product((1, 2, 3, 4), (1, 2), (1, 2, 3))]
    expected = [(first(sizes), missing(sizes), whole(sizes)) for sizes in cases]
    asked.clear()
    assert [questions.answers(sizes) for sizes in (*cases, *cases)] == [*expected, *expected]
    assert asked.count("first") == 2 + 4  # a alone decides, or b, too
    assert asked.count("missing") == 1 and asked.count("whole") == len(cases)
    assert questions.answers({**cases[0], "d": 5})[1] == 5
