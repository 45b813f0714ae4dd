"""How much evaluation takes before it refuses politely (codes E0906 to E0909)."""

from __future__ import annotations

from dsl.diagnostics import ParcError, fail
from dsl.limits import MAX_DIM as MAX_DIM
from dsl.limits import MAX_DIMS as MAX_DIMS
from dsl.limits import MAX_ELEMENTS as MAX_ELEMENTS
from dsl.limits import MAX_PREFETCH as MAX_PREFETCH
from dsl.limits import MAX_STAGES as MAX_STAGES
from dsl.source import Span

MAX_ORDERS = 2048
"""Places of an axis with orders by hand: the order of each is evaluated by itself, all of them within two seconds."""

MAX_NODES = 50_000
"""Nodes of all graphs of one evaluation; a rolled loop's body counts once."""

MAX_CALLS = 20_000
"""Calls of functions and tactics."""

MAX_NESTING = 120
"""Expressions, statements and calls that are open at one moment."""

MAX_COUNT = 10**9
"""Iterations of a rolled loop."""

MAX_APART = 64
"""Iterations of a loop that is taken apart, so that one in it can be cut; each has text of its own."""

MAX_DEVICES = 10**9
"""Devices of a cluster or a mesh."""

SMALLEST, LARGEST = 1e-12, 1e24
"""Of what a device or a cluster states, but 0, in base units: with all of it seconds of a step are finite."""

MAX_CHUNKS = 64
"""Chunks of a device in an interleaved schedule; each has text of its own."""

MAX_CACHE = 2**31 - 32
"""Rows of a table that a device keeps: places are counted in 32 bits."""

MAX_INTEGER_BITS = 256
"""Size of a static integer."""

MAX_LIST = 4096
"""Values of a list."""

MAX_FILES = 100
"""Files that one file uses, directly or through others."""

LESS = "make it smaller: `-D name=value` sets a parameter of the file"


def beyond(message: str, span: Span | None) -> ParcError:
    """What is beyond one of these (E0908), to be raised. message: says how much there is, and the most."""
    return fail("E0908", message, span, help=LESS)
