"""A scope for expressions outside of models: parameters, sizes of meshes, settings of clusters."""

from __future__ import annotations

from compiler.evaluate.frame import Frame
from compiler.evaluate.modules import Module
from compiler.evaluate.scope import Making, Scope
from compiler.graph import Names
from compiler.model import Precision


def static_scope(module: Module) -> Scope:
    """An empty scope of the module. What it computes must be static: its graph is thrown away."""
    names = Names()
    making = Making(module.session, names, Precision(), "static")
    return Scope(module, making, Frame(names, ""), "", "expression")
