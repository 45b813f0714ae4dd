"""Random strategies for a drawn model: known techniques and wild rules, alone and together."""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random

from tests.property.case import Case, Piece
from tests.property.draw_job import draw_frozen, draw_optimizer, draw_precision, draw_steps
from tests.property.draw_manual import by_hand
from tests.property.draw_model import draw_model
from tests.property.draw_optimizer import fitting, with_steps
from tests.property.draw_tables import with_table
from tests.property.draw_uneven import uneven
from tests.property.draw_words import later_words
from tests.property.drawing import Drawing
from tests.property.sensible import sensible
from tests.property.with_effect import with_effect

LOOPS = ("block", "encoder")
SCHEDULES = ("gpipe", "one_f_one_b", "interleaved", "zero_bubble")


def draw(seed: int) -> Case:
    """The case of a seed; always the same."""
    rng = Random(seed)
    model, d = draw_model(rng)
    loops = {"block": model.count} | ({"encoder": model.first_count} if model.first else {})
    mesh, rules = _strategy(rng, d, loops)
    optimizer, frozen = draw_optimizer(rng), draw_frozen(rng, d)
    parts = model.head, model.first, model.first_count, model.bridge, model.before, model.loop, model.count
    ends = model.after, model.tail
    case = Case(seed, *parts, *ends, mesh, rules, optimizer, draw_precision(rng, seed), frozen)
    case = _as_they_come(Random(f"sums {seed}"), _of_whole_batches(rng, case))
    case = uneven(Random(f"uneven {seed}"), later_words(Random(f"words {seed}"), case, d), d)
    case = sensible(Random(f"sense {seed}"), case, d)
    case = _elsewhere(Random(f"memories {seed}"), case, d)
    case = _on_hosts(Random(f"hosts {seed}"), case)
    steps = draw_steps(rng, optimizer)
    case = _by_layers(Random(f"layers {seed}"), case, loops)
    case = with_table(Random(f"table {seed}"), case, d.sizes)
    case = by_hand(Random(f"hand {seed}"), case, d)
    _require_there(case)
    if steps and case.optimizer == optimizer:
        case = with_steps(case, fitting(steps, case.model))
    return with_effect(Random(f"effect {seed}"), case, d)


def _require_there(case: Case) -> None:
    """What rules and `frozen` name by a path stands in the model: an error of ours here, not one that parc finds."""
    labels = set(re.findall(r" as (\w+)", case.model))
    weights = set(re.findall(r"(\w+)\[", " ".join(re.findall(r"weight ([^~\n]*)", case.model))))
    for line in (line for piece in (*case.rules, *case.frozen) for line in piece.lines):
        for *scopes, last in (path.split(".") for path in paths(line)):
            there = last in labels or (scopes and scopes[-1] not in LOOPS) or last in weights
            assert labels.issuperset(scopes) and there, f"seed {case.seed}: `{line}` names what is not there"


def paths(rule: str) -> list[str]:
    """The paths of scopes and weights that the text of a rule names, but for those with `*`."""
    word, _, rest = rule.partition(" ")
    if word == "frozen":
        listed = rest.removeprefix("keep ").replace(" keep ", ", ").split(", ")
        return [path for path in listed if "*" not in path]
    if word in ("recompute", "pipeline", "place", "layout"):
        return re.findall(r"[\w.]+", rest)[:1]
    return re.findall(r" in ([\w.]+)", rule)


def _as_they_come(rng: Random, case: Case) -> Case:
    """Gradients that are summed over `dp`, which does not split them, in every micro-batch, now and then."""
    kinds = {piece.kind for piece in case.rules}
    if "data_parallel" not in kinds or not kinds.isdisjoint(("zero_2", "zero_3")) or rng.random() > 0.2:
        return case
    return replace(case, rules=(*case.rules, Piece("as_they_come", ("reduce gradients on dp per microbatch",))))


def _elsewhere(rng: Random, case: Case, d: Drawing) -> Case:
    """What rests in other memories, now and then."""
    if rng.random() > 0.3:
        return case
    stateless = case.optimizer.startswith("sgd") and "momentum" not in case.optimizer
    chosen = rng.sample(["weights", "activations", *([] if stateless else ["optimizer"])], rng.choice([1, 1, 2]))
    lines = []
    for k, classes in enumerate([chosen[:1], chosen[1:]] if rng.random() < 0.3 else [chosen]):
        scope = f" in {rng.choice(['block', *d.scopes])}" if rng.random() < 0.2 and not k else ""
        ahead = f" prefetch {rng.choice([0, 1, 2, 5])}" if rng.random() < 0.6 else ""
        if classes:
            lines.append(f"offload {', '.join(classes)} to {rng.choice(['host', 'nvme'])}{scope}{ahead}")
    return replace(case, rules=(*case.rules, Piece("offload", tuple(lines))))


