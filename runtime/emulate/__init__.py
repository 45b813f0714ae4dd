"""The stacked executor: all devices of a group as one array per value."""

from __future__ import annotations

from runtime.emulate.emulator import Emulator, StepResult

__all__ = ["Emulator", "StepResult"]
