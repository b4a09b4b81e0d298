"""SoftCoT and SoftCoT++ give the numbers of the authors' code (xuyige/SoftCoT fa7f537) on its own tiny models: prompts,
slots, labels, assistant states, projected rows, logits, losses, gradients, one step, greedy text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.attachments import assistant_row
from support.parity import cases
from support.parity.softcot import chains_of, latents_of, several, slices_of, solve

from unspoken.core.loop.generate import sample
from unspoken.core.loop.sampling import SamplingParams

if cases.folder() is None:
    pytest.skip(cases.ABSENT, allow_module_level=True)

CASES = cases.names("softcot", "softcotpp")

every_case = pytest.mark.parametrize("name", CASES)
case_of_several = pytest.mark.parametrize("name", cases.names("softcotpp"))


def test_there_are_fixtures():
    """An empty folder would pass every parametrised test."""
    if not cases.recorded():
        pytest.skip("another folder may hold cases of one kind only")
    assert {several(cases.load(name)) for name in CASES} == {True, False}


@every_case
def test_rows(name: str):
    """Token ids, labels and slots are those of the official code, and so is what the assistant reads up to its slots."""
    solved = solve(name)
    tensors = solved.case.tensors
    for b, row in enumerate(solved.rows):
        length = int(tensors["batch/attention_mask"][b].sum())
        assert row.ids == tuple(tensors["batch/input_ids"][b, :length].tolist())
        assert row.labels == tuple(tensors["batch/labels"][b, :length].tolist())
        start, end, first, last = tensors["batch/thought_index"][b].tolist()
        assert (row.start, row.start + row.latents) == (start, end)
        assert (assistant_row(row).start, len(assistant_row(row).ids)) == (first, last)
        assert assistant_row(row).ids == tuple(tensors["batch/assistant_input_ids"][b, :last].tolist())


@every_case
def test_prompts(name: str):
    """What evaluation starts from."""
    solved = solve(name)
    for i, instance in enumerate(solved.case.facts["instances"]):
        row = solved.method.prompt(instance["question"])
        assert row.ids == tuple(solved.case.tensors[f"generate/input_ids_{i}"].tolist())
        start, end, _, last = solved.case.tensors[f"generate/thought_index_{i}"].tolist()
        assert (row.start, row.start + row.latents) == (start, end)
        assert assistant_row(row).ids == tuple(solved.case.tensors[f"generate/assistant_input_ids_{i}"].tolist())[:last]


@every_case
def test_latents(name: str):
    """The assistant's states at its slots, and the projected rows that the base model reads."""
    solved = solve(name)
    case, N = solved.case, latents_of(solved.case)
    shape = (-1, len(solved.rows), N) if several(case) else (len(solved.rows), N)
    latents = torch.cat([report.trace.latents_BKD.unflatten(0, (chains_of(case), -1)) for report in solved.reports], 1)
    cases.same("latents", latents.reshape(*shape, latents.shape[-1]), case.tensors["latents"])
    soft = solved.method.soft if several(case) else solved.method
    want = case.tensors["latents_hidden"]
    cases.same("projected rows", soft.project(want), case.tensors["latents"])


@every_case
def test_logits(name: str):
    solved = solve(name)
    for kind in ("first_call", "last_call") if several(solved.case) else ("answer",):
        index = solved.case.tensors[f"logits/{kind}_index"]
        rows_N, places_N = index[:, 0].numpy(), index[:, 1].numpy()
        if not several(solved.case):
            hidden = solved.reports[0].trace.hidden_at(rows_N, places_N)
        else:
            # A call is some rows of one set, the first ones of the first set, or the last ones of the last; ours has a
            # report per row, which holds all sets.
            call = slices_of(solved.case)[-1 if kind == "last_call" else 0]
            chain = np.array([chains_of(solved.case) - 1 if kind == "last_call" else 0])
            traces = [report.trace for report in solved.reports[call]]
            each = zip(rows_N.tolist(), places_N.tolist(), strict=True)
            hidden = torch.cat([traces[row].hidden_at(chain, np.array([place])) for row, place in each])
        cases.same("logits", solved.method.backbone.logits(hidden), solved.case.tensors[f"logits/{kind}"])


