"""Settings of all tests: one BLAS thread (two are slower on a busy machine), and reproducible examples in CI."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden`: files of tests/golden follow what is lowered now, where that is proved."""
    parser.addoption("--update-golden", action="store_true", help="replace golden programs that changed, if proved")
