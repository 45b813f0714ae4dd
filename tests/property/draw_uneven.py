"""What does not divide, said with `pad`: rules of a drawn case that would be refused, last micro-batches, shards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from random import Random

from tests.property.case import Case, Piece

SPLITS = {
    "data_parallel": "b",
    "tensor_parallel": "h, r, f, v",
    "megatron": "h, r, f, v, s",
    "vocab_parallel": "v",
    "context_parallel": "s",
    "sequence_parallel": "s",
    "ulysses": "h, r, s",
    "spatial": "y",
    "expert_parallel": "e",
    "moe": "e, b",
}
"""The dims that tactics of one rule split, as they write them."""

STORED = {"context_parallel", "sequence_parallel", "ulysses", "spatial"}
"""Those that split activations alone."""

SHARDED = ("optimizer", "gradients", "weights")


def uneven(rng: Random, case: Case, sizes: Mapping[str, int]) -> Case:
    """The case in which most of what does not divide is meant so. sizes: of the dims that rules may speak of."""
    case = _last(rng, case, sizes.get("b", 1))
    mesh, micro = dict(case.mesh), _microbatches(case)
    split: dict[str, list[int]] = {"b": [micro]}
    for piece in case.rules:
        dims, axis = _dims(piece)
        for dim in dims:
            split.setdefault(dim, []).append(mesh[axis])
    rules = tuple(_padded(rng, piece, split, sizes) for piece in case.rules)
    return replace(case, rules=tuple(_shards(rng, piece) for piece in rules))


def _microbatches(case: Case) -> int:
    found = re.search(r"microbatches(?: =)? (\d+)", " ".join(line for piece in case.rules for line in piece.lines))
    return int(found[1]) if found else 1


def _last(rng: Random, case: Case, batch: int) -> Case:
    """Micro-batches of which the last is smaller, now and then."""
    counts = [n for n in (3, 4, 5, 6) if batch % n and (n - 1) * -(-batch // n) < batch]
    some = [p for p in case.rules if _microbatches(replace(case, rules=(p,))) > 1]
    if not some or not counts or rng.random() > 0.3:
        return case
    (piece,), count = some, rng.choice(counts)
    (line,) = piece.lines
    if line.startswith("microbatches"):
        line = f"microbatches {count} over b pad"
    else:
        line = re.sub(r"microbatches = \d+", f"microbatches = {count}", line).replace("over = b", "over = b, pad = true")
    made = Piece(f"{piece.kind}+last", (line,))
    return replace(case, rules=tuple(made if p is piece else p for p in case.rules))


def _dims(piece: Piece) -> tuple[list[str], str]:
    """The dims that a rule splits, and the axis; nothing for other rules."""
    line = piece.lines[0]
    stated = re.match(r"split ([\w, ]+) on (\w+)", line)
    if stated:
        return stated[1].split(", "), stated[2]
    called = re.match(r"(\w+)\((\w+)\)", line)
    return (SPLITS[called[1]].split(", "), called[2]) if called and called[1] in SPLITS else ([], "")


def _padded(rng: Random, piece: Piece, split: Mapping[str, list[int]], sizes: Mapping[str, int]) -> Piece:
    """A rule with `pad`, if a dim of it may not divide."""
    dims, axis = _dims(piece)
    (line, *rest) = piece.lines
    if not any(sizes.get(dim, 1) % prod(split[dim]) for dim in dims) or line.endswith(" pad") or rng.random() > 0.95:
        return piece
    if not line.startswith("split"):
        activations = " for activations" * (line.partition("(")[0] in STORED)
        line = f"split {', '.join(dim for dim in dims if dim in sizes)} on {axis}{activations}"
    return Piece(f"{piece.kind}+uneven", (f"{line} pad", *rest))


def _shards(rng: Random, piece: Piece) -> Piece:
    """ZeRO with weights in uneven pieces, now and then."""
    stated = re.match(r"optimizer_parallel\((\w+), (\d)\)", piece.lines[0])
    if stated is None or rng.random() > 0.25:
        return piece
    line = f"shard {', '.join(SHARDED[: int(stated[2])])} on {stated[1]} pad"
    return Piece(f"{piece.kind}+uneven_shards", (line,))
