"""CODI, and SIM-CoT on CODI, give the numbers of the authors' code (zhenyi4/codi 4fd88d4, InternLM/SIM-CoT f3ae967) on its
own tiny models: rows, latents, compared states, logits, losses, gradients, one step, greedy text.

Where the released code attends to padding, so does the backbone that ours runs on here (tests/support/parity/padding.py).
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from support.attachments import step_targets
from support.parity import cases
from support.parity.codi import (
    base_prefix,
    explained_latents,
    has_gradients,
    in_official_order,
    in_our_ids,
    is_explained,
    official_parameters,
    our_ids,
    own_rows,
    padding_of,
    prompts_of,
    solve,
)
from support.parity.padding import attended, padded

from unspoken.core.loop.loop import Loop
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.rows.batch import collate
from unspoken.core.rows.row import IGNORE

if cases.folder() is None:
    pytest.skip(cases.ABSENT, allow_module_level=True)

CASES = cases.names("codi", "simcot_codi")
EXPLAINED = [name for name in CASES if is_explained(cases.load(name))]
TRAINED = [name for name in CASES if has_gradients(cases.load(name))]
ALONE = [name for name in CASES if not cases.load(name).facts["padding_attended"]]

every_case = pytest.mark.parametrize("name", CASES)
explained_case = pytest.mark.parametrize("name", EXPLAINED)
trained_case = pytest.mark.parametrize("name", TRAINED)


def test_there_are_fixtures():
    """An empty folder would pass every parametrised test; and both kinds of batches are there."""
    if not cases.recorded():
        pytest.skip("another folder may hold cases of one kind only")
    assert CASES
    assert set(ALONE) & set(EXPLAINED)
    assert set(CASES) - set(ALONE)
    assert TRAINED


@every_case
def test_the_method_starts_from_the_stored_weights(name: str):
    """Every tensor of the official checkpoint has its place in ours: base, LoRA, projection, decoder."""
    solved = solve(name)
    state = solved.case.state("")
    named = official_parameters(solved.case, solved.method)
    aliases = {alias["key"] for alias in solved.case.facts["state_aliases"]}
    assert set(named) == set(state) - aliases
    for key, value in named.items():
        assert torch.equal(in_official_order(solved.case, key, value), state[key]), key


@every_case
def test_the_same_parameters_train(name: str):
    """LoRA cases have LoRA, with no row of the embedding in it; the others train the whole model."""
    solved = solve(name)
    trained = {key for key, p in official_parameters(solved.case, solved.method).items() if p.requires_grad}
    assert trained == set(solved.case.facts["trainable_parameters"])
    assert any(".lora_A." in key for key in trained) == (base_prefix(solved.case) != "codi.")


@every_case
def test_rows(name: str):
    """Token ids and labels of student and teacher are those of the official collator, without its padding."""
    solved = solve(name)
    case, tensors = solved.case, solved.case.tensors
    markers = solved.method.at_inference.markers
    for b, row in enumerate(solved.rows):
        question = in_our_ids(case, tensors["batch/encoder_input_ids"][b][tensors["batch/encoder_attention_mask"][b] == 1])
        spoken = int((tensors["batch/labels"][b] != IGNORE).sum())
        answer = in_our_ids(case, tensors["batch/decoder_input_ids"][b, :spoken])
        assert (question[-1], answer[0]) == (markers.bot, markers.eot)
        assert row.latents == case.facts["method_config"]["num_latent"]
        assert row.start == len(question)
        assert row.ids == (*question, *(markers.latent,) * row.latents, *answer)
        # The released label of eot itself is never used: the labels are shifted.
        labels = in_our_ids(case, tensors["batch/labels"][b, 1:spoken])
        assert row.labels == (IGNORE,) * (len(question) + row.latents + 1) + labels
        assert row.branch is not None
        length = int(tensors["batch/ref_attention_mask"][b].sum())
        assert row.branch.ids == in_our_ids(case, tensors["batch/ref_input_ids"][b, :length])
        assert row.branch.labels == in_our_ids(case, tensors["batch/ref_labels"][b, :length])
        assert row.shared == len(question) - 1
        assert row.branch.ids[: row.shared] == row.ids[: row.shared]


@every_case
def test_compared_positions(name: str):
    """Right before the answer, in student and teacher. All answers of the fixtures are numbers that follow a colon or a
    single space, for which the released rule and ours agree; where they do not: test_codi_departures.py."""
    solved = solve(name)
    student = [row.capture_at - row.start - row.latents for row in solved.rows if row.capture_at is not None]
    teacher = [row.branch.capture_at for row in solved.rows if row.branch is not None]
    assert student == solved.case.tensors["distill/student_position"].tolist()
    assert teacher == solved.case.tensors["distill/teacher_position"].tolist()


@every_case
def test_latents(name: str):
    """All that are fed, the one that never is, and the states that they are made from."""
    solved = solve(name)
    trace = solved.report.trace
    assert trace.states_BKD is not None
    assert trace.latents_BKD.shape[1] == solved.case.facts["method_config"]["num_latent"] + 1
    cases.same("latents", trace.latents_BKD, solved.case.tensors["latents"])
    cases.same("latents", trace.states_BKD, solved.case.tensors["latents_hidden"])


@every_case
def test_compared_states(name: str):
    """Embeddings, every layer, the last one after the final norm."""
    solved = solve(name)
    trace = solved.report.trace
    assert trace.branch is not None
    for kind, watched in (("student", trace.captured_LBD), ("teacher", trace.branch.captured_LBD)):
        want = solved.case.tensors[f"distill/{kind}"]
        assert watched is not None
        assert watched.shape == want.shape
        for got_BD, want_BD in zip(watched, want, strict=True):
            cases.same("compared states", got_BD, want_BD)


@every_case
def test_logits(name: str):
    solved = solve(name)
    case, batch, trace = solved.case, solved.batch, solved.report.trace
    assert trace.branch is not None
    for kind, states, eot_B in (("answer", trace, batch.starts_B + batch.latents_B), ("teacher", trace.branch, None)):
        rows_N, places_N = case.tensors[f"logits/{kind}_index"].numpy().T
        if eot_B is not None:  # the student's columns are counted from eot
            places_N = places_N + eot_B[rows_N]
        logits = solved.method.backbone.logits(states.hidden_at(rows_N, places_N))
        cases.same("logits", logits[:, our_ids(case)], case.tensors[f"logits/{kind}"])


@every_case
def test_losses(name: str):
    """Every term, and the total."""
    solved = solve(name)
    report, losses = solved.report, solved.case.facts["losses"]
    names = {"answer": "ce", "distill": "distill", "teacher": "ref_ce", "explain": "explain"}
    assert {names[term] for term in report.terms} | {"total"} == set(losses)
    for term, value in report.terms.items():
        cases.same("losses", value, torch.tensor(losses[names[term]]))
    cases.same("losses", report.total, torch.tensor(losses["total"]))


@trained_case
def test_gradients(name: str):
    """The norm of every parameter's gradient, some gradients in full, the rows of the special tokens; none where none is.

    Under LoRA the released code gives the markers' rows none; ours does only because it is told to here.
    """
    solved = solve(name)
    norms = solved.case.facts["grad_norm_per_parameter"]
    assert set(norms) == set(solved.gradients)
    for key, want in norms.items():
        got = solved.gradients[key]
        assert (got is None) == (want is None), key
        if got is not None:
            cases.same_gradient(key, got.norm().double(), torch.tensor(want).double())
    full = [key.removeprefix("grad/") for key in solved.case.tensors if key.startswith("grad/")]
    assert full
    for key in full:
        got = solved.gradients[key]
        assert got is not None
        cases.same_gradient(key, got, solved.case.tensors[f"grad/{key}"])
    for key, ids in marker_rows(name):
        got = solved.gradients[key]
        assert got is not None
        cases.same_gradient(key, got[ids], solved.case.tensors[f"grad_rows/{key}"])


def marker_rows(name: str) -> list[tuple[str, list[int]]]:
    """(parameter, official token ids) of which the fixtures keep rows: whole tables train, so not under LoRA."""
    case = cases.load(name)
    found: list[tuple[str, list[int]]] = []
    for key in (key.removeprefix("grad_rows/") for key in case.tensors if key.startswith("grad_rows/")):
        (ids,) = [ids for pattern, ids in case.facts["grad_rows_ids"].items() if re.search(pattern, key)]
        found.append((key, ids))
    assert bool(found) != case.facts["method_config"]["use_lora"]
    return found


@trained_case
def test_one_optimizer_step(name: str):
    """AdamW's first step is lr * g / (|g| + eps): compared where g is not rounding noise."""
    solved = solve(name)
    tensors = solved.case.tensors
    rows = [(key, ids, tensors[f"after_step_rows/{key}"]) for key, ids in marker_rows(name)]
    whole = [(key.removeprefix("after_step/"), ..., want) for key, want in tensors.items() if key.startswith("after_step/")]
    compared = 0
    for key, ids, want in [*whole, *rows]:
        gradient = solved.gradients[key]
        sure = torch.ones_like(want, dtype=torch.bool) if gradient is None else gradient[ids].abs() > 1e-6
        cases.same("parameters after a step", solved.after[key][ids][sure], want[sure])
        compared += int(sure.sum())
    assert compared > 100


