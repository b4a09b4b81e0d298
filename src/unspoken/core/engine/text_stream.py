"""The text of an answer while it is generated, and the stop texts that end it.

A UTF-8 character may be spread over several tokens, and a decoder may treat a token differently at the beginning of a text.
So a token is decoded together with those just before it, and text that ends in half a character is held back until it is
complete. So is text that may be the beginning of a stop text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_HALF = "\ufffd"
"""What decoders write for bytes that are not, or not yet, a character."""


class TextStream:
    """Text from tokens.

    Args:
        decode: token ids -> text, as the whole answer is decoded.
        stops: texts that end the answer; it is cut before the first of them.
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode, self._stops = decode, tuple(stops)
        self._tokens: list[int] = []
        self._window, self._read = 0, 0  # tokens are decoded from the first on; up to the second, their text is known
        self._text = ""
        self._searched = 0
        self._cut: int | None = None

    def add(self, token: int) -> str | None:
        """Add a token; returns the stop text if the answer has ended with one."""
        self._tokens.append(token)
        known = self._decode(self._tokens[self._window : self._read])
        text = self._decode(self._tokens[self._window :])
        if len(text) <= len(known) or text.endswith(_HALF):
            return None
        self._text += text[len(known) :]
        self._window, self._read = self._read, len(self._tokens)
        return self._stopped()

    @property
    def ready(self) -> str:
        """The text that is certain so far; it only grows, until it equals `whole`."""
        if self._cut is not None:
            return self._text[: self._cut]
        held = max((_overlap(self._text, stop) for stop in self._stops), default=0)
        return self._text[: len(self._text) - held]

    def whole(self, tokens: Sequence[int]) -> str:
        """The text of a finished answer.

        Args:
            tokens: all generated tokens, without the one that ended the answer.
        """
        if self._cut is not None:
            return self._text[: self._cut]
        text, ready = self._decode(list(tokens)), self.ready
        if text.startswith(ready):
            return text
        # A decoder that looks further back than one window, or tidies the whole: what was read along stands.
        return (
            self._text
            + self._decode(self._tokens[self._window :])[len(self._decode(self._tokens[self._window : self._read])) :]
        )

    def _stopped(self) -> str | None:
        longest = max(map(len, self._stops), default=0)
        first = max(self._searched - longest + 1, 0)
        self._searched = len(self._text)
        found = [(at, stop) for stop in self._stops if (at := self._text.find(stop, first)) >= 0]
        if not found:
            return None
        self._cut, stop = min(found)
        return stop


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of a text that is a prefix of another."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
