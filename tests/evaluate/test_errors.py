"""Programs with errors. `# error[CODE]: text` on a line: there is an error there, and its message contains the text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compiler.evaluate import check_file
from dsl import diagnostics
from dsl.files import load

FILES = sorted((Path(__file__).parent / "errors").glob("*.par"))
MARK = re.compile(r"# error\[(E\d{4})\](?:: (.*))?$")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_errors_are_where_the_file_says(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics.Diagnostics.__init__, "__defaults__", (100,))
    source = load(path)
    expected = {
        (number, m[1]): m[2] or ""
        for number, line in enumerate(source.text.splitlines(), 1)
        if (m := MARK.search(line))
    }
    found = {}
    for d in check_file(path):
        assert d.span is not None
        assert d.span.source == source.name
        found[source.position(d.span.start)[0], d.code] = d.message
    assert sorted(found) == sorted(expected), "\n".join(f"{at}: {m}" for at, m in sorted(found.items()))
    assert [(at, m) for at, m in found.items() if expected[at] not in m] == []
