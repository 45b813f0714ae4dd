"""What rows say of their software, and whose numbers they take where it is not known."""

from __future__ import annotations

from dataclasses import replace
from math import exp

import pytest

import parc
from benchmarks.published import machines
from benchmarks.published.accelerators import SHEETS, known, most, power, reached, scale
from benchmarks.published.facts import ERRORS, Row, Unsupported, load
from benchmarks.published.fit import Problem, chosen, samples
from benchmarks.published.generate import job, microbatches
from benchmarks.published.group import Group
from benchmarks.published.groups import GROUPS
from benchmarks.published.software import CORES, KNOWN, base, fused, kernel, kin, software, year
from benchmarks.published.words import modules
from compiler.cost.memory.systems import Systems
from compiler.cost.price.calibration import DEFAULT, Calibration, of_cluster
from dsl.source import Source
from tests.published.rows import LATENT

ROWS = {str(row): row for row in load()}
PLAIN = {"family": "elsewhere", "source": "", "notes": "", "attn": ""}
A100 = {"accel": "A100-80GB-SXM", "peak_tflops": "312", "mem_GB": "80", "mem_bw_GBps": "2039"}
H100 = {"accel": "H100-80GB-SXM", "peak_tflops": "989", "mem_GB": "80", "mem_bw_GBps": "3350"}


def changed(name: str, **cells: str) -> Row:
    return replace(ROWS[name], facts={**ROWS[name].facts, **cells})


def numbers(row: Row) -> Calibration:
    """What the row's device and software reach."""
    cluster = parc.evaluate(Source("row.par", job(row))).job.cluster
    assert cluster is not None
    return of_cluster(cluster)


@pytest.mark.parametrize(
    "cells, found",
    [
        ({"mbs": "8"}, 8),  # all of a step: cut into as many as stages
        ({"mbs": ""}, 8),
        ({"mbs": "1", "gbs": "32"}, 32),
        ({"mbs": "8", "microbatches": "1"}, 1),  # said so
        ({"mbs": "2", "microbatches": "4"}, 4),
        ({"mbs": "", "pp": "1", "tp": "64"}, 8),
    ],
)
def test_a_pipeline_has_as_many_microbatches_as_stages(cells: dict[str, str], found: int) -> None:
    plan = {"n_dev": "64", "dp": "1", "tp": "8", "pp": "8", "gbs": "8", "layers": "48"}
    assert microbatches(changed("megatron_sc21_t1-0001", **plan | cells)) == found


def test_a_batch_that_stages_cannot_share_is_left_out() -> None:
    row = changed("megatron_sc21_t1-0001", n_dev="64", dp="1", tp="8", pp="8", gbs="12", mbs="12")
    with pytest.raises(Unsupported, match="micro-batches are not stated"):
        microbatches(row)


def test_of_all_rows_none_has_fewer_microbatches_than_stages_but_where_it_says_so() -> None:
    seen = 0
    for row in ROWS.values():
        try:
            found = microbatches(row)
        except Unsupported:
            continue
        seen += row.whole("pp") > 1
        assert found >= row.whole("pp") or row["microbatches"]
    assert seen > 80


def test_chunks_that_are_not_stated_make_a_row_less_certain() -> None:
    row = ROWS["megatron_sc21_t2-0007"]  # 8 layers per stage, nothing of chunks
    assert row["vpp"] == "" and row.tier == "B" and row.error == pytest.approx(1.5 * ERRORS["B"])
    assert changed(str(row), vpp="1").error == ERRORS["A"]
    few = {"layers": "36", "family": "elsewhere"}  # 3 layers per stage
    assert changed(str(row), **few).error == ERRORS["A"]
    other = changed(str(row), family="elsewhere")
    assert other["pp"] == "12" and other.error == ERRORS["A"]  # 384 micro-batches
    assert changed(str(row), family="elsewhere", gbs="64", dp="8", mbs="1").tier == "B"
    (group,) = (g for g in GROUPS if g.name == "megatron_2021")
    problem = Problem(group, samples([row, changed(str(row), vpp="1")]))
    assert problem.error[0] == pytest.approx(1.5 * problem.error[1])


def test_layers_that_stages_do_not_divide_are_dealt_out() -> None:
    """Recipes of 126 layers on 8 stages have fewer in the first and the last: no stage has more than one more."""
    row = ROWS["megatron_bridge-0007"]
    assert row.whole("layers") % row.whole("pp")
    assert parc.compile(Source("row.par", job(row))).job.strategy.devices == row.whole("n_dev")


