"""docs/tasks.md says what is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from unspoken.core.config import build, lookup
from unspoken.tasks import SPLITS, TASKS, make_task
from unspoken.tasks.reading.source import DATA_VARIABLE
from unspoken.tasks.reading.styles import Style
from unspoken.tasks.scoring.answers import MARKS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tasks.md"
ROWS = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
TABLE = {row[0].strip("`"): row for row in ROWS}


def test_every_task_has_a_line_and_every_line_a_task() -> None:
    assert set(TABLE) == set(TASKS)
    assert {len(row) for row in TABLE.values()} == {6}


@pytest.mark.parametrize("name", TASKS)
def test_a_line_names_the_hubs_and_options_of_the_config(name: str) -> None:
    config: Any = build(lookup(TASKS, name, "task").Config, {})
    line = " | ".join(TABLE[name])
    for field, value in vars(config).items():
        if field == "hub" or field.endswith("_hub"):
            assert value in PAGE.read_text()
    assert getattr(config, "hub", None) is None or config.hub in line
    assert ("carved" in line) == (getattr(config, "validation_fraction", 0) > 0)


def test_the_page_names_every_mark_and_the_variable() -> None:
    text = PAGE.read_text()
    assert all(f"`{mark}`" in text for mark in MARKS)
    assert DATA_VARIABLE in text


COMPLETE = {  # tasks whose files beside this checkout are the published ones, all rows of them
    "multiarith": [600],
    "asdiv": [2305],
    "commonsenseqa": [9741, 1221],
    "strategyqa": [2061, 229],
    "date_understanding": [369],
    "prosqa": [300, 500],
    "prontoqa": [200, 800],
    "multiplication": [1000, 1000],
}


@pytest.mark.parametrize("name", COMPLETE)
def test_row_counts(shared_data: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(shared_data))
    sizes = {"train_size": 5} if "generated" in TABLE[name][2] else {}
    task = make_task({"name": name, **sizes})
    if len(COMPLETE[name]) == 1:
        counts = [len(task.examples("test"))]
    else:
        train, validation, test = (len(task.examples(split)) for split in SPLITS)
        counts = [train + validation if "carved" in TABLE[name][2] else validation, test]
    assert counts == COMPLETE[name]
    for count in COMPLETE[name]:
        assert f"{count:,}" in TABLE[name][2]


def _shown() -> list[dict[str, Any]]:
    """The rows that the page shows in its own words, each with its style."""
    block = PAGE.read_text().split("```jsonl\n")[1].split("```")[0]
    return [json.loads(line) for line in block.splitlines()]


@pytest.mark.parametrize("shown", _shown(), ids=lambda shown: shown["style"])
def test_a_style_reads_the_row_that_the_page_shows(tmp_path: Path, shown: dict[str, Any]) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(shown["row"]) + "\n")
    task = make_task({"name": "files", "train": str(tmp_path / "a.jsonl"), "style": shown["style"], "steps": "equations"})
    (example,) = task.examples("train")
    assert example.question.endswith("What is 3+4?")
    assert (example.steps, example.answer) == (("3+4 = 7",), "7")


def test_every_style_is_on_the_page() -> None:
    text = PAGE.read_text()
    assert {shown["style"] for shown in _shown()} | {"plain", "hotpotqa", "hotpotqa_closed"} == set(get_args(Style))
    assert all(f"`{name}`" in text for name in ("rationale", "solution", "reasoning_content", "hotpotqa_closed"))
