"""Processes of a run: where this one stands, and how the others are started. Nothing of torch is imported here."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from dsl.data import dataclass
from dsl.diagnostics import fail

LEAST = (2, 13)
"""The version of torch that is needed."""


MEETING = 300.0
"""Seconds that processes which are started here may take to load torch on a crowded machine: whose end is noticed."""

_TURNS = count()


@dataclass(frozen=True, slots=True)
class Seat:
    """One process among `size`, and where they meet. `local`: its number on its host; `served`: whether whoever started
    it keeps the store (torchrun does); `listening`: the socket that is bound to the port already, if one is; `turn`:
    how many runs before it met with this environment, by which all find each other and nobody who is gone."""

    rank: int
    size: int
    address: str
    port: int
    local: int = 0
    served: bool = False
    listening: int | None = None
    turn: int = 0

    @staticmethod
    def given(environment: Mapping[str, str] | None = None) -> Seat | None:
        """As the environment says, in torchrun's words; None where it does not. E0708 where it makes no sense."""
        env = os.environ if environment is None else environment
        if "RANK" not in env or "WORLD_SIZE" not in env:
            return None
        try:
            rank, size, port = (int(env[k]) for k in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
            local = int(env.get("LOCAL_RANK", rank))
            if not 0 <= rank < size:
                raise ValueError
        except (KeyError, ValueError):
            said = ", ".join(f"{k}={env.get(k, '')}" for k in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
            help = "torchrun sets them; or unset RANK, and the processes are started here"
            raise fail("E0708", f"the environment describes no process of a run: {said}", help=help) from None
        served = env.get("TORCHELASTIC_USE_AGENT_STORE", "") == "True"
        return Seat(rank, size, env.get("MASTER_ADDR", "127.0.0.1"), port, local, served, turn=next(_TURNS))

    @property
    def environment(self) -> dict[str, str]:
        """In torchrun's words."""
        return {
            "RANK": str(self.rank), "WORLD_SIZE": str(self.size), "LOCAL_RANK": str(self.local),
            "MASTER_ADDR": self.address, "MASTER_PORT": str(self.port),
        }  # fmt: skip


def require_torch() -> None:
    """E0710 where torch is missing or too old; it is not imported for that."""
    # Its warnings of connections come with pages of addresses; what they are about, E0709 says.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from importlib import metadata

    least = ".".join(map(str, LEAST))
    help = f"`{sys.executable} -m pip install 'torch>={least}'`"
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        raise fail(
            "E0710", f"the engine `torch` needs PyTorch, which {sys.executable} does not have", help=help
        ) from None
    numbers = tuple(int(n) for n in version.partition("+")[0].split(".")[:2] if n.isdecimal())
    if numbers < LEAST:
        raise fail("E0710", f"the engine `torch` needs PyTorch {least}; there is {version}", help=help)


def require_size(program: str, devices: int, size: int) -> None:
    """E0708 unless there is a process for each device."""
    if devices != size:
        raise fail(
            "E0708", f"`{program}` has {devices} devices, but there are {size} processes",
            help=f"start {devices} in all (WORLD_SIZE, `torchrun --nnodes` times `--nproc-per-node`)",
        )  # fmt: skip


class Followers:
    """The processes that this one has started: all but process 0, which it is itself. They end with it."""

    def __init__(self, size: int, patience: float, device: str) -> None:
        self._meeting = socket.create_server(("127.0.0.1", 0), backlog=4 * size)  # others may knock at once
        port = int(self._meeting.getsockname()[1])
        self.place = Seat(0, size, "127.0.0.1", port, listening=self._meeting.fileno())
        root = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
        self.started: list[subprocess.Popen[bytes]] = []
        atexit.register(self.stop)
        # An interrupt from the keyboard reaches all: they never hear of one, since this process ends them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for rank in range(1, size):
                place = Seat(rank, size, self.place.address, self.place.port, rank)
                env = {**os.environ, **place.environment, "PYTHONPATH": paths}
                command = [sys.executable, "-m", "runtime.torch.follower", str(patience), device]
                # What is read from standard input ends with this process, however it ends: nobody is left behind.
                p = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
                self.started.append(p)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def ended(self) -> set[int]:
        """The numbers of those that have ended."""
        return {rank for rank, p in enumerate(self.started, 1) if p.poll() is not None}

    def met(self) -> None:
        """The store has the socket now."""
        self._meeting.detach()

    def stop(self, at_once: bool = False) -> None:
        """Give all a moment to end by themselves, unless it is to be at once; then end them."""
        last = time.monotonic() + (0.0 if at_once else 3.0)
        while len(self.ended()) < len(self.started) and time.monotonic() < last:
            time.sleep(0.01)
        for p in self.started:
            if p.poll() is None:
                p.send_signal(signal.SIGKILL)
        for p in self.started:
            p.wait()
            if p.stdin is not None:
                p.stdin.close()
        atexit.unregister(self.stop)


def reach(address: str, port: int, patience: float) -> None:
    """Wait until somebody listens there; OSError if nobody does within the patience (seconds)."""
    last = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((address, port), max(0.1, last - time.monotonic())).close()
            return
        except OSError as error:
            if time.monotonic() > last:
                raise type(error)(f"nobody listens there: {error.strerror or error}") from error
            time.sleep(0.05)
