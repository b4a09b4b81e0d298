"""Coconut, and SIM-CoT on Coconut, give the numbers of the authors' code (facebookresearch/coconut 27273cb,
InternLM/SIM-CoT f3ae967) on its own tiny models: rows, latents, logits, losses, gradients, one step, greedy text."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from support.attachments import step_targets
from support.parity import cases
from support.parity.coconut import latents_of, left_padding, official_total, solve, stages_of, supervised, training_method

from unspoken.core.loop.generate import generate
from unspoken.core.loop.sampling import SamplingParams

if cases.folder() is None:
    pytest.skip(cases.ABSENT, allow_module_level=True)

CASES = cases.names("coconut", "simcot_coconut")
DECODED = [name for name in CASES if cases.load(name).facts.get("explanations")]
EXPLAINED = [name for name in CASES if supervised(cases.load(name))]

every_case = pytest.mark.parametrize("name", CASES)
explained_case = pytest.mark.parametrize("name", EXPLAINED)


def test_there_are_fixtures():
    """An empty folder would pass every parametrised test."""
    if not cases.recorded():
        pytest.skip("another folder may hold cases of one kind only")
    assert CASES
    assert EXPLAINED
    assert DECODED


@every_case
def test_marker_rows_start_as_the_released_ones(name: str):
    """Ours adds the tokens itself; the stored weights already have them."""
    solved = solve(name)
    special = solved.case.facts["special_ids"]
    assert solved.method.at_inference.markers.ids == (special["start"], special["end"], special["latent"])
    lm = solved.method.backbone.lm
    state = solved.case.state("base_causallm.")
    for key, value in lm.state_dict().items():
        assert torch.equal(value, state[key]), key


@every_case
def test_rows(name: str):
    """Token ids, labels and positions are those of the official collator, without its padding."""
    solved = solve(name)
    tensors = solved.case.tensors
    left = left_padding(solved.case).tolist()
    for b, row in enumerate(solved.rows):
        real = slice(left[b], left[b] + int(tensors["batch/attention_mask"][b].sum()))
        assert row.ids == tuple(tensors["batch/input_ids"][b, real].tolist())
        assert row.labels == tuple(tensors["batch/labels"][b, real].tolist())
        assert tensors["batch/position_ids"][b, real].tolist() == list(range(len(row.ids)))
    assert [row.latents for row in solved.rows] == latents_of(solved.case)


@every_case
def test_latents(name: str):
    solved = solve(name)
    cases.same("latents", solved.report.trace.latents_BKD, solved.case.tensors["latents"])
    place = solved.case.tensors["latents_position"]
    left = left_padding(solved.case).tolist()
    for b, row in enumerate(solved.rows):
        assert place[b, : row.latents].tolist() == [left[b] + row.start + k for k in range(row.latents)]


@every_case
def test_logits(name: str):
    solved = solve(name)
    index = solved.case.tensors["logits/answer_index"]
    rows_N = index[:, 0].numpy()
    places_N = (index[:, 1] - left_padding(solved.case)[index[:, 0]]).numpy()
    logits = solved.method.backbone.logits(solved.report.trace.hidden_at(rows_N, places_N))
    cases.same("logits", logits, solved.case.tensors["logits/answer"])


@every_case
def test_losses(name: str):
    """Every term, and the total. Only the supervised cases have an auxiliary term."""
    solved = solve(name)
    losses = solved.case.facts["losses"]
    report = solved.report
    if losses.get("ce") is not None and training_method(solved.case) != "only_expainable_llm":  # where it is not computed
        cases.same("losses", report.terms["answer"], torch.tensor(losses["ce"]))
    assert ("explain" in report.terms) == supervised(solved.case)
    cases.same("losses", report.terms.get("explain", torch.tensor(0.0)), torch.tensor(losses.get("explain", 0.0)))
    cases.same("losses", official_total(solved.case, report), torch.tensor(losses["total"]))


@every_case
def test_gradients(name: str):
    """The norm of every parameter's gradient, some gradients in full, the rows of the special tokens; none where none is."""
    solved = solve(name)
    norms = solved.case.facts["grad_norm_per_parameter"]
    assert set(norms) == set(solved.gradients)
    for key, want in norms.items():
        got = solved.gradients[key]
        assert (got is None) == (want is None), key
        if got is not None:
            cases.same_gradient(key, got.norm().double(), torch.tensor(want).double())
    full = [key for key in solved.case.tensors if key.startswith("grad/")]
    assert full or not any(norms.values())
    for key in full:
        got = solved.gradients[key.removeprefix("grad/")]
        assert got is not None
        cases.same_gradient(key, got, solved.case.tensors[key])
    for parameter, ids in marker_rows(name, "grad_rows/"):
        got = solved.gradients[parameter]
        assert got is not None
        cases.same_gradient(parameter, got[ids], solved.case.tensors[f"grad_rows/{parameter}"])


