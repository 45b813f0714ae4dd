"""What the devices of a server need of a memory that they have together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import NamedTuple

from compiler.numbering import Ranks
from compiler.program import Program


class ServerNeed(NamedTuple):
    """bytes: of a device in the server that needs most, on the average, rounded up; group: whose devices need most of
    those there."""

    bytes: int
    group: int


def worst_server(program: Program, needs: Mapping[int, int], sharing: int) -> ServerNeed:
    """Of servers of so many devices, which are `sharing` ranks in a row. needs: bytes by group of devices.

    Takes as long as there are groups. Where servers and groups do not lie evenly in each other every device is taken to
    need what the worst one does.
    """
    worst = max(needs, key=lambda g: (needs[g], -g))
    found = ServerNeed(needs[worst], worst)
    if sharing > 1 and len(set(needs.values())) > 1:
        servers = list(_servers(Ranks.of(program), sharing))
        if servers:
            total, group = max((sum(n * needs.get(g, 0) for g, n in s.items()), -_most(s, needs)) for s in servers)
            found = ServerNeed(-(-total // sharing), -group)
    return found


def _most(server: Mapping[int, int], needs: Mapping[int, int]) -> int:
    return max(server, key=lambda g: (needs.get(g, 0), -g))


def _servers(ranks: Ranks, sharing: int) -> Iterator[dict[int, int]]:
    """Of each kind of server how many devices it has of each group; none if an axis lies across them unevenly."""
    strides, group_stride = [], 1
    for axis in reversed(ranks.axes):  # minor to major
        strides.append((axis.size, group_stride if axis.kind == "place" else 0))
        group_stride *= axis.size if axis.kind == "place" else 1
    inside: list[tuple[int, int]] = []
    outside: list[tuple[int, int]] = []
    left = sharing
    for size, stride in strides:
        within = min(left, size)
        if size % within or left % within:
            return
        inside.append((within, stride))
        outside.append((size // within, stride * within))
        left //= within
    if left > 1:
        return
    members = {0: 1}
    for size, stride in inside:
        members = _spread(members, size, stride)
    for at in product(*(range(size) if stride else range(1) for size, stride in outside)):
        first = sum(i * stride for i, (_, stride) in zip(at, outside, strict=True))
        yield {first + g: n for g, n in members.items()}


def _spread(members: Mapping[int, int], size: int, stride: int) -> dict[int, int]:
    """The groups of as many devices again along an axis."""
    if not stride:
        return {g: n * size for g, n in members.items()}
    return {g + i * stride: n for i in range(size) for g, n in members.items()}
