"""What the tests of the standard library share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compiler.model import Model
from dsl import ast
from dsl.files import load_use
from dsl.parser import parse
from dsl.source import Source
from tests.evaluate.programs import model

F64 = "f64, master f64"
IMAGE = "dim b = 2, y = 8, x = 6, c = 4\ninput image : f64[b, y, x, c]\n"
TOKENS = "dim b = 2, s = 6, d = 8\ninput x : f64[b, s, d]\n"


def text(body: str, use: str) -> Model:
    return model(body, use=use, precision=F64)


def torch() -> Any:
    return pytest.importorskip("torch")


def tensors(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: torch().tensor(a) for name, a in arrays.items()}


def close(got: Any, want: Any) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-9, atol=1e-11)


def std(module: str) -> tuple[ast.Item, ...]:
    use = ast.Use(ast.Path((ast.Name("std"), ast.Name(module))))
    source = load_use(use, Source("", ""), ".")
    return parse(source.text, source.name).items
