"""Random programs: syntactically anything that the text can say; they need not be legal."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from hypothesis import strategies as st

from compiler.graph import DTYPES, Dim, Graph, Node, Type, Value
from compiler.homes import Homes
from compiler.layout import Layout
from compiler.memory.tiers import RowCache
from compiler.model import Init
from compiler.ops.base import Op
from compiler.ops.call import Call
from compiler.ops.elementwise import Map
from compiler.ops.functions import FUNCTIONS
from compiler.ops.repeat import Repeat
from compiler.origin import DECLARED
from compiler.program import (
    ALL_CHUNKS,
    ORIGINS,
    Affine,
    Axis,
    DeviceClass,
    Entry,
    For,
    Function,
    FunctionPhase,
    InputDecl,
    LoopRange,
    Program,
    Run,
    StateDecl,
    Update,
    WholeLoop,
)
from compiler.text.attrs import OPS
from dsl.printable import legible

plain = st.sampled_from(
    ["x", "block.w1", "w#1", "a_b", "F", "U", "over", "to", "last", "in", "i", "g", "stage", "fn", "of"]
)
odd = st.sampled_from(["", "a b", "0", 'q"', "back\\slash", "é", "true", "inf", "none", "x.", "1.5", "#1", "-"])
names = plain | odd | st.text(max_size=4).filter(legible)
naturals = st.integers(0, 5) | st.integers(0, 10**19)
integers = naturals | naturals.map(lambda n: -n)
floats = st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0, float("inf"), float("-inf"), 1e300, 5e-324, 1e16])
numbers = floats | integers
affines = st.builds(Affine, integers, st.integers(-3, 3))
dims = st.builds(Dim, names, naturals)
operands = st.builds(Value, names, st.just(Type("f32")))  # the text has only their names

BY_KIND: dict[str, st.SearchStrategy[Any]] = {
    "str": names,
    "int": integers,
    "float": numbers,
    "bool": st.booleans(),
    "Dim": dims,
    "tuple[str, ...]": st.lists(names, max_size=3).map(tuple),
    "tuple[int, ...]": st.lists(st.integers(0, 6), max_size=5).map(tuple),
    "tuple[Dim, ...]": st.lists(dims, max_size=3).map(tuple),
    "tuple[tuple[str, str], ...]": st.lists(st.tuples(names, names), max_size=3).map(tuple),
}


MEMORIES = st.sampled_from(["hbm", "hbm", "host", "nvme", "odd one", "again"])


@st.composite
def maps(draw: st.DrawFn) -> tuple[Op, int]:
    fn = draw(st.sampled_from(sorted(FUNCTIONS)))
    slots = tuple(draw(st.none() | numbers | st.booleans()) for _ in range(FUNCTIONS[fn].operands))
    return Map(fn, slots), sum(s is None for s in slots)


@st.composite
def plain_ops(draw: st.DrawFn) -> tuple[Op, int]:
    """An op other than a loop, and its number of operands."""
    cls = draw(st.sampled_from([c for m, c in sorted(OPS.items()) if c not in (Call, Repeat, Map)]))
    return cls(**{f.name: draw(BY_KIND[str(f.type)]) for f in fields(cls)}), draw(st.integers(0, 3))


@st.composite
def types(draw: st.DrawFn, axes: tuple[Axis, ...]) -> tuple[Type, Layout]:
    rank = draw(st.integers(0, 3))
    free = draw(st.permutations([a.name for a in axes]))
    split: list[tuple[str, ...]] = []
    for _ in range(rank):
        n = draw(st.integers(0, min(2, len(free))))
        split.append(tuple(free[:n]))
        free = free[n:]
    pending = tuple(sorted((a, draw(st.sampled_from(["sum", "max"]))) for a in free if draw(st.booleans())))
    halo = tuple(
        (i, draw(st.integers(0, 3)), draw(st.integers(0, 3))) for i in range(rank) if draw(st.integers(0, 4)) == 0
    )
    type = Type(draw(st.sampled_from(DTYPES)), tuple(draw(dims) for _ in range(rank)))
    return type, Layout(tuple(split), pending, halo)


@st.composite
def variables(draw: st.DrawFn, axes: tuple[Axis, ...]) -> Value:
    type, layout = draw(types(axes))
    origin, memory = draw(st.sampled_from([*ORIGINS.values()])), draw(MEMORIES)
    return Value(draw(names), type, origin=origin, layout=layout, memory=memory)


@st.composite
def instructions(draw: st.DrawFn, axes: tuple[Axis, ...], depth: int) -> Node:
    outputs = tuple(draw(st.lists(variables(axes), max_size=2)))
    if depth and draw(st.integers(0, 4)) == 0:
        label = draw(names)
        params = tuple(draw(st.lists(variables(axes), max_size=4)))
        carries = draw(st.integers(0, len(params)))
        stacks = draw(st.integers(0, len(params) - carries))
        body = Graph(label, params, draw(blocks(axes, depth - 1)), tuple(draw(st.lists(operands, max_size=3))))
        op: Op = Repeat(label, draw(naturals), body, carries, stacks, draw(st.booleans()), draw(st.booleans()))
        return Node(op, tuple(draw(operands) for _ in params), outputs)
    op, arity = draw(maps() | plain_ops())
    return Node(op, tuple(draw(operands) for _ in range(arity)), outputs)


@st.composite
def blocks(draw: st.DrawFn, axes: tuple[Axis, ...], depth: int) -> tuple[Node, ...]:
    return tuple(draw(st.lists(instructions(axes, depth), max_size=4)))


chunk_numbers = st.integers(0, 3)
kinds = st.sampled_from(list(FunctionPhase))


@st.composite
def elements(draw: st.DrawFn) -> Run | For | Update:
    which = draw(st.integers(0, 2))
    any_chunk = chunk_numbers | st.just(ALL_CHUNKS)
    if which == 0:
        return Run(draw(kinds), draw(any_chunk), draw(affines), draw(affines))
    if which == 1:
        steps = st.lists(st.tuples(kinds, any_chunk, affines), min_size=1, max_size=3)
        return For(draw(affines), draw(st.integers(-2, 5)), tuple(draw(steps)))
    return Update()


CACHES = st.none() | st.builds(RowCache, st.integers(0, 2**20), st.none() | st.floats(0, 1))


@st.composite
def states(draw: st.DrawFn, axes: tuple[Axis, ...]) -> StateDecl:
    inits = st.none() | st.builds(Init, names, st.lists(numbers, max_size=3).map(tuple))
    role = st.sampled_from(DECLARED)
    name = draw(names)
    logical = draw(names | st.just(name.split("#")[0]))
    of = (*draw(types(axes)), draw(chunk_numbers), draw(inits), draw(MEMORIES), logical)
    loops = st.lists(st.builds(WholeLoop, names, naturals, naturals), max_size=2).map(tuple)
    return StateDecl(name, draw(role), *of, cache=draw(CACHES), iterations=draw(loops))


@st.composite
def programs(draw: st.DrawFn) -> Program:
    axis_names = draw(st.lists(names, max_size=4, unique=True))
    axes = tuple(Axis(n, draw(st.integers(1, 4)), draw(st.sampled_from(["mesh", "place", "time"]))) for n in axis_names)
    whole = st.builds(Type, st.sampled_from(DTYPES), st.lists(dims, max_size=3).map(tuple))
    bound = st.none() | integers
    inputs = tuple(draw(st.lists(st.builds(InputDecl, names, whole, bound, bound), max_size=2)))
    shell = Program(draw(names), axes, inputs, (), draw(naturals))
    entries = [draw_entry(draw, name, shell, axes) for name in draw(st.lists(names, max_size=2, unique=True))]
    dealt = st.integers(0, 9).map(lambda n: Homes.dealt(shell.groups, n))
    homes = draw(dealt | st.lists(st.integers(0, shell.groups - 1), max_size=6).map(lambda of: Homes(tuple(of))))
    return replace(shell, homes=homes, entries=tuple(e for e in entries if len(entries) > 1 or e.classes))


def draw_entry(draw: st.DrawFn, name: str, shell: Program, axes: tuple[Axis, ...]) -> Entry:
    classes = []
    for _ in range(draw(st.integers(0, 2))):
        groups = tuple(draw(st.lists(st.integers(0, shell.groups - 1), min_size=1, max_size=5)))
        ranges = st.builds(LoopRange, names, chunk_numbers, affines, naturals, naturals)
        functions = [
            Function(draw(kinds), draw(chunk_numbers), Graph("", (), draw(blocks(axes, 2)), ()))
            for _ in range(draw(st.integers(0, 2)))
        ]
        classes.append(
            DeviceClass(
                groups,
                tuple(draw(st.lists(ranges, max_size=2))),
                tuple(draw(st.lists(states(axes), max_size=3))),
                tuple(functions),
                tuple(draw(st.lists(elements(), max_size=3))),
            )
        )
    return Entry(name, tuple(classes))
