"""The service from its start to its end: sockets, the server, the worker, and signals."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

from dsl.data import dataclass
from dsl.diagnostics import fail
from parc.serving.app import Service
from parc.serving.counting import Logged
from parc.serving.limits import Limits
from parc.serving.listening import BACKLOG, ListeningSocket, bound
from parc.serving.offer import Offer
from parc.serving.office import Office
from parc.serving.wire import WorkerSpec

_LAST = 5.0
"""Seconds in which the last bytes of answers are taken, at the end."""

_OBJECTS = 10_000
"""How many more objects there are before cycles among them are looked for."""


def require_serve() -> None:
    """Raises ParcError (E0751) without the packages of the extra `serve`."""
    try:
        import hypercorn  # noqa: F401
        import starlette  # noqa: F401
    except ImportError as error:
        help = "`pip install 'parc-lang[serve]'`"
        raise fail("E0751", f"`parc serve` needs the package `{error.name}`, which is not there", help=help) from None


@dataclass(frozen=True, slots=True)
class Served:
    """What is served: the model's name; devices; how many sequences go at a time, of how many positions each; of how
    many tokens; of how many numbers its vectors are (0: it makes texts); began: the checkpoint of its weights."""

    name: str
    devices: int
    rows: int
    places: int
    tokens: int
    vector: int
    began: str | None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "devices": self.devices,
            "sequences": self.rows,
            "positions": self.places,
            "tokens": self.tokens,
            "vector": self.vector,
            "began": self.began,
        }


def serve_front(
    served: Served, spec: WorkerSpec, offer: Offer, limits: Limits, host: str, port: int, key: str | None, logs: bool,
    told: Callable[[Served, str], None], renewed: Callable[[], WorkerSpec],
) -> None:  # fmt: skip
    """Serve until SIGTERM or SIGINT, then end what was accepted. told: called with the address when a worker is ready.
    renewed: what workers compute from a SIGHUP on.

    Raises ParcError: E0751, and what the worker tells that keeps it from getting ready.
    """
    require_serve()
    listening = bound(host, port, limits)
    number = listening.getsockname()[1]
    local = ip_address(listening.getsockname()[0]).is_loopback
    shown = f"[{host}]" if ":" in host else host

    async def run() -> None:
        logged = Logged(logs)
        office = Office(spec, served.rows, limits, logged.event)
        service = Service(served.name, int(time.time()), offer.maker(office), limits, logged, key, local)
        await _run(service, listening, renewed, lambda: told(served, f"http://{shown}:{number}"))

    with _collected():
        asyncio.run(run())


@contextlib.contextmanager
def _collected() -> Iterator[None]:
    """What has ended is let go soon, while this lasts.

    A connection is a cycle of some 50 objects (hypercorn's server, protocol and stream know each other), so that only
    the collector lets go of it. As the command has it set, those that are open whenever it looks would be looked at
    again 500,000 objects later, and then 5,000,000 later. Here each third look is at everything but what was loaded
    before, which takes milliseconds with a thousand open connections.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS, 0, 0)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


async def _run(
    service: Service, listening: ListeningSocket, renewed: Callable[[], WorkerSpec], told: Callable[[], None]
) -> None:
    """listening: the server closes it."""
    from hypercorn.asyncio import serve
    from hypercorn.config import Config, Sockets

    from parc.serving.connections import OpenConnections

    opened = OpenConnections(service.limits)
    opened.serve()
    config = Config()
    config.create_sockets = lambda: Sockets([], [listening], [])
    config.loglevel = "ERROR"
    config.backlog = BACKLOG
    config.include_server_header = False
    config.graceful_timeout = _LAST
    end = asyncio.Event()
    office = service.office
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _drain, office, end)
    loop.add_signal_handler(signal.SIGHUP, office.reload, renewed)
    keeping = asyncio.ensure_future(office.keep())
    keeping.add_done_callback(lambda _: _give_up(office, end))
    ending = asyncio.ensure_future(_ended(office, end, service.limits.drain))
    beginning = asyncio.ensure_future(_begun(office, told))

    async def over() -> None:
        await asyncio.shield(ending)
        opened.end()

    try:
        await serve(service.app(), config, shutdown_trigger=over)
    finally:
        for task in (beginning, keeping, ending):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping


def _drain(office: Office, end: asyncio.Event) -> None:
    """The first signal lets what was accepted end; the second one ends all."""
    if office.draining:
        office.abandoned.set()
    office.draining = True
    office.told("draining", running=office.running, waiting=len(office.waiting))
    end.set()


def _give_up(office: Office, end: asyncio.Event) -> None:
    office.abandoned.set()
    end.set()


async def _ended(office: Office, end: asyncio.Event, seconds: float) -> None:
    """Returns when the service is to end, and what was accepted has ended, or has had its time."""
    await end.wait()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            tasks = [asyncio.ensure_future(e.wait()) for e in (office.idle, office.abandoned)]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for t in tasks:
                    t.cancel()


async def _begun(office: Office, told: Callable[[], None]) -> None:
    await office.crew.begun.wait()
    told()