@every_case
def test_greedy_answers(name: str, monkeypatch: pytest.MonkeyPatch):
    """Prompts, latents and new tokens. The released loop cuts eot out of the logits (bot and pad can be spoken); ours
    speaks any token, so the cut is made here. Questions that stand alone in the fixtures stand there twice."""
    solved = solve(name)
    case, tensors, backbone = solved.case, solved.case.tensors, solved.method.backbone
    prompts, padding = prompts_of(case, solved.method), padding_of(case, training=False)
    for row, ids, mask in zip(prompts, tensors["generate/input_ids"], tensors["generate/attention_mask"], strict=False):
        assert row.ids[: row.start] == in_our_ids(case, ids[mask == 1])
    whole, eot = backbone.logits, torch.tensor(solved.method.at_inference.markers.eot)
    monkeypatch.setattr(backbone, "logits", lambda hidden: whole(hidden).index_fill(-1, eot, -torch.inf))
    batch = collate(padded(prompts, padding, solved.method.at_inference.markers.latent))
    speaking = SamplingParams(max_new_tokens=case.facts["generate"]["max_new_tokens"])
    with torch.inference_mode(), attended(backbone, padding):
        trace, speech = Loop(backbone, batch, solved.method.source(), speaking=speaking).run()
    copies = len(tensors["generate/ids"]) // len(prompts)
    assert copies == (2 if name in ALONE else 1)
    cases.same("latents", trace.latents_BKD.repeat(copies, 1, 1), tensors["generate/latents"])
    for b, ids in enumerate(tensors["generate/ids"]):
        assert tuple(speech.tokens[b % len(prompts)]) == in_our_ids(case, ids[ids >= 0])


