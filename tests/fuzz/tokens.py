"""Mutants of what makes tokens of texts: `tokenizer.json` (where the package `tokenizers` is there), chat templates
with what stands beside them (where `jinja2` is), the text of a job's data, prompts."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.fuzz.bundles import Scene, Scenes
from tests.fuzz.cell import Cell

_JOB = """\
model m() {
  dim b = 2, s = 12, v = 60, d = 2
  input tokens : int32[b,s] in 0..v
  weight table[v,d]
  x[b,s,d] = take(table, tokens, over v)
  seen[b,s,d] = x + cumsum(x, over s)
  logits[b,s,v] = seen @ table
  output logits
}
job write {
  infer m()
  DATA
  decode over s, prefill 4
}
"""
_CORPUS = b"To be, or not to be: that is the question.\nWhether 'tis nobler in the mind to suffer\n"
_WORDS = ("[UNK]", "<s>", "</s>", "to", "be", "or", "not", "that", "is", "the", "##s", "t", "o", "b", "e")
_TEMPLATE = """\
{%- for m in messages %}
{%- if m.role not in ('system', 'user', 'assistant') %}{{ raise_exception('no role ' + m.role) }}{% endif %}
{{- bos_token if loop.first }}{{ '<|' + m.role + '|>' + m.content | trim + eos_token }}
{%- endfor %}
{%- set names = namespace(last='') %}
{%- for i in range(messages | length) %}{% set names.last = '%s-%d' % (messages[i]['role'], i) %}{% endfor %}
{{- names.last.replace('-', ' ' * 2) }}{{ messages | map(attribute='role') | join(', ') }}
{%- if add_generation_prompt %}{{ '<|assistant|>'.center(20) }}{% endif %}
{{- {'a': [1, 2.5, none, true]} | tojson(indent=2) }}"""
_SAID = [
    {"role": "system", "content": "You answer in verse."},
    {"role": "user", "content": "to be?"},
    {"role": "assistant", "content": "or not"},
    {"role": "user", "content": "that is \x1b[31mthe question {{ 7 * 7 }}"},
]
_MOST = 2**22
"""Characters that a template may make."""


def scenes() -> Scenes:
    """As far as the packages are there."""
    found = [_prompted("characters", 'data text("f.txt")'), _prompted("words", 'data text("f.txt", level = "word")')]
    if find_spec("jinja2") is not None:
        found += [_template(beside=True), _template(beside=False)]
    if find_spec("tokenizers") is not None:
        found += [_tokenizer(kind) for kind in _PACKAGED]
    return Scenes(found)


def _prompted(name: str, data: str) -> Scene:
    """A job whose tokens are those of its data."""

    def run(cell: Cell, scene: Scene, file: str) -> None:
        prompt = os.fsdecode(Path("prompt.txt").read_bytes().replace(b"\0", b"\1")[:2000])
        cell.command("generate", "job.par", f"--prompt={prompt}", "--steps", "2")

    job = _JOB.replace("DATA", data).encode()
    files = {"job.par": job, "f.txt": _CORPUS, "prompt.txt": b"to be"}
    return Scene(name, files, {"f.txt": 2.0, "prompt.txt": 1.0}, run)


# --- chat templates ---------------------------------------------------------------------------------------


def _template(beside: bool) -> Scene:
    """One in a file beside the tokenizer, or in its configuration."""
    config: dict[str, Any] = {"bos_token": {"content": "<s>", "special": True}, "eos_token": "</s>", "pad_token": None}
    files = {"tokenizer.json": b"{}"}
    if beside:
        files |= {"chat_template.jinja": _TEMPLATE.encode(), "tokenizer_config.json": json.dumps(config).encode()}
        return Scene(
            "template", files, {"chat_template.jinja": 6.0, "tokenizer_config.json": 1.0}, _rendered, weight=3.0
        )
    config["chat_template"] = [{"name": "tool", "template": "{{ 0 }}"}, {"name": "default", "template": "{{ 1 }}"}]
    files["tokenizer_config.json"] = json.dumps(config).encode()
    return Scene("configuration", files, {"tokenizer_config.json": 1.0}, _rendered)


def _rendered(cell: Cell, scene: Scene, file: str) -> None:
    """A text, or a fault of the request or of the file, and nothing else."""
    from dsl.diagnostics import ParcError
    from parc.serving.faults import Fault
    from parc.serving.templates import ChatTemplate, chat_config, end_of

    cell.stage("template")
    try:
        config = chat_config("tokenizer.json", None)
        end_of(config, lambda text: [len(text)])
        if config.template is None:
            return
        made = ChatTemplate(config).prompt(_SAID)
    except ParcError as error:
        if any(not d.code for d in error.diagnostics):
            cell.wrong("no code", "template", str(error))
    except Fault as fault:
        if fault.status != 400:
            cell.wrong("fault", str(fault.status), str(fault))
    else:
        if not isinstance(made, str) or len(made) > _MOST:
            cell.wrong("no text", "template", f"{type(made).__name__} of {len(made):,}")


# --- the package `tokenizers` -----------------------------------------------------------------------------


def _tokenizer(kind: str) -> Scene:
    """`tokenizer.json` of one of the models that it knows."""

    def run(cell: Cell, scene: Scene, file: str) -> None:
        prompt = os.fsdecode(Path("prompt.txt").read_bytes().replace(b"\0", b"\1")[:2000])
        cell.command("generate", "job.par", f"--prompt={prompt}", "--steps", "2", "--tokenizer", "tokenizer.json")

    document = {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "[UNK]"},
        "added_tokens": [
            {"id": i, "content": _WORDS[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
            for i in range(3)
        ],
        **_PACKAGED[kind],
    }  # fmt: skip
    files = {"job.par": _JOB.replace("  DATA\n", "").encode(), "prompt.txt": b"to be or not"}
    files["tokenizer.json"] = json.dumps(document).encode()
    return Scene(f"tokenizer {kind}", files, {"tokenizer.json": 6.0, "prompt.txt": 1.0}, run)


_NUMBERS = {word: i for i, word in enumerate(_WORDS)}
_AROUND = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
}
_PACKAGED: dict[str, dict[str, Any]] = {
    "words": {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": _AROUND, "decoder": None,
        "model": {"type": "WordLevel", "vocab": _NUMBERS, "unk_token": "[UNK]"},
    },
    "pieces": {
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": _NUMBERS},
    },
    "merges": {
        "normalizer": {"type": "Replace", "pattern": {"Regex": " +"}, "content": " "},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": r"\p{L}+|\s+(?!\S)"}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": "[UNK]", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": _NUMBERS, "merges": [["t", "o"], ["b", "e"]]},
    },
    "scores": {
        "normalizer": {"type": "Prepend", "prepend": "b"}, "post_processor": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "b", "prepend_scheme": "always", "split": True},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "b"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": [[w, -0.5 * i] for i, w in enumerate(_WORDS)],
                  "byte_fallback": False},
    },
}  # fmt: skip
