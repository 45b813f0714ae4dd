"""With transformers installed (the extra `hf`): it computes the same, and counts the same."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.importing.oracle import Small, reference
from tests.importing.small import PUBLISHED, SMALL

pytestmark = [
    pytest.mark.skipif(find_spec("transformers") is None or find_spec("torch") is None, reason="needs the extra `hf`"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.mark.parametrize("name", SMALL)
def test_logits(name: str, tmp_path: Path) -> None:
    """All of them, of a checkpoint with random numbers that is written by our table of names, which must name all."""
    config = SMALL[name]
    small = Small(config)
    weights, batch = small.weights(), small.batch()
    there = reference(config, small.checkpoint(weights), batch, tmp_path)
    assert np.abs(there).max() > 0.1
    np.testing.assert_allclose(small.logits(weights, batch), there, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_checkpoints_that_it_writes_are_read(name: str, tmp_path: Path) -> None:
    """Names and forms are those of its own files."""
    import torch
    import transformers
    from safetensors.numpy import load_file

    config = SMALL[name]
    cls = getattr(transformers, config["architectures"][0])
    torch.manual_seed(1)
    model = cls(cls.config_class(**{k: v for k, v in config.items() if k not in ("architectures", "model_type")}))
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    small = Small(config)
    if name == "t5_gated":  # transformers 5 makes a model of its own with one table, whatever the configuration says
        tensors.setdefault("lm_head.weight", tensors["shared.weight"])
    found = small.read(tensors)
    assert small.checkpoint(found).keys() == tensors.keys()
    assert all(np.array_equal(small.checkpoint(found)[n], t) for n, t in tensors.items())


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters(name: str) -> None:
    """Of models that have no memory."""
    import torch
    import transformers

    config: dict[str, Any] = PUBLISHED[name]["config"]
    if config.get("feed_forward_proj") == "gated-gelu":
        pytest.skip("transformers 5 ties what this configuration says is not tied")
    cls = getattr(transformers, config["architectures"][0])
    made = cls.config_class(
        **{k: v for k, v in config.items() if k not in ("architectures", "model_type", "quantization_config")}
    )
    with torch.device("meta"):
        model = cls(made)
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name]["parameters"]
