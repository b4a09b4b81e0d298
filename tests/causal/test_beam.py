"""A beam that drops nothing is the choice among whole trajectories; equal scores leave the greedy answer; what cannot be."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from contract import cases as cases
from support.fakes.evaluation import FakeTask
from support.fakes.scaling import lesson, made, said

from unspoken.causal.beam import check_beam
from unspoken.causal.latent_ranker import LatentRanker, Learned
from unspoken.causal.ranking import Beam, Ranking
from unspoken.causal.scaling import ScalingReport, scale
from unspoken.core.loop.sampling import SamplingParams
from unspoken.errors import ConfigError, RunError
from unspoken.evaluation.evaluator import weights_of
from unspoken.evaluation.records import EvalReport
from unspoken.runs.model import Model

HOW: dict[str, Any] = {"by": "noise", "counts": (1, 4), "latents": 3, "strength": 3.0}


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(cases.shared("coconut", "llama"), SamplingParams(max_new_tokens=4))


@pytest.fixture(scope="module")
def learned(model: Model) -> Learned:
    """Two heads of random weights."""
    width = 4 * model.method.backbone.width + 2
    heads = [LatentRanker(width, 16).eval() for _ in range(2)]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for head in heads:
            for part in head.parameters():
                torch.nn.init.normal_(part)
    return Learned(head=heads[0], control=heads[1], lesson=lesson(width=width, weights=weights_of(model)))


def said_by(report: EvalReport) -> list[list[str | None]]:
    return [[one.extracted for one in record.said or ()] for record in report.records]


def test_a_beam_as_wide_as_all_candidates_is_the_choice_among_whole_trajectories(model: Model, learned: Learned):
    """Three thoughts, and one: the same answers, scores and choices, by the head and by the control."""
    for latents in (3, 1):
        how: dict[str, Any] = {**HOW, "latents": latents}
        found = scale(model, FakeTask(examples=cases.EXAMPLES), ranker=learned, beam=4, **how)
        ranking = found.ranking
        assert ranking is not None
        assert ranking.beam is not None
        assert ranking.beam_control is not None
        for beam, scores in ((ranking.beam, ranking.head), (ranking.beam_control, ranking.control)):
            assert [[answer for answer, _ in some] for some in beam.answers] == said_by(found.report)
            assert [list(row) for row in beam.scores] == [pytest.approx(row, abs=1e-3) for row in scores]
        rules = {one.rule: one.chosen for one in ranking.selections(*found._outcomes, 4)}
        assert rules["beam"] == rules["rank"]
        assert rules["beam by the control + vote"] == rules["control + vote"]
        assert "beam" not in {one.rule for one in ranking.selections(*found._outcomes, 1)}


def test_a_narrow_beam_keeps_what_scores_highest_after_each_thought(model: Model, learned: Learned):
    """Of one thought, the two best of four; of more, a search that scores no lower than always going on with the first."""
    task = FakeTask(examples=cases.EXAMPLES)
    how: dict[str, Any] = {**HOW, "latents": 1}
    one = scale(model, task, ranker=learned, beam=2, **how)
    assert one.ranking is not None
    assert one.ranking.beam is not None
    for kept, every in zip(one.ranking.beam.scores, one.ranking.head, strict=True):
        assert list(kept) == pytest.approx([s for s in every if s >= sorted(every)[-2]], abs=1e-3)
    three = scale(model, task, ranker=learned, beam=2, **HOW)
    assert three.ranking is not None
    assert three.ranking.beam is not None
    assert [len(row) for row in three.ranking.beam.answers] == [2] * len(cases.EXAMPLES)
    assert three.ranking.beam.scores != three.ranking.head
    assert three.ranking.beam.positions > one.ranking.beam.positions


def test_a_beam_of_equal_scores_gives_the_greedy_answer(model: Model, learned: Learned):
    equal = LatentRanker(learned.lesson.width, 16).eval()
    found = scale(model, FakeTask(examples=cases.EXAMPLES), ranker=replace(learned, head=equal), beam=1, **HOW)
    assert found.ranking is not None
    assert found.ranking.beam is not None
    assert [some[0][0] for some in found.ranking.beam.answers] == [record.extracted for record in found.plain.records]


@pytest.mark.parametrize("width", [0, 3, 8])
def test_a_width_must_divide_the_candidates(model: Model, learned: Learned, width: int):
    with pytest.raises(ConfigError, match=f"a beam of width {width} cannot go on with 4 candidates in equal parts"):
        scale(model, FakeTask(examples=cases.EXAMPLES), ranker=learned, beam=width, **HOW)


def test_what_a_beam_needs(model: Model):
    with pytest.raises(ConfigError, match="a beam is steered by a head on latents"):
        scale(model, FakeTask(examples=cases.EXAMPLES), beam=2, **HOW)
    for name in ("softcot", "lotus"):
        with pytest.raises(ConfigError, match="needs latents that are made one after the other"):
            check_beam(Model(cases.shared(name, "llama"), SamplingParams(max_new_tokens=3)), 2, 4)


def test_a_report_with_a_beam(tmp_path):
    rows = (said("2", "1", "3", "2"), said("1", "2", "2", "2"))
    beam = Beam(width=2, candidates=4, positions=80.0, scores=((0.0, 1.0), (1.0, 0.0)),
                answers=((("3", False), ("1", True)), (("1", True), ("2", False))))  # fmt: skip
    scores = ((0.0,) * 4,) * 2
    control = replace(beam, scores=((1.0, 0.0), (0.0, 1.0)))
    ranking = Ranking(lesson=lesson(), head=scores, control=scores, likelihood=scores, beam=beam, beam_control=control)
    report = replace(made(*rows, plain=[False, True]), ranking=ranking)
    file = tmp_path / "scale.json"
    report.save(file)
    assert ScalingReport.from_json(file) == report
    assert "| beam |  | 100.0 (34.2–100.0) | +50.0" in file.with_suffix(".md").read_text()
    assert "| beam by the control |  | 0.0 " in file.with_suffix(".md").read_text()
    assert "A beam steered by the head, 2 of 4 candidates kept after each thought: 100.0" in report.verdict
    told = json.loads(file.read_text())
    told["ranking"]["beam"]["answers"][1].pop()
    file.write_text(json.dumps(told))
    with pytest.raises(RunError, match=re.escape("the answers of a beam are not one per trajectory")):
        ScalingReport.from_json(file)
