"""`device`: peaks, memory, and what else it states; numbers with units become FLOP/s, bytes and seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compiler import stacks
from compiler.cluster import INTEGER
from compiler.evaluate import dtypes, limits, static
from compiler.evaluate.calls import bind, built
from compiler.evaluate.expressions import evaluate, static_of
from compiler.evaluate.modules import Module
from compiler.evaluate.scope import Scope
from compiler.evaluate.session import Session, is_std, listed
from compiler.evaluate.statics import static_scope
from compiler.evaluate.values import Defined, Skip, Static
from compiler.graph import DTYPES
from compiler.model import Device
from compiler.settings import STATED
from dsl import ast, units
from dsl.diagnostics import ParcError, did_you_mean, fail

SETTINGS = {
    "compute": "`compute bf16 256 TFLOP/s`",
    "memory": "`memory 32 GB, 1.2 TB/s`",
    "launch": "`launch 5 us`",
    "cores": "`cores 24`",
    "tile": "`tile 128, 256, 64`",
    "cube": "`cube 16, 16, 16`",
    "link": "`link 300 GB/s`",
    "efficiency": "`efficiency product 0.8`, or of one stack of software `efficiency STACK product 0.8`",
    "footprint": "`footprint STACK gradient 2`, or of all stacks `footprint context 2 GB`",
    "stack": "`stack torchtitan_float8 like torchtitan`, or `stack float8`: like what the device states for no stack",
}
"""What a device states, and how."""

WHOLE = {"cores": 1, "tile": 3, "cube": 3}
"""Settings of so many whole numbers."""

NAMED = {"efficiency": (1, 2), "footprint": (1, 2)}
"""Settings of a number with words before it, and how many."""


def build_device(session: Session, module: Module, name: ast.Name) -> Device:
    """The device that a cluster names. Raises ParcError or Skip."""
    entry = module.find("device", name)
    arguments = bind(ast.Call(name, (), span=name.span), entry.item.parameters, f"the device `{name.id}`", _never)
    return built(session, entry, name.span, arguments, static_scope(entry.module), _device)


def _never(expr: ast.Expr) -> Static:
    raise AssertionError(expr)


def _device(session: Session, entry: Defined, scope: Scope) -> Device:
    compute: dict[str, float] = {}
    memory: tuple[float, float] | None = None
    settings: list[tuple[str, tuple[Any, ...]]] = []
    stated: set[tuple[str, ...]] = set()
    declared: dict[str, ast.Setting] = {}  # stacks that are like others
    before = session.failures
    for s in entry.item.body:
        assert isinstance(s, ast.Setting)
        try:
            match s.keyword.id:
                case "compute":
                    unit, peak = _peak(s, scope)
                    if unit in compute:
                        raise fail("E0102", f"there are two peaks for `{unit}`", s.span)
                    compute[unit] = peak
                case "memory":
                    if memory is not None:
                        raise fail("E0102", "there are two memories", s.span)
                    if len(s.values) != 2 or s.words or s.clauses:
                        raise fail("E0313", "memory has a size and a bandwidth", s.span, help=SETTINGS["memory"])
                    size = positive(s.values[0], units.BYTES, "the size of the memory", scope)
                    rate = positive(s.values[1], units.BYTES_PER_SECOND, "the bandwidth of the memory", scope)
                    memory = size, rate
                case "stack":
                    settings.append(("stack", _like(s, declared)))
                    declared[settings[-1][1][0]] = s
                case keyword:
                    found = _setting(s, scope)
                    of = found[:-1] if keyword in NAMED else ()
                    if (keyword, *of) in stated:
                        raise fail("E0102", f"`{' '.join((keyword, *of))}` is stated twice", s.span)
                    stated.add((keyword, *of))
                    settings.append((keyword, found))
        except (ParcError, Skip) as error:
            session.failed(error)
    if session.failures > before:
        raise Skip
    name = entry.item.name
    if not compute:
        raise fail("E0313", f"the device `{name.id}` has no compute", name.span, help=SETTINGS["compute"])
    if memory is None:
        raise fail("E0313", f"the device `{name.id}` has no memory", name.span, help=SETTINGS["memory"])
    device = Device(name.id, tuple(compute.items()), memory[0], memory[1], tuple(settings), is_std(entry.item.span))
    for s in declared.values():
        try:
            _inherits(s, device)
        except ParcError as error:
            session.failed(error)
    if session.failures > before:
        raise Skip
    return device


def _peak(s: ast.Setting, scope: Scope) -> tuple[str, float]:
    words = [w.id for w in s.words]
    if not 1 <= len(words) <= 2 or len(s.values) != 1 or s.clauses:
        help = f"{SETTINGS['compute']}, or with a unit `compute vector f32 8 TFLOP/s`"
        raise fail("E0313", "compute has a dtype and a peak", s.span, help=help)
    if words[-1] not in DTYPES and words != [INTEGER]:
        help = dtypes.meant(words[-1], DTYPES)
        raise fail("E0207", f"there is no dtype `{words[-1]}`", s.words[-1].span, help=help)
    return ".".join(words), positive(s.values[0], units.FLOP_PER_SECOND, "the peak", scope)


# --- stacks that are like others --------------------------------------------------------------------------------------


def _words(s: ast.Setting) -> list[ast.Name]:
    """The bare names behind a keyword, which are not looked up: the last may read like a value."""
    return [*s.words, *(v for v in s.values if isinstance(v, ast.Name))]


def _like(s: ast.Setting, declared: Mapping[str, ast.Setting]) -> tuple[str, str]:
    """The stack, and the one that it is like ("": what is stated for no stack)."""
    words = _words(s)
    form = [w.id for w in words[1:]]
    good = words and len(form) in (0, 2) and form[:1] in ([], ["like"])
    if not good or len(words) != len(s.words) + len(s.values) or s.clauses:
        raise fail("E0313", "this is no `stack`", s.span, help=SETTINGS["stack"])
    if words[0].id in declared:
        raise fail("E0102", f"`stack {words[0].id}` is stated twice", s.span)
    return words[0].id, form[1] if form else ""


def _inherits(s: ast.Setting, device: Device) -> None:
    """Its base is there, and no stack is its own."""
    words = _words(s)
    if len(words) == 1:
        return
    name, _, base = words
    there = stacks.known(device)
    if base.id not in there:
        help = did_you_mean(base.id, there) or f"there {'is' if len(there) == 1 else 'are'} {listed(there)}"
        raise fail("E0313", f"the device states nothing of the software `{base.id}`", base.span, help=help)
    of, seen = stacks.bases(device), [name.id]
    while of.get(seen[-1]):
        if of[seen[-1]] in seen:
            raise fail(
                "E0313", f"the stack `{name.id}` is like itself", s.span, help="some stack states its own numbers"
            )
        seen.append(of[seen[-1]])


# --- all else: words, then numbers in base units ----------------------------------------------------------------------


def _setting(s: ast.Setting, scope: Scope) -> tuple[Any, ...]:
    keyword = s.keyword.id
    if keyword not in SETTINGS:
        help = did_you_mean(keyword, tuple(SETTINGS)) or f"there are {listed(tuple(SETTINGS))}"
        raise fail("E0313", f"a device has no `{keyword}`", s.keyword.span, help=help)
    words = NAMED.get(keyword, (0,))
    if len(s.words) not in words or len(s.values) != WHOLE.get(keyword, 1) or s.clauses:
        raise fail("E0313", f"this is no `{keyword}`", s.span, help=SETTINGS[keyword])
    if keyword in WHOLE:
        what, most = f"the sizes of `{keyword}`", limits.MAX_COUNT
        return tuple(static.integer(evaluate(v, scope), what, v.span, 1, most) for v in s.values)
    (value,) = s.values
    if keyword == "launch":
        return (quantity(value, units.SECONDS, "the time of a launch", scope),)
    if keyword == "link":
        return (positive(value, units.BYTES_PER_SECOND, "the bandwidth of the links", scope),)
    known = tuple(STATED[keyword]) if keyword == "footprint" else tuple(sorted(STATED[keyword]))
    *stack, name = s.words
    if name.id not in known:
        help = did_you_mean(name.id, known) or f"there are {listed(known)}"
        raise fail("E0313", f"there is no {keyword} `{name.id}`", name.span, help=help)
    return (*(w.id for w in stack), name.id, _number(keyword, name.id, value, scope))


DIMENSIONS: Mapping[str, units.Dimension] = {"s": units.SECONDS, "B": units.BYTES}


def _number(keyword: str, name: str, expr: ast.Expr, scope: Scope) -> float:
    """An efficiency or a footprint, in its limits."""
    what, bounds = f"{keyword} `{name}`", STATED[keyword][name]
    if bounds.unit:
        return quantity(expr, DIMENSIONS[bounds.unit], what, scope)
    value = static.number(static_of(evaluate(expr, scope), expr.span), what, expr.span)
    if not bounds.hold(value):
        raise fail("E0206", f"{what} is {bounds}, got {value:g}", expr.span)
    _bounded(value, what, expr)
    return float(value)


def quantity(expr: ast.Expr, dimension: units.Dimension, what: str, scope: Scope) -> float:
    """In base units, not negative."""
    value = static.quantity(evaluate(expr, scope), dimension, what, expr.span)
    if value < 0:
        raise fail("E0206", f"{what} must not be negative", expr.span)
    _bounded(value, what, expr)
    return value


def _bounded(value: float, what: str, expr: ast.Expr) -> None:
    if value and not limits.SMALLEST <= value <= limits.LARGEST:
        bounds = f"{limits.SMALLEST:g} to {limits.LARGEST:g} in base units"
        raise fail("E0908", f"{what} is beyond the bounds: {bounds}", expr.span)


def positive(expr: ast.Expr, dimension: units.Dimension, what: str, scope: Scope) -> float:
    """In base units, above 0."""
    value = quantity(expr, dimension, what, scope)
    if value <= 0:
        raise fail("E0206", f"{what} must be above 0", expr.span)
    return value
