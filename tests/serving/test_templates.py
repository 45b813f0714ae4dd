"""Chat templates: read from where tokenizers have them, and shut in."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dsl.diagnostics import ParcError
from parc.serving.asking import body_of, chat_of
from parc.serving.faults import Fault
from parc.serving.limits import Limits
from parc.serving.templates import ChatConfig, ChatTemplate, chat_config, end_of

CHATML = """\
{%- for m in messages %}
{%- if m.role not in ('system', 'user', 'assistant') %}{{ raise_exception('no role ' + m.role) }}{% endif %}
{{- '<|' + m.role + '|>' + m.content + eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""


def asked(messages: Any, **more: Any) -> Any:
    return chat_of(body_of(json.dumps({"model": "m", "messages": messages} | more).encode()), Limits())


HI = [{"role": "user", "content": "hi"}]


def rendered(template: str) -> str:
    pytest.importorskip("jinja2")
    return ChatTemplate(ChatConfig(template, {"eos_token": "</s>"})).prompt(HI)


@pytest.mark.parametrize(("template", "text"), [
    ("{{ messages | tojson(indent=1) }}", '[\n {\n  "role": "user",\n  "content": "hi"\n }\n]'),
    ("{{ {'b': '<', 'a': 'é'} | tojson(separators=(',', ':'), sort_keys=true) }}", '{"a":"é","b":"<"}'),
    ("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}!{% endfor %}", "hi!"),
    ("{{ strftime_now('%Y')|length }}", "4"),
    ("{{ '%s %02d' % ('a', 3) }}{{ 'b'|indent(2, true) }}{{ 'x' * 2 }}{{ '{:>3}'.format(1) }}", "a 03  bxx  1"),
    ("{{ [1, 2]|join('-') }}{{ 'aa'.replace('a', 'b')|replace('b', 'c') }}{{ [1, 2, 3]|batch(2)|list }}{{ 2 ** 3 }}",
     "1-2cc[[1, 2], [3]]8"),
])  # fmt: skip
def test_what_transformers_gives_templates_is_there(template: str, text: str) -> None:
    assert rendered(template) == text


@pytest.mark.parametrize("template", [
    "{{ 'a' * 10**10 }}", "{{ ([1] * 4000000) * 3 }}", "{{ (10**1000) ** (10**9) }}", "{{ '%999999999d' % 1 }}",
    "{{ '%*d' % (999999999, 1) }}", "{{ '{:999999999}'.format(1) }}", "{{ '{:{}}'.format(1, 999999999) }}",
    "{{ 'x'|center(10**10) }}", "{{ 'x'.zfill(10**10) }}", "{{ 'x'|indent(10**10) }}", "{{ [1]|batch(10**9, 1)|list }}",
    "{{ ('a' * 100000).replace('a', 'b' * 100000) }}", "{{ range(99999)|join('x' * 99999) }}",
    "{{ messages|tojson(indent=10**9) }}", "{{ lipsum(n=10**9) }}",
])  # fmt: skip
def test_what_makes_large_things_is_refused(template: str) -> None:
    with pytest.raises(Fault, match="does not take these messages"):
        rendered(template)


@pytest.mark.parametrize("template", [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% set n = namespace(s='abcdefgh' * 99999) %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
])  # fmt: skip
def test_what_goes_on_and_on_is_ended(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jinja2")
    monkeypatch.setattr("parc.serving.bounded.SECONDS", 0.2)
    traced = sys.gettrace()
    with pytest.raises(Fault, match="it takes more than"):
        rendered(template)
    assert sys.gettrace() is traced and rendered("{{ messages[0].content }}") == "hi"


def test_a_template_that_is_nested_too_deeply_is_none() -> None:
    pytest.importorskip("jinja2")
    with pytest.raises(ParcError, match="E0785"):
        ChatTemplate(ChatConfig("{% if 1 %}" * 300 + "{% endif %}" * 300, {}))


def test_what_is_found_beside_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    tokenizer = str(tmp_path / "tokenizer.json")
    assert chat_config(tokenizer, None) == chat_config("byte", None) == ChatConfig(None, {})
    config = {"chat_template": "A", "eos_token": {"content": "</s>", "lstrip": False}, "bos_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert chat_config(tokenizer, None) == ChatConfig("A", {"eos_token": "</s>"})
    named = [{"name": "tools", "template": "B"}, {"name": "default", "template": "C"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": named}))
    assert chat_config(tokenizer, None).template == "C"
    (tmp_path / "chat_template.jinja").write_text("D")
    assert chat_config(tokenizer, None) == ChatConfig("D", {"eos_token": "</s>"})
    (tmp_path / "own").write_text("E")
    assert chat_config(tokenizer, str(tmp_path / "own")).template == "E"
    for wrong in ("[", "[]", '{"eos_token": 3}', '{"chat_template": [3]}', "\udcff"):
        (tmp_path / "tokenizer_config.json").write_text(wrong, errors="surrogateescape")
        with pytest.raises(ParcError, match="E0785"):
            chat_config(tokenizer, None)
    with pytest.raises(ParcError, match="E0785"):
        chat_config(None, str(tmp_path / "nowhere"))


def test_the_token_that_ends() -> None:
    config = ChatConfig(None, {"eos_token": "ab"})
    assert end_of(config, lambda text: [7]) == 7 and end_of(config, lambda text: [7, 8]) is None
    assert end_of(ChatConfig(None, {}), lambda text: [7]) is None


def test_prompts() -> None:
    pytest.importorskip("jinja2")
    template = ChatTemplate(ChatConfig(CHATML, {"eos_token": "</s>"}))
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    chat = asked([{"role": "system", "content": parts}, {"role": "user", "content": "{{ 7 * 7 }}"}]).chat
    assert template.prompt(chat) == "<|system|>ab</s><|user|>{{ 7 * 7 }}</s><|assistant|>"
    with pytest.raises(Fault, match="no role tool") as caught:
        template.prompt(asked([{"role": "tool", "content": ""}]).chat)
    assert (caught.value.status, caught.value.param) == (400, "messages")


@pytest.mark.parametrize(
    "text",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{{ 1 / 0 }}",
        "{{ messages[9].content }}",
    ],
)
def test_a_template_reaches_nothing(text: str) -> None:
    pytest.importorskip("jinja2")
    with pytest.raises(Fault) as caught:
        ChatTemplate(ChatConfig(text, {})).prompt(asked(HI).chat)
    assert caught.value.status == 400


def test_what_is_no_template() -> None:
    pytest.importorskip("jinja2")
    with pytest.raises(ParcError, match="E0785"):
        ChatTemplate(ChatConfig("{% if %}", {}))


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [*HI, {"role": 3, "content": ""}]}, "messages[1]"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "a", "name": 3}]}, "messages[0].name"),
    ({"logprobs": 1}, "logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"tools": [{}]}, "tools"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"prompt": "a"}, "prompt"),
    ({"echo": True}, "echo"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_what_is_refused_by_its_parameter(number: int) -> None:
    more, param = WRONG[number]
    with pytest.raises(Fault) as caught:
        asked(**({"messages": HI} | more))
    assert (caught.value.status, caught.value.param) == (400, param)


def test_what_is_asked_for() -> None:
    found = asked(HI, max_completion_tokens=7, max_tokens=9, logprobs=True, tools=[], n=2)
    assert (found.most, found.likely, found.n, found.prompts, found.chat) == (7, 0, 2, (), tuple(HI))
    assert asked(HI, max_tokens=9, logprobs=True, top_logprobs=3).likely == 3
