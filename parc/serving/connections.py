"""Connections of the service, as hypercorn has them, each with a time in which it is over whatever its client does.

hypercorn (0.18) alone keeps some for good: of those whose client has gone while an answer was made and more had been
sent, of those whose request has more pieces than are waited for when it is refused, of those that ask for a WebSocket
and say it wrong, and of those that begin as HTTP/2 and ask nothing. Here a clock always runs:

idle      waits for a request's head              `sending`, from the last answer on; then it is closed
asked     a request is read and answered          what the service takes for one at most; then it is dropped
ending    the last answer is sent                 `LINGER`, in which what still comes is taken and not looked at:
                                                  a socket that is closed with bytes unread takes the answer back
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import hypercorn.asyncio.run as serving
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.asyncio.worker_context import EventWrapper
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Request, StreamClosed
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, h11
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from parc.serving.limits import Limits

LINGER = 2.0
"""Seconds in which a client takes the last answer, and closes."""


class OpenConnections(set["ServedConnection"]):
    """Those that there are. over: the service takes no more requests."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.limits = limits
        self.over = False

    def serve(self) -> None:
        """Have hypercorn make its connections here."""

        def made(*args: Any) -> ServedConnection:
            return ServedConnection(self, *args)

        serving.TCPServer = made

    def end(self) -> None:
        """Those that wait for a request are closed, now and from now on."""
        self.over = True
        for connection in self:
            if connection.idle:
                connection.part()


class ServedConnection(TCPServer):  # type: ignore[misc]
    """One of them. idle: it waits for a request. ending: nothing more is answered, and what comes is not looked at."""

    def __init__(self, opened: OpenConnections, *args: Any) -> None:
        super().__init__(*args)
        self.opened, self.limits = opened, opened.limits
        self.idle = self.ending = False
        self._clock: asyncio.Handle | None = None

    async def run(self) -> None:
        """Serve it to its end."""
        self.opened.add(self)
        self.writer.transport.set_write_buffer_limits(0)  # what has been sent has left this process
        try:
            socket = self.writer.get_extra_info("socket")
            addresses = (parse_socket_addr(socket.family, a) for a in (socket.getpeername(), socket.getsockname()))
            async with TaskGroup(self.loop) as group:
                self.protocol = ServedProtocol(self, group, *addresses)
                _when_gone(self.reader, self.protocol.gone.set)
                self._wait_for_request()
                await self._read_data()
        except (OSError, asyncio.CancelledError):
            pass  # the client is gone, or the service at its end has waited long enough
        finally:
            self.opened.discard(self)
            if self._clock is not None:
                self._clock.cancel()
            self.part()

    async def protocol_send(self, event: Event) -> None:
        """Bytes, or what becomes of the connection."""
        if isinstance(event, Closed):
            await self._leave()
        elif isinstance(event, Updated) and event.idle:
            self._wait_for_request()
        elif isinstance(event, Updated):
            self.idle = False
            limits = self.limits
            self._within(limits.sending + limits.seconds + 2 * limits.reading, self.writer.transport.abort)
        else:
            await super().protocol_send(event)

    async def _read_data(self) -> None:
        while not self.reader.at_eof():
            try:
                data = await self.reader.read(MAX_RECV)
            except OSError:
                break
            if not self.ending:
                await self.protocol.handle(RawData(data))
        await self.protocol.handle(Closed())

    async def _leave(self) -> None:
        """Say that nothing more comes, and have the client take what was said."""
        if not self.ending:
            self.ending, self.idle = True, False
            if self._unsent():  # it was not taken in time
                self.part()
            else:
                with contextlib.suppress(OSError):
                    self.writer.write_eof()
                self._within(LINGER, self.part)
        await self.protocol.handle(Closed())

    def _wait_for_request(self) -> None:
        self.idle = True
        if self.opened.over:
            self.part()
        else:  # what came while this process had no time is read first
            self._within(self.limits.sending, lambda: self._within(0, self.part))

    def _within(self, seconds: float, then: Callable[[], None]) -> None:
        """Do that so many seconds from now, unless something else is to be done by then."""
        if self._clock is not None:
            self._clock.cancel()
        self._clock = self.loop.call_later(seconds, then) if seconds else self.loop.call_soon(then)

    def part(self) -> None:
        """Close it; what was not taken is not sent any more."""
        if self._unsent():
            self.writer.transport.abort()
        else:
            self.writer.close()

    def _unsent(self) -> bool:
        return bool(self.writer.transport.get_write_buffer_size())


