"""The socket that the service listens at: of connections there are as many as there is memory and room for."""

from __future__ import annotations

import json
import socket
from typing import Any

from dsl.diagnostics import fail
from parc.serving.faults import overloaded
from parc.serving.limits import Limits

BACKLOG = 512
"""Connections that wait to be taken."""

_BUFFER = 2**17
"""Bytes that wait for a client that takes them slowly, in the system; more wait for him here, as tokens."""

_OTHERS = 64
"""Files that this process may have open besides connections: pipes to workers, the log, what is being read."""


def _full() -> bytes:
    """What is told who comes when there are as many connections as there may be."""
    fault = overloaded()
    content = json.dumps(fault.body()).encode()
    own = {"content-type": "application/json", "content-length": str(len(content)), "connection": "close"}
    lines = [f"HTTP/1.1 {fault.status} ", *(f"{name}: {value}" for name, value in (own | fault.headers()).items())]
    return "\r\n".join([*lines, "", ""]).encode() + content


_FULL = _full()


class TakenSocket(socket.socket):
    """A connection, which tells when it is closed."""

    listening: ListeningSocket | None = None

    def close(self) -> None:
        """As usual; it counts no more."""
        listening, self.listening = self.listening, None
        if listening is not None:
            listening.taken -= 1
        super().close()


class ListeningSocket(socket.socket):
    """Takes connections up to `most` at a time; who comes then is told to come again, and let go.

    Without that a process which may open no more files would wait for ever with a connection that it cannot take:
    asyncio tells of each try, some thousand times a second.
    """

    most = 1
    taken = 0

    def accept(self) -> tuple[socket.socket, Any]:
        """As usual. Raises ConnectionAbortedError for a connection too many, as if its client had gone meanwhile."""
        connection, address = super().accept()
        found = TakenSocket(self.family, self.type, self.proto, fileno=connection.detach())
        if self.taken >= self.most:
            found.setblocking(False)
            try:
                found.send(_FULL)
                found.shutdown(socket.SHUT_WR)
                found.recv(_BUFFER)  # what is left unread when it is closed would take the answer back
            except OSError:
                pass
            found.close()
            raise ConnectionAbortedError
        self.taken += 1
        found.listening = self
        return found, address


def bound(host: str, port: int, limits: Limits) -> ListeningSocket:
    """A socket that listens. Raises ParcError (E0751) where the address is not to be had."""
    found = None
    try:
        ((family, kind, proto, _, address), *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found = ListeningSocket(family, kind, proto)
        found.most = min(limits.connections, max(1, _files(limits.connections + _OTHERS) - _OTHERS))
        found.setblocking(False)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # who takes nothing any more is let go, with what was sent to him
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * limits.reading))
        found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        found.bind(address)
        found.listen(BACKLOG)
    except OSError as error:
        if found is not None:
            found.close()
        help = "`--port` and `--host` say which; 0 takes any port that is free"
        raise fail("E0751", f"cannot listen at {host}:{port}: {error.strerror or error}", help=help) from None
    return found


def _files(wanted: int) -> int:
    """How many files this process may have open: as many as are wanted, as far as the system lets it."""
    try:
        import resource
    except ImportError:
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError):
        return soft
    return most
