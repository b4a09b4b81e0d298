"""What runs the cases takes every legal value of the format, also those that no recorded case has: variants of recorded ones
whose numbers follow from the recorded numbers."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from support.parity import cases, coconut, semcot, softcot


def variant(name: str) -> cases.Case:
    """A recorded case, to be changed."""
    if cases.folder() is None:
        pytest.skip(cases.ABSENT)
    if name not in cases.cases():
        pytest.skip(f"the case {name} is not in this folder")
    case = cases.load(name)
    return cases.Case(copy.deepcopy(case.facts), dict(case.tensors))


@pytest.mark.parametrize("name", ["simcot_coconut_gpt2_stage3_c2", "simcot_coconut_llama_stage1_c2"])
def test_a_frozen_decoder(monkeypatch: pytest.MonkeyPatch, name: str):
    """Only the base trains: its gradients are those of the full run, since the decoder's loss reaches it all the same."""
    case = variant(name)
    case.facts["method_config"]["training_method"] = "only_base_causallm"
    monkeypatch.setattr(cases, "load", lambda _: case)
    solved = coconut.solve.__wrapped__(name)
    assert float(solved.report.total.detach()) == pytest.approx(case.facts["losses"]["total"], rel=1e-5)
    for key, norm in case.facts["grad_norm_per_parameter"].items():
        got = solved.gradients[key]
        if key.startswith("expainable_llm."):
            assert got is None
        elif norm is not None:
            assert got is not None
            assert float(got.norm()) == pytest.approx(norm, rel=1e-4)


def test_only_the_decoder_trains(monkeypatch: pytest.MonkeyPatch):
    """The answers' loss is left out, the base gets no gradient, and the decoder's is that of the full run."""
    case = variant("simcot_coconut_gpt2_stage3_c2")
    case.facts["method_config"]["training_method"] = "only_expainable_llm"
    monkeypatch.setattr(cases, "load", lambda _: case)
    solved = coconut.solve.__wrapped__("x")
    total = coconut.official_total(case, solved.report)
    assert float(total.detach()) == pytest.approx(case.facts["losses"]["explain"], rel=1e-5)
    for key, norm in case.facts["grad_norm_per_parameter"].items():
        got = solved.gradients[key]
        assert (got is None) == (key.startswith("base_causallm.") or norm is None)
        if got is not None:
            assert float(got.norm()) == pytest.approx(norm, rel=1e-4)


def test_several_rows_in_a_call(monkeypatch: pytest.MonkeyPatch):
    """SoftCoT++ with batch_step 2 on three rows: two calls per set, means over tokens, divided by the rows."""
    case = variant("softcotpp_llama_scaling_n2_k3")
    case.facts["method_config"]["batch_step"] = 2
    monkeypatch.setattr(cases, "load", lambda _: case)
    assert softcot.slices_of(case) == [slice(0, 2), slice(2, 3)]
    recorded_CB = case.tensors["loss/lm_per_call"].reshape(3, 3)
    tokens_B = (case.tensors["batch/labels"] != -100).sum(dim=1)
    two_C = (recorded_CB[:, :2] * tokens_B[:2]).sum(dim=1) / tokens_B[:2].sum()
    want = torch.stack([two_C, recorded_CB[:, 2]], dim=1)
    solved = softcot.solve.__wrapped__("x")
    cases.same("losses", solved.per_chain, want)
    cases.same("losses", solved.terms["lm_sum"], want.sum() / 3)


def test_a_single_thought(monkeypatch: pytest.MonkeyPatch):
    """SoftCoT++ with one slot: the templates that are read off its prompts are those of the case with two."""
    two = variant("softcotpp_llama_nce_n2_k4")
    one = variant("softcotpp_llama_nce_n2_k4")
    one.facts["method_config"]["num_thought_tokens"] = 1
    tokenizer, hold = one.tokenizer(), one.facts["method_config"]["special_tokens"][0]
    for key in [key for key in one.tensors if key.startswith("generate/") and "input_ids" in key]:
        text = tokenizer.decode(one.tensors[key]).replace(hold * 2, hold).replace(" 2 tokens", " 1 tokens")
        one.tensors[key] = torch.tensor(tokenizer.encode(text, add_special_tokens=False))
    one.tensors["nce/keep_mask"] = one.tensors["nce/keep_mask"][:, :1]
    assert softcot.texts_of(one) == softcot.texts_of(two)
    monkeypatch.setattr(cases, "load", lambda _: one)
    solved = softcot.solve.__wrapped__("x")
    assert [row.latents for row in solved.rows] == [1]
    assert solved.method.prompt(one.facts["instances"][0]["question"]).ids == tuple(
        one.tensors["generate/input_ids_0"].tolist()
    )
    assert solved.reports[0].trace.latents_BKD.shape[:2] == (4, 1)
    assert float(solved.terms["nce"].detach()) > 0


@pytest.mark.parametrize("prefix", ["", "state_teacher/"])
def test_a_teacher_with_a_tied_head(monkeypatch: pytest.MonkeyPatch, prefix: str):
    """SemCoT: the head is stored once, as the embedding, with or without an alias that says so."""
    case = variant("semcot_llama_joint_n5")
    case.facts["teacher_config"]["tie_word_embeddings"] = True
    case.tensors.pop("state_teacher/lm_head.weight", None)
    alias = {"key": f"{prefix}lm_head.weight", "same_storage_as": f"{prefix}model.embed_tokens.weight"}
    case.facts["state_aliases"] = [alias] if prefix else []
    monkeypatch.setattr(cases, "load", lambda _: case)
    method = semcot.method_of(case)
    lm = method.backbone.lm
    embedding = case.tensors["state_teacher/model.embed_tokens.weight"]
    assert torch.equal(lm.get_output_embeddings().weight[: len(embedding)], embedding)
    solved = semcot.solve.__wrapped__("x")
    latents = torch.cat([report.trace.latents_BKD for report in solved.reports])
    cases.same("latents", latents, case.tensors["latents"])  # what the generator makes does not see the head


def test_cases_go_by_their_method_not_by_their_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A folder may call them what it likes, and may hold cases of methods that are not here."""
    for name, method in (("a", "coconut"), ("softcot_x", "simcot_coconut"), ("else_y", "elsewhere")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "case.json").write_text(json.dumps({"method": method}))
    (tmp_path / "tokenizers").mkdir()
    monkeypatch.setenv("UNSPOKEN_PARITY", str(tmp_path))
    monkeypatch.setattr(cases, "cases", cases.cases.__wrapped__)
    assert cases.names("coconut", "simcot_coconut") == ["a", "softcot_x"]
    assert cases.names("softcot") == []
    assert not cases.recorded()
    assert "elsewhere" not in cases.METHODS
