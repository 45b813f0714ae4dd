"""The service's addresses: who may ask, how much is read, and what is answered."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from importlib.resources import files
from typing import Any

from parc.serving.answering import Completion, TextMaker
from parc.serving.asking import TextsAsked, body_of, chat_of, completion_of
from parc.serving.counting import Counted, Logged
from parc.serving.embedding import Embedding, VectorMaker, vectors_of
from parc.serving.faults import Fault, draining, overloaded, restarting, too_late
from parc.serving.limits import Limits
from parc.serving.offer import Maker

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

_LOCAL = ("localhost", "127.0.0.1", "[::1]")


class Gone(Exception):
    """Whoever asked is not there any more."""


class Service:
    """What is served: a model by its name, over an office.

    key: who asks must have it; None: nobody. local: only who calls this machine by a name of its own is answered (a
    page of another place that makes a browser ask does not know better).
    """

    def __init__(
        self, name: str, created: int, writer: Maker, limits: Limits, logged: Logged, key: str | None = None,
        local: bool = True,
    ) -> None:  # fmt: skip
        self.name, self.created, self.writer, self.office = name, created, writer, writer.office
        self.limits, self.local = limits, local
        self.counted, self.logged = Counted(), logged
        self._key = None if key is None else _digest(key)
        self._open = self._unread = 0

    def app(self) -> Any:
        """As an application of ASGI."""
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.routing import Route

        routes = [
            Route("/health", self._answer("/health", self.health, free=True), methods=["GET"]),
            Route("/ready", self._answer("/ready", self.is_ready, free=True), methods=["GET"]),
            Route("/v1/models", self._answer("/v1/models", self.models), methods=["GET"]),
            Route("/v1/models/{name:path}", self._answer("/v1/models/{name:path}", self.model), methods=["GET"]),
            Route("/v1/completions", self._answer("/v1/completions", self.completions), methods=["POST"]),
            Route("/v1/chat/completions", self._answer("/v1/chat/completions", self.chats), methods=["POST"]),
            Route("/v1/embeddings", self._answer("/v1/embeddings", self.embeddings), methods=["POST"]),
            Route("/metrics", self._answer("/metrics", self.metrics), methods=["GET"]),
        ]
        if isinstance(self.writer, TextMaker):
            routes.append(Route("/", self._answer("/", _page(), free=True), methods=["GET"]))

        async def other(request: Any, error: Any) -> Any:
            told = {404: "there is no such address", 405: "this address takes another method"}
            message = told.get(error.status_code, "the request cannot be answered")
            fault = Fault(error.status_code, message)
            self.counted.request("other", fault.status, 0.0)
            return _Starlette(_Json(error.status_code, fault.body(), dict(error.headers or {})))

        async def bug(request: Any, error: Exception) -> Any:
            return _Starlette(_Json(500, Fault(500, "an internal error").body()))

        app = Starlette(routes=routes, exception_handlers={HTTPException: other, Exception: bug})
        app.router.redirect_slashes = False  # it would send clients to where their own `Host` says
        return app

    # --- addresses

    async def health(self, request: Any) -> Any:
        return _Json(200, {"status": "ok"})

    async def is_ready(self, request: Any) -> Any:
        if self.office.draining:
            raise draining()
        if not self.office.ready:
            raise restarting()
        return _Json(200, {"status": "ready"})

    async def models(self, request: Any) -> Any:
        return _Json(200, {"object": "list", "data": [self._model()]})

    async def model(self, request: Any) -> Any:
        self._known(request.path_params["name"])
        return _Json(200, self._model())

    async def completions(self, request: Any) -> Any:
        return await self._texts(request, completion_of(body_of(await self._body(request)), self.limits))

    async def chats(self, request: Any) -> Any:
        return await self._texts(request, chat_of(body_of(await self._body(request)), self.limits))

    async def embeddings(self, request: Any) -> Any:
        asked = vectors_of(body_of(await self._body(request)), self.limits)
        self._known(asked.model)
        if not isinstance(self.writer, VectorMaker):
            raise Fault(400, f"the model `{self.name}` makes texts, and no vectors of them", "model", "no_vectors")
        return await self._made(request, Embedding(asked, self.writer, self.counted, request.state.about))

    async def metrics(self, request: Any) -> Any:
        return _Plain(self.counted.text(self.office), "text/plain; version=0.0.4; charset=utf-8")

    async def _texts(self, request: Any, asked: TextsAsked) -> Any:
        self._known(asked.model)
        if not isinstance(self.writer, TextMaker):
            message = f"the model `{self.name}` makes vectors of texts (`/v1/embeddings`), and no texts"
            raise Fault(400, message, "model", "no_texts")
        return await self._made(request, Completion(asked, self.writer, self.counted, request.state.about))

    def _model(self) -> dict[str, Any]:
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "parc",
            "max_model_len": self.writer.ports.places,
            "chat": isinstance(self.writer, TextMaker) and self.writer.chat is not None,
        }

    def _known(self, name: str) -> None:
        if name != self.name:
            raise Fault(404, f"there is no model `{name[:64]}`, but `{self.name}`", "model", "model_not_found")

    async def _made(self, request: Any, completion: Completion | Embedding) -> Any:
        """The answer to a request for texts, or vectors: at once, or, where it is asked for so, in pieces."""
        limit = self.limits.seconds
        leaving = asyncio.ensure_future(_left(request.receive))
        if isinstance(completion, Completion) and completion.asked.stream:
            stream = _Stream(completion, self.limits, leaving)
            await stream.begin()
            return stream
        try:
            async with asyncio.timeout(limit), completion:
                await _unless(leaving, _all(completion.pieces()))
                return _Json(200, completion.whole())
        except TimeoutError:
            raise too_late(limit) from None
        finally:
            leaving.cancel()

    # --- who asks, and how much

    def _answer(self, path: str, handler: Callable[[Any], Awaitable[Any]], free: bool = False) -> Any:
        """The handler as an application, with all faults as answers. free: for everybody."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            from starlette.requests import Request

            request = Request(scope, receive)
            name, begun = f"req_{secrets.token_hex(12)}", time.monotonic()
            about: dict[str, Any] = {}
            scope["state"]["about"] = about  # what the log tells besides
            status, said = 499, ""
            self._open += 1
            try:
                try:
                    if not free:
                        self._allow(request)
                    found = await handler(request)
                except Fault as fault:
                    found, said = _Json(fault.status, fault.body(), fault.headers()), fault.code or fault.message
                await found(_in_time(send, self.limits.reading, name))
                status = found.status
            except (Gone, TimeoutError):
                pass  # nobody takes an answer
            finally:
                self._open -= 1
                seconds = time.monotonic() - begun
                self.counted.request(path, status, seconds)
                fault_said = {"fault": said} if said else {}
                told = {"id": name, "method": scope["method"], "path": path, "status": status, **fault_said, **about}
                self.logged.event("request", **told, seconds=round(seconds, 6))

        return _Endpoint(answer)

    def _allow(self, request: Any) -> None:
        """Raises Fault for who may not ask."""
        if self._open > self.limits.requests:
            raise overloaded()
        host = request.headers.get("host", "")
        if self.local and host.rpartition(":")[0] not in _LOCAL and host not in _LOCAL:
            raise Fault(403, "this service is called by the name of its own machine", code="wrong_host")
        if self._key is not None:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            if not hmac.compare_digest(_digest(given.strip()), self._key) or scheme.lower() != "bearer":
                raise Fault(401, "the API key is wrong, or there is none", code="invalid_api_key")

    async def _body(self, request: Any) -> bytes:
        """All of it. Raises Fault for too much, too late, or no JSON; Gone."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Fault(415, "the body must be JSON: `Content-Type: application/json`")
        most = self.limits.body
        size = request.headers.get("content-length", "0")
        too_large = Fault(413, f"the body is larger than {most:,} bytes")
        if size.isascii() and size.isdigit() and (len(size) > 18 or int(size) > most):
            raise too_large
        found = bytearray()
        try:
            async with asyncio.timeout(self.limits.sending):
                while True:
                    message = await request.receive()
                    if message["type"] != "http.request":
                        raise Gone
                    piece = message.get("body", b"")
                    found += piece
                    self._unread += len(piece)
                    if len(found) > most:
                        raise too_large
                    if self._unread > max(self.limits.bodies, most):
                        raise overloaded()
                    if not message.get("more_body", False):
                        return bytes(found)
        except TimeoutError:
            raise Fault(408, f"the body was not there after {self.limits.sending:g} seconds") from None
        finally:
            self._unread -= len(found)


def _page() -> Callable[[Any], Awaitable[Any]]:
    """The page for people: one file, whose own script and style alone may run, and which reaches this service alone."""
    text = files("parc.serving").joinpath("chat.html").read_text("utf-8")

    def own(tag: str) -> str:
        inside = text[text.index(f"<{tag}>") + len(tag) + 2 : text.index(f"</{tag}>")]
        return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"

    allowed = f"script-src {own('script')}; style-src {own('style')}; connect-src 'self'"
    policy = f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    headers = {"content-security-policy": policy, "referrer-policy": "no-referrer"}
    found = _Plain(text, "text/html; charset=utf-8", headers)

    async def page(request: Any) -> Any:
        return found

    return page


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


async def _left(receive: Receive) -> None:
    """Returns when whoever asked is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _unless(leaving: asyncio.Future[None], work: Any) -> Any:
    """What the work gives. Raises Gone where nobody waits for it any more."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((leaving, task), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


async def _all(pieces: AsyncIterator[Any]) -> None:
    async for _ in pieces:
        pass


def _dumped(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _start(status: int, kind: str, headers: Mapping[str, str], length: int | None) -> Mapping[str, Any]:
    found = {"content-type": kind, "cache-control": "no-store", "x-content-type-options": "nosniff", **headers}
    if length is not None:
        found["content-length"] = str(length)
    pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in found.items()]
    return {"type": "http.response.start", "status": status, "headers": pairs}


class _Json:
    """An answer of plain values."""

    def __init__(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.content, self.headers = status, _dumped(value), headers or {}

    async def __call__(self, send: Send) -> None:
        await send(_start(self.status, "application/json", self.headers, len(self.content)))
        await send({"type": "http.response.body", "body": self.content})


def _in_time(send: Send, seconds: float, name: str) -> Send:
    """Sends so that every piece is taken in time, or TimeoutError is raised. name: of the request."""

    async def sent(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"x-request-id", name.encode())]}
        async with asyncio.timeout(seconds):
            await send(message)

    return sent


class _Plain:
    """An answer that is a text."""

    status = 200

    def __init__(self, text: str, kind: str, headers: Mapping[str, str] | None = None) -> None:
        self.content, self.kind, self.headers = text.encode(), kind, headers or {}

    async def __call__(self, send: Send) -> None:
        await send(_start(self.status, self.kind, self.headers, len(self.content)))
        await send({"type": "http.response.body", "body": self.content})


class _Starlette:
    """An answer as Starlette calls one."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.answer(send)


