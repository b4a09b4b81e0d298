"""LOTUS, and LOTUS + CODI, give the numbers of the authors' code (yingfan-bot/lotus eb77e2f) on its own tiny models: rows,
every loop, logits, losses, gradients, one step, greedy text."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from support.parity import cases
from support.parity.lotus import distilled, left_padding, offered, official_parameters, official_targets, own_rows, solve

from unspoken.core.loop.generate import generate, think
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.rows.row import IGNORE
from unspoken.methods.distill import TEACHER_ROW

if cases.folder() is None:
    pytest.skip(cases.ABSENT, allow_module_level=True)

CASES = [name for name in cases.names("lotus") if offered(cases.load(name))]
TAUGHT = [name for name in CASES if distilled(cases.load(name))]
LOOPED = [name for name in CASES if cases.load(name).facts["method_config"]["n_looped_iters"]]

every_case = pytest.mark.parametrize("name", CASES)
looped_case = pytest.mark.parametrize("name", LOOPED)
taught_case = pytest.mark.parametrize("name", TAUGHT)


def test_there_are_fixtures():
    """An empty folder would pass every parametrised test."""
    if not cases.recorded():
        pytest.skip("another folder may hold cases of one kind only")
    assert len(CASES) == 12
    assert len(TAUGHT) == 3
    assert len(LOOPED) == 11


@every_case
def test_rows(name: str):
    """Token ids and labels are those of the official collator, without its padding; markers have the official ids."""
    solved = solve(name)
    case, tensors, markers = solved.case, solved.case.tensors, solved.lotus.markers
    special = case.facts["special_ids"]
    assert markers.ids == (special["start"], special["end"], special["latent"])
    for b, row in enumerate(solved.rows):
        mask = tensors["batch/attention_mask"][b] == 1
        assert row.ids == tuple(tensors["batch/input_ids"][b][mask].tolist())
        assert row.labels == tuple(tensors["batch/labels"][b][mask].tolist())
        assert tensors["batch/position_ids"][b][mask].tolist() == list(range(len(row.ids)))
        assert row.latents == case.facts["method_config"]["stage"] * case.facts["method_config"]["c_thought"]
        assert row.ids[row.start : row.start + row.latents] == (markers.latent,) * row.latents


@looped_case
def test_step_targets(name: str):
    """A block's step as the official collator has it, as far as the block has slots."""
    solved = solve(name)
    c = solved.case.facts["method_config"]["c_thought"]
    for row, steps in zip(own_rows(solved.case, solved.method), official_targets(solved.case), strict=True):
        assert row.value("block_targets") == tuple(step[:c] for step in steps if step)
        assert row.steps_covered == sum(len(step) > 0 for step in steps)


@looped_case
def test_every_loop(name: str):
    """What is fed to the slots last, and the states at them after the first pass and every loop."""
    solved = solve(name)
    tensors, trace = solved.case.tensors, solved.report.trace
    loops = solved.case.facts["method_config"]["n_looped_iters"]
    assert len(trace.rounds) == loops
    cases.same("latents", trace.latents_BKD, tensors[f"loop/{loops}/fed"])
    assert trace.states_BKD is not None
    for number, states_BKD in enumerate((*trace.rounds, trace.states_BKD)):  # the states *before* the slots
        cases.same("looped states", states_BKD[:, 1:], tensors[f"loop/{number}/hidden"][:, :-1])


@every_case
def test_logits(name: str):
    """Of the text; and of the steps, at the slots before their tokens."""
    solved = solve(name)
    tensors, trace, logits = solved.case.tensors, solved.report.trace, solved.method.backbone.logits
    left_B = np.array(left_padding(solved.case))
    rows_N, columns_N = tensors["logits/answer_index"].numpy().T
    cases.same("logits", logits(trace.hidden_at(rows_N, columns_N - left_B[rows_N])), tensors["logits/answer"])
    if "logits/steps" not in tensors:
        assert name not in LOOPED
        return
    rows_N, blocks_N, _, columns_N = tensors["logits/steps_index"].numpy().T
    places_N = columns_N - left_B[rows_N] - solved.batch.starts_B[rows_N] + 1
    ours = places_N < solved.batch.latents_B[rows_N]  # the last slot predicts nothing
    states_ND = solved.lotus._states(trace, rows_N[ours], blocks_N[ours], places_N[ours])
    cases.same("logits", logits(states_ND), tensors["logits/steps"][torch.from_numpy(ours)])


@every_case
def test_losses(name: str):
    """Every term, and the total. The auxiliary decoder's is no term of ours (test_lotus_departures.py)."""
    solved = solve(name)
    facts, terms = solved.case.facts, solved.terms
    losses, weights = facts["losses"], facts["method_config"]
    official = {"answer": losses["ce"], "steps": weights["intermediate_loss_weight"] * losses.get("steps", 0.0)}
    if distilled(solved.case):
        official["distill"] = weights["codi_loss_weight"] * losses["codi"]
    assert set(terms) == set(official)
    for term, value in terms.items():
        cases.same("losses", value, torch.tensor(official[term]))
    if "aux" not in losses:
        cases.same("losses", torch.stack(list(terms.values())).sum(), torch.tensor(losses["total"]))


