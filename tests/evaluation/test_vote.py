"""Several answers to a question, and the one that is taken."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from support.fakes.evaluation import FakeModel, FakeTask, report

from unspoken.evaluation.evaluator import evaluate
from unspoken.evaluation.records import EvalReport
from unspoken.evaluation.several import elect
from unspoken.evaluation.tables import notes, over_sampling_seeds


@pytest.mark.parametrize(
    ("extracted", "chosen"),
    [
        (["4"], 0),
        (["3", "4", "4"], 1),
        (["3", "4", "4", "3"], 0),  # a tie: said first
        ([None, None, "4"], 2),  # nothing does not vote, however often it is said
        ([None, None], 0),
        ([None, "3", "5", "5", "3", "3"], 1),
    ],
)
def test_the_first_of_the_most(extracted: list[str | None], chosen: int):
    assert elect(extracted) == chosen


class Voters(FakeModel):
    """Answers problem i in six ways: four sets of thoughts are wrong for odd problems, each in the same way."""

    def sample(
        self, questions: Sequence[str], *, chains: int = 1, samples: int = 1, **options: Any
    ) -> list[tuple[Any, ...]]:
        self.calls.append({"chains": chains, "samples": samples, **options})
        return [tuple(self._voter(i, c, s) for c in range(chains) for s in range(samples)) for i in range(len(questions))]

    def _voter(self, i: int, c: int, s: int) -> Any:
        wrong = c == 0 or (i % 2 and c < 2)
        text = f"### {2 * i + 1 if wrong else 2 * i}"
        return SimpleNamespace(
            text=text, tokens=(5, 6, 0), visible=2, finished=True, latents=3, passes=6 + c, positions=20, seconds=0.5,
            thoughts=None, chain=c, sample=s,
        )  # fmt: skip


def test_an_evaluation_that_votes(tmp_path):
    model = Voters(lambda i, q: ("", {}))
    made: Any = evaluate(model, FakeTask(4), chains=3, samples=2, temperature=1.0)
    assert (model.calls[0]["chains"], model.calls[0]["samples"]) == (3, 2)
    assert [r.strict for r in made.records] == [True, False, True, False]
    assert [r.text for r in made.records] == ["### 0", "### 3", "### 4", "### 7"]
    first = made.records[0]
    assert (first.latents, first.visible_tokens, first.passes, first.positions) == (9, 12, 8, 120)
    assert [(one.chain, one.sample, one.strict) for one in made.records[1].said] == [
        (0, 0, False), (0, 1, False), (1, 0, False), (1, 1, False), (2, 0, True), (2, 1, True),
    ]  # fmt: skip
    assert made.single == pytest.approx((4 + 2 + 4 + 2) / 24)
    assert made.accuracy.value == 0.5
    made.save(tmp_path / "r.json")
    assert EvalReport.from_json(tmp_path / "r.json") == made
    assert "x: a vote over 3 x 2 answers; of single answers 50.0% are right." in notes({"x": made})


def test_one_answer_is_no_vote():
    made = report([True, False])
    assert made.single is None
    assert not any("vote" in note for note in notes({"x": made}))


def test_over_sampling_seeds():
    some = [report([True, True, False, False]), report([True, False, False, False])]
    end = "(mean ± sample standard deviation; nothing about other training seeds)"
    assert over_sampling_seeds(some) == f"accuracy over 2 sampling seeds of this one model: 37.5 ± 17.7 {end}"
    assert over_sampling_seeds(some[:1]) == f"accuracy over 1 sampling seeds of this one model: 50.0 {end}"
