"""Where iCoT-SI and pause tokens leave released code and papers on purpose: one test each, showing the difference."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from support import backbones
from support.attachments import without_tokens
from tokenizers import processors

from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.generate import generate
from unspoken.core.loop.loop import unroll
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.rows.batch import collate
from unspoken.core.rows.curriculum import Stage
from unspoken.core.text.example import Example
from unspoken.methods import make_method
from unspoken.methods.coconut import CoconutConfig
from unspoken.methods.icot_si import removed_tokens
from unspoken.methods.pause import PauseConfig
from unspoken.recipes import recipe
from unspoken.runs.config import TrainConfig
from unspoken.training.feeding.checks import too_long, written_tokens
from unspoken.training.feeding.schedule import Schedule
from unspoken.training.loop import Training
from unspoken.training.progress import Quiet

EXAMPLE = Example(question="Ann has 3 pens.", steps=("<<1+2=3>>", "<<3+3=6>>"), answer="1,234.5", id="train-1")
SHORT = Example(question="Ann has 3 pens.", steps=("<<1+2=3>>",), answer="6", id="train-2")


def icot(backbone: Backbone | None = None, **config: Any) -> Any:
    """The method on a random model."""
    return make_method({"name": "icot_si", **config}, backbone or backbones.backbone())


def schedule(method: Any, examples: list[Example], rows: int, **train: Any) -> Schedule:
    """A run's schedule on so many rows."""
    curriculum = method.curriculum()
    return Schedule(
        TrainConfig(epochs=99, **train), curriculum, rows, lambda: written_tokens(method, examples, curriculum.extremes())
    )


def test_departure_the_schedule_counts_optimizer_steps():
    """40 rows in steps of 8 are 5 steps; 2 tokens an epoch are 2.5 of them, so 2. The released counter of micro-batches of 4
    would come to 10 / 2 = 5, which is in the middle of a step."""
    boundaries = {
        size: schedule(
            icot(remove_per_epoch=2.0), [EXAMPLE], 40, batch_size=8, micro_batch_size=size
        ).curriculum.boundaries()
        for size in (None, 4, 1)
    }
    assert boundaries[None][:3] == pytest.approx([2 / 5, 4 / 5, 6 / 5])
    assert boundaries[None] == boundaries[4] == boundaries[1]
    released = round(40 / 4 / 2.0) * 4 / 40
    assert released == 0.5
    assert boundaries[None][0] != pytest.approx(released)


@pytest.mark.parametrize("side", ["left", "right"])
def test_departure_the_optimizer_restarts_until_the_longest_chain_is_gone(side: str):
    """Once a token, also while shorter chains are gone already; from then on never."""
    method = icot(remove_per_epoch=1.0, side=side)
    long = len(method.backbone.encode(" " + " ".join(EXAMPLE.steps) + " "))
    short = len(method.backbone.encode(" " + " ".join(SHORT.steps) + " "))
    assert short < long
    made = schedule(method, [SHORT, EXAMPLE], 2, batch_size=1)
    restarts = [n for n in range(made.total) if made.stage_starts(n) and made.stage(n).restart]
    assert restarts == [2 * k for k in range(1, long + 1)]
    assert removed_tokens(made.stage(restarts[short])).count is not None
    assert removed_tokens(made.stage(restarts[-1])).count is None


def test_departure_a_long_example_is_left_out_alone():
    """And not the whole batch that holds it; at every stage, since its row was too long at the first."""
    method = icot()
    stages = method.curriculum().extremes()
    most = method.layout(SHORT, Stage(), Random(0)).longest
    assert method.layout(EXAMPLE, without_tokens(None), Random(0)).longest <= most
    assert method.layout(EXAMPLE, Stage(), Random(0)).longest > most
    assert too_long(method, [SHORT, EXAMPLE, SHORT], stages, most) == [1]


def test_departure_only_matrices_decay(tmp_path):
    """Neither embeddings nor norms; the released AdamW shrinks all."""
    small = ["task.train_size=8", "task.validation_size=4", "train.weight_decay=0.5", "train.steps=2"]
    with pytest.warns(UserWarning, match="training ends in stage"):
        training = Training(recipe("tiny/icot_si", small), tmp_path / "run", Quiet())
    decay = {id(p): group["weight_decay"] for group in training.optimizer.param_groups for p in group["params"]}
    got = {name: decay[id(p)] for name, p in training.trained.items()}
    assert set(got.values()) == {0.0, 0.5}
    assert {name for name, value in got.items() if value} == {
        name for name, p in training.trained.items() if p.ndim > 1 and "embed" not in name
    }


def test_departure_answers_end_at_their_own_second_eos():
    """Greedy, and in a batch as alone; the released generation goes on until the last row has two."""
    backbone = backbones.backbone("llama")
    backbone.lm.generation_config.eos_token_id = list(range(3, backbone.vocabulary, 7))
    method = icot(backbone)
    questions = ["How many?", "Ann has 3 pens.", "12 + 7", "Bob has 9 figs. He eats 2."]
    rows = [method.prompt(question) for question in questions]
    speaking = SamplingParams(max_new_tokens=24)
    together = generate(backbone, rows, None, speaking, batch_size=4)
    assert [a.tokens for a in together] == [a.tokens for a in generate(backbone, rows, None, speaking, batch_size=1)]
    assert [a.tokens for a in together] == [a.tokens for a in generate(backbone, rows, None, speaking, batch_size=4)]
    ended = [a for a in together if a.finished]
    assert len({len(a.tokens) for a in ended}) > 1
    for answer in ended:
        assert sum(token in backbone.eos_ids for token in answer.tokens) == 2
        assert answer.tokens[-1] in backbone.eos_ids