def _when_gone(reader: asyncio.StreamReader, told: Callable[[], None]) -> None:
    """told: called when the client has sent its last byte, whether or not somebody reads."""
    for name in ("feed_eof", "set_exception"):
        setattr(reader, name, _and_then(getattr(reader, name), told))


def _and_then(first: Callable[..., None], then: Callable[[], None]) -> Callable[..., None]:
    def both(*args: Any) -> None:
        first(*args)
        then()

    return both


class ServedProtocol(H11Protocol):  # type: ignore[misc]
    """HTTP/1 alone: who asks for an upgrade is answered without one, who begins with HTTP/2 is told 505.

    gone: the client is, or it said that it would send nothing more.
    """

    connection: Any

    def __init__(
        self, connection: ServedConnection, group: TaskGroup, client: tuple[str, int], server: tuple[str, int]
    ) -> None:
        c = connection
        state = ConnectionState(c.state)
        super().__init__(c.app, c.config, c.context, group, state, False, client, server, c.protocol_send)
        self.gone = asyncio.Event()
        self.can_read = ReadableEvent(self)

    async def handle(self, event: Event) -> None:
        """What comes. After the end of the connection nothing does."""
        await super().handle(event)
        if isinstance(event, Closed) and not isinstance(self.connection, EndedConnection):
            self.connection = EndedConnection()
            await self.can_read.set()

    async def _check_protocol(self, event: Any) -> None:
        """Nothing: see `_create_stream`."""

    async def _create_stream(self, request: Any) -> None:
        if request.http_version == b"2.0":
            await self._send_error_response(505)
            await self.send(Closed())
            return
        address = self.ssl, self.client, self.server
        self.stream = ServedStream(
            self.app, self.config, self.context, self.task_group, *address, self.stream_send, STREAM_ID
        )
        asked = Request(
            stream_id=STREAM_ID,
            headers=list(request.headers),
            http_version=request.http_version.decode(),
            method=request.method.decode("ascii").upper(),
            raw_path=request.target,
            state=self.connection_state,
        )
        await self.stream.handle(asked)
        self.keep_alive_requests += 1


class ReadableEvent(EventWrapper):  # type: ignore[misc]
    """Set when the request behind the one that is answered can be read. A client that goes meanwhile is noticed."""

    def __init__(self, protocol: ServedProtocol) -> None:
        super().__init__()
        self.protocol = protocol

    async def wait(self) -> None:
        """Until it is set; or the client is gone, which ends what it has asked for."""
        tasks = [asyncio.ensure_future(e.wait()) for e in (self._event, self.protocol.gone)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        if not self.is_set():
            await self.protocol.handle(Closed())


class ServedStream(HTTPStream):  # type: ignore[misc]
    """A request and its answer. begun: the answer's head was sent, or was to be."""

    state: Any
    begun = False

    async def handle(self, event: Any) -> None:
        """What comes. At the end whoever answers hears so first: pieces of the request that he did not take are let
        go, for which the connection would wait for good."""
        if isinstance(event, StreamClosed) and not self.closed:
            pieces: asyncio.Queue[Any] = self.app_put.__self__
            while not pieces.empty():
                pieces.get_nowait()
        await super().handle(event)

    async def app_send(self, message: Any) -> None:
        """A piece of the answer; None: whoever answers has ended. What had begun by then is not answered again."""
        if message is not None and message["type"] == "http.response.start":
            self.begun = True
        elif message is None and self.begun and self.state is ASGIHTTPState.REQUEST:
            self.state = ASGIHTTPState.RESPONSE
        await super().app_send(message)


class EndedConnection:
    """In the place of what reads requests and writes answers, at the end: nothing comes, nothing goes."""

    they_are_waiting_for_100_continue = False
    trailing_data = (b"", True)

    def __init__(self) -> None:
        self.our_state = self.their_state = h11.ERROR
        self.last = h11.ConnectionClosed()

    def next_event(self) -> object:
        """That there will be none."""
        return self.last

    def receive_data(self, data: bytes) -> None:
        """Nothing is read any more."""

    def send(self, event: object) -> bytes:
        """Raises what is raised where the client has broken the protocol, which is not told to him."""
        raise h11.LocalProtocolError("the connection has ended")
