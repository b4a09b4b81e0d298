"""Where LOTUS, and LOTUS + CODI, leave the released code on purpose: one test each, showing the difference."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from support.parity import cases
from support.parity.lotus import left_padding, method_of, offered, official_targets, own_rows, solve

from unspoken.core.loop.generate import generate
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.rows.batch import collate
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError
from unspoken.methods import make_method
from unspoken.methods.distill import TEACHER_ROW
from unspoken.methods.lotus import BLOCK_TARGETS

if cases.folder() is None:
    pytest.skip(cases.ABSENT, allow_module_level=True)


def the_case(name: str) -> cases.Case:
    """A recorded case; skips where the folder has other cases."""
    if name not in cases.names("lotus"):
        pytest.skip(f"{name} is not in this folder")
    return cases.load(name)


def off(got: Any, want: Any) -> float:
    """Relative difference by norm."""
    got, want = torch.as_tensor(got).detach(), torch.as_tensor(want).detach()
    return float((got - want).norm() / want.norm())


def run(method: Any, rows: list[Any]) -> Any:
    """The report of some rows."""
    batch = collate(rows)
    return method(batch, method.counts(batch))


@pytest.mark.parametrize("name", ["lotus_gpt2_stage2_c4_overlap", "lotus_llama_stage2_c6_replace_nopadlatent"])
def test_departure_a_step_longer_than_its_block_is_cut(name: str):
    """Released: it runs on into the next block, whose slots then have two targets; its tail is counted and not trained."""
    case = the_case(name)
    method = method_of(case)
    rows, c = own_rows(case, method), case.facts["method_config"]["c_thought"]
    whole = [steps for steps in official_targets(case) if any(len(step) > c for step in steps)]
    assert whole
    assert max(len(step) for row in rows for step in row.value(BLOCK_TARGETS)) == c
    counts = case.facts["loss_counts"]
    assert counts["step_tokens_counted"] > counts["step_tokens_used"]
    batch = collate(rows)
    ours = float(method.counts(batch)["steps"])
    assert ours == sum(min(len(step), c) for steps in official_targets(case) for step in steps)
    weight = case.facts["method_config"]["intermediate_loss_weight"]
    assert off(run(method, rows).terms["steps"], weight * case.facts["losses"]["steps"]) > 0.02


@pytest.mark.parametrize("name", ["lotus_gpt2_stage3_c9_codi", "lotus_llama_stage4_c11_codi"])
def test_departure_the_teacher_reads_no_padding(name: str):
    """Released: padding before the question is ordinary tokens to it, and what it teaches depends on the batch."""
    case = the_case(name)
    method = method_of(case)
    rows = own_rows(case, method)
    for b, (row, left) in enumerate(zip(rows, left_padding(case), strict=True)):
        ids = case.tensors["batch_teacher/input_ids"][b].tolist()
        ours = row.value(TEACHER_ROW)
        assert list(ours.ids) == ids[left : int(case.tensors["distill/teacher_position"][b]) + 1]
    assert off(run(method, rows).terms["distill"], case.facts["losses"]["codi"]) > 1e-3
    together = collate(rows)
    with torch.no_grad():
        alone = sum(float(method(collate([row]), method.counts(together)).terms["distill"]) for row in rows)
        assert alone == pytest.approx(float(run(method, rows).terms["distill"]), rel=1e-5)


def test_departure_the_marker_before_the_slots_is_forwarded_once():
    """Released: in every loop. A pass for what comes before, one over the slots, one per loop, the last with the text;
    released: the text in a pass of its own."""
    solved = solve("lotus_gpt2_stage3_c13") if the_case("lotus_gpt2_stage3_c13") else None
    assert solved is not None
    cost, loops = solved.report.trace.cost, solved.case.facts["method_config"]["n_looped_iters"]
    assert cost.passes == 1 + 1 + loops == solved.case.facts["forward_passes_training"] - 1
    slots = [row.latents for row in solved.rows]
    assert cost.positions == sum(len(row.ids) for row in solved.rows) + loops * sum(slots)


def test_departure_all_blocks_are_supervised_behind_the_last_loop():
    """By default, also for Llama 1B, whose released recipe supervises block k after loop k; `supervise="each"` is that."""
    name = "lotus_llama_stage3_c10_inloop"
    case = the_case(name)
    assert method_of(case).config.supervise == "each"
    default = method_of(case, supervise="last")
    assert type(default.config)().supervise == "last"
    weight = case.facts["method_config"]["intermediate_loss_weight"]
    assert off(run(default, own_rows(case, default)).terms["steps"], weight * case.facts["losses"]["steps"]) > 5e-5


def test_departure_a_prompt_has_as_many_blocks_as_training_ended_with():
    """Released with `pad_latent_to_max=False`: as many as the answer's chain has steps, which nobody who asks knows."""
    case = the_case("lotus_llama_stage2_c6_replace_nopadlatent")
    method = method_of(case)
    prompts = [case.tensors[f"generate/prompt_{b}"].tolist() for b in range(len(case.examples))]
    theirs = [prompt.count(case.facts["special_ids"]["latent"]) for prompt in prompts]
    steps = [min(len(example.steps), 2) for example in case.examples]
    assert theirs == [6 * n for n in steps]
    assert len(set(theirs)) > 1
    assert {method.prompt(example.question).latents for example in case.examples} == {6 * 6}


