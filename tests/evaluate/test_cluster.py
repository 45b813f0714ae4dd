"""`cluster`: topologies and stacks, and what is wrong with them."""

from __future__ import annotations

import pytest

import parc
from compiler.cost.price.calibration import of_cluster
from compiler.evaluate import evaluate_file
from dsl.codes import CODES
from dsl.diagnostics import ParcError
from dsl.source import Source

CLUSTER = CODES["E0801"].mended


@pytest.mark.parametrize(
    "statement, message",
    [
        ("topology rack ring", "there is no level `rack` here"),
        ("topology server torus", "there is no topology `torus`"),
        ("topology server", "this is no `topology`"),
        ("stack", "this is no `stack`"),
        ("stack 3", "this is no `stack`"),
    ],
)
def test_settings_of_clusters_that_are_wrong(statement: str, message: str) -> None:
    text = CLUSTER.replace("10 GB/s, 1 us\n", f"10 GB/s, 1 us\n  {statement}\n")
    with pytest.raises(ParcError, match="E0313") as caught:
        parc.evaluate(Source("x.par", text))
    assert message in str(caught.value)


def test_like_stands_in_the_device() -> None:
    text = (
        "device chip {\n  compute f32 1 TFLOP/s\n  memory 1 GiB, 1 TB/s\n}\n"
        "cluster pod {\n  device gpu = chip\n  level server = 2 gpu over 1 GB/s, 1 us\n  stack mine like eager\n}\n"
        "model m {\n  dim b = 2, d = 2\n  input x : f32[b,d]\n  weight w[d]\n  loss mean(x * w)\n}\n"
        "optimizer plain(lr) {\n  w = w - lr * g\n}\njob fit {\n  train m on pod\n  optimizer plain(lr = 0.1)\n}\n"
    )
    with pytest.raises(ParcError) as caught:
        evaluate_file(Source("m.par", text))
    (found,) = caught.value.diagnostics
    assert found.code == "E0313" and "device gpu" in (found.help or "") and "`stack mine`" in (found.help or "")


def test_a_stack_chooses_efficiencies() -> None:
    text = CLUSTER.replace("100 GB/s\n", "100 GB/s\n  efficiency mine host 50 us\n").replace(
        "10 GB/s, 1 us\n", "10 GB/s, 1 us\n  topology server full_mesh\n  stack mine\n"
    )
    cluster = parc.evaluate(Source("x.par", text)).job.cluster
    assert cluster is not None and cluster.stack == "mine" and cluster.levels[0].topology == "full_mesh"
    assert of_cluster(cluster).host == 5e-5
    assert "  topology server full_mesh\n  stack mine\n" in parc.fmt(text)
