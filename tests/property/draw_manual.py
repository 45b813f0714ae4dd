"""What strategies say by hand, put into a case that is drawn: implementations, orders of pieces and of actions, places
of chunks, weights in fewer bits."""

from __future__ import annotations

import re
from dataclasses import replace
from math import prod
from random import Random

from compiler.homes import Homes
from compiler.weight_format import unit
from tests.property.case import Case, Piece
from tests.property.drawing import Drawing
from tests.property.sensible import freezes
from tests.stages.orders import drawn_orders

MLP = re.compile(r"= x \+ mlp\(.*, (\d+), std = 0.3\) as (\w+)$")
ATTENTION = re.compile(r"= x \+ attention\(.*?, (\d+)(?:, causal = false)?, std = 0.3\) as (\w+)$")
GROUPED = re.compile(r"= x \+ grouped_attention\(.*\) as (\w+)$")
ROUTED = re.compile(r" = moe\(.*\) as (\w+)$")
CONV = re.compile(r"= x \+ conv\(.*, size = 3\) as (\w+)$")
NAMED = re.compile(r"pipeline block on pp, schedule (\w+)\(microbatches = (\d+), over = b\)$")


def by_hand(rng: Random, case: Case, d: Drawing) -> Case:
    """The case with some of that, now and then."""
    for add in (_implemented, _zigzag, _chunks, _stored):
        case = add(rng, case, d)
    return _one_by_one(Random(f"one by one {case.seed}"), _written(Random(f"written {case.seed}"), case, d))


def _implemented(rng: Random, case: Case, d: Drawing) -> Case:
    """A scope computed by a function of the library, along an axis of its own, or one that is split otherwise, too."""
    if rng.random() > 0.4 or prod(size for _, size in case.mesh) > 8:
        return case
    found = []
    for loop, pieces in (("encoder.", case.first), ("", case.before), ("block.", case.loop), ("", case.after)):
        for line in (line for piece in pieces for line in piece.lines):
            if (mlp := MLP.search(line)) and int(mlp[1]) % 2 == 0:
                found.append((loop + mlp[2], rng.choice(["tensor_parallel_mlp"])))
            s = d.sizes.get("s", 1)
            if (attention := ATTENTION.search(line)) and s % 2 == 0:
                names = ["gathered_attention", "ulysses_attention", "ring_attention"]
                found.append((loop + attention[2], rng.choice(names)))
    if not found:
        return case
    scope, name = rng.choice(found)
    line = f"implement {scope} by {name}(im)"
    return replace(case, mesh=(*case.mesh, ("im", 2)), rules=(*case.rules, Piece("implemented", (line,))))


def _written(rng: Random, case: Case, d: Drawing) -> Case:
    """A scope that is not computed otherwise yet by one more function of the library, now and then."""
    if rng.random() > 0.5 or prod(size for _, size in case.mesh) > 8:
        return case
    lines = [line for rule in case.rules for line in rule.lines]
    done = {found[1] for line in lines if (found := re.match(r"implement (\S+) by", line))}
    s, width, taken = d.sizes.get("s", 1), list(d.sizes.values())[-1], dict(case.mesh)
    axes = {name: size for name, size in (("im", 2), ("io", 2)) if name not in taken}
    name = min(axes, default="")
    found = []
    for loop, pieces in (("encoder.", case.first), ("", case.before), ("block.", case.loop), ("", case.after)):
        for line in (line for piece in pieces for line in piece.lines):
            if mlp := MLP.search(line):
                by = [f"sequence_parallel_mlp({name})", f"overlapped_mlp({name})"] if s % 2 == 0 else []
                by += ["two_level_mlp(im, io)"] if len(axes) == 2 and int(mlp[1]) % 4 == 0 and width % 2 == 0 else []
                found += [(loop + mlp[2], one) for one in by if int(mlp[1]) % 2 == 0]
            if (attention := ATTENTION.search(line)) and s % 2 == 0:
                found.append((loop + attention[2], f"blocked_attention({rng.choice([1, s // 2])})"))
            if (grouped := GROUPED.search(line)) and s % 2 == 0:
                found.append((loop + grouped[1], f"ring_grouped_attention({name})"))
            plain = "last" not in case.kinds and not re.search("groups|bounded|pieces", line)
            if (routed := ROUTED.search(line)) and plain:
                found.append((f"{loop}{routed[1]}.routed_experts", f"dispatched_experts({name})"))
            if (conv := CONV.search(line)) and d.sizes["y"] % 2 == 0:
                found.append((loop + conv[1], f"banded_conv({name})"))
    found = [(scope, by) for scope, by in found if scope not in done]
    if not found or not axes:
        return case
    scope, by = rng.choice(found)
    mesh = [(axis, size) for axis, size in axes.items() if re.search(rf"\b{axis}\b", by.partition("(")[2])]
    rule = Piece("implemented", (f"implement {scope} by {by}",))
    return replace(case, mesh=(*case.mesh, *mesh), rules=(*case.rules, rule))


