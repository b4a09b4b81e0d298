"""iCoT-SI gives the numbers of the authors' code (da03/Internalize_CoT_Step_by_Step c2e3891) on its own tiny models: rows,
schedule, losses, gradients, every step of the run with the offsets it drew, and what it says in between."""

from __future__ import annotations

import math
from collections import Counter
from random import Random

import pytest
import torch
from support.parity import cases
from support.parity.icot import Solved, finite, settings_of, solve, strip

from unspoken.methods.icot_si import MOST_BY_CHANCE, by_chance, removed_tokens

if cases.folder() is None:
    pytest.skip(cases.ABSENT, allow_module_level=True)

CASES = cases.names("icot_si")
TRAJECTORY = 1e-5
"""Of what comes after the first step (parity/README.md, "Tolerance")."""

every_case = pytest.mark.parametrize("name", CASES)


def test_there_are_fixtures():
    """An empty folder would pass every parametrised test. Every setting with a choice is among the cases."""
    if not cases.recorded():
        pytest.skip("another folder may hold cases of one kind only")
    assert CASES
    settings = [settings_of(cases.load(name)) for name in CASES]
    assert {s["side"] for s in settings} == {"left", "right"}
    assert {s["keep_position"] for s in settings} == {s["restart_optimizer"] for s in settings} == {True, False}
    assert {s["remove_all_beyond"] is None for s in settings} == {True, False}
    assert any(s["pretrain_epochs"] for s in settings)


def official_steps(solved: Solved) -> list[dict]:
    """What case.json says of every step."""
    return solved.case.facts["steps"]


@every_case
def test_schedule(name: str):
    """How many tokens are scheduled to go at every step, all of them at the end where the run says so."""
    solved = solve(name)
    assert solved.schedule.total == len(official_steps(solved))
    for step, official in zip(solved.steps, official_steps(solved), strict=True):
        assert removed_tokens(step.stage).count == finite(official["scheduled_to_remove"])
    counts = {official["scheduled_to_remove"] for official in official_steps(solved)}
    assert len(counts) > 2


@every_case
def test_rows(name: str):
    """Token ids and labels of every step, without padding; position ids where the run keeps them."""
    solved = solve(name)
    tensors = solved.case.tensors
    eos = solved.method.backbone.tokenizer.eos_token_id
    for n, step in enumerate(solved.steps):
        ids = tensors[f"step/{n}/input_ids"].tolist()
        labels = tensors[f"step/{n}/labels"].tolist()
        assert [row.ids for row in step.rows] == [strip(row, eos, 3) for row in ids]
        for b, row in enumerate(step.rows):
            assert row.labels == tuple(labels[b][: len(row.ids)])
            assert set(labels[b][len(row.ids) :]) <= {-100}
        places = torch.arange(step.batch.ids_BT.shape[1]).expand(len(step.rows), -1).numpy()
        ours = step.batch.position_ids(places, torch.arange(len(step.rows)).numpy())
        kept = tensors.get(f"step/{n}/position_ids")
        assert (kept is not None) == solved.method.config.keep_position
        for b, row in enumerate(step.rows):
            want = range(len(row.ids)) if kept is None else kept[b, : len(row.ids)].tolist()
            assert ours[b, : len(row.ids)].tolist() == list(want)
        assert sum(label >= 0 for row in step.rows for label in row.labels) == official_steps(solved)[n]["label_tokens"]


@every_case
def test_the_first_step(name: str):
    """Logits, loss, the gradient of every parameter, and the weights after it."""
    solved = solve(name)
    facts, tensors, step = solved.case.facts, solved.case.tensors, solved.steps[0]
    assert step.logits is not None
    cases.same("logits", step.logits, tensors["step/0/logits"])
    cases.same("losses", step.loss, torch.tensor(facts["losses"]["step0"]))
    cases.same_gradient("all", torch.tensor(step.norm), torch.tensor(facts["grad_norm_total"]))
    norms = facts["grad_norm_per_parameter"]
    tied = {alias["key"] for alias in facts["state_aliases"]}
    assert set(norms) - tied == set(step.gradients)
    for key, gradient in step.gradients.items():
        cases.same_gradient(key, gradient.norm().double(), torch.tensor(norms[key]).double())
    full = [key for key in tensors if key.startswith("grad/")]
    assert full or name not in CASES[:1]
    for key in full:
        cases.same_gradient(key, step.gradients[key.removeprefix("grad/")], tensors[key])
    compared = 0
    for key, want in tensors.items():
        if key.startswith("after_step/"):
            parameter = key.removeprefix("after_step/")
            sure = step.gradients[parameter].abs() > 1e-6
            cases.same("parameters after a step", solved.after_step[parameter][sure], want[sure])
            compared += int(sure.sum())
    assert compared > 30


