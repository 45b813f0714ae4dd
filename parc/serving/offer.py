"""What a job offers to clients: texts, if it decodes, or vectors of texts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from compiler.driver import Compiled
from compiler.program import Program
from dsl.data import dataclass
from dsl.diagnostics import fail
from parc.serving.answering import TextMaker
from parc.serving.batching import encoder_ports, ports_of, rows_program, shorter_ports
from parc.serving.embedding import VectorMaker
from parc.serving.office import Office
from parc.serving.templates import ChatConfig, ChatTemplate, chat_config, end_of
from runtime.generate.encoding import EncoderPorts
from runtime.generate.loop import Ports
from runtime.generate.tokenizers import Tokenizer

Maker = TextMaker | VectorMaker
"""What answers are made by."""


@dataclass(frozen=True, slots=True)
class Offer:
    """program: what workers run; ports: how it takes tokens; known: what texts they are; chat: what makes a prompt of
    what was said."""

    program: Program
    ports: Ports | EncoderPorts
    known: Tokenizer
    chat: ChatConfig

    @property
    def vector(self) -> int:
        """How many numbers a vector has; 0 where texts are made."""
        return self.ports.size if isinstance(self.ports, EncoderPorts) else 0

    def maker(self, office: Office) -> Maker:
        """What makes answers, with the workers of the office."""
        if isinstance(self.ports, EncoderPorts):
            return VectorMaker(office, self.ports, self.known)
        template = None if self.chat.template is None else ChatTemplate(self.chat)
        end = end_of(self.chat, partial(self.known.encode, bare=True))
        return TextMaker(office, self.ports, self.known, template, end)


def offer_of(
    compiled: Compiled, tokenizer: str | None, chat_template: str | None, others: Sequence[Compiled] = ()
) -> Offer:
    """What the job offers. others: the same with parameters of other lengths.

    Raises ParcError: E0782 where sequences hang on each other, E0783 where it makes neither, E0785 for tokenizers and
    templates.
    """
    if compiled.job.decoding is None:
        ports, known = encoder_ports(compiled, tokenizer)
        ports = max((ports, *shorter_ports(compiled, ports, others)), key=lambda p: p.places)
        return Offer(compiled.program, ports, known, ChatConfig(None, {}))
    if others:
        help = "texts of all lengths take positions one after the other"
        raise fail(
            "E0783", f"the job `{compiled.job.name}` decodes: `--also` is for vectors", compiled.job.span, help=help
        )
    texts, known = ports_of(compiled, tokenizer)
    chat = chat_config(tokenizer, chat_template)
    return Offer(rows_program(compiled, texts).program, texts, known, chat)
