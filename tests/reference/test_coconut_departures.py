"""Where Coconut and SIM-CoT leave the released code on purpose: one test each, showing the difference."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from support.attachments import step_targets
from support.parity import cases
from support.parity.coconut import latents_of, method_of, stages_of

from unspoken.core.loop.generate import generate
from unspoken.core.loop.loop import Loop
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.rows.batch import collate
from unspoken.core.text.example import Example
from unspoken.methods import make_method

if cases.folder() is None:
    pytest.skip(cases.ABSENT, allow_module_level=True)


def the_case(name: str) -> cases.Case:
    """A case by name, or a skip where another folder lacks it."""
    if name not in cases.cases():
        pytest.skip(f"no case {name} in {cases.folder()}")
    return cases.load(name)


def with_defaults(case: cases.Case) -> Any:
    """SIM-CoT on a case's backbone with our own settings, not the released ones."""
    released = method_of(case, case.backbone())
    method: Any = make_method({"name": "sim_cot", "inner": released.at_inference.config}, case.backbone())
    method.decoder.lm = released.decoder.lm
    return method


def rows_of(case: cases.Case, method: Any) -> list[Any]:
    """The case's rows at its stage."""
    return [
        method.layout(example, stage, Random(0))
        for example, stage in zip(case.examples, stages_of(case, method), strict=True)
    ]


def test_departure_groups_without_a_step_are_not_supervised():
    """Released: they are trained to write the text that is still visible. Ours says nothing about them."""
    case = the_case("simcot_coconut_gpt2_stage3_c2")
    released, ours = method_of(case, case.backbone()), with_defaults(case)
    written = [step_targets(row) for row in rows_of(case, released)]
    kept = [step_targets(row) for row in rows_of(case, ours)]
    differing = 0
    for example, row, b in zip(case.examples, written, kept, strict=True):
        steps = len(example.steps)
        assert b[:steps] == row[:steps]
        assert all(target == () for target in b[steps:])
        assert all(target and target[-1] == case.facts["special_ids"]["eos"] for target in row[steps:])
        differing += len(row[steps:])
    assert differing > 0
    batch = collate(rows_of(case, ours))
    report = ours(batch, ours.counts(batch))
    assert float(report.terms["answer"].detach()) == pytest.approx(case.facts["losses"]["ce"], rel=1e-5)
    assert abs(float(report.terms["explain"].detach()) - case.facts["losses"]["explain"]) > 0.1


def test_departure_the_auxiliary_loss_is_computed():
    """Released: the runner feeds no step targets, so the decoder is idle. The same data train it in ours."""
    case = the_case("simcot_coconut_gpt2_stage3_c2_asreleased")
    assert case.facts["losses"]["explain"] == 0
    assert all(
        norm is None for key, norm in case.facts["grad_norm_per_parameter"].items() if key.startswith("expainable_llm")
    )
    method = method_of(case, case.backbone())
    batch = collate(rows_of(case, method))
    report = method(batch, method.counts(batch))
    report.total.backward()
    assert float(report.terms["explain"].detach()) > 1
    assert all(p.grad is not None and p.grad.any() for p in method.decoder.parameters() if p.requires_grad)


def test_departure_inference_does_not_know_the_number_of_steps():
    """Released, without padding to the maximum: thoughts for as many steps as the gold has. Ours: always the maximum."""
    case = the_case("coconut_llama_stage4_c2_nopadlatent")
    latent = case.facts["special_ids"]["latent"]
    official = [case.tensors[f"generate/prompt_{i}"].tolist().count(latent) for i in range(len(case.examples))]
    most = case.facts["method_config"]["max_latent_stage"]
    assert official == [min(len(example.steps), most) * 2 for example in case.examples] == latents_of(case)
    assert len(set(official)) > 1
    method = method_of(case, case.backbone())
    assert [method.prompt(example.question).latents for example in case.examples] == [most * 2] * len(case.examples)


