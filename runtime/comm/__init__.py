"""How a device reaches the others: interfaces, and implementations of them."""

from __future__ import annotations

from runtime.comm.communicator import Communicator, Done, Handle, Network, Then, Wait
from runtime.comm.hub import Hub

__all__ = ["Communicator", "Done", "Handle", "Hub", "Network", "Then", "Wait"]
