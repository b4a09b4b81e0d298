"""The code on pages runs: a page's blocks one after the other, on a quickly trained SIM-CoT as `runs/sim`.

The README and the tutorial are run whole, commands included, by `tests/e2e/test_pages_run.py`.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.backbones import ARCHS

import unspoken
from unspoken.training.loop import train

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [
    page
    for page in sorted((ROOT / "docs").rglob("*.md"))
    if BLOCK.search(page.read_text(encoding="utf-8")) and "decisions" not in page.parts and page.stem != "tutorial"
]
SERVED = "docs/guides/serving.md"
"""Asks a server; tests/serving does that, with the same client."""
SHORT = '"train.steps=2", "train.validate_limit=2", "task.train_size=40", "task.validation_size=4"'
"""In place of the steps of a training."""
QUESTIONS = ["Ann has 7 figs. She finds 5. How many figs has Ann?", "Bob has 9 figs. He eats 2. How many figs has Bob?"]


@pytest.fixture(scope="module")
def trained() -> list[Path]:
    """The run that pages speak of, once a test has trained it."""
    return []


@pytest.fixture
def beside(trained: list[Path], make, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with that run."""
    monkeypatch.chdir(tmp_path)
    if trained:
        shutil.copytree(trained[0], "runs/sim")
        return
    deep = {"arch": {**ARCHS["llama"], "num_hidden_layers": 4}, "tokenizer": str(files / "tokenizer")}
    trained.append(train(make(backbone=deep, steps=2), tmp_path / "runs" / "sim").path)


@pytest.mark.parametrize("page", [p for p in PAGES if str(p.relative_to(ROOT)) != SERVED], ids=lambda p: p.stem)
def test_the_code_of_a_page_runs(page: Path, beside: None):
    model = unspoken.load("runs/sim")
    width = model.method.backbone.width
    names: dict[str, Any] = {
        "model": model, "questions": QUESTIONS, "d": torch.ones(width), "direction": torch.ones(width), "task": model.task,
        "report": unspoken.evaluate(model, limit=2),
    }  # fmt: skip
    for number, code in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")), start=1):
        if "lm_eval" in code:
            pytest.importorskip("lm_eval", reason="the harness is an extra of its own")
        few = re.sub(r"limit=\d+", "limit=2", re.sub(r'"train\.steps=\d+"', SHORT, code))
        exec(compile(few, f"{page.name}, block {number}", "exec"), names)
