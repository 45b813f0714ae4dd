"""Processes that run many programs: they are started once, and each test has its programs run by the first of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from runtime.torch.engine import ProcessPool

PROCESSES = 8


@pytest.fixture(scope="session")
def pool() -> Iterator[ProcessPool]:
    """This process and its followers."""
    pytest.importorskip("torch")
    from runtime.torch.engine import ProcessPool

    with ProcessPool(PROCESSES, patience=300) as found:
        yield found
