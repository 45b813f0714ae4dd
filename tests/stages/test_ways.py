"""Several ways through a model (`chunks [[0, 1], [1, 0]]`): stages have copies, micro-batches go one way or the other."""

from __future__ import annotations

from random import Random

import pytest

import parc
from compiler.homes import Homes
from compiler.schedules import unroll
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc import api
from tests.stages.build import judged
from tests.stages.orders import drawn_orders
from tests.stages.playing import played
from tests.stages.test_orders import text

BOTH = """
  pipeline block on pp, schedule by_hand(microbatches = 4), chunks [[0, 1], [1, 0]]
  order pp[0] { F[0] F[1] F1[2] B1[2] F1[3] B1[3] B[0] B[1] }
  order pp[1] { F1[2] F1[3] F[0] B[0] F[1] B[1] B1[2] B1[3] }
"""


def dual_pipe(n: int, m: int) -> str:
    """DualPipe on n places, as `examples/schedules.par` has it."""
    example = api.fmt(EXAMPLE)
    return example[example.index("  order pp[r in 0..n / 2]") :]
