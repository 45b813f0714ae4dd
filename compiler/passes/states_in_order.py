"""States of the model under an order by hand: each micro-batch reads what the one before has renewed."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.layout import TIME
from compiler.origin import Role
from compiler.program import DeviceClass
from compiler.schedules import out_of_turn
from compiler.schedules.by_hand import action_loops
from compiler.strategy import PipelineRule
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
                late = out_of_turn(action_loops(rule.orders[g]), chunk)
                if late is not None:
                    message = (
                        f"`{rule.axis}[{g}]` comes to micro-batches behind later ones, and renews the state `{state}`"
                    )
                    help = f"`F{chunk or ''}` by the numbers of the micro-batches: 0, 1, and so on"
                    raise fail("E0447", message, rule.orders[g][late].span, help=help)
