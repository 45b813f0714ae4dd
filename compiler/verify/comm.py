"""Collectives: which layout each gives, and along which axes it may go."""

from __future__ import annotations

from collections.abc import Mapping

from compiler.graph import Value
from compiler.layout import Layout
from compiler.ops.base import OpError
from compiler.ops.comm import Comm, LayoutError, MaskPad, Operand, Pattern, Relayout
from compiler.ops.common import expect_fill
from compiler.relayout import plan_relayout
from compiler.verify.local import Fills
from compiler.verify.report import Finding


def check_comm(
    op: Comm, source: Value, out: Value, known: Fills, sizes: Mapping[str, int], kinds: Mapping[str, str]
) -> tuple[list[Finding], Fills]:
    """What is wrong with a collective on `source` that gives `out`, and what padding holds after it. known: before."""
    wrong = _wrong_axes(op, kinds)
    if wrong is not None:
        return [wrong], {}
    operand = Operand(source.name, source.type, source.layout)
    filled = next((f for f in ("value", "fill") if hasattr(op, f)), None)
    try:
        if filled is not None:
            expect_fill(op.mnemonic, getattr(op, filled), source.type.dtype)
        want = op.after(operand, sizes)
    except OpError as error:
        return [("E0612", error.message, error.help)], {}
    except LayoutError as error:
        return [("E0617", error.message, error.help)], {}
    found = [] if out.layout == want else [_other_layout(op, out, want)]
    return found, {} if found else op.fills(known, operand, sizes)


def _other_layout(op: Comm, out: Value, want: Layout) -> Finding:
    """The result is not stated as what the collective gives."""
    lost = [f"{fn} over {a}" for a, fn in want.pending if (a, fn) not in out.layout.pending]
    if lost:
        return "E0615", f"%{out.name}: the pending {', '.join(lost)} is dropped", "name its axis here, or keep it"
    message = f"%{out.name} is stated as {_shown(out, out.layout)}, but {op.mnemonic} gives {_shown(out, want)}"
    return "E0617", message, None


def check_relayout(
    op: Relayout, source: Value, out: Value, known: Fills, sizes: Mapping[str, int], kinds: Mapping[str, str]
) -> tuple[list[Finding], Fills]:
    """What is wrong with a change of layout, and what padding holds after it. known: before it."""
    if out.layout != op.layout:
        message = f"%{out.name} is stated as {_shown(out, out.layout)}, but brought to {_shown(out, op.layout)}"
        return [("E0617", message, None)], {}
    try:
        steps = plan_relayout(source.type, source.layout, op.layout, sizes)
    except ValueError as error:
        return [("E0617", str(error), None)], {}
    before = source.layout
    for step in steps:
        wrong = _wrong_axes(step.op, kinds)
        if wrong is not None:
            return [wrong], {}
        known = step.op.fills(known, Operand(source.name, source.type, before), sizes)
        before = step.layout
    return [], known


def _shown(var: Value, layout: Layout) -> str:
    dims = ", ".join("/".join((d.name, *axes)) for d, axes in zip(var.type.dims, layout.dims, strict=True))
    pending = f" pending({', '.join(f'{a} {fn}' for a, fn in layout.pending)})" if layout.pending else ""
    return f"[{dims}]{pending}{' with borders' if layout.halo else ''}"


def _wrong_axes(op: Comm, kinds: Mapping[str, str]) -> Finding | None:
    axes = op.over()
    for a in axes:
        kind = kinds.get(a)
        if kind == "time" and op.pattern is not Pattern.LOCAL:
            help = "sums over micro-batches are taken by `accumulate`; whatever else needs all of them cannot be"
            return "E0618", f"{op.mnemonic} over {a}: micro-batches do not run at the same time", help
        if kind not in ("mesh", "time"):
            what = "there is no axis" if kind is None else "stages do not take part together:"
            return "E0618", f"{what} {a}", "send and recv go between stages" if kind else None
    if not isinstance(op, MaskPad) and (not axes or len(set(axes)) != len(axes)):
        return "E0617", f"{op.mnemonic} over {axes}: it takes axes, each once", None
    return None
