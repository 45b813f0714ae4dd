"""The text of tokens as they come: what of it is sure, and where it ends."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.generate.tokenizers import Tokenizer

_HALF = "\ufffd"
"""What stands for bytes that are no whole character, yet."""


class GrowingText:
    """A text that grows by tokens, until one of its stops.

    shown: how much of it was told. What may become a stop, or is half a character, is held back until the end.
    """

    def __init__(self, known: Tokenizer, stops: Sequence[str] = ()) -> None:
        self.known, self.stops = known, tuple(stops)
        self.tokens: list[int] = []
        self.text = ""
        self.shown = 0
        self.stopped = False

    def add(self, token: int) -> str:
        """Take a token; what became sure by it. Sets `stopped` where a stop is in the text, which ends before it."""
        self.tokens.append(token)
        self.text = self.known.decode(self.tokens)
        ends = [at for s in self.stops if (at := self.text.find(s, max(0, self.shown - len(s)))) >= 0]
        if ends:
            self.text, self.stopped = self.text[: min(ends)], True
            return self.rest()
        sure = self.text.rstrip(_HALF)
        return self._told(len(sure) - self._held(sure))

    def rest(self) -> str:
        """What was held back: nothing more comes."""
        return self._told(len(self.text))

    def _told(self, sure: int) -> str:
        found = self.text[self.shown : max(sure, self.shown)]
        self.shown = max(sure, self.shown)
        return found

    def _held(self, text: str) -> int:
        """With how many of its last characters a stop may begin."""
        longest = 0
        for s in self.stops:
            for n in range(min(len(s) - 1, len(text)), longest, -1):
                if text.endswith(s[:n]):
                    longest = n
                    break
        return longest