def test_departure_the_first_token_may_be_eos():
    """Released: not checked, and the answer goes on behind it."""
    case = the_case("lotus_llama_stage3_c10")
    method = method_of(case)
    rows = [method.prompt(example.question, 30) for example in case.examples]
    first = generate(method.backbone, rows[:1], method.source(), SamplingParams(max_new_tokens=3))[0].tokens[0]
    method.backbone.lm.generation_config.eos_token_id = first
    method.backbone.tokenizer.eos_token = method.backbone.tokenizer.convert_ids_to_tokens(first)
    assert first in method.backbone.eos_ids
    (answer,) = generate(method.backbone, rows[:1], method.source(), SamplingParams(max_new_tokens=3))
    assert (answer.tokens, answer.finished, answer.text) == ((first,), True, "")


@pytest.mark.parametrize("setting", ["uniform_prob", "cumulative_stages", "freeze_supervised_blocks"])
def test_departure_settings_that_no_recipe_uses_are_not_offered(setting: str):
    """Two of them are recorded; the first leaves labels without loss, the second forwards every row once more."""
    case = the_case("lotus_gpt2_stage4_c6_uniform")
    assert not offered(case)
    assert case.facts["labels_without_loss"] > 0
    with pytest.raises(ConfigError, match=setting):
        make_method({"name": "lotus", setting: 0.5}, case.backbone())


def test_the_auxiliary_decoder_of_the_paper_is_sim_cots_with_other_vectors():
    """LOTUS-aux: its decoder reads the states at a block's slots after that block's loop. Ours, `sim_cot` around `lotus`,
    reads what is fed to them last: the same decoder, tokens and weighting, with another loss."""
    case = the_case("lotus_gpt2_stage2_c9_aux_basecopy")
    inner = method_of(case)
    method: Any = make_method(
        {"name": "sim_cot", "inner": {"name": "lotus", "latents_per_step": 9}, "normalisation": "token",
         "decoder": {"first_position": 0}}, case.backbone()
    )  # fmt: skip
    method.backbone.lm.load_state_dict(inner.backbone.lm.state_dict())
    method.decoder.lm.resize_token_embeddings(method.backbone.vocabulary, mean_resizing=False)
    method.decoder.lm.load_state_dict(case.state("ia_decoder.model."), strict=False)
    pad, tensors = case.facts["special_ids"]["pad"], case.tensors
    loss, tokens = torch.zeros(()), case.facts["loss_counts"]["aux_tokens"]
    with torch.no_grad():
        for k in range(2):
            labels = [[t for t in row if t != pad] for row in tensors[f"aux/{k}/labels"].tolist()]
            told = [b for b, step in enumerate(labels) if step]
            block_MCD = tensors[f"loop/{k + 1}/hidden"][told, k * 9 : k * 9 + 9]
            weights = torch.full((len(told),), 1 / tokens)
            loss += method.decoder.loss(block_MCD, [tuple(labels[b]) for b in told], weights)
        cases.same("losses", loss, torch.tensor(case.facts["losses"]["aux"]))
        stage = {phase.stage.index: phase.stage for phase in method.curriculum().phases}[2]
        rows = [method.layout(example, stage, Random(0)) for example in case.examples]
        assert off(run(method, rows).terms["explain"], case.facts["losses"]["aux"]) > 1e-3


def test_a_row_without_steps_or_slots_trains():
    """Stage 0, and problems without a chain: no block has a target, and nothing is divided by their number."""
    case = the_case("lotus_gpt2_stage3_c9_codi")
    method = method_of(case)
    stages = [phase.stage for phase in method.curriculum().phases]
    bare = Example(question="How many?", steps=(), answer="1", id="bare")
    for stage in (stages[0], stages[-1]):
        report = run(method, [method.layout(bare, stage, Random(0))])
        assert float(report.terms["steps"]) == 0.0
        assert torch.isfinite(report.total)
        report.total.backward()
    assert np.isfinite(float(report.terms["distill"]))