def test_departure_answers_are_written_as_the_data_have_them():
    """The released reader drops their commas."""
    method = icot()
    row = method.layout(EXAMPLE, without_tokens(None), Random(0))
    assert method.backbone.decode(row.ids).endswith(" #### 1,234.5 ")


def test_departure_an_eos_inside_a_question():
    """The released code takes the first eos of the whole text for the end of the question."""
    method = icot()
    eos = method.backbone.tokenizer.eos_token
    odd = Example(question=f"Say {eos} to 3 pens.", steps=EXAMPLE.steps, answer="6")
    prompt = method.prompt(odd.question)
    row = method.layout(odd, without_tokens(2), Random(0))
    assert row.ids[: len(prompt.ids)] == prompt.ids
    assert prompt.ids.count(method.backbone.tokenizer.eos_token_id) == 2
    assert row.labels[: len(prompt.ids)] == (-100,) * len(prompt.ids)
    plain = method.layout(EXAMPLE, without_tokens(2), Random(0))
    kept = len(method.backbone.encode(" <<1+2=3>> <<3+3=6>> ")) - 2
    assert row.ids[len(prompt.ids) :][:kept] == plain.ids[len(method.prompt(EXAMPLE.question).ids) :][:kept]


def test_departure_a_tokenizer_that_ends_every_text_with_an_eos():
    """One behind the question and none inside the parts, as with any other tokenizer."""
    want = icot().layout(EXAMPLE, without_tokens(3), Random(0)).ids
    backbone = backbones.backbone()
    words = backbone.tokenizer
    pairs = [(words.eos_token, words.eos_token_id)]
    words._tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {words.eos_token}", special_tokens=pairs)
    backbone.forget_encoded()
    assert backbone.encode("pens", special=True)[-1] == words.eos_token_id
    method = icot(backbone)
    assert method.layout(EXAMPLE, without_tokens(3), Random(0)).ids == want
    assert method.prompt(EXAMPLE.question).ids == icot().prompt(EXAMPLE.question).ids


@pytest.mark.parametrize("family", backbones.ARCHS)
def test_departure_positions_are_kept_in_every_family(family: str):
    """With as much of a chain gone as it has, the loss is another one than without; at inference nothing is shifted."""
    losses = []
    for keep in (False, True):
        method = icot(backbones.backbone(family), keep_position=keep)
        assert method.prompt(EXAMPLE.question).position_gap == (0, 0)
        batch = collate([method.layout(EXAMPLE, without_tokens(5), Random(0))])
        with torch.no_grad():
            losses.append(float(method(batch, method.counts(batch)).total))
    assert losses[0] != losses[1]


def test_departure_a_pause_starts_as_the_token_it_is_told():
    """Coconut's "<<" by default; another word here, of several tokens: their mean."""
    backbone = backbones.backbone()
    before = backbone.embed(torch.tensor(backbone.encode("pens"))).mean(0).detach()
    method: Any = make_method({"name": "pause", "marker_init": "pens"}, backbone)
    assert method.pause == len(backbones.tokenizer())
    torch.testing.assert_close(backbone.embed(torch.tensor(method.pause)), before)
    assert PauseConfig().marker_init == CoconutConfig().marker_init == "<<"


def test_departure_the_pause_may_train_alone():
    """Everything but its row stays as it was, and it learns."""
    backbone = backbones.backbone("llama")
    method: Any = make_method({"name": "pause", "marker_init": "pens", "trains": "pauses"}, backbone)
    before = {name: value.detach().clone() for name, value in backbone.plain().state_dict().items()}
    batch = collate([method.layout(EXAMPLE, method.curriculum().last, Random(0))])
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.0)
    report = method(batch, method.counts(batch))
    report.total.backward()
    optimizer.step()
    after = backbone.plain().state_dict()
    assert before.keys() == after.keys()
    for name, value in after.items():
        changed = (value != before[name]).flatten(1).any(1).nonzero().flatten().tolist() if value.ndim > 1 else []
        assert changed == ([method.pause] if "embed" in name else []), name
    with torch.no_grad():
        assert float(method(batch, method.counts(batch)).total) < float(report.total)


def test_what_is_said_at_a_pause_is_ignored():
    """In the row every label stands behind the pauses, and the last pause's state predicts the first of them."""
    method: Any = make_method({"name": "pause", "marker_init": "pens", "pauses": 3, "steps": True}, backbones.backbone())
    row = method.layout(EXAMPLE, method.curriculum().last, Random(0))
    first = row.start + 3
    assert row.ids[row.start : first] == (method.pause,) * 3
    assert row.labels[:first] == (-100,) * first
    assert row.labels[first:] == row.ids[first:]
    batch = collate([row])
    with torch.no_grad():
        whole = unroll(method.backbone, batch, None)
    assert whole.cost.passes == 1
