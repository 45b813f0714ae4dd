"""What a service takes at most."""

from __future__ import annotations

from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """body: bytes of a request; bodies: of all that are on their way at a time. queue: sequences that wait for a row.
    sequences: of one request; texts: of one that asks for vectors. stops: texts that end one, each of so many
    characters (`stop`). likely: of how many of the likeliest tokens shares are told. connections: at a time; requests:
    those of them that are read or answered. seconds: from a request's first byte to its answer's last. sending: seconds
    in which a request must be there. reading: seconds in which a client takes the next piece. drain: seconds in which
    what was accepted can still end, behind SIGTERM."""

    body: int = 2**20
    bodies: int = 2**26
    queue: int = 64
    sequences: int = 16
    texts: int = 2048
    stops: int = 4
    stop: int = 256
    likely: int = 5
    connections: int = 4096
    requests: int = 2048
    seconds: float = 600.0
    sending: float = 30.0
    reading: float = 30.0
    drain: float = 30.0