@every_case
def test_losses(name: str):
    solved = solve(name)
    losses = solved.case.facts["losses"]
    for term, value in solved.terms.items():
        cases.same("losses", value, torch.tensor(float(losses[term])))
    cases.same("losses", sum(solved.terms.values(), start=torch.zeros(())), torch.tensor(losses["total"]))


@case_of_several
def test_losses_of_every_set_and_row(name: str):
    """The official code calls the base model for each of them (or for `batch_step` rows), sets outermost."""
    solved = solve(name)
    cases.same("losses", solved.per_chain.reshape(-1), solved.case.tensors["loss/lm_per_call"])


@case_of_several
def test_the_released_loss_is_ours_times_the_number_of_sets(name: str):
    """Ours averages over sets, theirs adds them up; both terms stand in the same proportion."""
    solved = solve(name)
    if max(call.stop - call.start for call in slices_of(solved.case)) > 1:
        pytest.skip("with several rows in a call the released loss is less by their number: no factor of ours")
    ours = torch.stack([report.terms["answer"].detach() for report in solved.reports]).mean()
    cases.same("losses", ours * chains_of(solved.case), solved.terms["lm_sum"].detach())
    if solved.terms["nce"]:
        with torch.no_grad():  # without dropout, whose mask the fixture has
            sets_BCF = solved.reports[0].trace.latents_BKD.flatten(1)[None]
        from unspoken.core.losses import info_nce_sum

        C = chains_of(solved.case)
        released = info_nce_sum(sets_BCF, sets_BCF, 0.05) / C / C
        cases.same("losses", solved.reports[0].terms["contrast"] * C, released)


@every_case
def test_gradients(name: str):
    """The norm of every parameter's gradient, some in full; none where the official code has none."""
    solved = solve(name)
    norms = solved.case.facts["grad_norm_per_parameter"]
    trained = {key for key, norm in norms.items() if norm is not None}
    assert {key for key, gradient in solved.gradients.items() if gradient is not None} == trained
    for key in trained:
        gradient = solved.gradients[key]
        assert gradient is not None
        assert float(gradient.norm()) == pytest.approx(norms[key], rel=1e-4)
        if f"grad/{key}" in solved.case.tensors:
            cases.same_gradient(key, gradient, solved.case.tensors[f"grad/{key}"])


@every_case
def test_one_step(name: str):
    """Parameters after one AdamW step, where the gradient is not so small that its sign decides."""
    solved = solve(name)
    compared = [key for key in solved.after if f"after_step/{key}" in solved.case.tensors]
    assert compared
    for key in compared:
        gradient = solved.gradients[key]
        assert gradient is not None
        sure = gradient.abs() > 1e-6
        assert sure.any()
        torch.testing.assert_close(
            solved.after[key][sure], solved.case.tensors[f"after_step/{key}"][sure], rtol=1e-5, atol=2e-6
        )


@every_case
def test_greedy_text(name: str):
    """All questions in one batch, all sets of a question beside each other, say what the official code says one by one."""
    solved = solve(name)
    facts, chains = solved.case.facts["generate"], chains_of(solved.case)
    rows = [solved.method.prompt(instance["question"]) for instance in solved.case.facts["instances"]][
        : len(facts["outputs"])
    ]
    speaking = SamplingParams(max_new_tokens=facts["max_new_tokens"])
    said = sample(solved.method.backbone, rows, solved.method.source(), speaking, batch_size=64, chains=chains)
    for i, answers in enumerate(said):
        official = solved.case.tensors[f"generate/ids_{i}"].tolist()
        assert len(answers) == len(official) == chains
        for answer, ids in zip(answers, official, strict=True):
            assert list(answer.tokens) == ids[: len(answer.tokens)]
            assert answer.finished or len(answer.tokens) == len(ids)
