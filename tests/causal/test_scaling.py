"""Scaling: the curve is counted from what the trajectories said, and the first one is the model's own answer."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

import pytest
from contract import cases as cases
from support.fakes.evaluation import FakeTask
from support.fakes.scaling import made, said

from unspoken.causal.scaling import ScalingReport, scale
from unspoken.core.loop.sampling import SamplingParams
from unspoken.errors import ConfigError, RunError
from unspoken.runs.model import Model

EXAMPLES = [replace(e, id=f"x-{i}") for i, e in enumerate(cases.EXAMPLES)]


def test_the_curve_by_hand():
    scaled = made(
        said("2", "1", "1", "3"), said("1", "2", "2", "2"), said("1", None, "1", "1"), said(None, "3", "1", "1"),
        plain=[False, True, True, False],
    )  # fmt: skip
    one, two, four = scaled.curve
    assert (one.n, two.n, four.n) == (1, 2, 4)
    # Of two answers with a vote each the first wins; one that says nothing has no vote.
    assert [f.vote.correct for f in scaled.curve] == [2, 2, 3]
    assert [f.any.correct for f in scaled.curve] == [2, 3, 4]
    assert [f.positions for f in scaled.curve] == [14, 18, 26]
    assert [f.passes for f in scaled.curve] == [5, 6, 8]
    assert [f.distinct for f in scaled.curve] == [3 / 4, (2 + 2 + 1 + 1) / 4, (3 + 2 + 1 + 2) / 4]
    assert (four.gain.only_before, four.gain.only_after) == (1, 2)
    assert scaled.verdict.startswith("No gain from the vote was found: of 4 trajectories it gets 75.0")
    assert "against 14 and 5.0 with 1." in scaled.verdict


def test_a_vote_that_helps_and_one_that_harms():
    good, bad = said("2", "1", "1", "1"), said("1", "2", "2", "2")
    assert made(*[good] * 20, plain=[False] * 20).verdict.startswith("The vote helps")
    assert made(*[bad] * 20, plain=[True] * 20).verdict.startswith("The vote harms")


@pytest.mark.parametrize("by", ["noise", "dropout", "sampling"])
@pytest.mark.parametrize("name", ["coconut", "codi", "softcot"])
def test_trajectories_of_random_models(name: str, by: str):
    model = Model(cases.shared(name, "llama"), SamplingParams(max_new_tokens=6))
    how: dict[str, Any] = {"by": by, "counts": (4, 1, 3), "latents": 3, "strength": {"dropout": 0.5}.get(by, 2.0)}
    scaled = scale(model, FakeTask(examples=EXAMPLES), "test", **how)
    assert scaled.counts == (1, 3, 4)
    every = [list(record.said or ()) for record in scaled.report.records]
    assert all(len(row) == 4 for row in every)
    if by != "sampling":
        assert [row[0].text for row in every] == [record.text for record in scaled.plain.records], "the first is its own"
        assert [row[0].positions for row in every] == [record.positions for record in scaled.plain.records]
    assert any(len({one.text for one in row}) > 1 for row in every)
    assert all(
        0 < one.positions < row[0].positions
        for row in every
        for one in row[1:]
        if one.visible_tokens <= row[0].visible_tokens
    )
    other = scale(model, FakeTask(examples=EXAMPLES), "test", batch_size=1, **how)
    assert [r.said for r in other.report.records] == [r.said for r in scaled.report.records], "whatever the batch"


def test_files(tmp_path):
    scaled = made(said("2", "1", "1", "1"), said("1", "2", "1", "1"), plain=[False, True])
    file = tmp_path / "scale.json"
    scaled.save(file)
    again = ScalingReport.from_json(file)
    assert again.curve == scaled.curve
    assert again.verdict == scaled.verdict
    assert [row["n"] for row in json.loads(file.read_text())["summary"]["curve"]] == [1, 2, 4]
    text = (tmp_path / "scale.md").read_text()
    assert text.startswith(scaled.verdict)
    assert "| 4 | 100.0 (34.2–100.0) | +50.0 (" in text
    drawn = ET.fromstring((tmp_path / "scale.svg").read_text())
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
    words = "".join(drawn.itertext())
    for word in ("vote", "any is right", "positions forwarded per question", "100%"):
        assert word in words
    assert len(drawn.findall(".//{*}circle")) == 6
    file.write_text(file.read_text()[:300])
    with pytest.raises(RunError, match="not a report of scaling, or cut off"):
        ScalingReport.from_json(file)
    scaled.plain.save(file)
    with pytest.raises(RunError, match="expected a report of scaling of format 1"):
        ScalingReport.from_json(file)


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("coconut", {"by": "magic"}, "unknown way to make trajectories 'magic'; known: noise, dropout, sampling"),
        ("coconut", {"by": "noise", "counts": [1]}, "one above 1, e.g. 1,2,4,8; got (1,)"),
        ("coconut", {"by": "noise", "counts": [0, 2]}, "numbers of trajectories from 1 on"),
        ("coconut", {"by": "noise", "strength": 0.0}, "strength must be positive, or all trajectories would be the same"),
        ("coconut", {"by": "dropout", "strength": 1.0}, "the share of dropped entries must be in [0, 1), got 1.0"),
        ("coconut", {"by": "sampling", "temperature": 1.0}, "temperature is what strength says for sampling"),
        ("no-cot", {"by": "noise"}, "this model thinks without latents, so noise has nothing to disturb; take sampling"),
        ("coconut", {"by": "dropout", "latents": 0}, "thinks without latents, so dropout has nothing to disturb"),
    ],
)
def test_settings_that_cannot_be(name: str, how: dict[str, Any], message: str):
    model = Model(cases.shared(name, "llama"), SamplingParams(max_new_tokens=3))
    with pytest.raises(ConfigError, match=re.escape(message)):
        scale(model, FakeTask(examples=EXAMPLES), "test", **how)


def test_sampling_takes_a_model_without_latents():
    model = Model(cases.shared("no-cot", "llama"), SamplingParams(max_new_tokens=3))
    scaled = scale(model, FakeTask(examples=EXAMPLES), "test", by="sampling", counts=[2])
    assert scaled.curve[0].n == 2
