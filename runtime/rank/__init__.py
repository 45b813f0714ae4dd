"""The rank executor: every device runs by itself, with its own copies, and messages between devices.

Slow, and obviously right: what the stacked executor must agree with. `interpreter.py` runs one device; it knows the
others only through a `Communicator`, so the same code runs on a real engine.
"""

from __future__ import annotations

from runtime.rank.executor import RankExecutor
from runtime.rank.interpreter import Device

__all__ = ["Device", "RankExecutor"]
