"""Words of the clock, as data: streams of a device, kinds of work and of waits, and what messages go over."""

from __future__ import annotations

from enum import Enum, StrEnum


class Stream(StrEnum):
    """What runs on a device one after the other. Messages over a level of the cluster have a stream of their own.

    Copies into the device's memory and out of it have one each: links to hosts carry both at once. What hosts compute
    for a device is a stream, too: its part of their processors.
    """

    COMPUTE = "compute"
    COPY_IN = "copy in"
    COPY_OUT = "copy out"
    HOST = "host"
    SEND = "send"

    @staticmethod
    def comm(level: str = "") -> str:
        """That of messages over a level of the cluster ("": there is but one)."""
        return f"comm:{level}" if level else "comm"


class Kind(StrEnum):
    """What runs, or is waited for; activations are of the kind of their function."""

    PRODUCT = "product"
    VECTOR = "vector"
    COLLECTIVE = "collective"
    SEND = "send"
    COPY = "copy"
    HOSTED = "hosted"  # computed by the servers' processors
    EXPOSED = "exposed"  # waits for a message
    WAIT = "wait"
    HOST = "host"
    REPEAT = "repeat"  # more iterations of a loop


class Way(Enum):
    """How a device comes to wait for what is no kernel of its own."""

    NONE = ""
    MESH = "mesh"  # messages of a collective, over axes of the mesh
    STAGES = "stages"  # what device groups send each other
    COPY = "copy"  # to and from host or NVMe memory
    HOSTED = "host"  # what is computed there
    SLOWER = "slower devices"  # peers that are late: more than the messages themselves take


class Over(str):
    """`dp+cp`, `stages`, `copy`: for people a text, for the program the way and the axes of the mesh.

    Different ways have different texts, whatever axes are called.
    """

    way: Way
    axes: tuple[str, ...]

    def __new__(cls, axes: tuple[str, ...] = (), way: Way = Way.NONE) -> Over:
        """axes: in the order of the mesh, major to minor."""
        text = "+".join(axes) if axes else way.value
        if axes and any(text == w.value for w in Way):
            text = f"axis {text}"
        found = super().__new__(cls, text)
        found.axes, found.way = axes, Way.MESH if axes else way
        return found

    def __reduce__(self) -> tuple[type[Over], tuple[tuple[str, ...], Way]]:
        return Over, (self.axes, self.way)


NOTHING = Over()
STAGES = Over(way=Way.STAGES)
COPIES = Over(way=Way.COPY)
HOSTS = Over(way=Way.HOSTED)
SLOWER = Over(way=Way.SLOWER)
