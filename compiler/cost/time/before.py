"""What is kept of programs that are priced one after the other: all that the next may have as well."""

from __future__ import annotations

from compiler.cost.kernels.templates import WorkTemplates
from compiler.cost.time.orders import KnownOrders
from compiler.cost.time.segments import KnownSegments


class PricedBefore:
    """Of one cluster's programs, priced with its own calibration. work: of functions, for any sizes; orders: of
    schedules; segments: of functions with the same work."""

    def __init__(self) -> None:
        self.work, self.orders, self.segments = WorkTemplates(), KnownOrders(), KnownSegments()
