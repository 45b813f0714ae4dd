"""The curve of memory."""

from __future__ import annotations

from parc.report.memory import VISIBLE, MemoryInterval, widened


def test_a_peak_is_drawn_however_short_it_is() -> None:
    def level(start: int, end: int, n: int) -> MemoryInterval:
        return MemoryInterval(start, end, {"weight": n})

    for at in (0, 1, 500_000, 999_999):  # the fullest moment lasts one of a million
        around = [level(0, at, 1), level(at, at + 1, 9), level(at + 1, 10**6, 2)]
        drawn = widened([v for v in around if v.end > v.start])
        (peak,) = (v for v in drawn if v.total == 9)
        assert peak.end - peak.start == 10**6 // VISIBLE
        assert drawn[0].start == 0 and drawn[-1].end == 10**6
        assert all(a.end == b.start for a, b in zip(drawn, drawn[1:]))
    wide = [level(0, 9, 1), level(9, 20, 5), level(20, 30, 5)]
    assert widened(wide) == wide
