"""`stack NAME` in a cluster: software that its device speaks of, or at least another one."""

from __future__ import annotations

from collections.abc import Iterable

from compiler import stacks
from compiler.evaluate.modules import Module, devices_of_std
from compiler.evaluate.session import listed
from compiler.model import Cluster, Device
from dsl import ast
from dsl.diagnostics import Diagnostic, did_you_mean, fail


def check_stack(s: ast.Setting, stack: str, device: Device, module: Module) -> None:
    """Raises ParcError (E0315) for a name that no device speaks of, of the file or of the standard library."""
    there = stacks.known(device)
    if stack in there:
        return
    own = (e.item for (kind, _), e in module.entries.items() if kind == "device")
    elsewhere = stacks_of([*own, *devices_of_std()])
    if stack in elsewhere:
        return  # `foreign_stack` tells it
    near = did_you_mean(stack, (*there, *sorted(elsewhere)))
    has = f"`{device.name}` has {listed(there)}" if there else f"`{device.name}` has none"
    help = f"{near} ({has})" if near else f"{has}; without a stack the device's general numbers hold"
    raise fail("E0315", f"there is no software stack `{stack}`", s.span, help=help)


def foreign_stack(cluster: Cluster | None) -> tuple[Diagnostic, ...]:
    """A warning where the device has no numbers for the cluster's software, of which others have some."""
    if cluster is None or not cluster.stack or cluster.stack in stacks.known(cluster.device):
        return ()
    there = stacks.known(cluster.device)
    name = cluster.device.name
    message = f"`{name}` has no numbers for the software `{cluster.stack}`: its general ones are used"
    help = f"`{name}` has {listed(there)}" if there else f"`{name}` has none for any software"
    return (Diagnostic("E0316", message, cluster.stack_span, help=help, severity="warning"),)


def stacks_of(devices: Iterable[ast.Item]) -> set[str]:
    """The stacks that devices speak of, as they are written."""
    found: set[str] = set()
    for item in devices:
        assert isinstance(item, ast.Device)
        for s in item.body:
            if not isinstance(s, ast.Setting):
                continue
            words = [*s.words, *(v for v in s.values if isinstance(v, ast.Name))]
            if (s.keyword.id == "stack" and words) or (s.keyword.id in stacks.KEYWORDS and len(s.words) == 2):
                found.add(words[0].id)
    return found
