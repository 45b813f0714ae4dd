"""The catalogue of error codes: every code that a diagnostic may have, explained and with an example.

    E00xx  syntax: characters, statements, files     syntax.py
    E01xx  names, `use`, parameters                  names.py
    E02xx  types, dims, units                        types.py
    E03xx  the model and its graph                   graph.py
    E04xx  strategy, layout, placement               strategy.py
    E042x  implementations                           by_hand.py
    E05xx  pipeline, schedule, micro-batches         schedule.py
    E06xx  text of lowered programs, the verifier    program.py
    E07xx  runs, data, memory                        running.py
    E078x  decoding; E0751: the service              decoding.py
    E08xx  what a job costs                          cost.py
    E09xx  limits                                    limits.py
    E10xx  files of other systems                    foreign.py
    E11xx  certificates of plans                     certificates.py

Each module has a tuple `CODES`. Nothing else imports this package at start-up: it is for `parc explain` and for tests.
"""

from __future__ import annotations

from dsl.codes import (
    by_hand,
    certificates,
    cost,
    decoding,
    foreign,
    graph,
    limits,
    names,
    program,
    running,
    schedule,
    strategy,
    syntax,
    types,
)
from dsl.codes.code import Code

__all__ = ["CODES", "Code"]

_FAMILIES = (
    ("E00", syntax.CODES),
    ("E01", names.CODES),
    ("E02", types.CODES),
    ("E03", graph.CODES),
    ("E04", strategy.CODES),
    ("E04", by_hand.CODES),
    ("E05", schedule.CODES),
    ("E06", program.CODES),
    ("E07", running.CODES),
    ("E07", decoding.CODES),
    ("E08", cost.CODES),
    ("E09", limits.CODES),
    ("E10", foreign.CODES),
    ("E11", certificates.CODES),
)


def _assemble() -> dict[str, Code]:
    catalogue: dict[str, Code] = {}
    for prefix, codes in _FAMILIES:
        for code in codes:
            if not code.code.startswith(prefix) or code.code in catalogue:
                raise AssertionError(f"{code.code} is in the wrong family or there twice")
            catalogue[code.code] = code
    return catalogue


CODES: dict[str, Code] = _assemble()
