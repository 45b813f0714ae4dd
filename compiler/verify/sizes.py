"""Sizes: what no machine could work with is refused before anybody plans for it."""

from __future__ import annotations

from compiler.graph import Type
from compiler.verify.report import Finding
from dsl.limits import MAX_DIM, MAX_DIMS, MAX_ELEMENTS


def wrong_type(type: Type) -> list[Finding]:
    """What is wrong with a tensor's dims by themselves."""
    if len(set(type.names)) != len(type.dims) or any(d.size < 1 for d in type.dims):
        return [("E0612", f"{type} is not a tensor", "each dim once, of a size of at least 1")]
    if len(type.dims) > MAX_DIMS:
        return [("E0908", f"a tensor of {len(type.dims)} dims", f"at most {MAX_DIMS}")]
    large = next((d for d in type.dims if d.size > MAX_DIM), None)
    if large is not None:
        return [("E0908", f"dim {large.name} has a size of {large.size}", f"at most {MAX_DIM} = 2^40")]
    if type.elements > MAX_ELEMENTS:
        return [("E0908", f"{type} has {type.elements} elements", f"at most {MAX_ELEMENTS} = 2^56")]
    return []
