"""Of a table the rows that are asked for are read, not the table: in whole bursts, by each device its part."""

from __future__ import annotations

import pytest

from compiler.cost.kernels.program import features
from compiler.cost.kernels.work import Vector
from compiler.driver import compile_job
from compiler.evaluate import evaluate
from dsl.source import Source

MODEL = """use std.optimizers (adam, rowwise_adagrad)

model m() {
  dim b = 64, u = ROWS, e = WIDTH
  input user : int32[b] in 0..u
  weight table[u,e] ~ normal(0.1)
  x[b,e] = take(table, user, over u)
  loss sum(x * x)
}

strategy s for m {
  mesh (tp = TP)
  RULE
}

job fit {
  train m() using s
  optimizer OPTIMIZER(lr = 0.1)
  precision PRECISION, master f32
}
"""


OF = {"ROWS": "4096", "WIDTH": "128", "TP": "1", "RULE": "", "OPTIMIZER": "adam", "PRECISION": "f32"}


def kernels(**given: int | str) -> list[tuple[str, int]]:
    """Names and bytes of all kernels of a device and step."""
    text = MODEL
    for name, value in (OF | {k.upper(): str(v) for k, v in given.items()}).items():
        text = text.replace(name, value)
    (parts,) = features(compile_job(evaluate(Source("m.par", text))).program).parts
    nodes = [node for part in parts.values() for node, _ in part.each()]
    return [(node.name, node.work.bytes) for node in nodes if isinstance(node.work, Vector)]


def read(width: int = 128, size: int = 4, **given: int | str) -> int:
    """Bytes of the table that are read: a `take` reads 64 numbers as well, and writes its result."""
    found = dict(kernels(width=width, **given))["x"]
    columns = width // 2 if "e/tp" in str(given.get("rule")) else width
    return found - 64 * 4 - 64 * columns * size


def test_rows_are_read_however_long_the_table_is() -> None:
    assert read(rows=4096) == read(rows=2**22) == 64 * 128 * 4
    assert read(size=2, precision="bf16") == 64 * 128 * 2


def test_no_more_than_the_table() -> None:
    assert read(rows=10) == 10 * 128 * 4


def test_short_rows_take_a_burst_each() -> None:
    assert read(width=2) == 64 * 32 > 64 * 2 * 4
    assert read(width=9) == 64 * 64 > 64 * 9 * 4


@pytest.mark.parametrize(("layout", "row"), [("u/tp, e", 128 * 4 // 2), ("u, e/tp", 64 * 4)])
def test_devices_with_pieces_read_their_part(layout: str, row: int) -> None:
    """Of a table by rows one half of those asked for, as likely as not; of one by columns half of each row."""
    assert read(tp=2, rule=f"layout table[{layout}]") == 64 * row


def test_a_dense_gradient_is_a_table_a_sparse_one_rows() -> None:
    assert dict(kernels())["table.grad"] >= 4096 * 128 * 4
    of = [kernels(rows=rows, optimizer="rowwise_adagrad") for rows in (4096, 2**20)]
    assert of[0] == of[1] and max(size for _, size in of[0]) < 4096 * 128 * 4