@pytest.mark.parametrize(
    "cells, one",
    [
        ({**A100, "source": "a report of 2021"}, False),
        ({**A100, "source": "a report of 2024"}, True),
        ({**A100, "year": "2020"}, False),
        ({**A100}, False),  # its accelerator is of 2020, and nothing says that the row is later
        ({**A100, "glu": "1"}, True),  # as LLaMA has, of 2023
        ({**H100}, True),
        ({**H100, "notes": "Megatron-DeepSpeed"}, False),
        ({"accel": "V100-SXM2-32GB", "peak_tflops": "125"}, False),
        ({**H100, "attn": "unfused"}, False),
        ({**A100, "attn": "flash"}, True),
    ],
)
def test_whether_attention_is_one_kernel_where_nothing_is_said(cells: dict[str, str], one: bool) -> None:
    row = changed("megatron_sc21_t1-0004", **{**PLAIN, **cells})
    assert fused(row) == one
    assert numbers(row).fused_attention == float(one)


def test_years_are_read_from_what_a_row_says_of_its_source() -> None:
    for said, found in [("llama3_h100_202412.md", 2024), ("measured 02-20/2022", 2022), ("2048 positions", None)]:
        assert year(changed("megatron_sc21_t1-0004", **PLAIN | {"notes": said})) == found
    assert year(changed("megatron_sc21_t1-0004", **PLAIN, year="2019")) == 2019


def test_a_strategy_that_its_software_did_not_have_is_software_that_is_not_known() -> None:
    assert base(ROWS["megatron_sc21_t1-0004"]) == "megatron_2021"
    assert base(changed("megatron_sc21_t1-0004", zero_stage="3")) == ""
    assert base(changed("megatron_sc21_t1-0004", sp="1")) == ""
    assert base(changed("korthikanti_t5-0001", cp="2")) == ""
    assert base(changed("megatron_bridge-0007", zero_stage="3")) == "megatron_core"
    assert base(changed("llmfoundry-0063", tp="2")) == ""
    for row in ROWS.values():  # what was measured could be run
        assert base(row) in KNOWN, row


@pytest.mark.parametrize(
    "text, found",
    [
        ("selective(mlp)", {"mlp"}),
        ("selective(moe_act, mlp)", {"act", "mlp"}),
        ("selective [core_attn, layernorm, mla_up_proj]", {"core", "norm", "up"}),
        ("modules: (moe, shared_experts)", {"experts", "mlp"}),
        ("selective(core)", {"core"}),
        ("selective(op)", None),
        ("selective(every 2nd layer)", None),
        ("selective", None),
        ("full", None),
    ],
)
def test_lists_of_modules_are_read(text: str, found: set[str] | None) -> None:
    assert modules(text) == found


@pytest.mark.parametrize(
    "recompute, lines",
    [
        ("selective(mlp)", {"block.swiglu"}),
        ("selective(norm, act)", {"block.rms_norm", "block.rms_norm_1", "block.swiglu keep block.swiglu.a"}),
        ("selective(core_attn)", set()),
    ],
)
def test_modules_of_a_list_are_scopes_of_the_job(recompute: str, lines: set[str]) -> None:
    row = changed("torchtitan_h100-0002", recompute=recompute)
    text = job(row)
    core = "recompute block.grouped_attention keep block.grouped_attention.q"
    assert core in text and all(f"recompute {line}" in text for line in lines)
    assert text.count("recompute block") == 1 + len(lines)
    parc.compile(Source("row.par", text))


RULES = {
    "none": [],
    "selective(moe_act)": ["recompute block.moe.routed_experts keep", "recompute block.moe.shared keep"],
    "selective(mla_up_proj)": ["recompute block.latent_attention keep block.latent_attention.place"],
    "selective(moe)": ["recompute block.moe\n"],
    "selective(mlp, norm)": [
        "recompute first.swiglu\n",
        "recompute block.moe.shared\n",
        "recompute block.rms_norm_1\n",
    ],
}


def test_modules_of_a_mixture_with_latent_attention() -> None:
    cells = LATENT | {"layers": "4", "dp": "4", "tp": "1", "zero_stage": "1"}
    cells |= {"mbs": "4", "gbs": "16", "pp": "1", "seq_len": "1024"}

    def peak(said: str) -> int:
        text = job(changed("korthikanti_t5-0001", **cells, recompute=said))
        assert all(line in text for line in RULES[said])
        return Systems(parc.compile(Source("row.par", text))).fullest.peak.bytes

    whole = peak("none")
    assert all(peak(said) < whole for said in RULES if RULES[said])


