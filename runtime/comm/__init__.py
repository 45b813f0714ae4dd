"""How a device reaches the others: an interface, and implementations of it."""

from __future__ import annotations

from runtime.comm.communicator import Communicator, Wait
from runtime.comm.hub import Hub, LocalCommunicator

__all__ = ["Communicator", "Hub", "LocalCommunicator", "Wait"]