def marker_rows(name: str, prefix: str) -> list[tuple[str, list[int]]]:
    """(parameter, rows) of the tensors that hold rows of the special tokens."""
    case = solve(name).case
    found = []
    for key in case.tensors:
        if key.startswith(prefix):
            parameter = key.removeprefix(prefix)
            (ids,) = [ids for pattern, ids in case.facts["grad_rows_ids"].items() if re.search(pattern, parameter)]
            found.append((parameter, ids))
    assert found or training_method(case) in ("only_expainable_llm", "freeze_backbone")
    return found


@every_case
def test_one_optimizer_step(name: str):
    """AdamW's first step is lr * g / (|g| + eps): compared where g is not rounding noise."""
    solved = solve(name)
    compared = 0
    for key, want in solved.case.tensors.items():
        if not key.startswith("after_step/"):
            continue
        parameter = key.removeprefix("after_step/")
        gradient = solved.gradients[parameter]
        sure = torch.ones_like(want, dtype=torch.bool) if gradient is None else gradient.abs() > 1e-6
        cases.same("parameters after a step", solved.after[parameter][sure], want[sure])
        compared += int(sure.sum())
    for parameter, ids in marker_rows(name, "after_step_rows/"):
        gradient = solved.gradients[parameter]
        assert gradient is not None
        sure = gradient[ids].abs() > 1e-6
        want = solved.case.tensors[f"after_step_rows/{parameter}"]
        cases.same("parameters after a step", solved.after[parameter][ids][sure], want[sure])
        compared += int(sure.sum())
    assert compared > 100 or not any(solved.case.facts["grad_norm_per_parameter"].values())


@every_case
@pytest.mark.parametrize("together", [True, False], ids=["batched", "alone"])
def test_greedy_answers(name: str, together: bool):
    """Prompts and new tokens, all questions in one batch and one by one.

    Three things are let pass. The released loop never looks whether its first token is eos (ours stops there), and it
    does not append the eos that ends it. And in these untrained models the marker rows still equal the '<<' row, so
    the four logits tie and rounding decides between the names of one and the same vector.
    """
    solved = solve(name)
    case, tensors = solved.case, solved.case.tensors
    latent = case.facts["special_ids"]["latent"]
    prompts = [tensors[f"generate/prompt_{i}"].tolist() for i in range(len(case.examples))]
    # The number of latents is the official prompt's; what ours takes by itself is a departure, tested by name.
    rows = [
        solved.method.prompt(example.question, ids.count(latent))
        for example, ids in zip(case.examples, prompts, strict=True)
    ]
    assert [list(row.ids) for row in rows] == prompts
    speaking = SamplingParams(max_new_tokens=case.facts["generate"]["max_new_tokens"])
    size = len(rows) if together else 1
    special = case.facts["special_ids"]
    name_of = {special[marker]: special["target"] for marker in ("start", "end", "latent")}
    answers = generate(solved.method.backbone, rows, solved.method.source(), speaking, batch_size=size)
    for i, answer in enumerate(answers):
        official = tensors[f"generate/ids_{i}"].tolist()[len(prompts[i]) :]
        if official[0] == special["eos"]:
            official = []
        ours = answer.tokens[:-1] if answer.finished else answer.tokens
        assert [name_of.get(token, token) for token in ours] == [name_of.get(token, token) for token in official]
        assert answer.finished == (len(official) < speaking.max_new_tokens)


