"""Collectives and local cuts: the layout after each follows from the layout before it."""

from __future__ import annotations

from collections.abc import Mapping

from compiler.layout import Layout, in_order, is_padded
from compiler.ops.comm import (
    AllGather,
    AllReduce,
    AllToAll,
    Comm,
    Halo,
    HaloAdd,
    MaskPad,
    OnlyFirst,
    ReduceScatter,
    Shard,
)
from compiler.program import Var
from compiler.verify.local import Fills
from compiler.verify.report import Finding


class _Wrong(Exception):
    def __init__(self, message: str, help: str | None = None, code: str = "E0617") -> None:
        super().__init__(message)
        self.finding: Finding = (code, message, help)


def check_comm(op: Comm, source: Var, out: Var, sizes: Mapping[str, int], kinds: Mapping[str, str]) -> list[Finding]:
    """What is wrong with a collective on `source` that gives `out`."""
    try:
        want = _after(op, source, sizes, kinds)
    except _Wrong as wrong:
        return [wrong.finding]
    if out.layout == want:
        return []
    lost = [f"{fn} over {a}" for a, fn in want.pending if (a, fn) not in out.layout.pending]
    if lost:
        return [("E0615", f"%{out.name}: the pending {', '.join(lost)} is dropped", "name its axis here, or keep it")]
    message = f"%{out.name} is stated as {_shown(out, out.layout)}, but {op.mnemonic} gives {_shown(out, want)}"
    return [("E0617", message, None)]


def _shown(var: Var, layout: Layout) -> str:
    dims = ", ".join("/".join((d.name, *axes)) for d, axes in zip(var.type.dims, layout.dims, strict=True))
    pending = f" pending({', '.join(f'{a} {fn}' for a, fn in layout.pending)})" if layout.pending else ""
    return f"[{dims}]{pending}{' with borders' if layout.halo else ''}"


def _after(op: Comm, source: Var, sizes: Mapping[str, int], kinds: Mapping[str, str]) -> Layout:
    layout = source.layout
    axes: tuple[str, ...] = getattr(op, "axes", ())
    _check_axes(op, axes, kinds)
    dims = [*layout.dims]
    pending = dict(layout.pending)
    if isinstance(op, MaskPad):
        if pending and op.value != 0:
            raise _Wrong(f"%{source.name} is a pending sum: only 0 can be put into its unused elements")
        _dim(op.dim, source)
        return layout
    if isinstance(op, Halo):
        return _halo(op, source, sizes)
    if isinstance(op, HaloAdd):
        return _halo_add(op, source)
    if layout.halo:
        raise _Wrong(f"%{source.name} has borders", "`halo_add` gives them back")
    if isinstance(op, (AllReduce, ReduceScatter)):
        for a in axes:
            if pending.pop(a, None) != op.fn:
                raise _Wrong(f"%{source.name} has no pending {op.fn} over {a}")
    if isinstance(op, (Shard, OnlyFirst)):
        held = [a for a in axes if a in layout.axes]
        if held:
            raise _Wrong(f"%{source.name} is not replicated on {held[0]}")
    if isinstance(op, OnlyFirst):
        pending.update(dict.fromkeys(axes, "sum"))
    if isinstance(op, AllGather):
        _remove(dims, op.dim, axes, source, sizes)
    if isinstance(op, AllToAll):
        _remove(dims, op.gather, axes, source, sizes)
        if op.gather == op.scatter:
            raise _Wrong("an all_to_all moves axes from one dim to another")
        _append(dims, op.scatter, axes, source, sizes)
    if isinstance(op, (ReduceScatter, Shard)):
        _append(dims, op.dim, axes, source, sizes)
    return Layout(tuple(dims), in_order(pending.items(), sizes))


