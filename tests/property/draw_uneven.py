"""What does not divide, said with `pad`: splits that would be refused, last micro-batches, shards of weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from random import Random

from tests.property.case import Case, Piece
from tests.property.drawing import Drawing
from tests.property.sensible import UNEVEN, splits

EVEN = 0.5
"""The share of draws that are left as they are."""

STORED = {"context_parallel", "sequence_parallel", "ulysses", "spatial"}
"""Tactics that split activations alone."""

SHARDED = ("optimizer", "gradients", "weights")


def uneven(rng: Random, case: Case, d: Drawing) -> Case:
    """The case in which what does not divide is meant so."""
    if rng.random() < EVEN:
        return case
    sizes = {name: {size} for name, size in d.splittable.items()}
    for name, _, size in d.spoken:
        sizes.setdefault(name, set()).add(size)
    case = _last(rng, case, d.sizes.get("b", 1))
    mesh, split = dict(case.mesh), {"b": [_microbatches(case.rules)]}
    for piece in case.rules:
        found = splits(piece)
        for dim in found[1] if found else ():
            split.setdefault(dim, []).append(mesh[found[0]] if found else 1)
    rules = tuple(_padded(piece, split, sizes) for piece in case.rules)
    return replace(case, rules=tuple(_shards(rng, piece) for piece in rules))


def _microbatches(rules: Sequence[Piece]) -> int:
    found = re.search(r"microbatches(?: =)? (\d+)", " ".join(line for piece in rules for line in piece.lines))
    return int(found[1]) if found else 1


def _last(rng: Random, case: Case, batch: int) -> Case:
    """Micro-batches of which the last is smaller, now and then. What a model takes of each is of as many samples."""
    counts = [n for n in (3, 4, 5, 6) if batch % n and (n - 1) * -(-batch // n) < batch]
    some = [p for p in case.rules if _microbatches((p,)) > 1]
    if (
        not some
        or not counts
        or rng.random() > 0.6
        or "per microbatch)" in case.model
        or "per_microbatch" in case.model
    ):
        return case
    (piece,), count = some, rng.choice(counts)
    (line,) = piece.lines
    line = re.sub(r"(microbatches(?: =)?) \d+", rf"\1 {count}", line)
    line = line.replace(" over b", " over b pad").replace("over = b", "over = b, pad = true")
    made = Piece(f"{piece.kind}+last+{UNEVEN}", (line,))
    return replace(case, rules=tuple(made if p is piece else p for p in case.rules))


def _padded(piece: Piece, split: Mapping[str, list[int]], sizes: Mapping[str, set[int]]) -> Piece:
    """A rule with `pad`, if a dim of it may not divide."""
    (line, *rest), found = piece.lines, splits(piece)
    if found is None or found[2] or line.startswith("layout"):
        return piece
    axis, dims, _ = found
    if all(size % prod(split[dim]) == 0 for dim in dims for size in sizes.get(dim, ())):
        return piece
    if not line.startswith("split"):
        activations = " for activations" * (line.partition("(")[0] in STORED)
        line = f"split {', '.join(dim for dim in dims if dim in sizes)} on {axis}{activations}"
    return Piece(f"{piece.kind}+{UNEVEN}", (f"{line} pad", *rest))


def _shards(rng: Random, piece: Piece) -> Piece:
    """ZeRO with weights in uneven pieces, now and then."""
    stated = re.match(r"optimizer_parallel\((\w+), (\d)\)", piece.lines[0])
    if stated is None or rng.random() > 0.5:
        return piece
    line = f"shard {', '.join(SHARDED[: int(stated[2])])} on {stated[1]} pad"
    return Piece(f"{piece.kind}+uneven_shards", (line,))
