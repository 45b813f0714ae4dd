"""The stacked executor: all devices of a group as one array per value."""

from __future__ import annotations

from runtime.stacked.emulator import Emulator

__all__ = ["Emulator"]
