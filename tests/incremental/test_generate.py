"""`generate`: what is drawn, and from what; the same under every strategy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import parc
from dsl.diagnostics import ParcError
from dsl.source import Source
from parc.cli import cli
from parc.cli.generate import seen
from parc.keeping import Keeping
from runtime.checkpoints.saving import Saving
from runtime.generate.sampling import Sampling
from runtime.generate.tokenizers import ByteTokens, HuggingFace
from runtime.numpy import STORAGE
from runtime.prove.serial import run_graph

ROOT = Path(__file__).parents[2]
MODEL = """\
use std.layers (attention, cross_entropy, embedding, layer_norm, linear, mlp)
use std.optimizers (adamw)
use std.tactics (data_parallel, megatron)

param dp = 1 in 1..9
param tp = 1 in 1..9
param pp = 1 in 1..9

model net(batch, seq) {
  dim b = batch, s = seq, d = 16, v = 80
  input tokens, targets : int32[b,s] in 0..v
  weight place[s,d] ~ normal(1.0)
  x = embedding(tokens, over v, over d, std = 1.0) + place
  repeat 2 as block {
    x = x + attention(layer_norm(x), 4, std = 0.5)
    x = x + mlp(layer_norm(x), 32, std = 0.5)
  }
  logits = linear(layer_norm(x), over v, bias = false, std = 0.5) as head
  if not training {
    output logits
  }
  loss cross_entropy(logits, targets, over v)
}

strategy plan for net {
  mesh (pp = pp, dp = dp, tp = tp)
  data_parallel(dp)
  megatron(tp)
  if pp > 1 {
    pipeline block on pp, schedule gpipe(microbatches = 2, over = b)
  }
}

job fit {
  train net(8, 16) using plan
  optimizer adamw(lr = 1e-2)
  data text("DATA")
}

