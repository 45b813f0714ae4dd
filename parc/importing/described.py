"""What a family makes of a configuration: the parts of a job, and the names of its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field

from dsl.data import dataclass
from parc.importing.config import Config
from runtime.checkpoint_names import StoredTensor


@dataclass(frozen=True, slots=True)
class Described:
    """A model in parts of a `.par` file.

    params: name -> value as written, of the published sizes. head, body: statements of the model, dims and inputs, then
    the rest; functions: texts of those that it calls. row: its loops, in the order in which values pass through them.
    divide: sizes that tensor parallelism divides. table: what checkpoints call its weights. positions: of the longest
    sequence (0: any); lengths: parameters that are lengths of sequences, `usual` where longer ones are possible;
    own_length: the model has its own. trains: whether there is a loss; else the job infers. sequence: whether lengths
    can be divided. experts: how many there are (0: none).
    """

    params: Mapping[str, str]
    head: tuple[str, ...]
    body: tuple[str, ...]
    row: tuple[str, ...]
    divide: Mapping[str, int]
    table: tuple[StoredTensor, ...]
    functions: tuple[str, ...] = ()
    positions: int = 0
    lengths: tuple[str, ...] = ("seq",)
    usual: int = 4096
    own_length: bool = False
    experts: int = 0
    sequence: bool = True
    trains: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Family:
    """Models of one architecture: the class that trains it, and what reads a configuration of it; others: the same of
    classes that make something else of its layers."""

    trained: str
    describe: Callable[[Config], Described]
    others: Mapping[str, Callable[[Config], Described]] = field(default_factory=dict)

    @property
    def classes(self) -> Mapping[str, Callable[[Config], Described]]:
        """All classes, and what reads a configuration of each."""
        return {self.trained: self.describe, **self.others}


def call(function: str, *given: object, label: str = "", **options: object) -> str:
    """The text of a call; options that are None are left out."""
    named = [f"{name} = {written(value)}" for name, value in options.items() if value is not None]
    text = f"{function}({', '.join([*map(written, given), *named])})"
    return f"{text} as {label}" if label else text


def written(value: object) -> str:
    """A value as the language writes it; texts are expressions as they are."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else str(value)


def block(head: str, body: list[str] | tuple[str, ...]) -> list[str]:
    """Lines of a body in braces."""
    return [f"{head} {{", *(f"  {line}" for line in body), "}"]


def unless(value: object, usual: object) -> object:
    """The value, or None where it is the usual one, which is not written."""
    return None if value == usual else value


def dropout(x: str, rate: str, rates: Mapping[str, float]) -> str:
    """What is left of `x` in training, if the parameter `rate` is none of 0."""
    return call("dropout", x, rate) if rates[rate] else x