@taught_case
def test_compared_states(name: str):
    """Embeddings, every layer, the last one after the final norm, at the first token behind the thoughts."""
    solved = solve(name)
    watched, tensors = solved.report.trace.captured_LBD, solved.case.tensors
    places_B = tensors["distill/student_position"] - torch.tensor(left_padding(solved.case))
    assert [row.capture_at for row in solved.rows] == places_B.tolist()
    assert watched is not None
    for got_BD, want_BD in zip(watched, tensors["distill/student"], strict=True):
        cases.same("compared states", got_BD, want_BD)


@pytest.mark.parametrize("name", [name for name in TAUGHT if name.endswith("_single")])
def test_own_row_of_the_teacher(name: str):
    """Where a row has no padding, ours is the released one up to the compared token."""
    solved = solve(name)
    (own,), (official,) = own_rows(solved.case, solved.method), solved.rows
    assert own.value(TEACHER_ROW) == official.value(TEACHER_ROW)
    assert own.extra.keys() == official.extra.keys()


@pytest.mark.parametrize("name", [name for name in CASES if "aux" not in cases.load(name).facts["losses"]])
def test_gradients(name: str):
    """The norm of every parameter's gradient, some gradients in full, the rows of the special tokens; none where none is."""
    solved = solve(name)
    tensors, norms = solved.case.tensors, solved.case.facts["grad_norm_per_parameter"]
    assert set(norms) == set(solved.gradients)
    for key, want in norms.items():
        got = solved.gradients[key]
        assert (got is None) == (want is None), key
        if got is not None:
            cases.same_gradient(key, got.norm().double(), torch.tensor(want).double())
    for key, ids, kind in compared(name):
        got = solved.gradients[key]
        assert got is not None
        cases.same_gradient(key, got[ids], tensors[f"grad{kind}/{key}"])


def compared(name: str) -> list[tuple[str, Any, str]]:
    """(parameter, rows, "" or "_rows") of which the fixtures keep gradients and values after a step."""
    case = cases.load(name)
    found: list[tuple[str, Any, str]] = [
        (key.removeprefix("grad/"), ..., "") for key in case.tensors if key.startswith("grad/")
    ]
    for key in (key.removeprefix("grad_rows/") for key in case.tensors if key.startswith("grad_rows/")):
        (ids,) = [ids for pattern, ids in case.facts["grad_rows_ids"].items() if re.search(pattern, key)]
        found.append((key, ids, "_rows"))
    assert len(found) > 2
    return found


@pytest.mark.parametrize("name", [name for name in CASES if "aux" not in cases.load(name).facts["losses"]])
def test_one_optimizer_step(name: str):
    """AdamW's first step is lr * g / (|g| + eps): compared where g is not rounding noise."""
    solved = solve(name)
    for key, ids, kind in compared(name):
        want, gradient = solved.case.tensors[f"after_step{kind}/{key}"], solved.gradients[key]
        assert gradient is not None
        sure = gradient[ids].abs() > 1e-6
        cases.same("parameters after a step", solved.after[key][ids][sure], want[sure])
    assert set(official_parameters(solved.method)) == set(solved.after)


@every_case
def test_greedy_answers(name: str):
    """New tokens from the full prompt, and the tokens that every loop's states are read as."""
    solved = solve(name)
    case, tensors, lotus = solved.case, solved.case.tensors, solved.lotus
    facts = case.facts["generate"]
    slots = case.facts["method_config"]["c_thought"] * case.facts["method_config"]["n_looped_iters"]
    rows = [lotus.prompt(example.question, slots) for example in case.examples]
    told = [b for b in range(len(rows)) if f"generate/prompt_{b}" in tensors]
    assert told
    answers = generate(lotus.backbone, rows, lotus.source(), SamplingParams(max_new_tokens=facts["max_new_tokens"]))
    trace = think(lotus.backbone, rows, lotus.source())
    assert trace.states_BKD is not None
    eos = case.facts["special_ids"]["eos"]
    for b in told:
        prompt = tensors[f"generate/prompt_{b}"].flatten().tolist()
        if len(prompt) != len(rows[b].ids):
            assert not case.facts["method_config"]["pad_latent_to_max"]  # released prompts then have fewer slots
            continue
        assert list(rows[b].ids) == prompt
        said = [token for token in answers[b].tokens if token != eos]  # which the released code never appends
        assert said == tensors[f"generate/ids_{b}"].tolist()[len(prompt) :]
        if slots:
            with torch.inference_mode():
                read = lotus.backbone.logits(trace.states_BKD[b]).argmax(dim=-1).tolist()
            assert read == tensors[f"generate/thought_ids_{b}"][-1][: len(read)].tolist()
    assert all(label == IGNORE for row in rows for label in row.labels)
