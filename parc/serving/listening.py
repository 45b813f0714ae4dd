"""The socket that the service listens at: of connections there are as many as there is memory and room for."""

from __future__ import annotations

import json
import socket
from importlib import import_module
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
            except OSError:
                pass
            found.close()
            raise ConnectionAbortedError
        self.taken += 1
        found.listening = self
        return found, address


class EndedTask:
    """In the place of what closes a connection that is idle for too long, once its client is gone."""

    async def restart(self, *_: object) -> None:
        """Nothing: the connection closes."""

    async def stop(self) -> None:
        """Nothing."""


class EndedConnection:
    """In the place of what reads requests and writes answers, once the client is gone: nothing comes, nothing goes.
    Without it (0.18) who reads waits for good where the client had sent another request before the answer was there."""

    they_are_waiting_for_100_continue = False

    def __init__(self) -> None:
        h11 = _h11()
        self.our_state = self.their_state = h11.ERROR
        self.last = h11.ConnectionClosed()

    def next_event(self) -> object:
        """That there will be none."""
        return self.last

    def receive_data(self, data: bytes) -> None:
        """Nothing is read any more."""

    def send(self, event: object) -> bytes:
        """Raises what is raised where the client has broken the protocol, which is not told to him."""
        raise _h11().LocalProtocolError("the client is gone")


def _h11() -> Any:
    """The module that hypercorn reads HTTP/1 with."""
    return import_module("hypercorn.protocol.h11").h11


def close_behind_clients() -> None:
    """Have hypercorn close connections when their clients do. By itself (0.18) it has those on which nothing is being
    answered open until their time is over, `--patience` after a client has gone: files, and memory; and for good
    the tasks of those with requests that came before the last one's answer."""
    from hypercorn.asyncio.tcp_server import TCPServer
    from hypercorn.events import Closed, Event
    from hypercorn.protocol.h11 import H11Protocol

    read = TCPServer._read_data
    if hasattr(read, "closes"):
        return

    async def read_and_close(server: Any) -> None:
        await read(server)
        idle, server.idle_task = server.idle_task, EndedTask()
        await idle.stop()

    ends = H11Protocol.handle

    async def handle(protocol: Any, event: Event) -> None:
        await ends(protocol, event)
        if isinstance(event, Closed):
            protocol.connection = EndedConnection()
            await protocol.can_read.set()

    H11Protocol.handle = handle
    read_and_close.closes = True  # type: ignore[attr-defined]
    TCPServer._read_data = read_and_close


def speak_http_1() -> None:
    """Have hypercorn speak HTTP/1 alone: without TLS no client of this service speaks HTTP/2 unasked. By itself (0.18)
    it never closes a connection that began with HTTP/2 and has no request: 24 bytes would take a place for good. Who
    begins so is told 505; who asks for an upgrade is answered without one."""
    from hypercorn.events import Closed, Event
    from hypercorn.protocol import ProtocolWrapper
    from hypercorn.protocol.h11 import H2ProtocolAssumedError, H11Protocol

    async def look(protocol: Any, request: Any) -> None:
        if request.http_version == b"2.0":
            raise H2ProtocolAssumedError(b"")

    async def handle(wrapper: Any, event: Event) -> None:
        try:
            await wrapper.protocol.handle(event)
        except H2ProtocolAssumedError:
            await wrapper.protocol._send_error_response(505)
            await wrapper.send(Closed())

    H11Protocol._check_protocol = look
    ProtocolWrapper.handle = handle


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
