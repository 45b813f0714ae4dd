"""Kinds of values that options of `parc plan` have."""

from __future__ import annotations

import re
from typing import Any

import click

_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|min|h)?")
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, None: 1.0}


class TimeLimit(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A time: `10s`, `2m`, `0.5h`; without a unit it is seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = _TIME.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"`{value}` is not a time, such as `10s` or `2m`", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


class DeviceNumbers(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """Numbers of devices: `64`, or `64,128,256`."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        from parc.sweeping import values_of

        try:
            texts = values_of(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if wrong := next((text for text in texts if not text.strip().isdecimal()), None):
            self.fail(f"`{wrong}` is not a number of devices, such as `64` or `64,128,256`", param, ctx)
        found = tuple(int(text) if len(text) < 20 else 0 for text in texts)
        if not all(1 <= n <= MOST_DEVICES for n in found):
            self.fail(f"{value} is not in the range 1<=x<={MOST_DEVICES}.", param, ctx)
        return found


MOST_DEVICES = 1 << 20