job write {
  infer net(4, 16) using plan
  data text("DATA")
  decode over s, prefill 4
}
"""
PROMPTS = ("To be", "What is i", "I")


def source(folder: Path, **changes: str) -> Source:
    (folder / "text.txt").write_text((ROOT / "examples" / "data" / "corpus.txt").read_text()[:20000])
    text = MODEL.replace("DATA", "text.txt")
    for old, new in changes.items():
        text = text.replace(old, new)
    path = folder / "net.par"
    path.write_text(text)
    return Source(str(path), text, str(path))


def test_the_likeliest_are_those_of_the_whole_pass(tmp_path: Path) -> None:
    """Each token is the likeliest, by the outputs of all positions at once."""
    file = source(tmp_path)
    found = parc.generate(file, PROMPTS, 6, job="write", double=True)
    compiled = parc.compile(file, job="write", double=True)
    from runtime.data.text import vocabulary
    from runtime.prove.serial import initial_state

    assert compiled.job.data is not None
    known = vocabulary(compiled.job.data, 80)
    weights, _ = initial_state(compiled.training)
    for made in found.texts:
        tokens = [known.index(c) for c in made.prompt] + list(made.tokens)
        batch = np.zeros((4, 16), STORAGE["int32"])
        batch[0, : len(tokens)] = tokens[:16]
        logits = run_graph(compiled.training.forward, {**weights, "tokens": batch})[0]
        first = len(made.prompt)
        assert list(logits[0, first - 1 : first + 5, : len(known)].argmax(-1)) == list(made.tokens)
        assert made.text == "".join(known[t] for t in made.tokens) and made.ended == "length"
    assert found.chunks == 0 and found.singles == 14


@pytest.mark.parametrize("params", [{"tp": 2}, {"dp": 2}, {"pp": 2}, {"pp": 2, "dp": 2, "tp": 2}])
def test_strategies_change_nothing(tmp_path: Path, params: dict[str, int]) -> None:
    file, sampled = source(tmp_path), {"temperature": 0.9, "top_k": 12, "top_p": 0.9, "seed": 5}
    one = parc.generate(file, PROMPTS, 7, job="write", double=True, **sampled)  # type: ignore[arg-type]
    other = parc.generate(file, PROMPTS, 7, job="write", double=True, params=params, **sampled)  # type: ignore[arg-type]
    assert [t.tokens for t in one.texts] == [t.tokens for t in other.texts]
    assert other.devices == int(np.prod([*params.values()]))
    seeded = parc.generate(file, PROMPTS, 7, job="write", double=True, **{**sampled, "seed": 6})  # type: ignore[arg-type]
    assert [t.tokens for t in seeded.texts] != [t.tokens for t in one.texts]


def test_what_goes_beside_it_changes_nothing(tmp_path: Path) -> None:
    """A prompt alone, and among others of other lengths."""
    file = source(tmp_path)
    together = parc.generate(file, PROMPTS, 5, job="write", double=True)
    for prompt, made in zip(PROMPTS, together.texts):
        alone = parc.generate(file, [prompt], 5, job="write", double=True)
        assert alone.texts[0].tokens == made.tokens
        assert alone.chunks == len(prompt) // 4 * 4


def test_how_it_ends(tmp_path: Path) -> None:
    file = source(tmp_path)
    (made,) = parc.generate(file, ["What is it to"], 32, job="write").texts
    assert made.ended == "context" and len(made.tokens) == 16 - 13 + 1
    (whole,) = parc.generate(file, ["I"], 12, job="write").texts
    stop = whole.text[5:7]
    (cut,) = parc.generate(file, ["I"], 12, job="write", stops=[stop]).texts
    assert cut.ended == "stop" and cut.text == whole.text[: whole.text.index(stop)]


def test_from_a_checkpoint(tmp_path: Path) -> None:
    file, folder = source(tmp_path), tmp_path / "saved"
    runner = CliRunner()
    done = runner.invoke(cli, ["run", file.name, "--job", "fit", "--steps", "30", "--save", str(folder)])
    assert done.exit_code == 0, done.output
    told = ["generate", file.name, "--job", "write", "--prompt", "To be", "--steps", "8", "--from", str(folder)]
    shown = runner.invoke(cli, told)
    assert shown.exit_code == 0 and shown.stdout.startswith("To be"), shown.output
    found = json.loads(runner.invoke(cli, [*told, "-D", "tp=2", "--json"]).stdout)["result"]
    assert shown.stdout == f"To be{found['texts'][0]['text']}\n" and found["began"].startswith(str(folder))
    fresh = json.loads(runner.invoke(cli, [*told[:-2], "--json"]).stdout)["result"]
    assert fresh["began"] is None and fresh["texts"] != found["texts"]
    both = runner.invoke(cli, [*told, "--prompt", "It"])
    assert both.stdout.startswith("To be") and "\n\nIt" in both.stdout


def test_what_decoding_keeps_is_in_no_checkpoint(tmp_path: Path) -> None:
    """A tensor that is called as the count of positions is another model's: it is left alone."""
    loop = "  repeat 2 as block {"
    more = source(tmp_path, **{loop: f"  weight position[v] ~ zeros\n  x = x + sum(position, over v)\n{loop}"})
    ran = CliRunner().invoke(cli, ["run", more.name, "--job", "fit", "--steps", "1", "--save", str(tmp_path / "saved")])
    assert ran.exit_code == 0, ran.output
    (made,) = parc.generate(source(tmp_path), ["To"], 2, job="write", checkpoint=tmp_path / "saved").texts
    assert len(made.tokens) == 2


def test_words_and_bytes(tmp_path: Path) -> None:
    words = source(tmp_path, **{'text("text.txt")': 'text("text.txt", level = "word")'})
    (made,) = parc.generate(words, ["Now the king, and unheardof"], 3, job="write").texts
    assert made.prompt_tokens == 6 and len(made.tokens) == 3 and " " in made.text
    plain = source(tmp_path, **{'  data text("text.txt")\n  decode': "  decode", "v = 80": "v = 256"})
    (made,) = parc.generate(plain, ["é"], 3, job="write").texts
    assert made.prompt_tokens == 2
    assert ByteTokens().decode(ByteTokens().encode("a é 漢")) == "a é 漢"


@pytest.mark.parametrize(
    ("prompts", "code", "words"),
    [
        (["漢"], "E0784", "character `漢`"),
        ([""], "E0784", "empty"),
        (["a" * 17], "E0784", "17 tokens"),
        (["a"] * 5, "E0784", "5 prompts"),
        ([], "E0784", "no prompt"),
    ],
)
def test_prompts_that_do_not_fit(tmp_path: Path, prompts: list[str], code: str, words: str) -> None:
    with pytest.raises(ParcError) as error:
        parc.generate(source(tmp_path), prompts, 3, job="write")
    (found,) = error.value.diagnostics
    assert found.code == code and words in found.message


def test_jobs_and_tokenizers_that_do_not_fit(tmp_path: Path) -> None:
    file = source(tmp_path)
    for options, code in (({"job": "fit"}, "E0783"), ({"job": "write", "tokenizer": "none.json"}, "E0785")):
        with pytest.raises(ParcError) as error:
            parc.generate(file, ["a"], 3, **options)  # type: ignore[arg-type]
        assert error.value.diagnostics[0].code == code
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ParcError) as error:
        parc.generate(file, ["a"], 3, job="write", tokenizer=str(tmp_path / "tokenizer.json"))
    assert error.value.diagnostics[0].code == "E0785"


