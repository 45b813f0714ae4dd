"""Whether there is a C compiler, and a cache folder that is not the user's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import runtime.native.build as build
from dsl.diagnostics import ParcError
from runtime.native.build import toolchain


def has_compiler() -> bool:
    try:
        toolchain()
    except ParcError:
        return False
    return True


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="there is no C compiler")


@pytest.fixture(scope="module", autouse=True, name="cache")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What is compiled here is not the user's."""
    folder = tmp_path_factory.mktemp("cache")
    old = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    build._cache_folder.cache_clear()
    yield folder / "parc" / "kernels"
    build._cache_folder.cache_clear()
    if old is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = old
