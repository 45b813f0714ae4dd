"""What a process says of those who are missing: E0709."""

from __future__ import annotations

from dsl.diagnostics import ParcError, fail
from runtime.torch.launch import Seat


def absent(place: Seat, error: BaseException) -> ParcError:
    """E0709: why a process did not meet the others."""
    what = f"process {place.rank} of {place.size} did not meet the others at {place.address}:{place.port}"
    help = "start all of them, with the same MASTER_ADDR, MASTER_PORT and WORLD_SIZE; docs/torch.md says more"
    if "EADDRINUSE" in str(error):
        help = f"another program listens at port {place.port}, maybe a run that has not ended: end it, or choose "
        help += "another MASTER_PORT (torchrun: `--master-port`) for all of them"
    elif "connectFullMesh" in str(error):  # they have met, and cannot reach each other where they say that they are
        help = "say by which network interface the others are reached, on every host: GLOO_SOCKET_IFNAME=eth1 "
        help += "(`ip -brief address` lists them), and let all ports between the hosts through; docs/torch.md says more"
    return fail("E0709", f"{what}: {first_line(error)}", help=help)


def fault(message: str) -> ParcError:
    """E0709: who is missing."""
    return fail("E0709", message, help="look at that process' own output; docs/torch.md says what else to look at")


def first_line(error: BaseException) -> str:
    """The first line of an error of torch, without where it was found."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
