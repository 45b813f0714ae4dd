"""Configurations: what is read, what changes nothing, what is refused and where."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dsl.diagnostics import Diagnostic, ParcError
from dsl.source import Source
from parc.importing.config import CHANGE_NOTHING, HARMLESS, NOT, read_config
from parc.importing.families.known import KNOWN, family_of
from parc.importing.importing import import_config
from parc.importing.strategy import candidates
from tests.importing.oracle import imported
from tests.importing.small import DEEPSEEK, GEMMA, KIN, LLAMA3, SMALL, T5, YARN, kin

LLAMA = kin("Llama", "llama")


def errors(config: object, text: str | None = None, ignored: tuple[str, ...] = ()) -> tuple[Diagnostic, ...]:
    source = Source("config.json", json.dumps(config, indent=2) if text is None else text)
    with pytest.raises(ParcError) as caught:
        import_config(source, None, ignored)
    for d in caught.value.diagnostics:
        assert d.span is not None and 0 <= d.span.start <= d.span.end <= len(source.text) and d.help != ""
    return caught.value.diagnostics


def error(config: object, text: str | None = None) -> Diagnostic:
    (found,) = errors(config, text)
    return found


@pytest.mark.parametrize(
    "text", ["", "{", "[1, 2]", "3", '{"a": NaN}', "null", "[" * 100_000, '{"a": ' * 50 + "1" + "}" * 50, '{"a": 1e, }']
)
def test_what_is_no_configuration(text: str) -> None:
    assert error(None, text).code == "E1001"


def test_families_that_are_not_known() -> None:
    found = error({"model_type": "lama"})
    assert found.code == "E1002" and found.help == "did you mean `llama`?"
    assert error({}).code == "E1005" and error({"model_type": 3}).code == "E1005"
    assert error({"model_type": "gemma3", "text_config": {}}).help == (
        "what lies under `text_config` is a model of its own: save that as a file"
    )


def test_keys_that_nobody_knows_are_named_with_their_place() -> None:
    config = {**LLAMA, "num_loops": 2, "rope_scaling": {**LLAMA3, "beta": 3}, "nothing": None, "rope_tetha": 3.0}
    found = errors(config)
    assert [d.code for d in found] == ["E1003"] * 3
    text = json.dumps(config, indent=2)
    assert [text[d.span.start : d.span.end] for d in found if d.span] == ['"num_loops"', '"rope_tetha"', '"beta"']
    assert "`--ignore num_loops`" in str(found[0].help) and found[1].help == "did you mean `rope_theta`?"
    assert "`rope_scaling.beta`" in found[2].message
    assert len(errors(config, ignored=("num_loops", "rope_tetha"))) == 1
    import_config(Source("c", json.dumps(config)), None, ("num_loops", "rope_tetha", "rope_scaling.beta"))


@pytest.mark.parametrize("key", sorted(HARMLESS))
def test_harmless_keys_change_nothing(key: str) -> None:
    assert imported({**LLAMA, key: {"some": ["thing", 1]}}).text == imported(LLAMA).text


def test_a_window_that_is_told_twice_is_one() -> None:
    """As the first files of Gemma 2 have it."""
    twice = {**SMALL["gemma2"], "sliding_window_size": SMALL["gemma2"].get("sliding_window", 4096)}
    assert imported(twice).text == imported(SMALL["gemma2"]).text


@pytest.mark.parametrize("key", sorted(NOT))
def test_what_a_model_is_not_changes_nothing(key: str) -> None:
    assert imported({**LLAMA, key: False}).text == imported(LLAMA).text
    assert [d.code for value in (True, 0) for d in errors({**LLAMA, key: value})] == ["E1003", "E1003"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({**LLAMA, "hidden_act": "gelu"}, "only `silu` is"),
        ({**LLAMA, "architectures": ["LlamaForSequenceClassification"]}, "LlamaForCausalLM"),
        ({**LLAMA, "rope_scaling": {"rope_type": "spiral"}}, "known are default"),
        ({**kin("DeepseekV3", "deepseek_v3", **DEEPSEEK), "topk_method": "greedy"}, "only `noaux_tc` is"),
        ({**kin("Gemma2", "gemma2", **GEMMA), "use_bidirectional_attention": True}, "only `false` is"),
        ({**SMALL["gemma3"], "attn_logit_softcapping": 50.0}, "only `null` is"),
        ({**SMALL["gemma2"], "sliding_window_size": 1}, "`sliding_window`"),
        ({**SMALL["gpt_oss"], "swiglu_limit": 5.0}, "only `7.0` is"),
        ({**SMALL["gpt2"], "scale_attn_by_inverse_layer_idx": True}, "only `false` is"),
        ({**SMALL["bert"], "position_embedding_type": "relative_key"}, "only `absolute` is"),
        ({**SMALL["vit"], "qkv_bias": False}, "only `true` is"),
        ({**SMALL["t5"], "feed_forward_proj": "gated-silu"}, "known are relu"),
        (
            {**SMALL["t5"], "is_gated_act": "gelu" not in SMALL["t5"].get("feed_forward_proj", "")},
            "`feed_forward_proj`",
        ),
        ({**SMALL["t5"], "dense_act_fn": "silu"}, "`feed_forward_proj`"),
        ({**SMALL["mixtral"], "router_jitter_noise": 0.1}, "only `0.0` is"),
        ({**SMALL["phi3"], "embd_pdrop": 0.1}, "only `0.0` is"),
    ],
)
def test_values_that_are_not_supported(config: dict[str, Any], said: str) -> None:
    found = error(config)
    assert found.code == "E1004" and said in str(found.help), found


@pytest.mark.parametrize(
    "config",
    [
        {k: v for k, v in LLAMA.items() if k != "hidden_size"},
        {**LLAMA, "hidden_size": "many"},
        {**LLAMA, "hidden_size": 2.5},
        {**LLAMA, "hidden_size": True},
        {**LLAMA, "hidden_size": 0},
        {**LLAMA, "hidden_size": -32},
        {**LLAMA, "hidden_size": 10**30},
        {**LLAMA, "hidden_size": [32]},
        {**LLAMA, "num_hidden_layers": 10**12},
        {**LLAMA, "num_attention_heads": 5},
        {**LLAMA, "num_key_value_heads": 3},
        {**LLAMA, "rope_theta": "10000"},
        {**LLAMA, "attention_bias": 1},
        {**LLAMA, "attention_dropout": 1.5},
        {**LLAMA, "rope_scaling": "linear"},
        {**LLAMA, "rope_scaling": {"type": "linear"}},
        {**LLAMA, "rope_scaling": {"type": "linear", "factor": None}},
        {**LLAMA, "architectures": "LlamaForCausalLM"},
        {**LLAMA, "tie_word_embeddings": "yes"},
        {**SMALL["gemma2"], "layer_types": ["full_attention"]},
        {**SMALL["gemma2"], "layer_types": ["linear_attention"] * 4},
        {
            **SMALL["phi3_long"],
            "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0, 2, 3, 4]},
        },
        {**SMALL["phi3_part"], "partial_rotary_factor": 0.1},
        {**SMALL["vit"], "patch_size": 5},
    ],
)
def test_values_that_are_missing_or_make_no_sense(config: dict[str, Any]) -> None:
    assert error(config).code == "E1005"


UNTURNED = ("gpt2", "bert", "vit", "t5")
"""Families whose positions are learned, or biases."""


@pytest.mark.parametrize("family", [f for f in sorted(SMALL) if SMALL[f]["model_type"] not in ("phi3", *UNTURNED)])
def test_a_part_of_a_head_is_turned_only_where_the_family_knows_of_it(family: str) -> None:
    """Others turn whole heads in transformers 5.24, whatever the key says: another model than was meant, or read."""
    plain = {k: v for k, v in SMALL[family].items() if k not in ("rope_scaling", "rope_parameters")}
    assert imported({**plain, "rope_parameters": None, "rope_scaling": None}).text
    assert error({**plain, "partial_rotary_factor": 0.5}).code in ("E1003", "E1004")
    inside = {"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.5}
    assert {d.code for d in errors({**plain, "rope_parameters": inside})} <= {"E1003", "E1004"}


def test_transformers_4_and_5_say_the_same_in_their_ways() -> None:
    bare = {k: v for k, v in LLAMA.items() if k != "rope_theta"}
    old = imported({**bare, "rope_theta": 500.0, "rope_scaling": LLAMA3, "torch_dtype": "bfloat16"}).text
    assert imported({**bare, "rope_parameters": {**LLAMA3, "rope_theta": 500.0}, "dtype": "bfloat16"}).text == old
    assert imported({**bare, "rope_theta": 500.0, "rope_scaling": {**LLAMA3, "type": "llama3"}}).text == old
    gemma = {k: v for k, v in SMALL["gemma3"].items() if not k.startswith("rope")}
    nested = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    }
    assert imported({**gemma, "rope_parameters": nested}).text == imported(SMALL["gemma3"]).text
    part = {k: v for k, v in SMALL["phi3_part"].items() if k not in ("partial_rotary_factor", "rope_theta")}
    inside = {"rope_theta": 1000.0, "partial_rotary_factor": 0.5, "rope_type": "default"}
    assert imported({**part, "rope_parameters": inside}).text == imported(SMALL["phi3_part"]).text


def test_experts_are_counted_by_either_name() -> None:
    """As Qwen publishes them, and as transformers 5 writes what it has read."""
    published = SMALL["qwen3_moe"]
    written = {"num_local_experts" if key == "num_experts" else key: x for key, x in published.items()}
    assert imported(written).text == imported(published).text != imported({**written, "num_local_experts": 4}).text


def test_null_is_what_transformers_makes_of_it() -> None:
    """Of a window or a cap it means none; of a size, what is usual."""
    assert "local_window" not in imported(kin("Mistral", "mistral", sliding_window=None)).text
    whole = {**KIN, "max_position_embeddings": 8192}
    assert "param local_window = 4096" in imported({**kin("Mistral", "mistral"), **whole}).text
    capped = {**kin("Gemma2", "gemma2", **GEMMA), "attn_logit_softcapping": None}
    assert "cap = " not in imported(capped).text and "soft_cap(logits, 30.0)" in imported(capped).text
    assert "param kv_heads = 4\n" in imported({**LLAMA, "num_key_value_heads": None}).text
    assert imported({**LLAMA, "head_dim": None}).text == imported(LLAMA).text


def test_windows_of_qwen_count_only_where_they_are_used() -> None:
    window = {"sliding_window": 4, "max_window_layers": 1}
    assert "local_window" not in imported(kin("Qwen2", "qwen2", **window)).text
    used = imported(kin("Qwen2", "qwen2", **window, use_sliding_window=True)).text
    assert "repeat full_layers as full" in used and "param local_layers = 2\n" in used


def test_texts_of_a_configuration_never_get_into_the_job() -> None:
    config = {**LLAMA, "_name_or_path": "x\nparam evil = 1", "tokenizer_class": "\n# }"}
    assert imported(config).text == imported(LLAMA).text


def test_the_page_lists_families_and_harmless_keys() -> None:
    page = (Path(__file__).parents[2] / "docs" / "public-models.md").read_text()
    for about, keys in CHANGE_NOTHING.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {about} |")]
        assert row == f"| {about} | {', '.join(f'`{key}`' for key in keys)} |"
    table = page[page.index("| family |") : page.index("Rotary positions may be")]
    assert [name for name in KNOWN if f"`{name}`" not in table or f"`{family_of(name).trained}`" not in table] == []


def latent(**others: int) -> dict[str, Any]:
    return kin("DeepseekV3", "deepseek_v3", **{**DEEPSEEK, **others})


@pytest.mark.parametrize(
    ("config", "key", "told"),
    [
        ({**LLAMA, "rope_theta": 0}, "rope_theta", "must be a number above 0, got `0`"),
        ({**LLAMA, "rms_norm_eps": -1}, "rms_norm_eps", "must be a number of at least 0, got `-1`"),
        ({**LLAMA, "rms_norm_eps": 1e300}, "rms_norm_eps", "must be a number below 3.403e+38"),
        ({**LLAMA, "initializer_range": -0.02}, "initializer_range", "must be a number of at least 0"),
        ({**LLAMA, "vocab_size": 2**40}, "vocab_size", "must be a whole number of at least 1, below 2^31"),
        ({**LLAMA, "rope_scaling": {**LLAMA3, "factor": 0.0}}, "factor", "`rope_scaling.factor` must be"),
        ({**LLAMA, "rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "high_freq_factor", "is not above"),
        ({**LLAMA, "rope_theta": 1, "rope_scaling": YARN}, "rope_theta", "YaRN needs more than 1"),
        ({**SMALL["phi3_long"], "original_max_position_embeddings": 1}, "original_max_position_embeddings", "least 2"),
        (kin("Mistral", "mistral", sliding_window=-4), "sliding_window", "must be a whole number of at least 0"),
        (kin("Mistral", "mistral", sliding_window=4.5), "sliding_window", "must be a whole number"),
        (kin("Gemma2", "gemma2", **GEMMA, attn_logit_softcapping=0), "attn_logit_softcapping", "above 0"),
        (latent(topk_group=5), "topk_group", "is 5 of the 4 groups"),
        (latent(n_group=3), "n_group", "does not divide the 8 experts"),
        (latent(num_experts_per_tok=5), "num_experts_per_tok", "is 5 of the 4"),
        (latent(num_experts_per_tok=9), "num_experts_per_tok", "there are 8"),
        ({**T5, "relative_attention_num_buckets": 6}, "relative_attention_num_buckets", "is 6, which is not 4 times"),
        ({**T5, "relative_attention_max_distance": 4}, "relative_attention_max_distance", "8 buckets reach further"),
    ],
)  # fmt: skip
def test_numbers_without_sense_are_told_at_their_key(config: dict[str, Any], key: str, told: str) -> None:
    found = error(config)
    text = json.dumps(config, indent=2)
    assert found.code == "E1005" and found.span is not None and told in found.message
    assert text[found.span.start : found.span.end] == f'"{key}"'


def test_what_only_the_model_knows_is_told_of_the_configuration() -> None:
    """Sizes that are fine by themselves, and make a tensor of more than 2^56 elements."""
    found = error({**LLAMA, "hidden_size": 2**30, "head_dim": 2**28})
    assert found.code == "E1005" and "describes no model" in found.message
    assert found.span is not None and found.span.source == "config.json"


def test_experts_that_no_layer_has_are_nowhere_in_the_job() -> None:
    dense = kin("DeepseekV3", "deepseek_v3", **{**DEEPSEEK, "first_k_dense_replace": 4})
    assert "experts" not in imported(dense).text.partition("\n")[2]


def test_numbers_of_all_kinds_make_a_job_or_are_refused() -> None:
    """A number of a configuration becomes another."""
    rng = Random(20261129)
    for _ in range(25):
        name = rng.choice(list(SMALL))
        config = json.loads(json.dumps(SMALL[name]))
        at = rng.choice([config, *(v for v in config.values() if isinstance(v, dict))])
        numbers = [k for k, v in at.items() if isinstance(v, int | float) and not isinstance(v, bool)]
        if numbers:
            at[rng.choice(numbers)] = rng.choice((-1, 0, 0.5, 1, 3, 2**40, 1e300))
        try:
            imported(config)
        except ParcError as error:
            for d in error.diagnostics:
                assert d.code in ("E1004", "E1005") and d.span is not None and d.span.source == "config.json", (name, d)


@pytest.mark.parametrize(("heads", "keys", "degrees"), [(4, 2, {1, 2}), (12, 2, {1, 2}), (16, 2, {1, 2, 4, 8})])
def test_layers_are_split_as_their_heads_can_be(heads: int, keys: int, degrees: set[int]) -> None:
    """Heads of keys, or the queries of each: both may be fewer than all heads have in common with a degree."""
    config = {**LLAMA, "num_attention_heads": heads, "num_key_value_heads": keys, "head_dim": 8}
    source = Source("config.json", json.dumps(config))
    assert {d.tp for d in candidates(family_of("llama").describe(read_config(source)), 8)} == degrees
    if heads == 4:
        assert import_config(source, (4, "h100")).fits
