"""How much memory this process can still have: the one place that asks the machine.

`available` has the narrowest of what the machine has free, what its control groups allow, and the process's own limits;
`lacking` is for whoever knows what something takes, before it is allocated.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import suppress
from os import sysconf
from pathlib import Path

from dsl.data import dataclass
from dsl.diagnostics import fail

CERTAIN = 64 * 2**20
"""Bytes that are not worth a look at what there is."""

NUMPY = 96 * 2**20
"""Bytes that numpy takes to be loaded, with its library of matrix products: with less that ends the process."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Bytes that this process can still have, and what says so."""

    bytes: int
    what: str


def available() -> Limit | None:
    """The narrowest limit; None where the system tells none."""
    return min(_limits(), key=lambda limit: limit.bytes, default=None)


def lacking(needed: int) -> Limit | None:
    """What limits a process that wants so many bytes more; None if it can have them."""
    limit = available() if needed > CERTAIN else None
    return None if limit is None or needed <= limit.bytes else limit


def require_memory(what: str, needed: int) -> None:
    """Raise ParcError (E0910) unless there are so many bytes for `what`."""
    limit = lacking(needed)
    if limit is not None:
        message = f"{what} takes {needed / 2**30:.1f} GiB of memory here, and there are {limit.bytes / 2**30:.1f} GiB"
        raise fail("E0910", f"{message} ({limit.what})")


def require_numpy() -> None:
    """Raise ParcError (E0910) unless there is memory enough to load numpy, which reports it badly or not at all."""
    limit = lacking(NUMPY)
    if limit is not None:
        message = f"numpy takes some {NUMPY >> 20} MiB of memory here, and there are {limit.bytes >> 20} MiB"
        raise fail("E0910", f"{message} ({limit.what})")


def _limits() -> Iterator[Limit]:
    memory = _fields("/proc/meminfo")
    if "MemAvailable" in memory:
        yield Limit(memory["MemAvailable"] + memory.get("SwapFree", 0), "free memory")
    else:
        with suppress(OSError, ValueError):  # not told
            yield Limit(sysconf("SC_PHYS_PAGES") * sysconf("SC_PAGE_SIZE"), "memory")
    own = _fields("/proc/self/status")
    for kind, used, what in (
        (resource.RLIMIT_AS, "VmSize", "limit of the address space"),
        (resource.RLIMIT_DATA, "VmData", "limit of data"),
    ):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            yield Limit(max(0, soft - own.get(used, 0)), what)
    for folder, most, now, cache in _groups():
        try:
            taken = int((folder / now).read_text()) - _reclaimable(folder, cache)
            yield Limit(max(0, int((folder / most).read_text()) - taken), "limit of the control group")
        except (OSError, ValueError):
            continue  # not there, or `max`


def _groups() -> Iterator[tuple[Path, str, str, str]]:
    """This process's control groups, and those above them: a folder, and what in it says the limit, what is used, and
    (a line of `memory.stat`) what of that are files which are kept as long as there is room."""
    root = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            base = root / "memory"
        else:
            continue
        folder = base / path.lstrip("/")
        for at in (folder, *folder.parents):
            yield at, *names
            if at == base:
                break


def _reclaimable(folder: Path, name: str) -> int:
    """Bytes of files in memory that the system lets go of when they are needed."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)


def _fields(path: str) -> dict[str, int]:
    """Lines like `VmSize:  1234 kB`, in bytes."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return {}
    found = [(name, rest.split()) for name, _, rest in (line.partition(":") for line in lines)]
    return {name: 1024 * int(words[0]) for name, words in found if len(words) == 2 and words[1] == "kB"}
