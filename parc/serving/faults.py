"""What goes wrong with a request, as OpenAI's service words it."""

from __future__ import annotations

from typing import Any

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class Fault(Exception):
    """An answer that is an error: the HTTP status, what to tell, the parameter that is meant, a stable code.

    again: seconds after which it is worth to ask again (the header `Retry-After`).
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, again: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.again = status, message, param, code, again

    def body(self) -> dict[str, Any]:
        """Plain values."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Besides those of every answer."""
        found = {"retry-after": str(self.again)} if self.again is not None else {}
        return found | ({"www-authenticate": "Bearer"} if self.status == 401 else {})


def busy() -> Fault:
    """429: the queue is full."""
    return Fault(429, "too many requests wait already: try again in a moment", code="queue_full", again=1)


def overloaded() -> Fault:
    """503: more is asked at a time than there is memory for."""
    return Fault(503, "too many requests at a time: try again in a moment", code="overloaded", again=1)


def restarting() -> Fault:
    """503: nobody computes at present."""
    return Fault(503, "the model is being loaded: try again in a moment", code="restarting", again=2)


def draining() -> Fault:
    """503: the service ends."""
    return Fault(503, "the service is shutting down", code="draining", again=5)


def too_late(seconds: float) -> Fault:
    """504: a request took longer than it may."""
    return Fault(504, f"the request was not done after {seconds:g} seconds", code="timeout")


def broken() -> Fault:
    """500: the model's scores are no numbers."""
    return Fault(500, "the model's scores are no numbers behind this text", code="not_a_number")
