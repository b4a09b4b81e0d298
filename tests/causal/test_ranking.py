"""Selection by scores, by hand; what a head cannot be taught or tried on."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from contract import cases as cases
from support.fakes.scaling import lesson, made, said

from unspoken.causal.ranking import Ranking, best, weighted
from unspoken.causal.scaling import ScalingReport
from unspoken.errors import RunError


def test_choices_by_hand():
    assert best(["1", "2", None], [0.0, 1.0, 5.0]) == 1, "an answer without a number is not chosen"
    assert best(["1", "2"], [1.0, 1.0]) == 0
    assert best([None, None], [0.0, 1.0]) == 0
    assert weighted(["1", "2", "1"], [0.0, math.log(3), 0.0]) == 1
    assert weighted(["1", "2", "1"], [0.0, math.log(1.9), 0.0]) == 0
    assert weighted([None, "3"], [9.0, -1000.0]) == 1
    assert weighted([None, None], [0.0, 1.0]) == 0


ROWS = (said("2", "1", "3", "2"), said("1", "2", "2", "2"), said("1", "4", "1", "1"))
HEAD = ((0.0, 2.0, 0.0, 0.0), (3.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0))
EQUAL = ((0.0,) * 4,) * 3


def ranked(head: Any = HEAD) -> ScalingReport:
    report = made(*ROWS, plain=[False, True, True])
    return replace(report, ranking=Ranking(lesson=lesson(), head=head, control=EQUAL, likelihood=EQUAL))


def test_the_table_by_hand(tmp_path):
    report = ranked()
    assert report.ranking is not None
    found = {one.rule: one for one in report.ranking.selections([*ROWS], [False, True, True], 4)}
    assert {rule: one.chosen.correct for rule, one in found.items()} == {
        "vote": 1, "rank": 3, "rank + vote": 3, "likelihood": 2, "likelihood + vote": 1, "control": 2, "control + vote": 1,
    }  # fmt: skip
    assert (found["rank"].over_vote.only_before, found["rank"].over_vote.only_after) == (0, 2)
    assert (found["rank"].gain.only_before, found["rank"].gain.only_after) == (0, 1)
    first = {one.rule: one for one in report.ranking.selections([*ROWS], [False, True, True], 1)}
    assert {one.chosen.correct for one in first.values()} == {2}, "of one trajectory there is nothing to choose"
    file = tmp_path / "scale.json"
    report.save(file)
    again = ScalingReport.from_json(file)
    assert again == report
    text = file.with_suffix(".md").read_text()
    assert "| rank + vote | 100.0 | 100.0 (43.9–100.0) | +33.3 (" in text
    assert "The head learnt from 30 of 100 problems of the train split" in text
    assert "rank + vote" in file.with_suffix(".svg").read_text()
    assert "a vote weighted by a head on latents gets 100.0" in report.verdict
    assert "gains 0.1000 nats (standard error 0.0200) of the 1.100 that equal scores have, the control 0.0000" in text
    poor = replace(report, ranking=replace(report.ranking, lesson=lesson(gain=0.019)))
    assert poor.verdict.partition(" The head")[2].startswith(
        " is not used, and the choice is the greedy answer: on problems"
    )
    assert poor.choices is not None
    assert "0.0190 nats (standard error 0.0200)" in poor.choices.notes[0]
    assert "; not used: equal scores." in poor.choices.notes[0]


def test_scores_that_do_not_fit_the_trajectories_are_refused(tmp_path):
    file = tmp_path / "scale.json"
    ranked().save(file)
    told = json.loads(file.read_text())
    told["ranking"]["head"].pop()
    file.write_text(json.dumps(told))
    with pytest.raises(RunError, match="the scores by head are not one per trajectory"):
        ScalingReport.from_json(file)