def _one_by_one(rng: Random, case: Case) -> Case:
    """Nothing is fused, now and then."""
    return replace(case, rules=(*case.rules, Piece("fuse_off", ("fuse off",)))) if rng.random() < 0.08 else case


def _zigzag(rng: Random, case: Case, d: Drawing) -> Case:
    """Positions in zig-zag order, along the axis of a technique that splits them, or one of their own."""
    s = d.sizes.get("s", 1)
    if rng.random() > 0.3:
        return case
    for name in ("cp", "im"):
        size = dict(case.mesh).get(name, 0)
        lines = {line for rule in case.rules for line in rule.lines}
        own = name == "im" or f"context_parallel({name})" in lines
        again = 2 if name != "im" and any(line.startswith("implement ") for line in lines) else 1  # pieces of pieces
        if size and own and s % (2 * size * again) == 0:
            line = f"split s on {name} zigzag for activations"
            rest = tuple(r for r in case.rules if f"context_parallel({name})" not in r.lines)
            return replace(case, rules=(Piece("zigzag", (line,)), *rest))  # implementations know it then
    return case


def _chunks(rng: Random, case: Case, d: Drawing) -> Case:
    """Stages on places of a list, under the schedule that there is or an order in which nobody waits forever."""
    rule = next((r for r in case.rules if len(r.lines) == 1 and NAMED.match(r.lines[0])), None)
    places = dict(case.mesh).get("pp", 1)
    if rule is None or places == 1 or rng.random() > 0.6:
        return case
    found = NAMED.match(rule.lines[0])
    assert found is not None
    schedule, count = found[1], int(found[2])
    each = rng.randint(1, max(1, case.count // places)) if schedule != "interleaved" else 1
    homes = Homes(tuple(rng.sample([g for g in range(places) for _ in range(each)], places * each)))
    placed = any(line.startswith("place ") for rule in case.rules for line in rule.lines)
    hand = not placed and (rng.random() < 0.5 or schedule == "interleaved")
    if placed and schedule == "interleaved":
        return case
    if hand:
        schedule = "by_hand"
    kinds = {rule.kind.partition("_")[0] for rule in (*case.before, *case.loop, *case.after)}
    if hand and count % 2 == 0 and not kinds & {"metric", "output"} and rng.random() < 0.5:
        homes = Homes((*homes.groups, *((g + 1) % places for g in homes.groups)), 2)
    listed = [list(homes.groups[at : at + homes.way]) for at in range(0, len(homes), homes.way)]
    chunks = listed if homes.ways > 1 else listed[0]
    line = f"pipeline block on pp, schedule {schedule}(microbatches = {count}, over = b), chunks {chunks}"
    lines = (line, *(_orders(rng, homes, count) if hand else ()))
    new = Piece(("by_hand+ways" if homes.ways > 1 else "by_hand") if hand else f"{rule.kind}+chunks", lines)
    return replace(case, rules=tuple(new if r is rule else r for r in case.rules))


def _orders(rng: Random, homes: Homes, count: int) -> list[str]:
    orders = drawn_orders(rng, homes, rng.choice(["FB", "FBW"]), count)
    return [line for g, order in enumerate(orders) for line in (f"order pp[{g}] {{", f"  {order}", "}")]


def _stored(rng: Random, case: Case, d: Drawing) -> Case:
    """Frozen matrices in fewer bits."""
    frozen = [p for p in d.holders if case.frozen and all(freezes(piece, p) for piece in case.frozen)]
    scopes = [p for p in frozen if p.rpartition(".")[2].startswith(("ff", "att", "gqa"))]
    if not scopes or rng.random() > 0.6:
        return case
    scope = rng.choice(scopes)
    inside = [size for _, path, size in d.spoken if path == scope]
    across = list(d.sizes.values())[-1]  # what all these matrices have
    names = [name for name in ("int8", "int4", "fp8") if across % unit(name) == 0]
    if not any(size % 4 for size in (across, *inside)):  # inputs too
        names.append("int8(group = 4)")
    if not any(size % unit("sparse") for size in (across, *inside)):
        names.append("sparse")
    if not names:
        return case
    line = f"store weights as {rng.choice(names)} in {scope}"
    return replace(case, rules=(*case.rules, Piece("stored", (line,))))
