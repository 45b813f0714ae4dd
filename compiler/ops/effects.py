"""Ops of lowered programs that touch a device's buffers, its data or another stage. They appear in functions only."""

from __future__ import annotations

from typing import ClassVar

from compiler.graph import Type
from compiler.ops.base import Op
from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Effect(Op):
    """An op without operands' types to infer from: the program states its result's type."""

    def infer(self, *inputs: Type) -> tuple[Type, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class Input(Effect):
    """This micro-batch's piece of a data input (or of the scalar `step`)."""

    mnemonic: ClassVar[str] = "input"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("", "name"),)
    leaf: ClassVar[bool] = True
    name: str


@dataclass(frozen=True, slots=True)
class Read(Effect):
    """The buffer itself: weight, optimizer state, counter or (in U) an accumulated gradient. Allocates nothing."""

    mnemonic: ClassVar[str] = "read"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("", "name"),)
    name: str


@dataclass(frozen=True, slots=True)
class Write(Effect):
    """New contents of a buffer that lives across steps (in U)."""

    mnemonic: ClassVar[str] = "write"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("to", "name"),)
    name: str


@dataclass(frozen=True, slots=True)
class Accumulate(Effect):
    """Add to a `gradient`, `loss` or `metric` buffer; the first of a step sets it."""

    mnemonic: ClassVar[str] = "accumulate"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("into", "name"),)
    name: str


@dataclass(frozen=True, slots=True)
class Save(Effect):
    """Keep a value for the backward pass of the same micro-batch."""

    mnemonic: ClassVar[str] = "save"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("as", "name"),)
    name: str


@dataclass(frozen=True, slots=True)
class Load(Effect):
    """What `save` kept. `last`: no later reader, the buffer is free after the reader's last use."""

    mnemonic: ClassVar[str] = "load"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("", "name"), ("last", "last"))
    name: str
    last: bool = True


@dataclass(frozen=True, slots=True)
class Send(Effect):
    """Send to the devices of the same mesh coordinates in virtual stage (own + `to`)."""

    mnemonic: ClassVar[str] = "send"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("as", "name"), ("to", "to"))
    name: str
    to: int


@dataclass(frozen=True, slots=True)
class Recv(Effect):
    """Receive what virtual stage (own + `source`) sent under this name for this micro-batch."""

    mnemonic: ClassVar[str] = "recv"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("", "name"), ("from", "source"))
    message: ClassVar[bool] = True
    name: str
    source: int


@dataclass(frozen=True, slots=True)
class StageReduce(Effect):
    """All-reduce between device groups (in U): every listed group contributes and receives; fn `sum` or `max`.

    One operand, one result of the same type and layout. `key` pairs the calls of the groups.
    """

    mnemonic: ClassVar[str] = "stage_reduce"
    spelling: ClassVar[tuple[tuple[str, str], ...]] = (("", "fn"), ("as", "key"), ("among", "groups"))
    message: ClassVar[bool] = True
    key: str
    fn: str
    groups: tuple[int, ...]