@explained_case
def test_decoder_inputs(name: str):
    """Per latent that stands for a step: what the decoder is fed (projected, where it has another width), and how much."""
    solved = solve(name)
    decoder, latents_BKD = solved.method.decoder, solved.report.trace.latents_BKD
    assert explained_latents(solved.case)
    for k in explained_latents(solved.case):
        targets = [step_targets(row)[k] for row in solved.rows]
        _, batch = decoder.read(latents_BKD[:, k : k + 1], targets)
        ours = torch.cat([decoder.project(latents_BKD[:, k : k + 1]), decoder.embed(batch.ids_BT[:, 1:])], dim=1)
        fed = solved.case.tensors[f"explain/{k}/inputs_embeds"]
        # The released decoder also reads a step's last token, whose state predicts nothing; ours does not.
        for b, length in enumerate(batch.lengths_B + 1):
            cases.same("decoder inputs", ours[b, :length], fed[b, :length])
            rest = fed.shape[1] - length
            assert solved.case.tensors[f"explain/{k}/attention_mask"][b].tolist() == [1] * length + [0] * rest


@explained_case
def test_decoder_logits_and_loss_per_latent(name: str):
    solved = solve(name)
    decoder, latents_BKD = solved.method.decoder, solved.report.trace.latents_BKD
    terms = solved.case.facts["explain_terms"]
    for k, term in zip(explained_latents(solved.case), terms, strict=True):
        targets = [step_targets(row)[k] for row in solved.rows]
        trace, _ = decoder.read(latents_BKD[:, k : k + 1], targets)
        index = solved.case.tensors[f"explain/{k}/logits_index"].numpy()
        logits = decoder.logits(trace.hidden_at(index[:, 0], index[:, 1]))
        cases.same("decoder logits", logits, solved.case.tensors[f"explain/{k}/logits"])
        weights = torch.full((len(targets),), 1 / np.sum([len(step) for step in targets]))
        cases.same("losses", decoder.loss(latents_BKD[:, k : k + 1], targets, weights), torch.tensor(term))


@pytest.mark.parametrize("name", [name for name in EXPLAINED if name in ALONE])
def test_own_step_targets(name: str):
    """Where no other row cuts them, ours are the released ones, but for the space before every step after the first."""
    solved = solve(name)
    space, plain = solved.method.backbone.encode(" <<"), solved.method.backbone.encode("<<")
    assert len(space) == len(plain) == 1
    (own,), (row,) = own_rows(solved.case, solved.method), solved.rows
    steps = len(solved.case.examples[0].steps) - 1
    assert [len(target) > 0 for target in step_targets(own)] == [k < steps for k in range(len(step_targets(own)))]
    for k, (ours, official) in enumerate(zip(step_targets(own), step_targets(row), strict=True)):
        assert official[:1] == ((plain if k == 0 else space) if k < steps else ())
        assert ours == (plain + official[1:] if official else ())


@explained_case
def test_latents_in_words(name: str):
    """What the decoder says of every latent, greedily; the fixtures go on after eos, and hold a question alone twice."""
    solved = solve(name)
    case, trace = solved.case, solved.report.trace
    eos, most = case.facts["special_ids"]["eos"], case.facts["generate"]["max_new_tokens"]
    words = solved.method.explain(trace)
    for b, official in enumerate(case.tensors["derived/explain_decode_ids"].tolist()):
        row = b % len(words)
        spoken = solved.method.decoder.speak(trace.latents_BKD[row][:, None], most)
        assert len(spoken) == len(official) == len(words[row])
        for ours, theirs, text in zip(spoken, official, words[row], strict=True):
            assert ours == theirs[: theirs.index(eos) + 1 if eos in theirs else most]
            assert text == solved.method.backbone.decode(ours).strip()
