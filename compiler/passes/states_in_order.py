"""States of the model under an order by hand: each micro-batch reads what the one before has renewed."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.layout import TIME
from compiler.origin import Role
from compiler.program import DeviceClass, FunctionPhase
from compiler.schedules.by_hand import action_loops
from compiler.strategy import ActionRow, PipelineRule
from dsl.diagnostics import fail


def check_states_in_order(classes: Sequence[DeviceClass], rule: PipelineRule | None) -> None:
    """Raise E0447 for a group whose order comes to a micro-batch behind a later one, in a stage that has a state of the
    model: the serial program renews it by the first micro-batch first. Linear in the rows, not in micro-batches."""
    if rule is None or not rule.orders:
        return
    for cls in classes:
        shared = {s.chunk: s.logical for s in cls.states if s.role is Role.STATE and TIME not in s.layout.split_axes}
        for g in cls.groups if shared else ():
            for chunk, state in shared.items():
                row = _late(rule.orders[g], chunk)
                if row is not None:
                    message = (
                        f"`{rule.axis}[{g}]` comes to micro-batches behind later ones, and renews the state `{state}`"
                    )
                    help = f"`F{chunk or ''}` by the numbers of the micro-batches: 0, 1, and so on"
                    raise fail("E0447", message, row.span, help=help)


def _late(rows: Sequence[ActionRow], chunk: int) -> ActionRow | None:
    """The first row with a forward pass on a micro-batch behind a later one."""
    most = -1
    for row, loop in zip(rows, action_loops(rows), strict=True):
        of = [a.mb for a in loop.steps if a[:2] == (FunctionPhase.FORWARD, chunk)]
        if not of:
            continue
        if of != sorted(of) or of[0] < most or (loop.count > 1 and of[0] + loop.by < of[-1]):
            return row
        most = of[-1] + loop.by * (loop.count - 1)
    return None
