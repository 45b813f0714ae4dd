"""`parc explain FILE TENSOR`: what it says of real models is what the lowered program does."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import parc
from compiler.explain import Index
from compiler.traffic import collectives
from parc.cli import cli

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
GPT = EXAMPLES / "gpt.par"

WQ = "block.attention.wq"


def explain(tensor: str, file: Path = GPT, **params: int) -> Any:
    return parc.explain_tensor(file, tensor, params=params)


def kinds(tensor: str, file: Path = GPT, **params: int) -> Counter[tuple[str, str, str]]:
    """(what, of, phase) -> calls per step."""
    found: Counter[tuple[str, str, str]] = Counter()
    for c in explain(tensor, file, **params).changes:
        found[c.kind, c.of, c.phase] += c.times
    return found


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("gpt", {"dp": 2}),
        ("gpt", {"dp": 2, "tp": 2, "zero": 1}),
        ("gpt", {"dp": 2, "tp": 2, "zero": 3, "microbatches": 2}),
        ("gpt", {"cp": 2, "tp": 2}),
        ("llama", {"cp": 2, "dp": 2, "zero": 2}),
        ("resnet", {"dp": 2, "sp": 2, "sx": 2}),
        ("recsys", {"dp": 4}),
    ],
)
def test_all_tensors_together_send_what_the_program_sends(name: str, params: dict[str, int]) -> None:
    compiled = parc.compile(EXAMPLES / f"{name}.par", params=params)
    index = Index(compiled.placed, compiled.staged, compiled.program)
    told = sum(c.times * c.bytes for c in index.changes(dict.fromkeys(index.values, "")))
    assert told == pytest.approx(sum(c.bytes for c in collectives(compiled.program)), rel=1e-12) and told > 0


def test_zero_stages_of_a_weight() -> None:
    """Its slices are gathered where they are read; the gradient is scattered; the new weight is gathered."""
    scatter, gather = "reduce-scatter over dp", "all-gather over dp"
    assert kinds(WQ, dp=2) == {("all-reduce over dp", "gradient", "update"): 1}
    assert kinds(WQ, dp=2, zero=1) == {(scatter, "gradient", "update"): 1, (gather, "new value", "update"): 1}
    assert kinds(WQ, dp=2, zero=2) == {(scatter, "gradient", "backward"): 2, (gather, "new value", "update"): 1}
    assert kinds(WQ, dp=2, zero=3) == {
        (gather, "", "forward"): 2,
        (gather, "", "backward"): 2,
        (scatter, "gradient", "backward"): 2,
    }
    found = explain(WQ, dp=2, zero=3, tp=2)
    assert found.role == "weight" and found.type == "f32[block=2, d=64, h=2/tp, k=16]"
    assert [(k.what, k.type, k.rule is not None) for k in found.kept] == [
        (what, "f32[block=2, d=32/dp, h=2/tp, k=16]", True)
        for what in ("weight", "gradient", f"optimizer {WQ}.m", f"optimizer {WQ}.v")
    ]
    assert found.sent == sum(c.times * c.bytes for c in found.changes) == 6 * 4096


def test_sequence_parallel_of_an_activation() -> None:
    """What goes into attention is gathered, again in the backward pass; its gradient is scattered."""
    assert kinds("block.layer_norm.out", tp=2) == {
        ("all-gather over tp", "", "forward"): 2,
        ("all-gather over tp", "", "backward"): 2,
        ("reduce-scatter over tp", "gradient", "backward"): 2,
    }
    (why,) = explain("logits", tp=2).why
    assert (why.axis, why.dims) == ("tp", ("v",)) and why.reason.startswith("`wte` is split there")
    assert why.rule is not None


def test_context_parallel_gathers_keys() -> None:
    found = explain("block.attention.key", cp=2)
    assert [(c.kind, c.of, c.phase, c.times) for c in found.changes] == [
        ("all-gather over cp", "", "forward", 2),
        ("all-gather over cp", "", "backward", 2),
        ("reduce-scatter over cp", "gradient", "backward", 2),
    ]
    assert found.changes[0].reader == "block.attention.scores"
    assert found.why[0].dims == ("t", "s")


def test_pipelines() -> None:
    params = {"pp": 2, "dp": 2, "microbatches": 2}
    found = explain(WQ, **params)
    assert found.type.startswith("f32[block=1,") and found.bytes == (16384, 32768)
    assert found.why[0].axis == "pp" and "each 1 of its 2" in found.why[0].reason
    carried = {("send", "", "forward"): 2, ("send", "gradient", "backward"): 2}
    assert kinds("block.x", **params) == carried
    assert kinds("wte", **params)["all-reduce over stages", "gradient", "update"] == 1
    assert "on stage 1 of 0..1" in explain("logits", **params).why[0].reason
    uneven = explain(WQ, pp=3, layers=7)
    assert uneven.type.startswith("f32[block=3,") and "at most 3 of its 7" in uneven.why[0].reason


def test_a_backward_pass_in_two_halves_changes_nothing(tmp_path: Path) -> None:
    text = GPT.read_text().replace("data text", "# data text")
    params = {"pp": 2, "dp": 2, "zero": 2, "microbatches": 2}

    def found(schedule: str, tensor: str) -> Any:
        path = tmp_path / f"{schedule}.par"
        path.write_text(text.replace("schedule one_f_one_b", f"schedule {schedule}"))
        return explain(tensor, path, **params)

    for tensor in (WQ, "block.x", "wte"):
        one, two = found("one_f_one_b", tensor), found("zero_bubble", tensor)
        assert (one.type, one.bytes) == (two.type, two.bytes)
        assert [(k.what, k.type) for k in one.kept] == [(k.what, k.type) for k in two.kept]
        assert [(c.kind, c.of, c.times, c.bytes) for c in one.changes] == [
            (c.kind, c.of, c.times, c.bytes) for c in two.changes
        ]
        assert one.changes


def test_halos_and_layout_rules() -> None:
    assert kinds("block.relu", EXAMPLES / "resnet.par", sp=2) == {("halo over sp", "", "forward"): 2}
    table = explain("user_table", EXAMPLES / "recsys.par", dp=4)
    assert table.why[0].dims == ("u",) and "layout" in table.why[0].reason
    changes = [(c.kind, c.of, c.phase, c.bytes) for c in table.changes]  # rows that each part of the batch takes, and
    assert changes == [
        ("all-gather over dp", "gradient", "update", 64 * n * 3 / 4) for n in (8 * 4, 4)
    ]  # their numbers
    assert kinds("liked", EXAMPLES / "recsys.par", dp=4)["reduce-scatter over dp", "", "forward"] == 1


def test_loss_metrics_and_unknown_names() -> None:
    assert explain("loss", dp=2).role == "loss" and explain("accuracy", dp=2).type == "f32[] pending(dp sum)"
    with pytest.raises(parc.ParcError) as caught:
        explain("wq", dp=2)
    assert f"there is `{WQ}`" in str(caught.value.diagnostics[0].help)


@pytest.mark.parametrize("name", ["gpt", "llama", "recsys", "resnet", "towers"])
def test_every_tensor_can_be_explained(name: str) -> None:
    path = EXAMPLES / f"{name}.par"
    compiled = parc.compile(path, params={"dp": 2})
    index = Index(compiled.placed, compiled.staged, compiled.program)
    for tensor in list(index.values)[:: max(1, len(index.values) // 6)]:
        shown = CliRunner().invoke(cli, ["explain", str(path), tensor, "-D", "dp=2"])
        assert shown.exit_code == 0, (tensor, shown.output)
        assert shown.stdout.startswith(f"{tensor}: ")
