"""Controls: models whose latents are known to matter, or known not to, get the verdict that is true of them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from contract import cases as cases
from support.fakes.evaluation import FakeTask, problem

from unspoken.causal.control_report import (
    MEAN,
    NOISE,
    SHUFFLED,
    STOP,
    TOKENS,
    WHAT,
    ZERO,
    ControlsReport,
    finding,
    to_markdown,
)
from unspoken.causal.controls import derangement, run_controls, stops
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.sources import are_learned
from unspoken.errors import ConfigError, RunError
from unspoken.evaluation.evaluator import evaluate
from unspoken.runs.model import Model

K, D = 3, 4


class Thinker(Model):
    """Thinks its question's number, `K` times, and answers from the last latent ("carries"), from the question ("idle"),
    but for every fiftieth ("mostly idle"),
    from whether there are latents at all ("room"), with nothing ("dumb"), or from the question where latents are strange
    ("harmed"). Speaks batch by batch, longest question first, as the engine does.
    """

    method: Any

    def __init__(self, kind: str, alike: bool = False) -> None:
        self.kind, self.alike = kind, alike
        backbone = SimpleNamespace(
            embed=lambda ids: torch.full((len(ids), D), -3.0), device=torch.device("cpu"), parameters=lambda: iter(())
        )
        self.method = SimpleNamespace(
            latents_per_group=1,
            source=lambda: object(),
            backbone=backbone,
            prompt=lambda question, n: SimpleNamespace(ids=(5, 9), start=1),
        )
        self.calls = 0

    @property
    def chains(self) -> int:
        return 1

    def expected(self, example: Any, groups: int) -> None:
        """Nothing."""

    def answer(self, questions: Sequence[str], **how: Any) -> list[Any]:
        self.calls += 1
        count = K if how.get("latents") is None else how["latents"]
        own = [int(re.findall(r"\d+", q)[0]) for q in questions]
        order = sorted(range(len(own)), key=lambda i: -len(questions[i]))
        said: dict[int, str] = {}
        for first in range(0, len(order), how["batch_size"]):
            now = order[first : first + how["batch_size"]]
            keys = [(how["names"][i], 0) for i in now]
            latents = torch.tensor([[[1.0 if self.alike else float(own[i])] * D] * count for i in now]).view(
                len(now), count, D
            )
            if how.get("edit") is not None:
                for k in range(count):
                    latents[:, k] = how["edit"](latents[:, k], keys, np.full(len(now), k))
            if how.get("on_trace") is not None:
                how["on_trace"](SimpleNamespace(latents_BKD=latents, counts_B=np.full(len(now), count)), keys)
            for b, i in enumerate(now):
                said[i] = self.say(own[i], latents[b])
        return [
            SimpleNamespace(
                text=f"### {said[i]}", tokens=(1, 2), finished=True, latents=count, passes=count + 2, positions=9, visible=1,
                seconds=0.0, thoughts=None, chain=0, sample=0,
            )
            for i in range(len(own))
        ]  # fmt: skip

    def say(self, own: int, latents_KD: torch.Tensor) -> str:
        there = len(latents_KD) > 0
        number = {
            "carries": round(float(latents_KD[-1].mean())) if there else -1,
            "idle": own,
            "room": own if there else -1,
            "dumb": -1,
            "mostly idle": round(float(latents_KD[-1].mean())) if there and own % 50 == 0 else own,
            "harmed": own if there and round(float(latents_KD[0, 0])) != own else -1,
        }[self.kind]
        return str(2 * number)


def controls(kind: str, size: int = 40, alike: bool = False, **how: Any) -> ControlsReport:
    """All controls of a made-up model."""
    how = {"limit": None, "batch_size": 7, **how}
    return run_controls(Thinker(kind, alike), FakeTask(size), "test", **how)


def test_latents_that_carry_the_answer():
    report = controls("carries")
    assert report.latents == K
    assert finding(report) == "matter"
    assert report.verdict.startswith("40 problems, 3 latents, 100.0 (91.2–100.0)% right unmodified. The latents matter.")
    shuffled = report.get(SHUFFLED)
    assert shuffled is not None
    assert shuffled.accuracy.correct == 0
    assert [o.text for o in shuffled.outcomes] == [f"### {2 * donor}" for donor in report.donors], "numbers, not rows"
    assert report.follows is not None
    assert report.follows.value == 1.0
    assert report.follows.n == 40
    mean = report.get(MEAN)
    assert mean is not None
    assert {o.extracted for o in mean.outcomes} == {str(2 * round(39 / 2))}
    tokens = report.get(TOKENS)
    assert tokens is not None
    assert {o.extracted for o in tokens.outcomes} == {"-6"}, "what the slot's token embeds to"
    zero = report.get(ZERO)
    assert zero is not None
    assert {o.extracted for o in zero.outcomes} == {"0"}
    small, large = report.get(NOISE, 0.5), report.get(NOISE, 2.0)
    assert small is not None
    assert large is not None
    assert report.same(small).value >= report.same(large).value
    assert [c.setting for c in report.controls if c.name == STOP] == [0, 1, 2]
    assert "From 1 of 3 latents on no fall was found" in report.verdict
    assert "The mean latent agrees" in report.verdict
    assert "and 40 of 40 right answers are lost" in report.verdict
    assert report.effect(shuffled).only_before == 40


def test_latents_that_do_nothing():
    report = controls("idle", size=200)
    assert finding(report) == "none found"
    assert all(control.accuracy.correct == 200 for control in report.controls)
    assert "No effect of what the latents say was found" in report.verdict
    assert (
        "changes by +0.0 points (95% interval -1.4 to +1.4), and a fall of more than 1.4 points is excluded"
        in report.verdict
    )
    assert "No fall was found with zero (+0.0), noise 0.5 (+0.0)" in report.verdict
    assert "No fall was found where thinking stops early (more than 1.4 points are excluded)." in report.verdict
    assert report.follows is not None
    assert report.follows.value == 0


def test_latents_that_only_give_room():
    """Their content does nothing, but without any nothing is right."""
    report = controls("room", size=100)
    assert finding(report) == "none found"
    assert "Without any latent accuracy changes by -100.0 points" in report.verdict
    assert "From 1 of 3 latents on no fall was found" in report.verdict


def test_latents_that_do_little():
    """A difference on which hardly any answer hangs does not pass for latents that carry the reasoning."""
    report = controls("mostly idle", size=400)
    assert finding(report) == "matter little"
    assert (
        "What the latents say matters, but little: with another problem's latents accuracy changes by -2.0" in report.verdict
    )
    assert "98.0% of the answers stay the same" in report.verdict


def test_too_few_problems_to_exclude_anything():
    report = controls("idle", size=12)
    assert finding(report) == "undecided"
    assert "Undecided." in report.verdict
    assert "More problems are needed." in report.verdict


def test_a_model_that_is_never_right():
    report = controls("dumb", size=100)
    assert finding(report) == "nothing to lose"
    assert "no problem is answered rightly, so no control could take anything away" in report.verdict


def test_latents_that_harm():
    assert "The latents do harm" in controls("harmed").verdict


def test_latents_that_are_the_same_for_every_problem():
    report = controls("room", alike=True)
    assert finding(report) == "alike"
    assert set(report.left_out) == {SHUFFLED, MEAN}
    assert "The latents are the same for every problem, so they carry nothing about it" in report.verdict
    assert report.donors == ()
    assert report.follows is None


def test_some_controls_only():
    report = controls("carries", only=[ZERO, NOISE], noise=[3.0])
    assert [c.label for c in report.controls] == ["zero", "noise 3"]
    assert finding(report) == "not tested"
    assert "Nothing is concluded" in report.verdict
    assert not report.left_out
    single = controls("carries", size=1)
    assert single.left_out == {SHUFFLED: "there is one problem", MEAN: "there is one problem"}
    assert finding(single) == "not tested"


def test_each_control_is_one_evaluation_of_the_first_problems():
    thinker = Thinker("carries")
    told: list[tuple[str, int, int]] = []
    report = run_controls(
        thinker, FakeTask(30), "test", limit=10, progress=lambda *what: told.append(what)
    )  # fmt: skip
    assert report.plain.n == 10
    assert all(len(c.outcomes) == 10 for c in report.controls)
    assert thinker.calls == 1 + len(report.controls) == told[-1][1] == told[-1][2]
    assert [name for name, _, _ in told[:2]] == ["unmodified", "shuffled"]


def test_batches_change_nothing():
    a, b = controls("carries", batch_size=1), controls("carries", batch_size=64)
    assert a.controls == b.controls


def test_a_split_that_is_asked_in_parts(monkeypatch):
    """Last part first: problems are known by their names."""
    from unspoken.causal import controls as module

    whole = controls("carries")

    class Parts(Model):
        method: Any

        def __init__(self, model: Any) -> None:
            self.model, self.method = model, model.method

        def answer(self, questions: Sequence[str], *, names: Any = None, **how: Any) -> list[Any]:
            said: dict[int, Any] = {}
            for first in reversed(range(0, len(questions), 9)):
                part = range(first, min(first + 9, len(questions)))
                asked = self.model.answer([questions[i] for i in part], names=[names[i] for i in part], **how)
                said |= dict(zip(part, asked, strict=True))
            return [said[i] for i in range(len(questions))]

    monkeypatch.setattr(module, "evaluate", lambda model, *given, **how: evaluate(Parts(model), *given, **how))
    parts = controls("carries")
    assert parts.donors == whole.donors
    assert parts.controls == whole.controls


def test_the_file_holds_every_record(tmp_path):
    report = controls("carries")
    report.save(tmp_path / "controls.json")
    again = ControlsReport.from_json(tmp_path / "controls.json")
    assert again.controls == report.controls
    assert again.donors == report.donors
    assert again.verdict == report.verdict
    assert again.plain.records == report.plain.records
    data = json.loads((tmp_path / "controls.json").read_text())
    assert data["summary"]["verdict"] == report.verdict
    assert {row["control"] for row in data["summary"]["controls"]} == set(WHAT)
    text = to_markdown(report)
    assert "| shuffled | 0.0 (0.0–8.8) | -100.0 (-100.0 to -86.0) | 40 | 0 | &lt; 0.001 | 0.0 |" in text
    assert "shuffled: another problem's latents" in text


def test_files_that_are_none(tmp_path):
    file = tmp_path / "controls.json"
    with pytest.raises(RunError, match="cannot read the report of controls"):
        ControlsReport.from_json(file)
    controls("idle").save(file)
    text = file.read_text()
    file.write_text(text[:2000])
    with pytest.raises(RunError, match="not a report of controls, or cut off"):
        ControlsReport.from_json(file)
    controls("idle").plain.save(file)
    with pytest.raises(RunError, match="expected a report of controls of format 1"):
        ControlsReport.from_json(file)
    report = controls("idle")
    first = report.controls[0]
    replace(report, controls=(replace(first, outcomes=first.outcomes[::-1]), *report.controls[1:])).save(file)
    with pytest.raises(RunError, match="shuffled has other problems than the unmodified run"):
        ControlsReport.from_json(file)


@pytest.mark.parametrize("n", [2, 3, 50])
def test_nobody_is_their_own_donor(n: int):
    donors = derangement(n, 0)
    assert sorted(donors) == list(range(n))
    assert all(donor != i for i, donor in enumerate(donors))
    assert donors == derangement(n, 0)
    assert n == 2 or any(donors != derangement(n, seed) for seed in (1, 2, 3))


@pytest.mark.parametrize(("latents", "want"), [(1, [0]), (4, [0, 1, 2, 3]), (32, [0, 4, 9, 13, 18, 22, 27, 31])])
def test_where_thinking_stops(latents: int, want: list[int]):
    assert stops(latents) == want


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"only": ["shufled"]}, "unknown control 'shufled'; known: shuffled, mean, zero, noise, pause tokens, early stop"),
        ({"noise": [0.0]}, "scales of noise must be positive, got 0"),
        ({"noise": [math.inf]}, "scales of noise must be positive, got inf"),
        ({"control_seed": -1}, "control_seed must be in "),
        ({"latents": 0}, "this model thinks without latents, so there is nothing to control"),
        ({"limit": 0}, "limit must be at least 1, or None for the whole split, got 0"),
    ],
)
def test_settings_that_cannot_be(how: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        controls("idle", **how)


METHODS = (
    "coconut",
    "codi",
    "sim_cot",
    "pause",
    "coconut pause",
    "coconut unfed",
    "softcot",
    "softcot_pp",
    "semcot",
    "sim_cot codi lora",
)


@pytest.mark.parametrize("name", METHODS)
def test_every_latent_method(name: str):
    """On random models nothing is right; the machinery runs, and says what it left out and why."""
    method = cases.shared(name, "llama")
    examples = [replace(e, id=f"x-{i}") for i, e in enumerate(cases.EXAMPLES)]
    report = run_controls(
        Model(method, SamplingParams(max_new_tokens=5)),
        FakeTask(examples=examples),
        "test",
        batch_size=3,
        latents=3,
        noise=[1.0],
    )
    assert report.latents == 3
    pauses = are_learned(method.source())
    assert set(report.left_out) == ({SHUFFLED, MEAN, TOKENS} if pauses else set())
    assert {c.name for c in report.controls} == set(WHAT) - set(report.left_out)
    stopped = [c for c in report.controls if c.name == STOP]
    each = 3 if name == "softcot_pp" else 1
    assert [[o.latents for o in c.outcomes] for c in stopped] == [[k * each] * len(examples) for k in (0, 1, 2)]
    shuffled = report.get(SHUFFLED)
    if shuffled is not None and name == "codi":
        assert report.same(shuffled).value < 1, "other latents, other answers"
    assert report.verdict


def test_a_method_without_latents_has_nothing_to_control():
    with pytest.raises(ConfigError, match="this model thinks without latents"):
        run_controls(Model(cases.shared("no-cot", "llama")), FakeTask(examples=[problem(1)]), "test")
