"""Local ops: the layouts of the results must follow from those of the operands by the op's loops.

An axis walks one loop: it splits the loop's dim in every operand and result that has it. Operands that lack the dim
are replicated. Loops that are reduced leave a pending reduction; pending sums pass where the op is jointly linear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, prod

from compiler.graph import Value
from compiler.layout import Layout, correspond, has_gaps, in_order, is_padded
from compiler.ops.base import Loop, Op, behind, majors
from compiler.verify.report import Finding
from dsl.diagnostics import plural

Fills = Mapping[str, float]
"""Dim -> what the unused elements of a padded dim hold, where that is known."""

_LOWEST = -(2.0**31) + 1  # as good as -inf for what int32 can hold


def check_local(
    op: Op, ins: Sequence[Value], outs: Sequence[Value], sizes: Mapping[str, int], fills: Sequence[Fills]
) -> list[Finding]:
    """What is wrong with the layouts of a local op whose types are right. `fills`: one per operand."""
    found: list[Finding] = []
    loops = op.loops([v.type for v in ins], [v.type for v in outs])
    walked: dict[str, str] = {}
    pending: dict[str, str] = {}
    borders_in: list[tuple[int, int, int]] = []
    borders_out: list[tuple[int, int, int]] = []
    for index, loop in enumerate(loops):
        axes, problem = _axes(loop, loops, ins, outs)
        if problem is not None:
            found.append(problem)
            continue
        if not axes:
            continue
        twice = [a for a in axes if a in walked]
        if twice:
            message = f"axis {twice[0]} splits both {walked[twice[0]]} and {_title(loop)}"
            found.append(("E0614", message, "an axis splits one loop of an op"))
        walked.update(dict.fromkeys(axes, _title(loop)))
        found += _check_split(loops, index, axes, ins, outs, sizes)
        if loop.kind == "minor":
            found += _check_minor(loops, index, ins, outs, sizes)
        if loop.kind in ("sum", "max"):
            pending.update(dict.fromkeys(axes, loop.kind))
            found += _check_padding(op, loop, ins, sizes, fills)
        if loop.kind == "halo" and loop.halo != (0, 0):
            if loop.gives and loop.outs[0] is not None:
                found += _check_padding(op, loop, ins, sizes, fills)
                borders_out.append((outs[0].type.index(loop.outs[0]), *loop.halo))
            elif not loop.gives and loop.ins[0] is not None:
                borders_in.append((ins[0].type.index(loop.ins[0]), *loop.halo))
    found += _check_uncovered(loops, ins, outs)
    found += _check_borders(op, ins, outs, tuple(sorted(borders_in)), tuple(sorted(borders_out)))
    if not found:
        found += _check_pending(op, ins, outs, walked, pending)
    return found


def _title(loop: Loop) -> str:
    return "/".join(loop.names) or "a loop"


def _axes(
    loop: Loop, loops: Sequence[Loop], ins: Sequence[Value], outs: Sequence[Value]
) -> tuple[tuple[str, ...], Finding | None]:
    """The axes that split the loop; all that have its dim must agree. A dim that several loops walk has the axes of
    all of them, major first."""
    seen: tuple[str, ...] | None = None
    first = ""
    for var, name, parts in _walked(loop, loops, ins, outs):
        axes = var.layout.dims[var.type.index(name)]
        if len(parts) > 1:
            alone = [next((v.layout.dims[v.type.index(n)] for v, n, of in _walked(part, loops, ins, outs)
                           if len(of) == 1), None) for part in parts]  # fmt: skip
            own = _rest(axes, alone)
            if axes != (together := tuple(a for part in own for a in part)):
                message = f"{name} of %{var.name} is split on {_listed(axes)}, its parts on {_listed(together)}"
                return (), ("E0614", message, "one of them needs a collective or a `shard` before")
            axes = own[parts.index(loop)]
        if seen is None:
            seen, first = axes, f"{name} of %{var.name}"
        elif axes != seen:
            message = f"{first} is split on {_listed(seen)}, {name} of %{var.name} on {_listed(axes)}"
            return (), ("E0614", message, "one of them needs a collective or a `shard` before")
    return seen or (), None


def _rest(axes: tuple[str, ...], parts: Sequence[tuple[str, ...] | None]) -> list[tuple[str, ...]]:
    """The axes of each part of a dim: a part that no dim has to itself has what the others leave."""
    if parts.count(None) != 1:
        return [of or () for of in parts]
    at = parts.index(None)
    before = sum(len(of or ()) for of in parts[:at])
    behind = sum(len(of or ()) for of in parts[at + 1 :])
    return [of if of is not None else axes[before : len(axes) - behind] for of in parts]


def _walked(
    loop: Loop, loops: Sequence[Loop], ins: Sequence[Value], outs: Sequence[Value]
) -> list[tuple[Value, str, list[Loop]]]:
    """The dims that the loop walks, and all loops that walk each: more than one, where these are parts of it."""
    found: list[tuple[Value, str, list[Loop]]] = []
    for k, (var, name) in enumerate(zip((*ins, *outs), (*loop.ins, *loop.outs), strict=True)):
        if name is not None:
            found.append((var, name, [of for of in loops if (*of.ins, *of.outs)[k] == name]))
    return found


def _check_minor(
    loops: Sequence[Loop], index: int, ins: Sequence[Value], outs: Sequence[Value], sizes: Mapping[str, int]
) -> list[Finding]:
    """Pieces of a later part of a dim are pieces of the dim where the parts before are split into single elements."""
    for k in majors(loops, index):
        axes, _ = _axes(loops[k], loops, ins, outs)
        if prod(sizes[a] for a in axes) != loops[k].size:
            message = f"{_title(loops[index])} is split, but {_title(loops[k])} before it not into single elements"
            return [("E0614", message, "gather it before")]
    return []


def _listed(axes: Sequence[str]) -> str:
    return "/".join(axes) or "nothing"


def _check_split(
    loops: Sequence[Loop],
    index: int,
    axes: Sequence[str],
    ins: Sequence[Value],
    outs: Sequence[Value],
    sizes: Mapping[str, int],
) -> list[Finding]:
    loop, n = loops[index], prod(sizes[a] for a in axes)
    if loop.kind in ("whole", "move"):
        help = "gather it before" if loop.kind == "whole" else "the collective moves elements between pieces"
        return [("E0614", f"{_title(loop)} must be whole here, but is split on {_listed(axes)}", help)]
    dims = [v.type.size(d) for v, d in [*zip(ins, loop.ins, strict=True), *zip(outs, loop.outs, strict=True)] if d]
    counts = [sizes[a] for a in axes]
    if any(not correspond(loop.size, size, counts) for size in behind(loops, index, dims)):
        message = f"{_title(loop)} of {loop.size} does not divide into {n} pieces, so that the pieces do not correspond"
        return [("E0614", message, None)]
    return []


def _check_padding(
    op: Op, loop: Loop, ins: Sequence[Value], sizes: Mapping[str, int], fills: Sequence[Fills]
) -> list[Finding]:
    """Unused elements must not reach the result. Rows of a table that no index names cannot, but between pieces they
    have numbers of rows that others hold."""
    held: list[tuple[Value, str, float | None]] = []
    for i, (var, name) in enumerate(zip(ins, loop.ins, strict=True)):
        if name is None:
            continue
        dim, axes = next(of for of in zip(var.type.dims, var.layout.dims, strict=True) if of[0].name == name)
        if is_padded(dim, axes, sizes) and (op.sees_padding(i) or (loop.placed and has_gaps(dim, axes, sizes))):
            held.append((var, name, fills[i].get(name)))
    if loop.kind == "max":
        bad = [h for h in held if h[2] is None or h[2] > _LOWEST]
        neutral: float = -inf
    else:
        bad = [h for h in held if h[2] != 0]
        neutral = 0.0
        if held and len(bad) < len(held) and not held[0][0].type.is_float:
            bad = []  # an integer times zero is zero; a float might be inf or nan
    return [
        (
            "E0616",
            f"the unused elements of padded {name} of %{var.name} reach the result",
            f"mask_pad {name} with {neutral}",
        )
        for var, name, _ in bad
    ]


def _check_uncovered(loops: Sequence[Loop], ins: Sequence[Value], outs: Sequence[Value]) -> list[Finding]:
    """A dim that no loop walks must be whole."""
    found: list[Finding] = []
    for side, row in ((0, ins), (1, outs)):
        for i, var in enumerate(row):
            known = {(loop.outs if side else loop.ins)[i] for loop in loops}
            for dim, axes in zip(var.type.dims, var.layout.dims, strict=True):
                if axes and dim.name not in known:
                    found.append(("E0614", f"{dim.name} of %{var.name} cannot be split here", None))
    return found


def _check_borders(
    op: Op,
    ins: Sequence[Value],
    outs: Sequence[Value],
    borders_in: tuple[tuple[int, int, int], ...],
    borders_out: tuple[tuple[int, int, int], ...],
) -> list[Finding]:
    found: list[Finding] = []
    for i, var in enumerate(ins):
        want = borders_in if i == 0 else ()
        if var.layout.halo != want:
            message = f"%{var.name} has borders {_borders(var, var.layout.halo)}, needed are {_borders(var, want)}"
            found.append(("E0614", message, "`halo` fetches borders, `halo_add` gives them back"))
    for var in outs:
        if var.layout.halo != borders_out:
            message = (
                f"%{var.name} has borders {_borders(var, borders_out)}, stated are {_borders(var, var.layout.halo)}"
            )
            found.append(("E0614", message, "`halo_add` gives borders back"))
    return found


def _borders(var: Value, halo: Sequence[tuple[int, int, int]]) -> str:
    return ", ".join(f"{var.type.dims[d].name} ({left}, {right})" for d, left, right in halo) or "none"


def _check_pending(
    op: Op, ins: Sequence[Value], outs: Sequence[Value], walked: Mapping[str, str], made: dict[str, str]
) -> list[Finding]:
    found: list[Finding] = []
    expected = dict(made)
    groups = op.linear(len(ins))
    for axis in dict.fromkeys(a for v in ins for a, _ in v.layout.pending):
        holders = frozenset(i for i, v in enumerate(ins) if v.layout.pending_on(axis) is not None)
        fns = {ins[i].layout.pending_on(axis) for i in holders}
        names = ", ".join(f"%{ins[i].name}" for i in sorted(holders))
        if axis in walked:
            message = f"{names}: pending on {axis}, which also splits {walked[axis]} here"
            found.append(("E0615", message, f"all_reduce over {axis} before"))
        elif fns == {"sum"} and holders in groups:
            expected[axis] = "sum"
        elif fns == {"max"} and op.passes_max(len(holders) == len(ins)):
            expected[axis] = "max"
        else:
            also = [f"%{ins[i].name}" for g in groups if holders < g for i in sorted(g - holders)]
            help = f"{', '.join(also)} would have to be pending alike" if also else f"all_reduce over {axis} before"
            message = f"{names}: the {' and '.join(map(str, fns))} pending on {axis} cannot pass through this op"
            found.append(("E0615", message, help))
    want = tuple(expected.items())
    for var in outs:
        if found or dict(var.layout.pending) == expected:
            continue
        same = op.uniform()
        if same is not None and all(fn == "max" or same == 0 for _, fn in var.layout.pending):
            continue  # zeros are a sum of zeros, and what is the same everywhere is its own maximum
        lost = [f"{fn} over {a}" for a, fn in want if (a, fn) not in var.layout.pending]
        extra = [f"{fn} over {a}" for a, fn in var.layout.pending if (a, fn) not in want]
        if lost:
            help = "a pending reduction goes away in all_reduce and reduce_scatter only"
            found.append(("E0615", f"%{var.name}: the pending {', '.join(lost)} is dropped", help))
        else:
            found.append(("E0615", f"%{var.name}: no pending {', '.join(extra)} comes about here", None))
    return found


def result_fills(op: Op, ins: Sequence[Value], outs: Sequence[Value], fills: Sequence[Fills]) -> list[Fills]:
    """What is known of the unused elements of each result of a local op."""
    value = op.uniform()
    if value is not None:
        return [dict.fromkeys(outs[0].type.names, value)]
    if not op.selects():
        return [{} for _ in outs]
    loops = op.loops([v.type for v in ins], [v.type for v in outs])
    pairs = [(loop.ins[0], loop.outs[0]) for loop in loops if loop.kind == "pass"]
    return [{new: fills[0][old] for old, new in pairs if old is not None and new is not None and old in fills[0]}]


def check_layout(var: Value, kinds: Mapping[str, str], timeless: bool) -> list[Finding]:
    """A layout must be well-formed: known axes, each once; reductions and borders in order."""
    layout, found = var.layout, list[Finding]()
    if len(layout.dims) != len(var.type.dims):
        return [
            ("E0613", f"%{var.name} has {plural(len(var.type.dims), 'dim')} and a layout of {len(layout.dims)}", None)
        ]
    used = [*(a for d in layout.dims for a in d), *(a for a, _ in layout.pending)]
    for axis in used:
        kind = kinds.get(axis)
        if kind is None or kind == "place":
            what = "is no axis" if kind is None else "places stages, it does not split tensors"
            found.append(("E0613", f"%{var.name}: {axis} {what}", None))
        elif kind == "time" and timeless:
            found.append(("E0613", f"%{var.name} is split in micro-batches, which are over here", None))
    twice = [a for i, a in enumerate(used) if a in used[:i]]
    if twice:
        found.append(("E0613", f"%{var.name}: axis {twice[0]} is used twice", None))
    ordered = twice or layout.pending == in_order(layout.pending, dict.fromkeys((*kinds, *used)))
    if not ordered or any(fn not in ("sum", "max") for _, fn in layout.pending):
        found.append(("E0613", f"%{var.name}: pending reductions are `sum` or `max`, in the order of the mesh", None))
    order = [d for d, _, _ in layout.halo]
    good = order == sorted(set(order)) and all(0 <= d < len(layout.dims) and layout.dims[d] for d in order)
    if not good or any(min(left, right) < 0 for _, left, right in layout.halo):
        found.append(("E0613", f"%{var.name}: borders belong to split dims, in order", None))
    return found


def unsplit(layout: Layout) -> bool:
    """Whether every device holds the whole value."""
    return not any(layout.dims) and not layout.pending and not layout.halo
