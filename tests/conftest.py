"""Settings of all tests: one BLAS thread (two are slower on a busy machine), and reproducible examples in CI."""

from __future__ import annotations

import atexit
import functools
import gc
import inspect
import os
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import settings

from tests.some import OBJECTS

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

_cache = tempfile.TemporaryDirectory(prefix="parc-cache-")
os.environ["XDG_CACHE_HOME"] = _cache.name  # not that of whoever runs the tests
atexit.register(_cache.cleanup)

gc.set_threshold(OBJECTS)

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


if "mix_stderr" in inspect.signature(CliRunner).parameters:  # click before 8.2: one stream for both, unless told
    CliRunner.__init__ = functools.partialmethod(CliRunner.__init__, mix_stderr=False)  # type: ignore[method-assign]
    Result.output = property(lambda result: result.stdout + result.stderr)  # type: ignore[method-assign,assignment]


QUICK = (
    "test_imports.py",
    "cli/test_cli.py",
    "cli/test_contract.py",
    "cli/test_units.py",
    "dsl/test_files.py",
    "dsl/test_render.py",
    "dsl/test_syntax_errors.py",
    "dsl/test_tables.py",
    "dsl/test_units.py",
    "evaluate/test_errors.py",
    "evaluate/test_jobs.py",
    "evaluate/test_language.py",
    "evaluate/test_std.py",
    "evaluate/test_std_layers.py",
    "golden/",
    "matrix/test_page.py",
    "ops/test_kernels.py",
    "ops/test_ops_derivative.py",
    "ops/test_ops_split.py",
    "ops/test_ops_types.py",
    "passes/test_training.py",
    "place/test_collectives.py",
    "runtime/test_collectives.py",
    "evaluate/test_training.py",
    "runtime/test_data.py",
    "runtime/test_distribute.py",
    "runtime/test_executors.py",
    "runtime/test_memory.py",
    "runtime/test_running_codes.py",
)
"""What `pytest -m quick` runs: something of every part, in at most a minute. Whoever adds to it looks at the clock."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the core of the tests."""
    here = Path(__file__).parent
    for item in items:
        name = item.path.relative_to(here).as_posix() if item.path.is_relative_to(here) else ""
        if name.startswith(QUICK) and item.get_closest_marker("nightly") is None:
            item.add_marker(pytest.mark.quick)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden`: files of tests/golden follow what is lowered now, where that is proved.

    `--update-fixtures`: those of tests/passes/fixtures follow what the passes do now.
    """
    parser.addoption(
        "--update-fixtures", action="store_true", help="replace what comes out of passes in their fixtures"
    )
    parser.addoption("--update-golden", action="store_true", help="replace golden programs that changed, if proved")
