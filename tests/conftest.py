"""Settings of all tests: one BLAS thread (two are slower on a busy machine), and reproducible examples in CI."""

from __future__ import annotations

import functools
import inspect
import os

import pytest
from click.testing import CliRunner
from hypothesis import settings

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


if "mix_stderr" in inspect.signature(CliRunner).parameters:  # click before 8.2: one stream for both, unless told
    CliRunner.__init__ = functools.partialmethod(CliRunner.__init__, mix_stderr=False)  # type: ignore[method-assign]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden`: files of tests/golden follow what is lowered now, where that is proved."""
    parser.addoption("--update-golden", action="store_true", help="replace golden programs that changed, if proved")
