"""What a rank puts into a table of which it keeps rows at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.program import StateDecl

if TYPE_CHECKING:
    from runtime.backend import Array
    from runtime.rank.interpreter import Rank


def fill_cached(rank: Rank, name: str, array: Array, decl: StateDecl) -> None:
    """Put an array of nobody else's into a table that has a cache, which begins empty."""
    assert decl.cache is not None
    table, (base, *parts) = rank.backend.cached(array, decl.cache.rows)
    held = rank.new(base, decl.type.dtype, decl.memory)
    for old in rank.caches.pop(name, ()):
        old.buffer.drop()
    dtypes = (decl.type.dtype, "int32", "int32", "bool")
    rank.caches[name] = [rank.new(x, dtype) for x, dtype in zip(parts, dtypes, strict=False)]
    held.array = table
    rank.put_state(name, held)
