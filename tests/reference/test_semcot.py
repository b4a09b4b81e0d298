"""SemCoT gives the numbers of the authors' code (YinhanHe123/SemCoT 27ca2ef) on its own tiny models: rows, what the encoder
reads and says, latents, losses, gradients, one step, greedy text. Its attention is a named option here and nowhere else."""

from __future__ import annotations

import pytest
import torch
from support.attachments import assistant_row
from support.parity import cases
from support.parity.semcot import alpha_of, examples_of, solve

from unspoken.core.loop.generate import generate
from unspoken.core.loop.sampling import SamplingParams

if cases.folder() is None:
    pytest.skip(cases.ABSENT, allow_module_level=True)

CASES = cases.names("semcot")

every_case = pytest.mark.parametrize("name", CASES)


def test_there_are_fixtures():
    """An empty folder would pass every parametrised test; the two phases of the generator are both there."""
    if not cases.recorded():
        pytest.skip("another folder may hold cases of one kind only")
    assert {cases.load(name).facts["method_config"]["phase"] for name in CASES} == {"linear", "full"}


@every_case
def test_rows(name: str):
    """Token ids of both models, labels, and where the generator is read."""
    solved = solve(name)
    for i, row in enumerate(solved.rows):
        parts = {k: tuple(solved.case.tensors[f"batch/{i}/{k}_ids"].tolist()) for k in ("query", "answer_prompt", "answer")}
        assert row.ids[: row.start] == parts["query"]
        assert row.ids[row.start + row.latents : -1] == parts["answer_prompt"] + parts["answer"]
        assert [label for label in row.labels if label >= 0] == list(parts["answer"])
        thought = solved.case.facts["special_ids"]["thought"]
        assert assistant_row(row).ids == parts["query"] + (thought,) * (row.latents - 1)
        assert (assistant_row(row).start, assistant_row(row).latents) == (len(parts["query"]) - 1, row.latents)


@every_case
def test_what_the_encoder_reads(name: str):
    """The base model's states in front of the encoder's first layer, of both forms of the reasoning."""
    solved = solve(name)
    encoder, base = solved.method.encoder, solved.method.backbone
    for i, row in enumerate(solved.pairs):
        for ids, kind in zip(row.value("encoder_texts"), ("hidden", "condensed_hidden"), strict=True):
            embeds = base.embed(torch.tensor([ids]))
            states = base.below(encoder.first, embeds, positions_BT=torch.arange(len(ids))[None])
            cases.same("encoder input", states, solved.case.tensors[f"reasoning/{i}/{kind}"])


@every_case
def test_encoder(name: str):
    """Embeddings of R and S, one text at a time as released; and, since ours is masked, all in one batch."""
    solved = solve(name)
    for which, kind in enumerate(("original", "condensed")):
        texts = [row.value("encoder_texts")[which] for row in solved.pairs]
        want = solved.case.tensors[f"st/{kind}_embeddings"]
        with torch.no_grad():
            cases.same("embeddings", torch.cat([solved.method.encoder.embed([ids]) for ids in texts]), want)
            cases.same("embeddings", solved.method.encoder.embed(texts), want)


@every_case
def test_contrast(name: str):
    solved = solve(name)
    cases.same("losses", solved.contrast, solved.case.tensors["loss/contrastive"])
    norms = solved.case.facts["st_grad_norm_per_parameter"]
    assert set(solved.encoder_gradients) == set(norms)
    for key, norm in norms.items():
        assert float(solved.encoder_gradients[key].norm()) == pytest.approx(norm, rel=1e-4)
        if f"st_grad/{key}" in solved.case.tensors:
            cases.same_gradient(key, solved.encoder_gradients[key], solved.case.tensors[f"st_grad/{key}"])


@every_case
def test_latents(name: str):
    solved = solve(name)
    cases.same("latents", torch.cat([r.trace.latents_BKD for r in solved.reports]), solved.case.tensors["latents"])


@every_case
def test_losses(name: str):
    """Both terms of every sample; the released loss of a batch is their weighted sum."""
    solved = solve(name)
    a = alpha_of(solved.case)
    answers = torch.stack([report.terms["answer"] for report in solved.reports]).detach() / (1 - a)
    aligned = torch.stack([report.terms["align"] for report in solved.reports]).detach() / a
    cases.same("losses", answers, solved.case.tensors["loss/answer"])
    cases.same("losses", aligned, solved.case.tensors["loss/reason"])
    total = torch.stack([report.total for report in solved.reports]).sum()
    cases.same("losses", total, solved.case.tensors["loss/total"])


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
        if f"grad_rows/{key}" in solved.case.tensors:
            rows = next(iter(solved.case.facts["grad_rows_ids"].values()))
            cases.same_gradient(key, gradient[rows], solved.case.tensors[f"grad_rows/{key}"])


@every_case
def test_one_step(name: str):
    """Parameters after one AdamW step, where the gradient is not so small that its sign decides."""
    solved = solve(name)
    compared = [key for key in solved.after if f"after_step/{key}" in solved.case.tensors]
    assert "projection_layer.weight" in compared
    for key in compared:
        gradient = solved.gradients[key]
        want, got = solved.case.tensors[f"after_step/{key}"], solved.after[key]
        if gradient is None:
            assert torch.equal(got, want)
            continue
        sure = gradient.abs() > 1e-6
        assert sure.any()
        torch.testing.assert_close(got[sure], want[sure], rtol=1e-5, atol=2e-6)


@every_case
def test_greedy_text(name: str):
    """All questions in one batch say what the official code says one by one."""
    solved = solve(name)
    rows = []
    for row, example in zip(solved.rows, examples_of(solved.case), strict=True):
        answer = len(solved.method.backbone.encode(example.answer)) + 1  # and eos
        rows.append(type(row)(**{**vars(row), "ids": row.ids[:-answer], "labels": row.labels[:-answer]}))
    speaking = SamplingParams(max_new_tokens=solved.case.facts["generate"]["max_new_tokens"])
    for i, said in enumerate(generate(solved.method.backbone, rows, solved.method.source(), speaking)):
        official = solved.case.tensors[f"generate/ids_{i}"].tolist()
        assert list(said.tokens) == official[: len(said.tokens)]
        assert said.finished or len(said.tokens) == len(official)
