"""The devices of the standard library, evaluated: for those who look at them without a file that uses them."""

from __future__ import annotations

from compiler.evaluate.devices import build_device
from compiler.evaluate.modules import Loader
from compiler.evaluate.session import Session
from compiler.model import Device
from dsl import ast
from dsl.files import load_use
from dsl.source import Source


def standard_devices() -> tuple[Device, ...]:
    """In the order in which they stand there."""
    session = Session()
    use = ast.Use(ast.Path((ast.Name("std"), ast.Name("devices"))))
    module = Loader(session, ".").load(load_use(use, Source("", ""), "."))
    return tuple(build_device(session, module, entry.item.name) for entry in module.of_kind("device"))
