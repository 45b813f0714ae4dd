"""Draws are mostly made sensible: rules speak of dims that are there and divide, and something is left to be trained.

Of what is drawn at random a good part is refused for the same few reasons (12 samples in 8 pieces), which proves those
refusals again and again, and nothing else. Some draws stay as they are.
"""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random

from tests.property.case import Case, Piece
from tests.property.drawing import Drawing

AS_DRAWN = 0.1
"""The share of draws that are left as they are."""

UNEVEN = "uneven"
"""The kind of rules that say `pad` of what does not divide."""

MOST = 64
"""Samples in a batch."""

TACTICS = {
    "data_parallel": "b",
    "tensor_parallel": "h r f v",
    "megatron": "h r f v s",
    "vocab_parallel": "v",
    "context_parallel": "s",
    "sequence_parallel": "s",
    "ulysses": "h r s",
    "spatial": "y",
    "expert_parallel": "e",
    "moe": "e b",
}
"""The dims that the library's tactics split on their axis."""

DATA = frozenset("bsyxut")
"""Dims that hardly any weight has."""

Split = tuple[str, tuple[str, ...], bool]
"""What a rule splits: the axis, dims, whether pieces may be uneven."""


def sensible(rng: Random, case: Case, d: Drawing) -> Case:
    """The case with rules that make sense, and a batch that they divide."""
    if rng.random() < AS_DRAWN:
        return case
    rules = [rule for piece in case.rules if (rule := _of_dims_there(piece, d)) is not None]
    case = replace(case, rules=tuple(rules), frozen=tuple(p for p in case.frozen if _leaves_some(p, d)))
    case = _dividing(case, d)
    return case if UNEVEN in case.kinds else _dividing_batch(case)


def _of_dims_there(piece: Piece, d: Drawing) -> Piece | None:
    """The rule without dims that none of its tensors has; None if nothing is left of it."""
    found = re.fullmatch(r"split ([\w, ]+?) on (\w+)(?: for ([\w, ]+?))?(?: in ([\w.]+))?( pad)?", piece.lines[0])
    if found is None:
        return piece
    dims, axis, classes, scope, pad = found.groups("")
    there = {name for name, path, _ in d.spoken if not scope or not path or f"{path}.".startswith(f"{scope}.")}
    if classes and "activations" not in classes:
        there -= DATA
    left = [n for n in dims.split(", ") if n in there]
    if not left or (classes == "optimizer" and scope and not _has_weights(scope, d)):
        return None
    line = f"split {', '.join(left)} on {axis}" + (f" for {classes}" if classes else "")
    return replace(piece, lines=(f"{line} in {scope}{pad}" if scope else f"{line}{pad}",))


def _has_weights(scope: str, d: Drawing) -> bool:
    return any(f"{path}.".startswith(f"{scope}.") for path in (*d.holders, *(path for path, _ in d.weights)))


def _leaves_some(piece: Piece, d: Drawing) -> bool:
    """Whether a `frozen` freezes something, and not everything."""
    held = [freezes(piece, path) for path in (*(path for path, _ in d.weights), *d.holders)]
    return any(held) and not all(held)


def freezes(piece: Piece, path: str) -> bool:
    """Whether a `frozen` freezes the weight, or all of the scope, of this path."""
    line = piece.lines[0].removeprefix("frozen ")
    patterns = line.removeprefix("keep ").split(", ")
    if line.startswith("keep "):
        return not any(_named(path, p) or f"{p}.".startswith((f"{path}.", "*.")) for p in patterns)
    return any(_named(path, pattern) for pattern in patterns)


def _named(path: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return path.rpartition(".")[2] == pattern[2:] or f".{pattern[2:]}." in f".{path}."
    return f"{path}.".startswith(f"{pattern}.")


def splits(piece: Piece) -> Split | None:
    """What a rule splits."""
    line = piece.lines[0]
    if found := re.fullmatch(r"(\w+)\((\w+)\)", line):
        return found[2], tuple(TACTICS.get(found[1], "").split()), False
    if found := re.match(r"split ([\w, ]+?) on (\w+)", line):
        return found[2], tuple(found[1].split(", ")), line.endswith(" pad")
    if line.startswith("layout "):
        (dim, axis), *_ = re.findall(r"(\w+)/(\w+)", line)
        return axis, (dim,), False
    return None


def _dividing(case: Case, d: Drawing) -> Case:
    """Axes are made shorter, or split the batch, until all dims but the batch divide."""
    while (wrong := _indivisible(case, d)) is not None:
        axis, rule = wrong
        mesh = dict(case.mesh)
        if mesh[axis] > 2:
            mesh[axis] = 2
            case = replace(case, mesh=tuple(mesh.items()))
            continue
        other = () if rule.kind == "layout" else (Piece("data_parallel", (f"data_parallel({axis})",)),)
        case = replace(case, rules=tuple(r for old in case.rules for r in (other if old is rule else (old,))))
    return case


def _indivisible(case: Case, d: Drawing) -> tuple[str, Piece] | None:
    """The axis, and the rule, by which a dim does not come out even."""
    mesh = dict(case.mesh)
    sizes: dict[str, set[int]] = {}
    for name, _, size in d.spoken:
        sizes.setdefault(name, set()).add(size)
    pieces: dict[str, int] = {}

    def even(dim: str, by: int) -> bool:
        return dim == "b" or all(size % by == 0 for size in sizes.get(dim, ()))

    whole = [(rule, split) for rule in case.rules if (split := splits(rule)) is not None and not split[2]]
    for rule, (axis, dims, _) in sorted(whole, key=lambda r: r[0].kind == "layout"):
        if rule.kind == "layout":
            if not even(dims[0], mesh[axis]):
                return axis, rule
            continue
        left = list(dims)
        if {"h", "r"} <= {*left} & {*sizes}:  # one stands in for the other
            left.remove("r" if even("h", pieces.get("h", 1) * mesh[axis]) else "h")
        for dim in left:
            if not even(dim, pieces.get(dim, 1) * mesh[axis]):
                return axis, rule
            pieces[dim] = pieces.get(dim, 1) * mesh[axis]
    return None


def _dividing_batch(case: Case) -> Case:
    """As many samples as micro-batches and axes divide, where these are not too many."""
    mesh, lines = dict(case.mesh), " ".join(line for rule in case.rules for line in rule.lines)
    pieces = max([int(n) for n in re.findall(r"microbatches (?:= )?(\d+)", lines)], default=1)
    axes = {split[0] for rule in case.rules if (split := splits(rule)) is not None and "b" in split[1]}
    for axis in axes:
        pieces *= mesh[axis]
    old = re.search(r"\bb = (\d+)", case.head[0])
    assert old is not None
    batch = pieces * -(-int(old[1]) // pieces)
    if batch > MOST:
        return case
    return replace(case, head=(case.head[0].replace(old[0], f"b = {batch}", 1), *case.head[1:]))
