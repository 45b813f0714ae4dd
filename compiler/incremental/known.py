"""What is known of a value besides how far it looks, and what elementwise functions make of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from math import isfinite

from compiler.graph import Node, Value
from compiler.incremental.facts import EVERYWHERE, Facts, both, either, within
from compiler.ops.functions import FUNCTIONS
from dsl.data import dataclass

Zones = Mapping[float, Facts]
"""By constants: what holds where the value is another."""

Affine = tuple[Mapping[str, int], int]
"""A whole number that is a sum of positions, each so many times, and a constant."""

WEAK = -1e3
"""Scores that a mask makes as small as this or smaller count for nothing beside others, if these are far enough above:
that is looked at as the program runs."""


@dataclass(frozen=True, slots=True, eq=False)
class Reach:
    """What is known of a value.

    bound: the dims whose latest position bounds that of all data in it. ahead: the op by which it hangs on all
    positions. zones: where it is a constant. affine: what number it is. low: the very small number that is added to it
    but where the facts hold. small: the facts but where `exp` of it is zero, and by which maximum. top: of a maximum of
    what is masked so, what that is, how small, and the node.
    """

    bound: frozenset[str] = frozenset()
    ahead: Node | None = None
    zones: Zones = field(default_factory=dict)
    affine: Affine | None = None
    low: tuple[Facts, float] | None = None
    small: tuple[Facts, Node] | None = None
    top: tuple[Value, float, Node] | None = None


NOTHING = Reach()


def narrowed(bound: frozenset[str], zones: Zones) -> frozenset[str]:
    """Outside of its zones a value is a constant: only there anything counts."""
    for facts in zones.values():
        bound = within(facts, bound)
    return bound


def literal(value: float) -> Reach:
    """A number in the place of an operand."""
    whole = isfinite(value) and value == int(value)
    return Reach(zones={float(value): None}, affine=({}, int(value)) if whole else None)


def choice(condition: Reach, x: Reach, y: Reach) -> Reach:
    """`where`: what counts of `x` is where the condition holds, of `y` where it does not."""
    holds, fails = condition.zones.get(0.0, EVERYWHERE), condition.zones.get(1.0, EVERYWHERE)
    bound = condition.bound | within(holds, x.bound) | within(fails, y.bound)
    zones = {}
    for k in {*x.zones, *y.zones}:
        mine, others = both(holds, x.zones.get(k, EVERYWHERE)), both(fails, y.zones.get(k, EVERYWHERE))
        if (facts := either(mine, others)) != {}:
            zones[k] = facts
    return Reach(narrowed(bound, zones), None, zones)


def constants(fn: str, slots: Sequence[Reach]) -> Zones:
    """Where operands are constants that say what the result is."""
    x = slots[0].zones
    if len(slots) == 1:
        value = FUNCTIONS[fn].value
        if fn == "neg":
            return {-k: f for k, f in x.items()}
        if fn == "not":
            return {float(not k): f for k, f in x.items()}
        return {float(value(k)): f for k, f in x.items() if value is not None and _defined(value, k)}
    y = slots[1].zones
    if fn == "mul":
        return {**_pairs(fn, x, y), 0.0: both(x.get(0.0, EVERYWHERE), y.get(0.0, EVERYWHERE))}
    if fn == "and":
        return {
            0.0: both(x.get(0.0, EVERYWHERE), y.get(0.0, EVERYWHERE)),
            1.0: either(x.get(1.0, EVERYWHERE), y.get(1.0, EVERYWHERE)),
        }
    if fn == "or":
        return {
            0.0: either(x.get(0.0, EVERYWHERE), y.get(0.0, EVERYWHERE)),
            1.0: both(x.get(1.0, EVERYWHERE), y.get(1.0, EVERYWHERE)),
        }
    if fn == "div" and 0.0 in x:
        return {0.0: x[0.0]}
    return _pairs(fn, x, y)


def _pairs(fn: str, x: Zones, y: Zones) -> dict[float, Facts]:
    value = ARITHMETIC.get(fn)
    if value is None:
        return {}
    return {float(value(j, k)): either(f, g) for j, f in x.items() for k, g in y.items()}


def _defined(value: Callable[..., float], k: float) -> bool:
    try:
        return isfinite(value(k))
    except (ValueError, OverflowError):
        return False


ARITHMETIC: Mapping[str, Callable[[float, float], float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "maximum": max,
    "minimum": min,
}
TESTS = ("lt", "le", "gt", "ge", "eq")


def added(fn: str, slots: Sequence[Reach]) -> Affine | None:
    """Positions, added up."""
    terms = [x.affine for x in slots]
    if fn == "neg" and terms[0] is not None:
        return {d: -c for d, c in terms[0][0].items()}, -terms[0][1]
    if fn not in ("add", "sub", "mul") or terms[0] is None or terms[1] is None:
        return None
    (left, a), (right, b) = terms[0], terms[1]
    if fn == "mul":
        if left and right:
            return None
        factor, of, constant = (b, left, a) if left else (a, right, b)
        return {d: c * factor for d, c in of.items()}, constant * factor
    sign = 1 if fn == "add" else -1
    return {d: left.get(d, 0) + sign * right.get(d, 0) for d in {**left, **right}}, a + sign * b


def compared(fn: str, slots: Sequence[Reach]) -> Zones:
    """What a comparison of positions says where it holds (its value is not 0), and where it does not."""
    difference = added("sub", slots)
    if difference is None:
        return {}
    most = {"lt": -1, "le": 0, "eq": 0}.get(fn), {"gt": 1, "ge": 0, "eq": 0}.get(fn)
    fails = {"lt": (None, 0), "le": (None, 1), "gt": (0, None), "ge": (-1, None), "eq": (None, None)}[fn]
    return {0.0: _bounded(difference, *most), 1.0: _bounded(difference, *fails)}


def _bounded(difference: Affine, most: int | None, least: int | None) -> Facts:
    """What it says of two positions that their difference (and a constant) is at most, or at least so much."""
    terms, constant = {d: c for d, c in difference[0].items() if c}, difference[1]
    if sorted(terms.values()) != [-1, 1]:
        return {}
    plus, minus = sorted(terms, key=lambda d: -terms[d])
    found = {}
    if most is not None:
        found[plus, minus] = most - constant
    if least is not None:
        found[minus, plus] = constant - least
    return found


def lowered(fn: str, slots: Sequence[Reach]) -> tuple[Facts, float] | None:
    """Scores to which a mask is added."""
    if fn != "add":
        return None
    for mask, other in (slots, slots[::-1]):
        for k, facts in mask.zones.items():
            if facts and isfinite(k) and k <= WEAK and not other.zones:
                return facts, k
    return None
