"""PCCoT gives the numbers of the authors' code (whyNLP/PCCoT 2e32e3e) on its own tiny models, and leaves it where the card
says.

Padding, which the released iterations attend to, is not imitated: see tests/support/parity/pccot.py.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from support.parity import cases
from support.parity.pccot import left_padding, method_of, solve

from unspoken.core.loop.generate import generate
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.rows.batch import collate
from unspoken.errors import ConfigError
from unspoken.methods import make_method

if cases.folder() is None:
    pytest.skip(cases.ABSENT, allow_module_level=True)

CASES = cases.names("pccot")
SINGLE = [name for name in CASES if not cases.load(name).facts["padding_attended"]]
PADDED = [name for name in CASES if name not in SINGLE]

every_case = pytest.mark.parametrize("name", CASES)
single_case = pytest.mark.parametrize("name", SINGLE)
padded_case = pytest.mark.parametrize("name", PADDED)


def test_there_are_fixtures():
    """An empty folder would pass every parametrised test."""
    if not cases.recorded():
        pytest.skip("another folder may hold cases of one kind only")
    assert (len(SINGLE), len(PADDED)) == (1, 2)


@every_case
def test_rows(name: str):
    """Token ids and labels of student and teacher are those of the official collator, without its padding."""
    solved = solve(name)
    tensors, special = solved.case.tensors, solved.case.facts["special_ids"]
    assert solved.method.markers.ids == (special["bot"], special["eot"], special["latent"])
    for b, row in enumerate(solved.rows):
        mask = tensors["batch/attention_mask"][b] == 1
        assert row.ids == tuple(tensors["batch/input_ids"][b][mask].tolist())
        behind = row.start + row.latents
        official = [label for label in tensors["batch/labels"][b, 1:].tolist() if label >= 0]  # the first is never used
        assert [label for label in row.labels[behind + 1 :] if label >= 0] == official
        assert row.branch is not None
        mask = tensors["batch/cot_attention_mask"][b] == 1
        assert row.branch.ids == tuple(tensors["batch/cot_input_ids"][b][mask].tolist())
        assert row.branch.labels == tuple(tensors["batch/cot_labels"][b][mask].tolist())
        assert row.branch.capture_at == int(tensors["batch/cot_kd_indices"][b])
        assert row.capture_at == behind + solved.case.facts["key_indices"]["ccot_kd_index"]


@every_case
def test_latents(name: str):
    """The latents that the answer reads, of rows without padding."""
    solved = solve(name)
    assert solved.whole
    trace, tensors = solved.report.trace, solved.case.tensors
    last = solved.case.facts["method_config"]["num_iterations"] - 1
    cases.same("latents", trace.latents_BKD[solved.whole], tensors["latents"][solved.whole])
    assert torch.equal(tensors["latents"], tensors[f"iter/{last}/fed"])
    assert trace.cost.passes == 1 + 1 + last + 1


@every_case
def test_compared_states(name: str):
    """Every layer's, the last one after the final norm; the teacher's of all rows."""
    solved = solve(name)
    trace, tensors = solved.report.trace, solved.case.tensors
    assert trace.branch is not None
    assert trace.captured_LBD is not None
    assert trace.branch.captured_LBD is not None
    for layer in range(len(tensors["distill/teacher"])):
        cases.same("compared states", trace.branch.captured_LBD[layer + 1], tensors["distill/teacher"][layer])
        own = trace.captured_LBD[layer + 1]
        cases.same("compared states", own[solved.whole], tensors["distill/student"][layer, solved.whole])


@every_case
def test_logits(name: str):
    solved = solve(name)
    tensors, trace, logits = solved.case.tensors, solved.report.trace, solved.method.backbone.logits
    assert trace.branch is not None
    rows_N, places_N = tensors["logits/teacher_index"].numpy().T
    cases.same("logits", logits(trace.branch.hidden_at(rows_N, places_N)), tensors["logits/teacher"])
    rows_N, places_N = tensors["logits/answer_index"].numpy().T
    whole = np.isin(rows_N, solved.whole)
    at_N = places_N[whole] + (solved.batch.starts_B + solved.batch.latents_B)[rows_N[whole]]
    cases.same("logits", logits(trace.hidden_at(rows_N[whole], at_N)), tensors["logits/answer"][torch.from_numpy(whole)])


@every_case
def test_losses(name: str):
    """The teacher's; all of them where no row is padded."""
    solved = solve(name)
    losses, terms, weights = solved.case.facts["losses"], solved.report.terms, solved.case.facts["method_config"]
    cases.same("losses", terms["teacher"], torch.tensor(weights["loss_alpha"] * losses["cot"]))
    if not solved.padded:
        cases.same("losses", terms["answer"], torch.tensor(losses["ccot"]))
        cases.same("losses", terms["distill"], torch.tensor(weights["loss_gamma"] * losses["kd"]))
        cases.same("losses", solved.report.total, torch.tensor(losses["total"]))