def test_power_and_the_best_product_bound_what_a_device_sustains() -> None:
    """Sheets of the same peak differ by what a device may draw; nothing sustains more than 95% of the best product."""
    of = {name: SHEETS[name] for name in ("GB200", "GB300", "B200", "H20", "H100", "MI300")}
    assert of["GB300"].peak == of["GB200"].peak and scale(of["GB300"], "gb200") > 1.01
    assert scale(of["B200"], "gb200") < of["B200"].reach / of["GB200"].reach
    assert power(of["H20"]) == 1.0 > power(of["H100"]) > power(of["GB200"])
    assert reached(0.76, of["H20"], "h100") == pytest.approx(0.95 * of["H20"].reach)
    assert reached(0.7, of["MI300"], "h100") < 0.95 * of["MI300"].reach
    cells = {"accel": "GB300", "peak_tflops": "", "mem_GB": "", "mem_bw_GBps": "", "precision": "bf16"}
    name = next(n for n, r in ROWS.items() if r["accel"] == "GB200" and r["precision"] == "bf16")
    assert numbers(changed(name, **cells)).product > numbers(ROWS[name]).product


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_products_stay_below_the_best_that_was_measured(group: Group) -> None:
    """In the fit, and in what the library states of all its devices."""
    for device in group.devices:
        bound = most(known(device))
        problem = Problem(group, [])
        highs = [high for (_, name), high in zip(problem.names, problem.high) if name == "product"]
        assert all(exp(high) <= bound + 1e-6 for high in highs)
        for words, text in machines.library()[device]:
            if words[0] == "efficiency" and words[-1] == "product":
                assert float(text.split()[-1]) <= bound + 0.005, (device, text)


@pytest.mark.parametrize("notes", ["deterministic run", "untuned baseline", "a functional test of CI"])
def test_runs_that_nobody_tuned_are_of_tier_c(notes: str) -> None:
    row = changed("megatron_sc21_t1-0004", notes=notes)
    assert row.tier == "C" and row.error == ERRORS["C"] > ERRORS["A"]
    (group,) = (g for g in GROUPS if g.name == "megatron_2021")
    assert chosen(group, [row]) == [] and chosen(group, [ROWS["megatron_sc21_t1-0004"]])
    assert base(row) == "megatron_2021"  # a tier, and no stack


@pytest.mark.parametrize(
    "accel, attn, core",
    [
        (A100, "FlashAttention-2", 1),
        (A100, "triton", 0),
        (H100, "flash-attn 3", 1),
        (H100, "cuDNN", 1),
        (H100, "TE fused", 1),
        (H100, "SDPA flash", 0),
        (H100, "flash2", 0),
    ],
)
def test_the_kernel_of_attention_chooses_its_share(accel: dict[str, str], attn: str, core: int) -> None:
    """Whatever the software, within what is plausible of kernels of that generation of devices."""
    low, high = CORES["a100" if accel is A100 else "h100"]
    for family, source in [("elsewhere", ""), ("llmfoundry", ""), ("colossal", "a report of 2024")]:
        row = changed("llmfoundry-0063", family=family, source=source, attn=attn, **accel)
        found = numbers(row).core
        assert (found > (low + high) / 2) == bool(core), (family, found)


def test_software_on_another_generation_takes_its_kernel_along() -> None:
    """Megatron-Core has no numbers of A100: its kin has, and Transformer Engine's attention there."""
    row = changed("megatron_bridge-0007", recompute="none", experts="", arch="dense", precision="bf16", **A100)
    assert base(row) == "megatron_core" and kernel(row) == "te"
    assert software(row, "a100_80")[-3:] == ["megatron", "fast_attention", ""]
    assert numbers(row).core > sum(CORES["a100"]) / 2


def test_kin_by_year_kernel_shards_and_pipeline() -> None:
    def of(device: str, name: str = "llmfoundry-0063", **cells: str) -> list[str]:
        return kin(changed(name, **{**PLAIN, "attn": "flash", **cells}), device)

    assert of("h100") == [""]
    assert of("h100", attn="TE fused") == ["fast_attention", ""]
    plan = {"zero_stage": "1", "fsdp_shards": "", "tp": "8", "dp": "", "n_dev": "64"}
    assert of("h100", **plan) == ["megatron", "fast_attention", ""]
    assert of("h100", **plan, family="nemo_llama") == ["megatron", "fast_attention", ""]
    assert of("a100_80", **A100, attn="unfused") == ["unfused"]
    assert of("a100_80", **A100, attn="unfused", notes="DeepSpeed") == ["unfused_deepspeed", "unfused"]


def test_gradients_are_reduced_in_16_bits_where_nothing_is_known() -> None:
    """Composer's autocast and FSDP2 reduce in f32, and say so."""
    assert DEFAULT.gradient_wire == 2.0
    assert numbers(changed("llmfoundry-0063", **PLAIN | {"attn": "flash"}, **H100)).gradient_wire == 2.0
    amp, pure = (
        next(r for r in ROWS.values() if r.family == "llmfoundry" and w in r["precision"]) for w in ("amp", "PURE")
    )
    assert numbers(amp).gradient_wire == 4.0 and numbers(pure).gradient_wire == 2.0
    assert numbers(ROWS["torchtitan_h100-0002"]).gradient_wire == 4.0
