"""What is scored of a text with written thinking in it."""

from __future__ import annotations

import pytest

from unspoken.core.text.thinking import said


@pytest.mark.parametrize(
    ("text", "behind"),
    [
        ("### 4", "### 4"),
        ("<think>\n2 + 2 is ### 5?</think>\n\n### 4", "\n\n### 4"),
        ("2 + 2 is ### 5?</think>### 4", "### 4"),  # the prompt had opened it
        ("<think>### 5", ""),  # cut off while it was thinking
        ("<think>a</think>### 4<think>### 5", "### 4"),
        ("", ""),
    ],
)
def test_what_stands_behind_the_thinking_is_said(text: str, behind: str):
    assert said(text) == behind
