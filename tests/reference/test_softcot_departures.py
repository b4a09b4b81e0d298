"""Where SoftCoT and SoftCoT++ depart from the released code on purpose (the cards' list): that they do, and what it is for.

The generation header, dates and places of slots: tests/core/text/test_chat.py. What runs once:
tests/core/lm/test_prefix_cache.py. As many slots in evaluation as in training, all samples in one batch:
tests/methods/test_train_softcot.py.
"""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
import torch
from contract.cases import EXAMPLES, settings
from support.backbones import backbone
from support.parity import cases, softcot

from unspoken.core.rows.batch import collate
from unspoken.core.rows.row import IGNORE
from unspoken.methods import make_method

needs_fixtures = pytest.mark.skipif(cases.folder() is None, reason="the recorded cases are not on this machine")


def method_of(name: str = "softcot", **more: Any) -> Any:
    torch.manual_seed(0)
    return make_method({**settings(name), **more}, backbone())


def batch_of(method: Any, *numbers: int) -> Any:
    return collate([method.layout(EXAMPLES[i], method.curriculum().last, Random(0)) for i in numbers])


def test_every_weight_of_the_projection_moves():
    """fp32 beside bf16 models; in bf16, as released, a step of 2e-5 is lost on every weight above 2^-7."""
    data = settings("softcot")
    data["assistant"] = {**data["assistant"], "dtype": "bfloat16"}
    torch.manual_seed(0)
    base = backbone()
    base.lm.to(torch.bfloat16)
    method: Any = make_method(data, base).train()
    batch = batch_of(method, 0, 1)

    def moved(projection: Any) -> float:
        before = projection.weight.detach().clone()
        torch.optim.AdamW(projection.parameters(), lr=2e-5, weight_decay=0.0).step()
        return float((projection.weight != before).float().mean())

    method(batch, method.counts(batch)).total.backward()
    assert method.projection.weight.dtype == torch.float32
    gradient = method.projection.weight.grad.clone()
    assert moved(method.projection) == 1.0
    assert gradient.bool().all()
    released = torch.nn.Linear(method.projection.in_features, method.projection.out_features, dtype=torch.bfloat16)
    for p in released.parameters():
        p.grad = torch.ones_like(p)
    lost = float((released.weight.detach().abs() >= 2**-7).float().mean())
    assert moved(released) <= 1 - lost + 1e-6


def test_the_end_of_the_answer_is_trained():
    method = method_of()
    row = method.layout(EXAMPLES[0], method.curriculum().last, Random(0))
    assert row.ids[-1] == row.labels[-1] == method.backbone.tokenizer.eos_token_id


@needs_fixtures
@pytest.mark.parametrize("name", ["softcot_llama_n2", "softcot_qwen_n3"])
def test_what_the_released_rows_train(name: str):
    """Llama: not the end of the turn. Qwen: also the line end that closes the user's turn."""
    if name not in cases.cases():
        pytest.skip(f"the case {name} is not in this folder")
    case = cases.load(name)
    method = softcot.method_of(case)
    ours = method.layout(softcot.examples_of(case)[0], method.curriculum().last, Random(0))
    length = int(case.tensors["batch/attention_mask"][0].sum())
    theirs = case.tensors["batch/labels"][0, :length].tolist()
    assert ours.labels[-1] == method.backbone.tokenizer.eos_token_id
    if name == "softcot_llama_n2":
        assert theirs == list(ours.labels[:-1])
    else:
        apart = [t for t, (a, b) in enumerate(zip(ours.labels, theirs, strict=True)) if a != b]
        assert [(ours.labels[t], method.backbone.decode([theirs[t]])) for t in apart] == [(IGNORE, "\n")]
        assert apart[0] < len(method.prompt(case.facts["instances"][0]["question"]).ids)


def test_the_answer_line_is_no_step():
    """Released: every line is a numbered step, the one with #### too."""
    method = method_of(texts="math")
    row = method.layout(EXAMPLES[0], method.curriculum().last, Random(0))
    written = method.backbone.tokenizer.decode([i for i in row.labels if i != IGNORE], skip_special_tokens=True)
    assert written == "## Step 1: <<3+4=7>>\n## Step 2: <<7*2=14>>\n#### 14"


@pytest.mark.parametrize("trains", [True, False])
def test_initial_vectors_train(trains: bool):
    """Through a frozen assistant; the released ones stay what they were."""
    method = method_of("softcot_pp", initial_trains=trains).train()
    batch = batch_of(method, 0, 1)
    method(batch, method.counts(batch)).total.backward()
    assert method.initial.weight.requires_grad == trains
    if trains:
        assert method.initial.weight.grad.any(dim=1).all()
        assert all(p.grad is None for p in method.assistant.parameters())


@pytest.mark.parametrize("rows", [(0,), (0, 1), (0, 1, 2, 3, 4)])
def test_the_contrast_takes_any_number_of_rows(rows: tuple[int, ...]):
    """Its mean over questions is that of the questions alone; released: an error from the second row on."""
    method = method_of("softcot_pp", contrast_weight=1.0).eval()
    with torch.no_grad():
        batch = batch_of(method, *rows)
        together = float(method(batch, method.counts(batch)).terms["contrast"])
        alone = [float(method(one, method.counts(one)).terms["contrast"]) for one in (batch_of(method, i) for i in rows)]
    assert together == pytest.approx(sum(alone) / len(alone), rel=1e-5)


def test_losses_do_not_grow_with_the_number_of_sets():
    """Equal sets: the mean cross-entropy is that of one, and the contrast that of a guess."""
    method = method_of("softcot_pp", contrast_weight=1.0).eval()
    with torch.no_grad():
        method.initial.weight.copy_(method.initial.weight[:1].expand_as(method.initial.weight))
        batch = batch_of(method, 0, 1, 2)
        terms = method(batch, method.counts(batch)).terms
        one = method.soft.read(batch, _first(method), 1)
        from unspoken.core.losses import labelled_loss

        alone = labelled_loss(one, batch, method.backbone.logits)
    value = alone[0] if isinstance(alone, tuple) else alone
    assert float(terms["answer"]) == pytest.approx(float(value) / float(method.counts(batch)["answer"]), rel=1e-5)
    assert float(terms["contrast"]) == pytest.approx(math.log(3), rel=1e-5)


def _first(method: Any) -> Any:
    """The first set alone."""
    from unspoken.core.auxiliary.assistant import Assisted

    return Assisted(method.assistant, method.soft.project, method.initial.weight[:1])


def test_the_released_proportion_of_the_losses():
    """Sum over C sets + NCE / C there; mean over sets + NCE / C^2 here: the same up to a factor C."""
    method = method_of("softcot_pp").eval()
    weighed = method_of("softcot_pp", contrast_weight=1.0).eval()
    batch = batch_of(method, 0)
    with torch.no_grad():
        default = method(batch, method.counts(batch)).terms["contrast"]
        unit = weighed(batch, weighed.counts(batch)).terms["contrast"]
    assert float(default) == pytest.approx(float(unit) / 9, rel=1e-5)


def test_initial_vectors_start_apart():
    """Around the slot's token, as far from it as tokens lie; released: rows of reserved tokens by number."""
    method = method_of("softcot_pp", chains=8)
    table = method.assistant.backbone.lm.get_input_embeddings().weight.detach()
    offset = method.initial.weight.detach() - table[method.soft.hold]
    assert float(offset.std()) == pytest.approx(float(table.std()), rel=0.25)
    assert torch.pdist(method.initial.weight.detach()).min() > 0