def test_departure_the_first_token_is_checked_for_eos_and_eos_is_kept():
    """Released: only later tokens end an answer. Here the token that the official run spoke first is made an eos."""
    case = the_case("coconut_llama_stage3_c2")
    prompt = case.tensors["generate/prompt_0"].tolist()
    first = case.tensors["generate/ids_0"].tolist()[len(prompt)]
    assert len(case.tensors["generate/ids_0"]) == len(prompt) + 12
    method = method_of(case, case.backbone())
    method.backbone.lm.generation_config.eos_token_id = first
    row = method.prompt(case.examples[0].question, prompt.count(case.facts["special_ids"]["latent"]))
    (answer,) = generate(method.backbone, [row], method.source(), SamplingParams(max_new_tokens=12))
    assert (answer.tokens, answer.finished, answer.text) == ((first,), True, "")


def test_departure_stage_0_has_an_auxiliary_loss_of_zero():
    """Released: division by the number of thoughts, which is 0."""
    case = the_case("simcot_coconut_gpt2_stage0")
    method = method_of(case, case.backbone())
    batch = collate(rows_of(case, method))
    report = method(batch, method.counts(batch))
    report.total.backward()
    assert float(report.terms["explain"].detach()) == 0
    assert float(report.total.detach()) == pytest.approx(case.facts["losses"]["total"], rel=1e-5)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_departure_any_text_is_a_step():
    """Released: what is not between the single tokens << and >> is lost."""
    case = the_case("simcot_coconut_gpt2_stage3_c2")
    method = method_of(case, case.backbone())
    example = Example(question="How many pens?", steps=("3 and 4 are 7", "!!"), answer="7")
    stage = method.curriculum().phases[3].stage
    targets = step_targets(method.layout(example, stage, Random(0)))
    assert [method.backbone.decode(target) for target in targets[:2]] == ["3 and 4 are 7", "!!"]


def test_departure_all_thoughts_go_through_the_decoder_at_once(monkeypatch: pytest.MonkeyPatch):
    """Released: one call per thought."""
    case = the_case("simcot_coconut_gpt2_stage6_c2_max5_published")
    method = method_of(case, case.backbone())
    calls: list[int] = []
    step = method.decoder.step

    def counted(embeds: torch.Tensor, **more: Any) -> torch.Tensor:
        calls.append(len(embeds))
        return step(embeds, **more)

    monkeypatch.setattr(method.decoder, "step", counted)
    batch = collate(rows_of(case, method))
    method(batch, method.counts(batch))
    assert calls == [len(case.examples) * len(case.facts["losses"]["explain_per_thought"])]


def test_departure_uniform_mixing_draws_stages_of_the_curriculum():
    """Released: uniform over 0..steps of the row, so that a row of one step never leaves the first stages."""
    case = the_case("coconut_gpt2_stage2_c2_uniform")
    method = method_of(case, case.backbone(), mixing="uniform")
    (example,) = [example for example in case.examples if len(example.steps) == 1]
    stage = method.curriculum().phases[2].stage
    drawn = {method.layout(example, stage, Random(i)).latents for i in range(100)}
    assert drawn == {0, 2, 4, 6}


def test_departure_the_optimizer_restarts_with_a_stage():
    """Released: at every epoch. Ours: where a stage begins, stage 0 excepted, as the README of Coconut says."""
    case = the_case("coconut_gpt2_stage3_c1")
    curriculum = method_of(case, case.backbone(), epochs_per_stage=3).curriculum()
    assert [phase.stage.restart for phase in curriculum.phases] == [False, True, True, True, True]
    assert curriculum.at(3.0) is curriculum.at(5.9)


def test_departure_answers_are_batched_and_cached():
    """Released: one question at a time, and the whole prompt forwarded again for every token."""
    case = the_case("coconut_gpt2_stage3_c2")
    method = method_of(case, case.backbone())
    rows = [method.prompt(example.question, 6) for example in case.examples]
    with torch.no_grad():
        trace, speech = Loop(
            method.backbone, collate(rows), method.source(), speaking=SamplingParams(max_new_tokens=12)
        ).run()
    official = [output["forward_passes"] for output in case.facts["generate"]["outputs"]]
    assert trace.cost.passes == 6 + max(len(tokens) for tokens in speech.tokens) < sum(official)
    assert trace.cost.positions == sum(len(r.ids) + len(t) - 1 for r, t in zip(rows, speech.tokens, strict=True))
