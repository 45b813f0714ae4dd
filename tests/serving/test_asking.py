"""What requests may say, and what is told of those that say something else; texts that grow, up to a stop."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from parc.serving.asking import body_of, completion_of
from parc.serving.faults import Fault
from parc.serving.limits import Limits
from parc.serving.texts import GrowingText
from runtime.generate.tokenizers import ByteTokens

LEAST: dict[str, Any] = {"model": "m", "prompt": "ab"}


def asked(**more: Any) -> Any:
    return completion_of(body_of(json.dumps(LEAST | more).encode()), Limits())


def test_what_is_usual() -> None:
    found = asked()
    assert (found.prompts, found.most, found.temperature, found.top_p, found.n) == (("ab",), None, 1.0, 1.0, 1)
    assert not found.stream and not found.echo and found.stops == () and found.likely is None
    assert asked().seed != asked().seed and asked(seed=-1).seed == 2**64 - 1


def test_null_is_as_if_it_were_not_there() -> None:
    names = ("max_tokens", "temperature", "top_p", "n", "stop", "stream", "logprobs", "suffix", "logit_bias", "user")
    found = asked(seed=1, **dict.fromkeys(names))
    assert found == asked(seed=1)


def test_prompts() -> None:
    assert asked(prompt=[1, 2]).prompts == ((1, 2),)
    assert asked(prompt=[[1], [2, 3]]).prompts == ((1,), (2, 3))
    assert asked(prompt=["a", "b"]).prompts == ("a", "b")
    assert asked(stop="x").stops == ("x",) and asked(stop=["x", "yy"]).stops == ("x", "yy")


WRONG: dict[str, tuple[Any, ...]] = {
    "model": (None, 3, ["m"]),
    "prompt": (None, 3, [], {}, [1, "a"], [True], [[]], [-1], [2**40], [1.5], ["a"] * 17, [[1], "a"]),
    "max_tokens": (0, -1, 1.0, "4", True, 2**31),
    "temperature": (-0.1, 2.1, "1", True, 10**400),
    "top_p": (0, 1.1, []),
    "top_k": (0, 1.5),
    "n": (0, 17, 1.5),
    "best_of": (2,),
    "seed": (1.5, 2**64, "a"),
    "stop": ("", ["a"] * 5, [""], [1], "a" * 257, {}),
    "logprobs": (-1, 6, True),
    "stream": (1, "true"),
    "stream_options": ({"include_usage": True}, 3),
    "presence_penalty": (0.5,),
    "frequency_penalty": (-1,),
    "logit_bias": ({"1": 2}, []),
    "suffix": ("",),
    "tools": ([],),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused_by_its_parameter(name: str) -> None:
    for value in WRONG[name]:
        with pytest.raises(Fault) as caught:
            asked(**{name: value})
        assert (caught.value.status, caught.value.param) == (400, name), value
        assert f"`{name}`" in caught.value.message or name == "prompt"


BODIES = [
    b"", b"{", b"[]", b"3", b"null", b'"a"', b"\xff", b"{]", b'{"a": NaN}', b'{"a": Infinity}', b"[" * 100_000,
    b'{"a":' * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"\xef\xbb\xbf{}",
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BODIES)))
def test_bodies_that_are_no_objects(number: int) -> None:
    with pytest.raises(Fault) as caught:
        body_of(BODIES[number])
    assert caught.value.status == 400


def test_any_values_in_any_place_give_a_request_or_a_fault_of_400() -> None:
    rng = random.Random(1)
    names = ["model", "prompt", *WRONG, "echo", "user"]
    numbers = [0, 1, -1, 3, 0.5, 1e300, 2**70]
    values: list[Any] = [None, True, "", "ab", "\ud800", [], [1], ["a"], {}, {"a": 1}, [[1]], *numbers]
    fine = 0
    for _ in range(2000):
        body = LEAST | {rng.choice(names): rng.choice(values) for _ in range(rng.randint(0, 3))}
        try:
            completion_of(body, Limits())
            fine += 1
        except Fault as fault:
            assert fault.status == 400
    assert 100 < fine < 1900


def grown(text: str, stops: tuple[str, ...]) -> tuple[list[str], GrowingText]:
    found = GrowingText(ByteTokens(), stops)
    told = []
    for token in text.encode():
        told.append(found.add(token))
        if found.stopped:
            return told, found
    return [*told, found.rest()], found


def test_half_a_character_is_held_back() -> None:
    told, found = grown("aé€𝄞b", ())
    assert [t for t in told if t] == ["a", "é", "€", "𝄞", "b"] and found.text == "aé€𝄞b"


def test_what_may_become_a_stop_is_held_back() -> None:
    told, found = grown("one two threads", ("three",))
    assert [t for t in told if t] == [*"one ", "tw", *"o ", "threa", "d", "s"] and not found.stopped
    told, found = grown("one two three", ("three", "wo t"))
    assert "".join(told) == found.text == "one t" and found.stopped


def test_drawn_texts_and_stops() -> None:
    """What is told is the text up to its first stop, whatever comes in pieces."""
    rng = random.Random(2)
    for _ in range(500):
        text = "".join(rng.choice("ab é") for _ in range(rng.randint(0, 12)))
        stops = tuple("".join(rng.choice("ab é") for _ in range(rng.randint(1, 4))) for _ in range(rng.randint(0, 3)))
        told, found = grown(text, stops)
        shortest = next((text[:n] for n in range(len(text) + 1) if any(s in text[:n] for s in stops)), None)
        want = text if shortest is None else shortest[: min(shortest.find(s) for s in stops if s in shortest)]
        assert "".join(told) == found.text == want and found.stopped == (shortest is not None)
