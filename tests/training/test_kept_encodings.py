"""A run whose token ids are kept in files is the run that makes them anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unspoken.core.fast import token_store
from unspoken.training.loop import train


def test_a_run_is_the_same_with_and_without(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(token_store, "LEAST", 5)
    rows = []
    for name, folder in (("without", None), ("first", str(tmp_path / "ids")), ("second", str(tmp_path / "ids"))):
        train(make(steps=4, encodings=folder), tmp_path / name)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        rows.append([json.loads(line)["loss"] for line in lines])
    assert rows[0] == rows[1] == rows[2]
    assert list((tmp_path / "ids").glob("*/*.ids"))
