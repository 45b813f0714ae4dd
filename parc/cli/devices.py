"""`parc devices`: the devices of the standard library, with what their numbers were fitted on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from parc import api
from parc.cli.common import Command, Name, Output, color, json_option
from parc.cli.tables import facts, seconds, table
from parc.units import flops, percent

if TYPE_CHECKING:
    from compiler.cost.price.fitted import Fit
    from compiler.model import Device


@click.command("devices", cls=Command)
@click.argument("name", type=Name(), required=False)
@json_option
def command(out: Output, name: str | None) -> None:
    """List the devices of the standard library, or say of one what it has, for which software it has numbers, what
    those were fitted on, and how far off they are.

    \b
    parc devices
    parc devices a100_80
    """
    found = api.devices()
    if name is None:
        out.result = {"devices": [_json(d) for d in found]}
        out.data(_listed(found, color(sys.stdout)))
        return
    by_name = {d.name: d for d in found}
    if name not in by_name:
        from dsl.diagnostics import suggest

        near = [known for known in by_name if known.startswith(name)] or list(filter(None, [suggest(name, by_name)]))
        hint = f"did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else "`parc devices` lists them"
        raise click.UsageError(f"the standard library has no device `{name}`; {hint}")
    out.result = _json(by_name[name])
    out.data(_shown(by_name[name], color(sys.stdout)))


def _json(device: Device) -> dict[str, Any]:
    from compiler import stacks

    like = stacks.bases(device)
    return {
        "name": device.name,
        "peaks": dict(device.compute),
        "memory": device.memory,
        "bandwidth": device.bandwidth,
        "link": _link(device),
        "stacks": [
            {
                "name": name,
                "like": like.get(name),
                "efficiency": stacks.stated(device, "efficiency", name),
                "footprint": stacks.stated(device, "footprint", name),
                "fitted": fit.as_json() if fit is not None else None,
            }
            for name, fit in _fits(device)
        ],
    }


def _fits(device: Device) -> list[tuple[str, Fit | None]]:
    """The stacks of a device, that of no software in particular ("") first."""
    from compiler import stacks
    from compiler.cost.price.fitted import fit_of

    return [(name, fit_of(device, name)) for name in ("", *stacks.known(device))]


def _link(device: Device) -> float | None:
    return next((float(words[0]) for keyword, words in device.settings if keyword == "link"), None)


def _listed(found: tuple[Device, ...], style: bool) -> str:
    head = ["device", "bf16", "memory", "bandwidth", "software, and the error of steps left out"]
    rows = []
    for d in found:
        peaks = dict(d.compute)
        peak = flops(peaks.get("bf16", max(peaks.values())))
        known = ", ".join(_called(name, fit) for name, fit in _fits(d) if name) or "–"
        rows.append([d.name, peak, _size(d.memory), f"{_decimal(d.bandwidth)}/s", known])
    return table(head, rows, style, words=(4,)).replace("\N{NO-BREAK SPACE}", " ")


def _decimal(number: float) -> str:
    """As data sheets have it: `2.04 TB`."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9)):
        if number >= scale:
            return f"{number / scale:.4g} {unit}"
    return f"{number / 1e6:.4g} MB"


def _size(memory: float) -> str:
    """`80 GiB` where it is whole in binary units, else `96 GB`."""
    whole = memory / 2**30
    return f"{whole:.0f} GiB" if whole == int(whole) else _decimal(memory)


def _called(name: str, fit: Fit | None) -> str:
    return f"{name}\N{NO-BREAK SPACE}{percent(fit.mean)}" if fit is not None and fit.mean is not None else name


def _shown(device: Device, style: bool) -> str:
    from compiler import stacks
    from compiler.cost.price.fitted import OTHER_SOFTWARE

    has = [["memory", f"{_size(device.memory)}, {_decimal(device.bandwidth)}/s"]]
    has += [[f"peak {dtype}", flops(peak)] for dtype, peak in device.compute]
    if link := _link(device):
        has.append(["links inside a server", f"{_decimal(link)}/s"])
    settings = [(k, w) for k, w in device.settings if k in ("cores", "tile", "cube", "launch")]
    has += [[k, seconds(w[0]) if k == "launch" else " × ".join(map(str, w))] for k, w in settings]
    like = stacks.bases(device)
    rows = []
    for name, fit in _fits(device):
        base = like.get(name)
        of = "–" if fit is None else f"{fit.rows} of {fit.of}"
        left = ["–", f"{OTHER_SOFTWARE:.0%}"]
        if fit is not None and fit.mean is not None and fit.within is not None:
            left = [percent(fit.mean), percent(fit.within)]
        kin = "" if base is None else base or "general"
        rows.append([name or "general", kin, fit.group if fit else "not fitted", of, *left])
    head = ["software", "like", "fitted with", "rows", "left out: mean", "nine of ten"]
    parts = [
        device.name,
        facts(has),
        table(head, rows, style, words=(1, 2)),
    ]
    groups = {fit.group: fit for _, fit in _fits(device) if fit is not None}
    sources: dict[str, list[str]] = {}
    for _, fit in _fits(device):
        if fit is not None:
            sources.setdefault(fit.group, []).extend(s for s in fit.sources if s not in sources.get(fit.group, ()))
    for group, fit in groups.items():
        about = f"{group}: {fit.numbers} numbers on {fit.of} rows of"
        parts.append("\n".join([about, *(f"  {s}" for s in sources[group])]))
    if not groups:
        parts.append("Nothing was fitted on this device: its numbers are round, or those of a relative.")
    return "\n\n".join(parts)
