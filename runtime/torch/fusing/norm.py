"""Layer norms and their derivatives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from compiler.graph import Node, Value
from compiler.regions import forms
from compiler.regions.forms import Norm
from compiler.regions.reading import Reading, pairs
from runtime.torch.fusing.found import Candidate, Factors, Fresh, Put, added, after, dot, maps, product
from runtime.torch.fusing.ops import FusedNorm, FusedNormBackward

TYPES = ("f32", "f64")


def norms(of: Reading, joint: Reading, nodes: Sequence[Node], fresh: Fresh) -> Iterator[Candidate]:
    """The layer norms that these nodes make, with all their derivatives."""
    for root in maps(nodes, "rsqrt"):
        found = forms.norm(of, root)
        if found is None or found.mean is None or found.of.type.dtype not in TYPES:
            continue
        if found.end.output.type != found.of.type:  # it is rounded to 16 bits before it is scaled
            found = replace(found, scale=None, shift=None, end=found.normal)
        if found.end.output.type != found.of.type:
            continue
        if any(v.type.dtype != found.of.type.dtype for v in (found.scale, found.shift) if v is not None):
            continue
        rank = len(found.over)
        centre, mean, one = found.mean, fresh(root.output, "mean"), fresh(root.output, "root")
        assert centre is not None
        given = [v for v in (found.scale, found.shift) if v is not None]
        op = FusedNorm(rank, found.eps)
        forward = Put(op, (found.of, *given), (found.end.output, mean, one))
        inside = {found.centred, root.output, found.normal.output, centre} - {found.end.output}
        back = tuple(_backward(joint, found, mean, one, fresh))
        yield Candidate(root.output.name, forward, back, tuple(inside))


def _backward(of: Reading, norm: Norm, mean: Value, root: Value, fresh: Fresh) -> Iterator[Put]:
    """Each use of the inside that is the derivative by what the norm is of."""
    rank = len(norm.over)
    z, r = norm.centred, norm.root.output
    count = 1
    for n in norm.of.type.dims[-rank:]:
        count *= n.size
    for last in after(of, r):
        for g, other in pairs(of, last.output, "mul"):
            centred = _centred(of, last.output, g, z, r, norm.over, count) if other is r and g is not z else None
            if centred is None:
                continue
            total, alias = centred
            dy, scale = _scaled(of, g, norm)
            made, found = _parameters(of, dy, norm, fresh) if dy is not None else ((False, False), [])
            if dy is None:
                dy = g
            if dy.type.names != norm.of.type.names or dy.type.dtype != norm.of.type.dtype:
                continue
            op = FusedNormBackward(rank, scale is not None, made)
            inputs = (dy, norm.of, mean, root, *([scale] if scale is not None else []))
            yield Put(op, inputs, (total, *found), alias)


def _scaled(of: Reading, g: Value, norm: Norm) -> tuple[Value | None, Value | None]:
    """The cotangent of the norm's result and the scale, if g is the product of both."""
    dims = norm.of.type.names[-len(norm.over) :]
    if norm.scale is not None:
        for dy, scale in pairs(of, g, "mul"):
            if scale.type.names == dims and dy.type.names == norm.of.type.names:
                return dy, scale
    return None, None


def _centred(
    of: Reading, first: Value, g: Value, z: Value, r: Value, over: Sequence[str], count: int
) -> tuple[Value, tuple[tuple[Value, Value], ...]] | None:
    """The cotangent of what is centred, which takes the place of that of x; and what is that from then on.

    With d the sum of g z: g r - r³ d z / count, less its own mean.
    """
    for node in after(of, first):
        for a, b in pairs(of, node.output, "add"):
            sums = [n for n in after(of, z) if set(dot(of, n) or ()) == {g, z}]
            sums = [n for n in sums if set(g.type.names) - set(n.output.type.names) == set(over)]
            if a is first and any(_is_second(of, b, n.output, z, r, count) for n in sums):
                return _less_mean(of, node.output, over, count)
    return None


def _is_second(of: Reading, v: Value, d: Value, z: Value, r: Value, count: int) -> bool:
    return product(of, v, (d, z, r)).of(-1.0 / count, d, z, r, r, r)


def _less_mean(
    of: Reading, whole: Value, over: Sequence[str], count: int
) -> tuple[Value, tuple[tuple[Value, Value], ...]] | None:
    """The mean is taken off behind other sums, perhaps: these then sum up what it was taken off already."""
    readers = of.readers.get(whole, [])
    sums = [n for n in after(of, whole) if of.reduced(n.output, "sum") == (whole, tuple(over))]
    if len(sums) != 1 or len(readers) != 2:
        return None
    total = sums[0].output
    (node,) = [n for n in readers if n is not sums[0]]
    found = added(of, whole, node, lambda v: _is_mean(product(of, v, (total,)), total, count))
    return (whole, (found,)) if found is not None else None


def _is_mean(found: Factors, total: Value, count: int) -> bool:
    return found.of(-1.0 / count, total)


def _parameters(of: Reading, dy: Value, norm: Norm, fresh: Fresh) -> tuple[tuple[bool, bool], list[Value]]:
    """Whether the derivatives by scale and shift are taken in the same body, and their values."""
    dims = norm.of.type.names[-len(norm.over) :]
    rest = set(norm.of.type.names) - set(dims)
    found: list[Value] = []
    wanted = [False, False]
    for n in after(of, dy):
        if n.output.type.names != dims:
            continue
        if not wanted[0] and set(dot(of, n) or ()) == {dy, norm.normal.output}:
            found.insert(0, n.output)
            wanted[0] = True
        elif not wanted[1] and (summed := of.reduced(n.output, "sum")) is not None and set(summed[1]) == rest:
            found.append(n.output)
            wanted[1] = True
    return (wanted[0], wanted[1]), found