@every_case
def test_passes(name: str):
    """As many forward passes as the released training: one per latent and one more; every position once."""
    solved = solve(name)
    cost = solved.report.trace.cost
    if (passes := solved.case.facts.get("forward_passes_training")) is not None:
        assert cost.passes == passes
    assert cost.passes == max(latents_of(solved.case)) + 1
    assert cost.positions == int(solved.case.tensors["batch/attention_mask"].sum())


def thoughts(name: str) -> list[int]:
    """Numbers of the thoughts that the official run explained."""
    return list(range(len(cases.load(name).facts["losses"]["explain_per_thought"])))


def group(name: str, k: int) -> torch.Tensor:
    """The latents [B, C, D] of thought group k of every row."""
    solved = solve(name)
    C = solved.method.latents_per_group
    return solved.report.trace.latents_BKD[:, k * C : (k + 1) * C]


@explained_case
def test_step_targets(name: str):
    """The words that each thought must explain, and what the decoder is fed."""
    solved = solve(name)
    assert thoughts(name)
    C = solved.method.latents_per_group
    for k in thoughts(name):
        labels = solved.case.tensors[f"explain/{k}/labels"]
        targets = [tuple(ids for ids in row[C:].tolist() if ids >= 0) for row in labels]
        assert [step_targets(row)[k] for row in solved.rows] == targets
        fed = solved.case.tensors[f"explain/{k}/inputs_embeds"]
        _, batch = solved.method.decoder.read(group(name, k), targets)
        ours = torch.cat([group(name, k), solved.method.backbone.embed(batch.ids_BT[:, C:])], dim=1)
        # The released decoder also reads a step's last token, whose state predicts nothing; ours does not.
        for b, length in enumerate(batch.lengths_B + 1):
            cases.same("decoder inputs", ours[b, :length], fed[b, :length])
            assert solved.case.tensors[f"explain/{k}/position_ids"][b, :length].tolist() == list(range(1, length + 1))
            assert solved.case.tensors[f"explain/{k}/attention_mask"][b].tolist() == [1] * length + [0] * (
                labels.shape[1] - length
            )


@explained_case
def test_decoder_logits_and_loss_per_thought(name: str):
    solved = solve(name)
    decoder = solved.method.decoder
    for k in thoughts(name):
        targets = [step_targets(row)[k] for row in solved.rows]
        index = solved.case.tensors[f"explain/{k}/logits_index"].numpy()
        trace, _ = decoder.read(group(name, k), targets)
        logits = decoder.logits(trace.hidden_at(index[:, 0], index[:, 1]))
        cases.same("decoder logits", logits, solved.case.tensors[f"explain/{k}/logits"])
        weights = torch.full((len(targets),), 1 / np.sum([len(step) > 0 for step in targets]))
        loss = decoder.loss(group(name, k), targets, weights)
        cases.same("losses", loss, torch.tensor(solved.case.facts["losses"]["explain_per_thought"][k]))


@pytest.mark.parametrize("name", DECODED)
def test_thoughts_in_words(name: str):
    """What the decoder says of each thought, greedily; the fixtures end it after 12 tokens with an eos."""
    solved = solve(name)
    case, trace = solved.case, solved.report.trace
    eos, most = case.facts["special_ids"]["eos"], case.facts["generate"]["max_new_tokens"]
    words = solved.method.explain(trace)
    for b in range(len(solved.rows)):
        official = case.tensors[f"explain_decode/ids_{b}"].tolist()
        C = solved.method.latents_per_group
        groups = trace.latents_BKD[b].reshape(-1, C, trace.latents_BKD.shape[2])
        spoken = solved.method.decoder.speak(groups, most)
        assert len(spoken) == len(official) == len(words[b])
        for ours, theirs, text in zip(spoken, official, words[b], strict=True):
            theirs = theirs[: theirs.index(eos) + 1]
            assert ours == theirs[:most]
            assert text == solved.method.backbone.decode(theirs).strip()


@pytest.mark.parametrize("name", [n for n in CASES if cases.load(n).facts["method_config"]["uniform_prob"]])
def test_stages_of_mixed_rows_are_inferred(name: str):
    """Where the official code draws the stage per row, the rows of the case are of more than one stage."""
    solved = solve(name)
    assert len({stage.index for stage in stages_of(solved.case, solved.method)}) > 1
