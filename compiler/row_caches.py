"""Caches of rows: how much of a device's memory they take, and of which tables there can be none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

from compiler.graph import Graph, Node, Value
from compiler.layout import TIME, local_type
from compiler.memory.tiers import FIRST, SLOT, WAYS, RowCache
from compiler.ops.call import Call
from compiler.ops.comm import Comm
from compiler.ops.effects import Read, Write
from compiler.ops.index import Take
from compiler.ops.rows import ReadRows, UniqueRows, WriteRows
from compiler.origin import Role
from compiler.program import DeviceClass, StateDecl

ALL_OF_IT = "more than rows of it is read, or moved"


def cache_of(cache: RowCache, decl: StateDecl, sizes: Mapping[str, int]) -> RowCache:
    """That of a buffer: a table that is smaller has room for all of its rows.

    Args:
        sizes: of the program's axes.
    """
    dims = local_type(decl.type, decl.layout, sizes).dims
    rows = dims[0].size if dims else 0
    return RowCache(min(cache.rows, -(-rows // WAYS) * WAYS), cache.hits)


def cache_bytes(decl: StateDecl, sizes: Mapping[str, int]) -> int:
    """Bytes of a device's memory that the cache of a buffer takes: rows, and what is known of each place."""
    if decl.cache is None:
        return 0
    here = local_type(decl.type, decl.layout, sizes)
    return decl.cache.rows * (here.bytes // here.dims[0].size + SLOT)


def for_others(instr: Node, nodes: Sequence[Node], sizes: Mapping[str, int]) -> float:
    """Of the rows of a weight that an update reads: how many others have looked up, for each one that the device has
    looked up itself. Devices that have the same rows of a table renew those of all of them.

    Args:
        instr: what reads them (`ReadRows`).
        nodes: those of its body.
        sizes: of mesh axes.
    """
    op, table = instr.op, instr.inputs[0]
    assert isinstance(op, ReadRows)
    made = {v.name: node for node in nodes for v in node.outputs}

    def before(value: Value) -> Value:
        """The value before messages."""
        while (node := made.get(value.name)) is not None and isinstance(node.op, Comm):
            value = node.inputs[0]
        return value

    unique = made.get(before(instr.inputs[-1]).name)
    if unique is None or not isinstance(unique.op, UniqueRows):
        return 0.0
    apart = {*table.layout.dims[table.type.index(op.dim)], TIME}
    all_of_them = own = 0.0
    for index in unique.inputs[1::2]:
        gathered = {*before(index).layout.axes} - {*index.layout.axes} - apart
        rows = local_type(index.type, index.layout, sizes).elements
        all_of_them += rows
        own += rows / prod(sizes[a] for a in gathered)
    return all_of_them / own - 1


def without(cls: DeviceClass) -> Iterator[tuple[int, str]]:
    """Buffers (by number) that have a cache and can have none, and why."""
    for k, decl in enumerate(cls.states):
        if decl.cache is not None and (reason := _why(cls, decl, decl.cache)) is not None:
            yield k, reason


def _why(cls: DeviceClass, decl: StateDecl, cache: RowCache) -> str | None:
    if decl.memory == FIRST or decl.role not in (Role.WEIGHT, Role.OPTIMIZER) or not decl.type.dims:
        return "only tables that rest in another memory, and the optimizer's states of them, have a cache"
    if cache.rows < 1 or cache.rows % WAYS:
        return f"{cache.rows} rows are no sets of {WAYS}"
    if cache.hits is not None and not 0 <= cache.hits <= 1:
        return f"{cache.hits} is no share"
    for function in cls.functions:
        for node in function.body.nodes:
            if isinstance(node.op, Read) and node.op.name == decl.name:
                reason = _more_than_rows(function.body, node.output, set())
                if reason is not None:
                    return reason
    return None


def _more_than_rows(body: Graph, table: Value, there: set[str]) -> str | None:
    """Why not only rows of it, along its first dim, are read and renewed by the devices. there: gets the names of what
    lies in its memory."""
    there.add(table.name)
    for node in body.nodes:
        for k, v in enumerate(node.inputs):
            if v.name not in there or isinstance(node.op, Write):
                continue
            if isinstance(node.op, Call):
                inner: set[str] = set()
                reason = _more_than_rows(node.op.body, node.op.body.inputs[k], inner)
                if reason is not None:
                    return reason
                results = zip(node.outputs, node.op.body.outputs, strict=True)
                there.update(out.name for out, made in results if made.name in inner)
                continue
            op = node.op
            if not isinstance(op, (Take, ReadRows, WriteRows)) or op.reaches != k:
                return ALL_OF_IT
            if node.far != k:
                return "the hosts look its rows up, or renew them"
            if v.type.dims[0].name != op.dim or (
                isinstance(op, Take) and any(map(v.type.has, node.inputs[1].type.names))
            ):
                return f"its rows do not lie along its first dim: they are those of `{op.dim}`"
            if op.renews == k:
                there.add(node.output.name)
    return None
