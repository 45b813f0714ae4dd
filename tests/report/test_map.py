"""The map of a cluster's devices, and the ticks of axes."""

from __future__ import annotations

import pytest

from parc.report.cluster import DEVICES, layout, path
from parc.report.html import ticks


@pytest.mark.parametrize("count", [1, 3, 8, 64, 96, 512, 2048, 4096])
@pytest.mark.parametrize("levels", [(8, 512), (4096,), (1, 4096), (16, 8, 32), (8,)])
def test_a_map_has_a_place_of_its_own_for_every_device(count: int, levels: tuple[int, ...]) -> None:
    found = layout(count, max(1, count // 4), levels)
    assert found.unit == 1 and len(found.corners) == len(set(found.corners)) == count
    assert all(0 <= x <= found.width - 5 and 0 <= y <= found.height - 5 for x, y in found.corners)
    taken = {(x + i, y + j) for x, y in found.corners for i in (0, 5) for j in (0, 5)}
    assert len(taken) == 4 * count  # no two touch
    inner = [found.corners[i : i + levels[0]] for i in range(0, count, levels[0])]
    for block in inner:  # a server's devices are together
        width, height = (max(c) - min(c) for c in zip(*block, strict=True))
        assert (width / 6 + 1) * (height / 6 + 1) >= len(block) and (width + 6) * (height + 6) <= 36 * 3 * len(block)


def test_a_map_of_more_devices_shows_domains() -> None:
    found = layout(65536, 4096, (8, 8192))
    assert found.unit == 16 and len(found.corners) == DEVICES
    found = layout(16384, 1024, (8, 2048))
    assert found.unit == 8 and len(found.corners) == 2048
    assert path(found, [(1024, 1024)]).count("z") == 128


@pytest.mark.parametrize("start, end", [(0, 7.9), (0.52, 0.551), (0, 1e-6), (3, 3), (0, 1), (0.1, 99)])
def test_ticks_are_round_and_few(start: float, end: float) -> None:
    found = ticks(start, end)
    assert 1 <= len(found) <= 9 and all(start - 1e-12 <= t <= end * (1 + 1e-9) for t in found)
    steps = {f"{(b - a):.0e}"[0] for a, b in zip(found, found[1:], strict=False)}
    assert steps <= {"1", "2", "5"}