@single_case
def test_gradients_and_one_optimizer_step(name: str):
    """The norm of every parameter's gradient, some gradients in full, the rows of the special tokens; and a step."""
    solved = solve(name)
    tensors, norms = solved.case.tensors, solved.case.facts["grad_norm_per_parameter"]
    assert set(norms) == set(solved.gradients)
    for key, want in norms.items():
        got = solved.gradients[key]
        assert got is not None
        cases.same_gradient(key, got.norm().double(), torch.tensor(want).double())
    compared = 0
    for kind in ("", "_rows"):
        for key in (key.removeprefix(f"grad{kind}/") for key in tensors if key.startswith(f"grad{kind}/")):
            found = [ids for pattern, ids in solved.case.facts["grad_rows_ids"].items() if re.search(pattern, key)]
            part = found[0] if kind else slice(None)
            gradient, want = solved.gradients[key], tensors[f"after_step{kind}/{key}"]
            assert gradient is not None
            cases.same_gradient(key, gradient[part], tensors[f"grad{kind}/{key}"])
            sure = gradient[part].abs() > 1e-6
            cases.same("parameters after a step", solved.after[key][part][sure], want[sure])
            compared += int(sure.sum())
    assert compared > 100


@every_case
def test_greedy_answers(name: str):
    """New tokens to every question by itself, behind the answer's opening, which the released code gives; ours speaks it."""
    solved = solve(name)
    case, method, tensors = solved.case, solved.method, solved.case.tensors
    eos, speaking = case.facts["special_ids"]["eos"], SamplingParams(max_new_tokens=case.facts["generate"]["max_new_tokens"])
    single = [f"generate/single_{b}" for b in range(len(case.examples))] if name in PADDED else ["generate/batch"]
    opening = method.backbone.encode(case.facts["method_config"]["answer_prompt"])
    rows = [method.prompt(example.question) for example in case.examples]
    rows = [dataclasses.replace(row, ids=(*row.ids, *opening), labels=(*row.labels, *opening)) for row in rows]
    for kept, row, answer in zip(single, rows, generate(method.backbone, rows, method.source(), speaking), strict=True):
        assert tensors[f"{kept}/input_ids"].tolist() == [list(row.ids)]
        (ids,) = tensors[f"{kept}/ids"][:, len(row.ids) :].tolist()
        assert list(answer.tokens) == (ids[: ids.index(eos) + 1] if eos in ids else ids)


def off(got: torch.Tensor, want: torch.Tensor) -> float:
    """Relative difference by norm."""
    return float((got.detach() - want).norm() / want.norm())


@padded_case
def test_departure_padding_is_masked(name: str):
    """Released: the iterations attend to it, and a row's thoughts depend on the batch that it is in. Ours do not."""
    solved = solve(name)
    padded = [b for b, left in enumerate(left_padding(solved.case)) if left]
    assert padded
    for b in padded:
        assert off(solved.report.trace.latents_BKD[b], solved.case.tensors["latents"][b]) > 1e-3
    b = padded[0]
    with torch.no_grad():
        batch = collate([solved.rows[b]])
        alone = solved.method(batch, solved.method.counts(batch)).trace.latents_BKD[0]
    assert off(solved.report.trace.latents_BKD[b], alone) < cases.RTOL


@padded_case
def test_departure_the_distance_does_not_depend_on_the_batch(name: str):
    """Ours, by default, divides by the spread of each row's own teacher state. Released: of the batch's."""
    case = cases.load(name)
    method, released = method_of(case, scale="row"), method_of(case)
    assert (type(method.config)().scale, released.config.scale) == ("row", "batch")
    rows = solve(name).rows
    for one, same in ((method, True), (released, False)):
        counts = one.counts(collate(rows))
        with torch.no_grad():
            whole = float(one(collate(rows), counts).terms["distill"])
            parts = sum(float(one(collate([row]), counts).terms["distill"]) for row in rows)
        assert (abs(parts - whole) < 1e-6 * whole) == same


def test_departure_one_spread_over_all_layers_is_not_offered():
    """Released: the default, which its own script turns off. A weight divided by that spread is the same loss."""
    case = cases.load(SINGLE[0])
    assert not case.facts["method_config"]["use_layerwise_std"]
    with pytest.raises(ConfigError, match="scale"):
        make_method({"name": "codi", "scale": "all"}, method_of(case).backbone)
