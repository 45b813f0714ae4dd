"""Fused chains on CPUs as C, compiled by the system's compiler: an optional backend of the emulator.

    planner = NativePlanner()                      # raises E0731 where there is no compiler
    emulator = Emulator(program, planner=planner)

What is no chain, or has something that has no C, is numpy's (`runtime.numpy.plan`).
"""

from __future__ import annotations

from runtime.native.planner import NativePlanner

__all__ = ["NativePlanner"]
