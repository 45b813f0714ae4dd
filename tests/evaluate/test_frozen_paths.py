"""`frozen`: which weights a path means, and paths that mean none."""

from __future__ import annotations

import re

import pytest

from compiler.evaluate import evaluate
from compiler.evaluate.frozen import matches
from dsl import ast
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc import check
from tests.place.test_frozen import FROZEN, LORA, compiled, text

PATTERNS = [
    ("block", "block.up.base", True),
    ("block.up", "block.up.base", True),
    ("block.up.base", "block.up.base", True),
    ("up", "block.up.base", False),
    ("blo", "block.up.base", False),
    ("block.up.base.x", "block.up.base", False),
    ("*", "block.up.base", True),
    ("*.base", "block.up.base", True),
    ("*.base", "base", True),
    ("*.up", "block.up.base", True),
    ("block.*.base", "block.up.base", True),
    ("block.*.base", "block.base", True),
    ("block.*.base", "block.up.down.base", True),
    ("block.*.low", "block.up.base", False),
    ("*.*.base", "base", True),
    ("block.*", "block.up", True),
    ("*.a.*.a", "a.b", False),
    ("*.a.*.a", "a.a", True),
]


@pytest.mark.parametrize(("pattern", "path", "holds"), PATTERNS)
def test_patterns(pattern: str, path: str, holds: bool) -> None:
    assert matches(ast.Path(tuple(ast.Name(p) for p in pattern.split("."))), path) == holds


@pytest.mark.parametrize(
    ("frozen", "code", "told"),
    [
        ("frozen tabel", "E0404", "did you mean `table`?"),
        ("frozen up", "E0404", "did you mean `block.up`?"),
        ("frozen base", "E0404", "did you mean `block.up.base`, or `*.base`?"),
        ("frozen table keep hed", "E0404", "did you mean `head`?"),
        ("frozen table keep head", "E0404", "leave it out"),
        ("frozen keep *", "E0404", "leave it out, or keep fewer"),
        ("frozen table keep table", "E0404", "leave it out, or keep fewer"),
        ("frozen", "E0001", "`frozen keep head` all but `head`"),
        ("frozen *", "E0317", "leave one out"),
    ],
)
def test_wrong_patterns(frozen: str, code: str, told: str) -> None:
    with pytest.raises(ParcError) as caught:
        check(Source("main.par", text(LORA, frozen)))
    (found,) = caught.value.diagnostics
    assert found.code == code and told in (found.help or ""), found
    assert found.span is not None
    mends = [m for m in re.findall(r"`([^`]*)`", found.help or "") if code == "E0404"]
    for mend in mends:
        wrong = frozen.split()[-1]
        compiled(LORA, frozen.replace(wrong, mend) if "keep" not in frozen else f"frozen keep {mend}")


@pytest.mark.parametrize("rest", ("", "  # all of it?"))
def test_frozen_alone_says_nothing(rest: str) -> None:
    body = "  dim b = 4\n  input x : f32[b]\n  weight w[b]\n  loss mean(x * w)\n"
    job = f"job fit {{\n  train m\n  optimizer sgd(lr = 0.1)\n  frozen{rest}\n}}\n"
    with pytest.raises(ParcError) as found:
        evaluate(Source("main.par", f"use std.optimizers (sgd)\nmodel m {{\n{body}}}\n{job}"))
    (error,) = found.value.diagnostics
    assert error.code == "E0001" and "a path of weights or `keep`" in error.message


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ("shard optimizer on dp in block.up.base", "there is no weight that is trained in `block.up.base`"),
        ("shard gradients, optimizer on dp in table", "there is no weight that is trained in `table`"),
        ("split f on dp for optimizer in block.up.base", "there is no value of the update in `block.up.base`"),
    ],
)
def test_rules_about_what_it_has_not(rules: str, told: str) -> None:
    with pytest.raises(ParcError) as caught:
        compiled(*FROZEN["lora"], mesh="dp = 2", rules=f"data_parallel(dp); {rules}")
    (found,) = caught.value.diagnostics
    assert found.code == "E0542" and told in found.message
    compiled(LORA, "", mesh="dp = 2", rules=f"data_parallel(dp); {rules}")  # else it does something
