"""Where values come from and what they are for, as data: names are for people, and nothing is read out of them."""

from __future__ import annotations

from enum import StrEnum

from dsl.data import dataclass


class Phase(StrEnum):
    """What a value is computed for."""

    FORWARD = "forward"  # by the model, from data and weights to the loss, metrics and outputs
    GRADIENT = "gradient"  # a cotangent, or on the way to one
    AGAIN = "again"  # what there was already, computed once more rather than kept
    UPDATE = "update"  # by the optimizer
    MOVED = "moved"  # what there is already, in another layout or memory


@dataclass(frozen=True, slots=True)
class Origin:
    """path: the tensor of the model from which the value derives, as strategies call it (`block.attention.q`; "" for
    what derives from none); of: the name of the value that this one is the cotangent, the copy, or another layout of
    ("" for the model's own).

    Paths are the one kind of text with structure: names, joined by dots, which no name has in it.
    """

    path: str = ""
    phase: Phase = Phase.FORWARD
    of: str = ""


FORWARD = Origin()


class Role(StrEnum):
    """What a buffer is for. The last three are of values that no program declares."""

    WEIGHT = "weight"  # live across steps, like the next three
    OPTIMIZER = "optimizer"
    COUNTER = "counter"
    STATE = "state"  # a model's own: read and renewed by forward passes
    GRADIENT = "gradient"  # added up over the micro-batches of a step, like the next three
    ROWS = "rows"  # of a gradient that is a list of rows: their numbers; there like the list
    LOSS = "loss"
    METRIC = "metric"
    OUTPUT = "output"  # what the model puts out: one per micro-batch to the end of the step, or added up over them
    REPORT = "report"  # a scalar that the update writes
    STATISTIC = "statistic"  # of a whole batch: what P or F adds up over the micro-batches, and what S makes of it
    SAVED = "saved"  # one per micro-batch in flight, from the forward pass to the backward pass
    ACTIVATION = "activation"
    MESSAGE = "message"
    INPUT = "input"


DECLARED = tuple(r for r in Role if r not in (Role.ACTIVATION, Role.MESSAGE, Role.INPUT))
"""The roles of states."""


def within(path: str, scope: str | None) -> bool:
    """Whether a path is the scope (None: the whole model) or stands below it."""
    return scope is None or path == scope or path.startswith(f"{scope}.")


def outer(path: str) -> str:
    """The scope around a path; "" for the whole model."""
    return path.rpartition(".")[0]


def last(path: str) -> str:
    """The last name of a path: what the tensor or the scope is called in the scope around it."""
    return path.rpartition(".")[2]


def scopes(path: str) -> tuple[str, ...]:
    """All scopes around a path, the innermost first."""
    found = []
    while path := outer(path):
        found.append(path)
    return tuple(found)