class _Endpoint:
    """An application that Starlette takes for one: a function would be taken for another kind of handler."""

    def __init__(self, answer: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.answer(scope, receive, send)


class _Stream:
    """An answer in pieces, as server-sent events. It begins with its first piece: what fails before has a status."""

    status = 200

    def __init__(self, completion: Completion, limits: Limits, leaving: asyncio.Future[None]) -> None:
        self.completion, self.limits, self.leaving = completion, limits, leaving
        self.until = asyncio.get_running_loop().time() + limits.seconds
        self.chunks = completion.chunks()
        self.first: dict[str, Any] | None = None

    async def begin(self) -> None:
        """Accept it, and wait for the first piece. Raises Fault, Gone."""
        try:
            await self.completion.__aenter__()
            self.first = await self._next()
        except BaseException:
            await self._end()
            raise

    async def _next(self) -> dict[str, Any] | None:
        """The next piece; None at the end. Raises Fault, Gone."""
        try:
            async with asyncio.timeout_at(self.until):
                found: dict[str, Any] | None = await _unless(self.leaving, anext(self.chunks, None))
                return found
        except TimeoutError:
            raise too_late(self.limits.seconds) from None

    async def _end(self) -> None:
        self.leaving.cancel()
        await self.completion.__aexit__()

    async def __call__(self, send: Send) -> None:
        async def tell(content: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": content, "more_body": more})

        try:
            await send(_start(200, "text/event-stream; charset=utf-8", {}, None))
            found = self.first
            while found is not None:
                await tell(b"data: " + _dumped(found) + b"\n\n")
                found = await self._next()
            await tell(b"data: [DONE]\n\n", False)
        except Fault as fault:
            await tell(b"data: " + _dumped(fault.body()) + b"\n\n", False)
        finally:
            await self._end()