def _by_layers(rng: Random, case: Case, loops: dict[str, int]) -> Case:
    """Rules for some iterations of a loop, now and then: those that there are, narrowed, and others."""
    if rng.random() > 0.2:
        return case

    def part(loop: str) -> str:
        low = rng.randrange(loops[loop])
        return f"{loop}[{low}]" if rng.random() < 0.3 else f"{loop}[{low}..{rng.randint(low + 1, loops[loop])}]"

    rules = []
    for piece in case.rules:
        lines = [re.sub(r"(?<=recompute )block|(?<= in )block", lambda m: part("block"), line) if rng.random() < 0.6
                 else line for line in piece.lines]  # fmt: skip
        rules.append(replace(piece, lines=tuple(lines)))
    loop = rng.choice(sorted(loops))
    more = [f"recompute {part(loop)}"]
    if "dp" in dict(case.mesh):
        more.append(f"shard {rng.choice(['optimizer', 'optimizer, gradients, weights'])} on dp in {part(loop)}")
    rules.insert(0, Piece("layers", tuple(rng.sample(more, rng.randint(1, len(more))))))  # earlier rules count first
    return replace(case, rules=tuple(rules))


def _on_hosts(rng: Random, case: Case) -> Case:
    """An update that the servers' processors compute, now and then."""
    if rng.random() > 0.15:
        return case
    scope = rng.choice(["", "", " in block"])
    return replace(case, rules=(*case.rules, Piece("on_hosts", (f"run update on host{scope}",))))


def _of_whole_batches(rng: Random, case: Case) -> Case:
    """A loss that is divided by a number of the data, and metrics that are no sums, now and then."""
    *before, last = case.tail.lines
    read = re.search(r"input (\w+)", "\n".join(case.head))
    assert last.startswith("loss ") and read is not None
    lines, kinds = [*before], [case.tail.kind]
    if rng.random() < 0.12:
        lines.append(f"number = sum(cast({read[1]} > {rng.choice(['0', '1'])}, master))")
        divisor = rng.choice(["(1.0 + number)", "maximum(number, 1.0)"])
        last = f"{last.replace('loss ', 'loss 8.0 * cast(')}, master) / {divisor}"
        kinds.append("counted")
    if rng.random() < 0.12:
        lines.append(rng.choice(["metric top = max(abs(x))", "metric part = mean(x * x) / (1.0 + mean(abs(x)))"]))
        kinds.append("no_sum")
    return replace(case, tail=Piece("+".join(kinds), (*lines, last)))


def _strategy(rng: Random, d: Drawing, loops: dict[str, int]) -> tuple[tuple[tuple[str, int], ...], tuple[Piece, ...]]:
    mesh: dict[str, int] = {}
    rules: list[Piece] = []
    devices = 1

    def axis(name: str, sizes: tuple[int, ...]) -> bool:
        nonlocal devices
        size = rng.choice(sizes)
        if devices * size > 16:
            return False
        mesh[name] = size
        devices *= size
        return True

    micro = _order(rng, d, loops, rules, axis)
    if not micro and rng.random() < 0.25:
        _places(rng, d, rules, axis)
    if rng.random() < 0.6 and axis("dp", (2, 2, 4)):
        rules.append(Piece("data_parallel", ("data_parallel(dp)",)))
    for name in rng.sample(["tp", "cp", "sp", "ep", "ax"], rng.choice([0, 1, 1, 2, 2])):
        made = _technique(rng, d, name)
        if made is not None and axis(name, (2, 2, 2, 3 if "pad" in made.kind else 4)):
            rules.append(made)
    shardable = [a for a in mesh if a not in ("pp", "at")]
    if shardable and rng.random() < 0.5:
        on = "dp" if "dp" in mesh and rng.random() < 0.8 else rng.choice(shardable)
        zero = rng.choice([1, 2, 3])
        rules.append(Piece(f"zero_{zero}", (f"optimizer_parallel({on}, {zero})",)))
    if shardable and any(dims for _, dims in d.weights) and rng.random() < 0.2:
        made = _override(rng, d, mesh, shardable)
        if made is not None:
            rules.append(made)
    if rng.random() < 0.25:
        scope = rng.choice(["block", *d.scopes])
        rules.append(Piece("recompute", (f"recompute {scope}",)))
    if not micro and rng.random() < 0.25:
        rules.append(Piece("microbatches", (f"microbatches {rng.choice([2, 2, 4])} over b",)))
    if not mesh:
        mesh["dp"] = 2
        rules.append(Piece("data_parallel", ("data_parallel(dp)",)))
    order = list(mesh.items())
    rng.shuffle(order)
    return tuple(order), tuple(rules)


