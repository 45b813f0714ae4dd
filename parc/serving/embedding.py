"""Requests for the vectors of texts (`/v1/embeddings`): what they may say, their way, and the answer."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

from dsl.data import dataclass
from parc.serving.answering import tokens_of
from parc.serving.asking import Fields, Prompt
from parc.serving.counting import Counted
from parc.serving.crew import Sequence
from parc.serving.faults import Fault
from parc.serving.limits import Limits
from parc.serving.office import Office
from runtime.generate.encoding import EncoderPorts, TextAsked, VectorMade
from runtime.generate.rows import Made
from runtime.generate.tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class VectorsAsked:
    """A request for the vectors of these texts. packed: as the base64 of float32, little-endian, not as a list of
    numbers; size: how many numbers each is to have, if it says so."""

    model: str
    texts: tuple[Prompt, ...]
    packed: bool
    size: int | None


def vectors_of(body: Mapping[str, Any], limits: Limits) -> VectorsAsked:
    """What it asks for. Raises Fault (400) by the parameter that is wrong."""
    read = Fields(body, ("model", "input", "encoding_format", "dimensions", "user"), {})
    texts = read.prompts("input")
    if len(texts) > limits.texts:
        raise Fault(400, f"{len(texts)} texts: a request has {limits.texts} at most", "input")
    form = read.get("encoding_format")
    if form not in (None, "float", "base64"):
        raise read.wrong("encoding_format", "`float` or `base64`")
    return VectorsAsked(read.text("model"), texts, form == "base64", read.whole("dimensions", None, 1, 2**31 - 1))


class VectorMaker:
    """What makes vectors: an office, how its model takes tokens, what texts they are."""

    def __init__(self, office: Office, ports: EncoderPorts, known: Tokenizer) -> None:
        self.office, self.ports, self.known = office, ports, known


class Embedding:
    """The whole request. Use `async with`: at the end, however it comes, nothing of it is computed any more."""

    def __init__(self, asked: VectorsAsked, maker: VectorMaker, counted: Counted, about: dict[str, Any]) -> None:
        """about: is told of what is used. Raises Fault for texts that cannot be read, or do not fit, and for vectors of
        another size than the model's: a part of one is no vector of it."""
        self.asked, self.office, self.counted, self.about = asked, maker.office, counted, about
        size = maker.ports.size
        if asked.size not in (None, size):
            message = f"the model makes vectors of {size} numbers, and no shorter ones"
            raise Fault(400, message, "dimensions", "unsupported_parameter")
        self.tokens = [tokens_of(text, maker.ports, maker.known, "input") for text in asked.texts]
        self.vectors: list[bytes] = [b""] * len(self.tokens)
        self._sequences: list[Sequence] = []
        self._heard: asyncio.Queue[tuple[int, VectorMade | Made | Fault]] = asyncio.Queue()

    async def __aenter__(self) -> Embedding:
        """Accept it. Raises Fault where that cannot be."""
        self.office.check(1)  # a request is taken whole, where there is any place
        used = sum(map(len, self.tokens))
        self.counted.prompt_tokens += used
        self.about.update(prompt_tokens=used, texts=len(self.tokens))
        for i, tokens in enumerate(self.tokens):
            heard = partial(self._hear, i)
            self._sequences.append(self.office.accept(TextAsked(tokens), heard))
        return self

    async def __aexit__(self, *_: object) -> None:
        for s in self._sequences:
            self.office.drop(s)

    def _hear(self, index: int, found: VectorMade | Made | Fault) -> None:
        self._heard.put_nowait((index, found))

    async def pieces(self) -> AsyncIterator[int]:
        """Which text has its vector now. Raises Fault where one has none."""
        for _ in self.tokens:
            index, found = await self._heard.get()
            if isinstance(found, Fault):
                raise found
            assert isinstance(found, VectorMade)
            self.vectors[index] = found.numbers
            yield index

    def whole(self) -> dict[str, Any]:
        """The answer, once all are there."""
        used = sum(map(len, self.tokens))
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": i, "embedding": _written(v, self.asked.packed)}
                for i, v in enumerate(self.vectors)
            ],
            "model": self.asked.model,
            "usage": {"prompt_tokens": used, "total_tokens": used},
        }


def _written(numbers: bytes, packed: bool) -> str | list[float]:
    if packed:
        return base64.b64encode(numbers).decode()
    return list(struct.unpack(f"<{len(numbers) // 4}f", numbers))
