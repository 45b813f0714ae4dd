"""Ops of lowered programs that touch a device's buffers, its data or another stage. They appear in functions only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compiler.graph import Type
from compiler.ops.base import Op


@dataclass(frozen=True, slots=True)
class Effect(Op):
    """An op without operands' types to infer from: the program states its result's type."""

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class Input(Effect):
    """This micro-batch's piece of a data input (or of the scalar `step`)."""

    mnemonic: ClassVar[str] = "input"
    name: str


@dataclass(frozen=True, slots=True)
class Read(Effect):
    """The buffer itself: weight, optimizer state, counter or (in U) an accumulated gradient. Allocates nothing."""

    mnemonic: ClassVar[str] = "read"
    name: str


@dataclass(frozen=True, slots=True)
class Write(Effect):
    """New contents of a buffer that lives across steps (in U)."""

    mnemonic: ClassVar[str] = "write"
    name: str


@dataclass(frozen=True, slots=True)
class Accumulate(Effect):
    """Add to a `gradient`, `loss` or `metric` buffer; the first of a step sets it."""

    mnemonic: ClassVar[str] = "accumulate"
    name: str


@dataclass(frozen=True, slots=True)
class Save(Effect):
    """Keep a value for the backward pass of the same micro-batch."""

    mnemonic: ClassVar[str] = "save"
    name: str


@dataclass(frozen=True, slots=True)
class Load(Effect):
    """What `save` kept. `last`: no later reader, the buffer is free after the reader's last use."""

    mnemonic: ClassVar[str] = "load"
    name: str
    last: bool = True


@dataclass(frozen=True, slots=True)
class Send(Effect):
    """Send to the devices of the same mesh coordinates in virtual stage (own + `to`)."""

    mnemonic: ClassVar[str] = "send"
    name: str
    to: int


@dataclass(frozen=True, slots=True)
class Recv(Effect):
    """Receive what virtual stage (own + `source`) sent under this name for this micro-batch."""

    mnemonic: ClassVar[str] = "recv"
    name: str
    source: int


@dataclass(frozen=True, slots=True)
class StageReduce(Effect):
    """All-reduce between device groups (in U): every listed group contributes and receives; fn `sum` or `max`.

    One operand, one result of the same type and layout. `key` pairs the calls of the groups.
    """

    mnemonic: ClassVar[str] = "stage_reduce"
    key: str
    fn: str
    groups: tuple[int, ...]