def _check_axes(op: Comm, axes: tuple[str, ...], kinds: Mapping[str, str]) -> None:
    local = isinstance(op, (Shard, OnlyFirst))
    for a in axes:
        kind = kinds.get(a)
        if kind == "time" and not local:
            help = "sums over micro-batches are taken by `accumulate`; whatever else needs all of them cannot be"
            raise _Wrong(f"{op.mnemonic} over {a}: micro-batches do not run at the same time", help, "E0618")
        if kind not in ("mesh", "time"):
            what = "there is no axis" if kind is None else "stages do not take part together:"
            raise _Wrong(f"{what} {a}", "send and recv go between stages" if kind else None, "E0618")
    if not isinstance(op, MaskPad) and (not axes or len(set(axes)) != len(axes)):
        raise _Wrong(f"{op.mnemonic} over {axes}: it takes axes, each once")


def _dim(name: str, source: Var) -> int:
    if not source.type.has(name):
        raise _Wrong(f"%{source.name} has no dim {name}")
    return source.type.index(name)


def _remove(
    dims: list[tuple[str, ...]], name: str, axes: tuple[str, ...], source: Var, sizes: Mapping[str, int]
) -> None:
    i = _dim(name, source)
    if dims[i][-len(axes) :] != axes:
        held = "/".join(dims[i]) or "nothing"
        raise _Wrong(f"{name} of %{source.name} is split on {held}: {'/'.join(axes)} are not its minor-most axes")
    rest = dims[i][: -len(axes)]
    _even(i, rest, dims[i], source, sizes)
    dims[i] = rest


def _append(
    dims: list[tuple[str, ...]], name: str, axes: tuple[str, ...], source: Var, sizes: Mapping[str, int]
) -> None:
    i = _dim(name, source)
    _even(i, dims[i], (*dims[i], *axes), source, sizes)
    dims[i] = (*dims[i], *axes)


def _even(i: int, major: tuple[str, ...], all: tuple[str, ...], source: Var, sizes: Mapping[str, int]) -> None:
    """Pieces of uneven pieces are not where the layout says: refused unless the dim is whole on one side."""
    dim = source.type.dims[i]
    if major and is_padded(dim, all, sizes):
        raise _Wrong(f"{dim.name}={dim.size} of %{source.name} is padded: it is split or gathered in one go only")


def _halo(op: Halo, source: Var, sizes: Mapping[str, int]) -> Layout:
    i = _dim(op.dim, source)
    layout = source.layout
    if layout.dims[i] != op.axes or any(d == i for d, _, _ in layout.halo):
        raise _Wrong(f"borders of {op.dim} go along all of its axes, once: {'/'.join(layout.dims[i]) or 'it has none'}")
    if layout.pending and op.fill != 0:
        raise _Wrong(f"%{source.name} is a pending sum: only 0 can stand beyond its ends")
    n = 1
    for a in op.axes:
        n *= sizes[a]
    if min(op.left, op.right) < 0 or max(op.left, op.right) * n > source.type.dims[i].size:
        raise _Wrong(f"borders of {op.left} and {op.right}: a piece of {op.dim} has {source.type.dims[i].size // n}")
    return Layout(layout.dims, layout.pending, tuple(sorted((*layout.halo, (i, op.left, op.right)))))


def _halo_add(op: HaloAdd, source: Var) -> Layout:
    i = _dim(op.dim, source)
    layout = source.layout
    if layout.dims[i] != op.axes or (i, op.left, op.right) not in layout.halo:
        raise _Wrong(f"{op.dim} of %{source.name} has no borders ({op.left}, {op.right}) along {'/'.join(op.axes)}")
    if any(fn != "sum" for _, fn in layout.pending):
        raise _Wrong("borders of a pending maximum cannot be added")
    return Layout(layout.dims, layout.pending, tuple(h for h in layout.halo if h[0] != i))


def comm_fills(op: Comm, fills: Fills) -> Fills:
    """What is known of the unused elements after the op."""
    if isinstance(op, MaskPad):
        return {**fills, op.dim: op.value}
    if isinstance(op, (Shard, ReduceScatter)):
        return {**fills, op.dim: 0.0}  # cutting pads with zeros
    if isinstance(op, AllToAll):
        return {**fills, op.scatter: 0.0}
    return fills
