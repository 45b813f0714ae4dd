"""How the command's process ends."""

from __future__ import annotations

import pytest

from tests.cli.test_needs import start

AT_THE_END = """import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count() > 1000, len(gc.get_objects()) < 1000))"""
"""What Python would look through for cycles once more, when it has called what was to be called at the end."""


@pytest.mark.parametrize(("args", "code"), [("fmt --check FILE", 0), ("check missing.par", 1), ("check", 2)])
def test_nothing_is_looked_through_at_the_end(args: str, code: int) -> None:
    done = start(args, AT_THE_END)
    assert done.returncode == code and done.stdout.splitlines()[-1] == "True True"
