"""What came into the language later, put into a case that is drawn: it moves nothing of what is drawn before it."""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random

from tests.property.case import Case, Piece
from tests.property.drawing import Drawing

SCHEDULES = ("gpipe", "one_f_one_b", "interleaved", "zero_bubble")
ONE_STAGE_EACH = ("gpipe", "one_f_one_b", "zero_bubble")


def later_words(rng: Random, case: Case, d: Drawing) -> Case:
    """The case with some of them, now and then."""
    for add in (_by_micro_batch, _two_passes, _beside, _state):
        case = add(rng, case, d)
    return case


def _by_micro_batch(rng: Random, case: Case, d: Drawing) -> Case:
    """Statistics of each micro-batch by itself, in the loop or behind it."""
    if rng.random() >= 0.15:
        return case
    last = list(d.sizes)[-1]
    lines = [
        "x = x - 0.5 * mean(x, over b per microbatch)",
        "x = x / (1.0 + max(abs(x), over b per microbatch))",
        f"x = x / sqrt(0.5 + mean(x * x, over (b, {last}) per microbatch))",
        f"x = x + 0.1 * tanh(sum(x, over (b, {last}) per microbatch))",
    ]
    if "c" in d.sizes:
        lines += [f"x = batch_norm(x, per_microbatch = true) as {d.name('bn')}"] * 3
    piece = Piece("per_microbatch", (rng.choice(lines),))
    if rng.random() < 0.5:
        return replace(case, loop=(*case.loop, piece))
    return replace(case, after=(piece, *case.after))


def _two_passes(rng: Random, case: Case, d: Drawing) -> Case:
    """A loss that needs the whole batch, under micro-batches, of a pipeline too."""
    whole = next((r for r in case.rules if r.kind == "microbatches" or r.kind in ONE_STAGE_EACH), None)
    if whole is None or rng.random() >= (0.5 if whole.kind == "microbatches" else 0.2):
        return case
    *before, loss = case.tail.lines
    value = loss.removeprefix("loss ")
    made = rng.choice(["sqrt(0.1 + ({}) * ({}))", "log1p(abs({}))", "({}) * ({})"]).replace("{}", value)
    count = f"{whole.lines[0]}, two passes"
    if whole.kind != "microbatches":
        found = re.search(r"\(microbatches = (\d+), over = b(, pad = true)?\)", whole.lines[0])
        if found is None:
            return case
        count = f"microbatches {found[1]} over b{' pad' if found[2] else ''}, two passes"
        stages = replace(whole, lines=(whole.lines[0].replace(found[0], ""), *whole.lines[1:]))
        case = replace(case, rules=tuple(stages if r is whole else r for r in case.rules))
        rules = (*case.rules, Piece("microbatches+two_passes", (count,)))
    else:
        rules = tuple(Piece("microbatches+two_passes", (count,)) if r is whole else r for r in case.rules)
    return replace(case, rules=rules, tail=Piece(case.tail.kind, (*before, f"loss {made}")))


def _beside(rng: Random, case: Case, d: Drawing) -> Case:
    """A scope on one of the stages of a pipeline, or on each that reads it."""
    rule = next((r for r in case.rules if r.kind.partition("+")[0] in SCHEDULES), None)
    scopes = [s for s in d.scopes if "." not in s and s not in ("block", "encoder")]
    if rule is None or not scopes or "pp" not in dict(case.mesh) or rng.random() >= 0.4:
        return case
    line = f"place {rng.choice(scopes)} on pp[{rng.randrange(dict(case.mesh)['pp'])}]"
    return replace(case, rules=(*case.rules, Piece("beside", (line,))))


def _state(rng: Random, case: Case, d: Drawing) -> Case:
    """A running mean that the forward pass reads and renews, in the loop or behind it."""
    if rng.random() >= 0.08:
        return case
    name, *others, last = d.name("seen"), *d.sizes
    over = others[0] if len(others) == 1 else f"({', '.join(others)})"
    lines = (
        f"state {name}[{last}]",
        f"x = x + 0.1 * cast({name}, compute)",
        f"{name} = 0.9 * {name} + 0.1 * cast(mean(x, over {over}), master)",
    )
    piece = Piece("state", lines)
    if rng.random() < 0.5:
        return replace(case, loop=(*case.loop, piece))
    return replace(case, after=(piece, *case.after))
