"""Text read along is the text of the whole: characters spread over tokens, stop texts across their borders."""

from __future__ import annotations

from typing import Any

import pytest
from support import backbones

from unspoken.core.engine.text_stream import TextStream

TEXTS = ["Ann has 3 pens.", "  two  spaces\n\nand lines ", "žluťoučký kůň 🐎🐎 漢字 漢", "a", "", "# 7 ### 12"]


def read(tokens: list[int], decode: Any, stops: tuple[str, ...] = ()) -> tuple[list[str], str, str | None]:
    """What was ready after each token, the whole, and the stop text."""
    stream, ready = TextStream(decode, stops), []
    for n, token in enumerate(tokens, start=1):
        stopped = stream.add(token)
        ready.append(stream.ready)
        if stopped is not None:
            return ready, stream.whole(tokens[:n]), stopped
    return ready, stream.whole(tokens), None


@pytest.mark.parametrize("text", TEXTS)
def test_the_text_only_grows_and_becomes_the_whole(text: str):
    """With a token per byte, so that every other letter here is spread over several."""
    tokens = list(text.encode())
    ready, whole, _ = read(tokens, lambda ids: bytes(ids).decode("utf-8", errors="replace"))
    assert whole == text
    for earlier, later in zip(ready, [*ready[1:], whole], strict=False):
        assert later.startswith(earlier)
    assert "\ufffd" not in "".join(ready)
    assert len(set(ready)) >= min(len(text), 2)


@pytest.mark.parametrize("text", TEXTS)
def test_with_a_real_tokenizer(text: str):
    backbone = backbones.backbone("llama")
    tokens = list(backbone.encode(text))
    ready, whole, _ = read(tokens, backbone.decode)
    assert whole == backbone.decode(tokens)
    assert all(whole.startswith(part) for part in ready)


def test_half_a_character_at_the_end_is_told_at_the_end():
    tokens = list("ab漢".encode())[:-1]
    ready, whole, _ = read(tokens, lambda ids: bytes(ids).decode("utf-8", errors="replace"))
    assert ready[-1] == "ab"
    assert whole == "ab\ufffd"


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_stop_text_across_token_borders_is_never_seen(size: int):
    pieces = ["The answer is 12\n\nQuestion: next"[i : i + size] for i in range(0, 31, size)]
    tokens = list(range(len(pieces)))
    ready, whole, stopped = read(tokens, lambda ids: "".join(pieces[i] for i in ids), ("\n\nQ", "12\n\nX"))
    assert (whole, stopped) == ("The answer is 12", "\n\nQ")
    assert all(whole.startswith(part) for part in ready)


def test_the_first_stop_text_counts_and_what_only_looked_like_one_comes():
    pieces = ["a", "b", "c", "<", "x", "<", "end", ">", "y"]
    ready, whole, stopped = read(list(range(9)), lambda ids: "".join(pieces[i] for i in ids), ("<end>", "d>"))
    assert (whole, stopped) == ("abc<x", "<end>")
    assert ready[3] == "abc"  # it may begin here
    assert ready[4] == "abc<x"