def test_shares() -> None:
    logits = np.log(np.array([[0.1, 0.4, 0.2, 0.3], [0.25, 0.25, 0.25, 0.25]]))
    assert np.allclose(Sampling(1.0).shares(logits), np.exp(logits))
    assert np.allclose(Sampling(1.0, top_k=2).shares(logits)[0], [0, 4 / 7, 0, 3 / 7])
    assert np.allclose(Sampling(1.0, top_p=0.6).shares(logits)[0], [0, 4 / 7, 0, 3 / 7])
    assert np.allclose(Sampling(1.0, top_p=0.4).shares(logits)[0], [0, 1, 0, 0])
    assert np.allclose(Sampling(1.0, top_k=3).shares(logits)[1], [1 / 3, 1 / 3, 1 / 3, 0])
    assert np.allclose(Sampling(0.5).shares(logits)[0], np.array([1, 16, 4, 9]) / 30)
    assert Sampling().draw(logits, 3).tolist() == [1, 0]


def test_draws_follow_shares() -> None:
    """Over places: each token as often as its share says, by the chi-squared statistic."""
    shares = np.array([0.1, 0.4, 0.2, 0.3])
    draws = np.array([Sampling(1.0, seed=2).draw(np.log(shares)[None], place)[0] for place in range(4000)])
    counts = np.bincount(draws, minlength=4)
    assert float(((counts - 4000 * shares) ** 2 / (4000 * shares)).sum()) < 16.3  # 0.1% of 3 degrees of freedom


def test_hugging_face(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=["?"], initial_alphabet=alphabet)
    made.train_from_iterator(["to be or not to be"] * 9, trainer)
    made.save(str(tmp_path / "tokenizer.json"))
    known = HuggingFace(str(tmp_path / "tokenizer.json"))
    assert known.decode(known.encode("to be, é")) == "to be, é" and known.size == made.get_vocab_size()
    file = source(tmp_path, **{"v = 80": "v = 300", '  data text("text.txt")\n  decode': "  decode"})
    (text,) = parc.generate(file, ["to be"], 4, job="write", tokenizer=str(tmp_path / "tokenizer.json")).texts
    assert text.prompt_tokens == len(made.encode("to be").ids) and len(text.tokens) == 4


def test_what_a_terminal_would_act_upon_is_not_written_to_one() -> None:
    text = "a\x1b[2J\rb\tc\n\x07"
    assert seen(text, terminal=False) == text
    assert seen(text, terminal=True) == "a\ufffd[2J\ufffdb\tc\n\ufffd"


def test_the_torch_engine_draws_the_same(tmp_path: Path) -> None:
    """By two processes, greedy and drawn, chunks and single positions."""
    pytest.importorskip("torch")
    from runtime.torch.engine import Engine

    file = source(tmp_path)
    options = {"job": "write", "double": True, "params": {"tp": 2}, "temperature": 0.9, "top_k": 12, "seed": 5}
    one = parc.generate(file, PROMPTS[:2], 6, **options)  # type: ignore[arg-type]
    other = parc.generate(file, PROMPTS[:2], 6, engine=Engine(), **options)  # type: ignore[arg-type]
    assert [t.tokens for t in one.texts] == [t.tokens for t in other.texts] and other.chunks == 4


def test_what_is_kept_is_not_taken_of_a_checkpoint(tmp_path: Path) -> None:
    """A model's own state may be called as the counter of positions is: the checkpoint has it, and decoding has not."""
    made = []
    for name in ("position", "posigion"):
        counted = f"  state {name} : int32\n  if training {{\n    {name} = {name} + 1\n  }}\n  x = embedding("
        file = source(tmp_path, **{"  x = embedding(": counted})
        parc.run(file, 3, job="fit", keeping=Keeping(Saving(tmp_path / name)))
        found = parc.generate(file, PROMPTS[:1], 6, job="write", checkpoint=str(tmp_path / name))
        made.append(found.texts[0].tokens)
    assert made[0] == made[1]


def test_weights_keep_their_names(tmp_path: Path) -> None:
    """One that is called as the counter of positions is found in the checkpoint."""
    file = source(tmp_path, place="position")
    parc.run(file, 1, job="fit", keeping=Keeping(Saving(tmp_path / "saved")))
    found = parc.generate(file, PROMPTS[:1], 2, job="write", checkpoint=str(tmp_path / "saved"))
    assert len(found.texts[0].tokens) == 2
