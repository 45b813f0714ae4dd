"""`python -m runtime.torch.follower PATIENCE DEVICE`: a process of a run but the first, as `parc run` starts them."""

from __future__ import annotations

import os
import signal
import sys
import threading

from dsl.diagnostics import ParcError
from dsl.render import render
from runtime.torch.ending import heed, interrupts_after
from runtime.torch.launch import MEETING, Seat

FAILED = 1


def follow(place: Seat, patience: float, device: str, launched: bool = False) -> int:
    """Do what process 0 says up to the end; the exit code. What is wrong is told on standard error.

    launched: whether somebody else has started this process, who ends it if another one ends.
    """
    world: World | None = None
    try:
        with interrupts_after():
            from runtime.torch.member import Member
            from runtime.torch.world import World
        world = World(place, device, patience, meeting=0.0 if launched else MEETING)
        if launched:
            heed({signal.SIGTERM: world.told_to_end, signal.SIGINT: world.interrupted})
        said = Member(world).serve()
        if said:
            sys.stderr.write(f"process {place.rank}: {said}\n")
        world.close()
        return FAILED if said else 0
    except ParcError as error:
        told = render(error.diagnostics, {}, False)
        sys.stderr.write("".join(f"process {place.rank}: {line}\n" for line in told.strip().splitlines()))
        lost = any(d.code == "E0709" for d in error.diagnostics)
        _leave(world, "" if lost else str(error.diagnostics[0].message))
    except KeyboardInterrupt:
        if world is not None:
            world.interrupted()
        raise
    except Exception as error:
        import traceback

        traceback.print_exception(error)
        _leave(world, f"{type(error).__name__}: {error}")
    return FAILED


def _leave(world: object, why: str) -> None:
    """Tell the others why, if they can be told, and end: threads of a broken connection may never."""
    from runtime.torch.world import World

    if isinstance(world, World):
        world.gave_up(why)
    sys.stderr.flush()
    os._exit(FAILED)


def main() -> None:
    """Follow the process that started this one; end with it."""
    place = Seat.given()
    assert place is not None

    def watch() -> None:
        while sys.stdin.buffer.read(1):
            pass
        os._exit(FAILED)

    threading.Thread(target=watch, daemon=True).start()
    code = follow(place, float(sys.argv[1]), sys.argv[2])
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