def _order(rng: Random, d: Drawing, loops: dict[str, int], rules: list[Piece], axis: object) -> bool:
    """A pipeline, with a schedule and micro-batches, now and then."""
    if rng.random() >= 0.35:
        return False
    loop = rng.choice(sorted(loops))
    count = loops[loop]
    if count == 1:
        return False
    stages = rng.choice([n for n in (2, 2, 3, 4) if n <= count])
    assert callable(axis)
    axis("pp", (stages,))
    schedule = rng.choice(SCHEDULES)
    micro = rng.choice([2, 4])
    more = ""
    if schedule == "interleaved":
        chunks = 2 if 2 * stages <= count else 1
        more = f", chunks = {chunks}"
    cuts = ""
    if schedule != "interleaved" and stages == 2 and rng.random() < 0.3:
        cuts = f", cuts [{rng.randint(1, count - 1)}]"
    own = Random(f"{sorted(loops.items())} {loop} {stages} {schedule} {micro} {d.scopes}")  # does not move what follows
    kind = schedule
    if own.random() < 0.5:
        loop, cuts = _row(own, loops, loop, stages * (2 if "chunks = 2" in more else 1), cuts)
        kind = f"{schedule}+row"
    line = f"pipeline {loop} on pp, schedule {schedule}(microbatches = {micro}{more}, over = b){cuts}"
    rules.append(Piece(kind, (line,)))
    return True


def _row(rng: Random, loops: dict[str, int], loop: str, stages: int, cuts: str) -> tuple[str, str]:
    """All loops in one row, stages with only what stands in front of the first or behind the last, or both."""
    if len(loops) > 1 and rng.random() < 0.7:
        loop, cuts = "encoder, block", ""
    count = sum(n for label, n in loops.items() if label in loop)
    if rng.random() < 0.6:
        ends = [[0]] * (rng.random() < 0.6) + [[count]] * (rng.random() < 0.6)
        inner = stages - 1 - len(ends)
        if 0 <= inner < count:
            found = sorted([*rng.sample(range(1, count), inner), *(n for end in ends for n in end)])
            cuts = f", cuts {found}"
    return loop, cuts


def _places(rng: Random, d: Drawing, rules: list[Piece], axis: object) -> None:
    """Scopes at the top, on the places of an axis in any order; what is not placed is where its operands are."""
    scopes = [s for s in d.scopes if "." not in s]
    assert callable(axis)
    size = rng.choice([2, 2, 3])
    if not scopes or not axis("at", (size,)):
        return
    some = rng.sample(scopes, min(len(scopes), rng.choice([1, 2, 2, 3, 4])))
    if rng.random() < 0.6:  # in an order in which values may pass; else in any
        order = rng.sample(range(size), size)
        some = [s for s in scopes if s in some]
        at = sorted(rng.randrange(size) for _ in some)
        lines = [f"place {s} on at[{order[k]}]" for s, k in zip(some, at)]
    else:
        lines = [f"place {s} on at[{rng.randrange(size)}]" for s in some]
    rules.append(Piece("places", tuple(lines)))


def _technique(rng: Random, d: Drawing, name: str) -> Piece | None:
    """What the axis `name` does, if the model has dims for it."""
    has = d.splittable
    if name == "tp":
        kind = rng.choice(["tensor_parallel", "megatron", "vocab_parallel"])
        if kind == "megatron" and has.get("s") == 1 and rng.random() < 0.8:
            kind = "tensor_parallel"  # mostly refused: one position is not split
        needs = {"tensor_parallel": "hfv", "megatron": "hfvs", "vocab_parallel": "v"}[kind]
        return Piece(kind, (f"{kind}({name})",)) if any(n in has for n in needs) else None
    if name == "cp":
        kind = rng.choice(["context_parallel", "ulysses", "sequence_parallel"])
        return Piece(kind, (f"{kind}({name})",)) if has.get("s", 1) > 1 or ("s" in has and rng.random() < 0.2) else None
    if name == "sp":
        if "y" not in has:
            return None
        kind = rng.choice(["spatial", "columns"])
        return Piece(kind, ("spatial(sp)" if kind == "spatial" else "split x on sp for activations",))
    if name == "ep":
        kind = rng.choice(["expert_parallel", "moe_parallel"])
        return Piece(kind, (f"{'moe' if kind == 'moe_parallel' else kind}({name})",)) if "e" in has else None
    return _wild(rng, d, name)


def _wild(rng: Random, d: Drawing, name: str) -> Piece:
    """Any dims for any classes in any scope."""
    dims = rng.sample(sorted(d.splittable), min(len(d.splittable), rng.choice([1, 1, 2, 3])))
    line = f"split {', '.join(dims)} on {name}"
    kind = "wild"
    if rng.random() < 0.4:
        line += f" for {rng.choice(['activations', 'weights', 'weights, activations', 'optimizer'])}"
    if rng.random() < 0.25 and d.scopes:
        line += f" in {rng.choice(d.scopes)}"
        kind = "scoped"
    if rng.random() < 0.3:
        line += " pad"
        kind = "pad"
    return Piece(kind, (line,))


def _override(rng: Random, d: Drawing, mesh: dict[str, int], axes: list[str]) -> Piece | None:
    path, dims = rng.choice([w for w in d.weights if w[1]])
    axis, at = rng.choice(axes), rng.randrange(len(dims))
    written = ", ".join(f"{n}/{axis}" if i == at else n for i, n in enumerate(dims))
    return Piece("layout", (f"layout {path}[{written}]",))