def near(kind: str, got: float, want: float) -> None:
    """Within the tolerance of a trajectory, and the error noted."""
    assert cases.note(kind, abs(got - want) / abs(want)) <= TRAJECTORY, (kind, got, want)


@every_case
def test_the_whole_run(name: str):
    """Loss and gradient norm of every step, and the weights at the end: with a restart at each stage, or without any."""
    solved = solve(name)
    for step, official in zip(solved.steps, official_steps(solved), strict=True):
        near("losses of a run", float(step.loss), official["loss"])
        near("gradient norms of a run", step.norm, official["grad_norm_before_clip"])
    assert any(step.restarted for step in solved.steps) == solved.method.config.restart_optimizer
    prefix = f"after_{len(solved.steps)}_steps/"
    ends = {key.removeprefix(prefix): want for key, want in solved.case.tensors.items() if key.startswith(prefix)}
    assert ends
    for key, want in ends.items():
        got = solved.after[key]
        if key.endswith("c_attn.bias"):  # a key's bias has no gradient but rounding, which AdamW makes steps of
            got, want = (torch.cat([bias[: len(bias) // 3], bias[-len(bias) // 3 :]]) for bias in (got, want))
        near("parameters after a run", float((got - want).norm() + want.norm()), float(want.norm()))


@every_case
def test_evaluations(name: str):
    """After every epoch: the loss without offsets, and what the model of that moment says, up to its second eos."""
    solved = solve(name)
    official = solved.case.facts["evaluations"]
    eos = solved.method.backbone.tokenizer.eos_token_id
    assert len(solved.evaluations) == len(official)
    for i, (ours, theirs) in enumerate(zip(solved.evaluations, official, strict=True)):
        near("losses of a run", ours.loss, theirs["loss"])
        said = solved.case.tensors[f"eval/{i}/ids_0"]
        prompts = solved.case.tensors[f"eval/{i}/prompt_0"]
        masks = solved.case.tensors[f"eval/{i}/attention_mask_0"].bool()
        for b, (row, answer) in enumerate(zip(ours.prompts, ours.answers, strict=True)):
            assert row.ids == tuple(prompts[b][masks[b]].tolist())
            want = strip(said[b, prompts.shape[1] :].tolist(), eos, 2)
            assert answer.tokens == want
            assert answer.finished == (want.count(eos) == 2)


@every_case
def test_answers_of_the_initial_weights(name: str):
    """Greedy, all questions in one batch."""
    solved = solve(name)
    tensors = solved.case.tensors
    eos = solved.method.backbone.tokenizer.eos_token_id
    width = tensors["generate/prompt"].shape[1]
    want = [strip(ids[width:].tolist(), eos, 2) for ids in tensors["generate/ids"]]
    assert [answer.tokens for answer in solved.first] == want


@every_case
def test_smoothing_is_the_released_distribution(name: str):
    """100 bins, the last with all that is left: expected counts of 100,000 draws, and the ends of the range."""
    rate = settings_of(cases.load(name))["smoothing"]
    official = cases.load(name).tensors["lambda_distribution"].double()
    assert len(official) == MOST_BY_CHANCE + 1
    if rate is None:
        assert official[0] == 1
        assert {by_chance(None, Random(i)) for i in range(20)} == {0}
        return
    rng, n = Random(0), 100_000
    seen = Counter(by_chance(rate, rng) for _ in range(n))
    for offset, share in enumerate(official[:6].tolist()):
        assert abs(seen[offset] / n - share) < 5 * math.sqrt(share * (1 - share) / n) + 1e-9
    assert max(seen) <= MOST_BY_CHANCE


def test_smoothing_ends_in_the_last_bin():
    class Highest:
        def random(self) -> float:
            return 1 - 2**-53

    assert by_chance(0.01, Highest()) == MOST_BY_CHANCE  # pyright: ignore[reportArgumentType]
    assert by_chance(4.0, Highest()) == 9  # pyright: ignore[reportArgumentType]
