"""Lengths of one's own questions."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.backbones import tokenizer, tokenizer_folder

from unspoken.bench.lengths import lengths_of
from unspoken.errors import ConfigError
from unspoken.tasks import make_task


def count(text: str) -> int:
    return len(tokenizer()(text)["input_ids"])


def test_lengths_are_medians_in_the_models_tokens(tmp_path: Path):
    file = tmp_path / "q.txt"
    file.write_text("Ann has 3 pens.\n\nBob has 9 figs. He eats 2. How many are left?\nHow?\n", encoding="utf-8")
    assert lengths_of(tokenizer_folder(), None, file) == {"question": count("Ann has 3 pens.")}
    found = lengths_of(tokenizer_folder(), "tiny", None)
    sizes = sorted(count(one.question) for one in make_task("tiny").examples("test")[:1000])
    assert abs(found["question"] - sizes[len(sizes) // 2]) <= 1
    assert found["chain"] > found["answer"] >= 1


def test_what_cannot_be_counted_is_refused(tmp_path: Path):
    (tmp_path / "empty").write_text(" \n", encoding="utf-8")
    words, file = tokenizer_folder(), tmp_path / "empty"
    cases = (
        ("gpt2-small", "tiny", None, "no tokenizer"),
        (words, None, None, "give one of them"),
        (words, None, file, "no question"),
        (words, None, tmp_path / "x", "cannot be read"),
    )
    for model, task, questions, said in cases:
        with pytest.raises(ConfigError, match=said):
            lengths_of(model, task, questions)
