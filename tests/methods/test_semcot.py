"""SemCoT and its generator where they depart from the released code on purpose, what each stage trains, and their errors."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from contract.cases import EXAMPLES, make
from support import backbones
from support.attachments import assistant_row, step_targets

from unspoken.core.fast.switch import FastConfig, using
from unspoken.core.losses import pair_contrast_sum
from unspoken.core.rows.batch import collate
from unspoken.core.rows.curriculum import Stage, StageSettings
from unspoken.core.rows.row import IGNORE, Row
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, DataError
from unspoken.methods import make_method, method_config
from unspoken.methods.base import add_counts

ASSISTANT = {"arch": backbones.ARCHS["llama"], "tokenizer": "builtin:tiny-tokenizer"}
PAIR = Example(
    id="pair", question="Ann has 3 pens and buys 4.", steps=("<<3+4=7>>",), answer="7",
    meta={"reasoning": "She has 3, and 4 more, which is 7.", "condensed_reasoning": "3+4=7"},
)  # fmt: skip


def generator(family: str = "llama", **more: Any) -> Any:
    """A generator on a random base."""
    return make_method({"name": "semcot_generator", "assistant": ASSISTANT, **more}, backbones.backbone(family))


def semcot(family: str = "llama", **more: Any) -> Any:
    """SemCoT on a random base, condensing by rule."""
    inner = {"name": "semcot_generator", "assistant": ASSISTANT, "latents": 3}
    given = {"inner": inner, "encoder": {"width": 20}, "condensed": "rule", **more}
    torch.manual_seed(1)
    return make_method({"name": "semcot", **given}, backbones.backbone(family)).eval()


def stages(method: Any) -> dict[str, Stage]:
    """The stages by what they train."""
    return {phase.stage.trainable_part: phase.stage for phase in method.curriculum().phases}


def rows_of(method: Any, trains: str, examples: Any = EXAMPLES) -> list[Row]:
    """Rows of a stage."""
    return [method.layout(example, stages(method)[trains], Random(0)) for example in examples]


def learned(method: Any, rows: list[Row]) -> set[str]:
    """Modules that get a gradient from some rows."""
    method.zero_grad(set_to_none=True)
    method(collate(rows), method.counts(collate(rows))).total.backward()
    names = {name for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    touched = {name for name, p in method.named_parameters() if p.grad is not None}
    assert names == touched, "a parameter that waits has no gradient at all: weight decay would move it"
    tops = ("encoder.head", "encoder.body", "method.projection", "method.assistant", "method.backbone")
    return {top for top in tops if any(name.startswith(top) for name in names)}


# the generator


def test_the_end_of_the_answer_is_trained():
    method = generator()
    for example in EXAMPLES:
        row = method.layout(example, method.curriculum().last, Random(0))
        assert row.labels[-1] == row.ids[-1] == method.backbone.tokenizer.eos_token_id


def test_as_many_latents_in_evaluation_as_in_training():
    method = generator(latents=7)
    assert method.prompt("How many?").latents == method.layout(EXAMPLES[0], method.curriculum().last, Random(0)).latents == 7
    assert method.prompt("How many?", 1).latents == 1


def test_prompts_begin_as_the_models_expect():
    """With a template in it; as plain text only where asked."""
    template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
    )
    for plain in (False, True):
        method = generator(plain=plain, latents=2)
        for model in (method.backbone, method.assistant.backbone):
            model.tokenizer.chat_template = template
        row = method.prompt("How many?")
        hold = method.backbone.tokenizer.eos_token
        said = method.backbone.tokenizer.decode(row.ids)
        asked = method.assistant.backbone.tokenizer.decode(assistant_row(row).ids)
        if plain:
            assert said == f"Question: How many?{hold}{hold}\n"
            assert asked == "Question: How many?<thought>"
            assert method.backbone.decode(method.prompt("How many?", 0).ids) == "Question: How many?\n"
        else:
            assert said == f"[user]Question: How many?{hold}{hold}\n[a]"
            assert asked == "[user]Question: How many?[assistant]<thought>"


def test_of_the_generators_embedding_only_the_new_row_moves():
    """Also under weight decay as the training loop has it, which spares tables."""
    method = generator(warmup={"epochs": 0})
    table = method.assistant.backbone.lm.get_input_embeddings().weight
    before = table.detach().clone()
    rows = [method.layout(example, method.curriculum().last, Random(0)) for example in EXAMPLES]
    method(collate(rows), method.counts(collate(rows))).total.backward()
    torch.optim.AdamW([table], lr=0.1, weight_decay=0.0).step()
    moved = (table != before).any(dim=1).nonzero().flatten().tolist()
    assert moved == list(method.assistant.token_ids)


def test_the_last_thought_is_not_forwarded():
    """n latents: the question's last token and n - 1 thoughts; with one more behind them, the latents are the same."""
    method = generator(latents=4)
    row = method.prompt("How many pens?")
    thought = method.assistant.token_ids[0]
    asked = assistant_row(row)
    assert asked.ids[asked.start + 1 :] == (thought,) * 3
    longer = replace(asked, ids=(*asked.ids, thought), labels=(*asked.labels, IGNORE))
    with torch.no_grad():
        a, b = (method.assistant.states(collate([one])) for one in (asked, longer))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_step_of_twice_the_same_rows_has_the_same_loss():
    method = generator().eval()
    rows = [method.layout(example, method.curriculum().last, Random(0)) for example in EXAMPLES]
    once, twice = (float(method(collate(r), method.counts(collate(r))).total.detach()) for r in (rows, rows * 2))
    assert once == pytest.approx(twice, rel=1e-5)


def test_what_the_frozen_model_has_read_can_be_kept_from_step_to_step():
    """The same loss and gradients, fewer positions forwarded."""
    seen = []
    for prefix_gb in (0.0, 0.1):
        torch.manual_seed(0)
        with using(FastConfig(prefix_gb=prefix_gb)):
            method = generator(warmup={"epochs": 0}).train()
        rows = [method.layout(example, method.curriculum().last, Random(0)) for example in EXAMPLES]
        method(collate(rows), method.counts(collate(rows)))  # reads it
        method.zero_grad(set_to_none=True)
        report = method(collate(rows), method.counts(collate(rows)))
        report.total.backward()
        seen.append((report, [p.grad for p in method.parameters() if p.grad is not None]))
    (bare, a), (kept, b) = seen
    assert kept.trace.cost.positions < bare.trace.cost.positions
    torch.testing.assert_close(kept.total, bare.total, rtol=1e-5, atol=1e-6)
    for mine, other in zip(a, b, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_generator_errors():
    method = generator()
    with pytest.raises(DataError, match=r"q contains '<thought>', a special token of the model; remove it"):
        method.prompt("What is a <thought> here?", name="q")
    with pytest.raises(DataError, match=r"q is too long for the generator: \d+ positions, its context is 256"):
        method.prompt("pens " * 300, name="q")
    with pytest.raises(ConfigError, match=r"the number of latents must be 0 or more, got -1"):
        method.prompt("How many?", -1)
    with pytest.raises(ConfigError, match=r"latents must be at least 1, got 0"):
        generator(latents=0)
    with pytest.raises(ConfigError, match=r"latents_per_step must be at least 1, got 0"):
        generator(latents_per_step=0)
    with pytest.raises(ConfigError, match=r"prefix_gb must be 0 or more, got -1"):
        FastConfig(prefix_gb=-1)
    with pytest.raises(ConfigError, match=r"today must be a date as YYYY-MM-DD, got 'soon'"):
        generator(today="soon")


# what learns when


def test_every_stage_trains_its_part_and_nothing_else():
    method = semcot()
    assert list(stages(method)) == ["encoder head", "encoder", "projection", ""]
    assert [stage.restart for stage in stages(method).values()] == [False, True, True, True]
    assert [stage.index for stage in stages(method).values()] == [0, 1, 2, 3]
    assert learned(method, rows_of(method, "encoder head")) == {"encoder.head"}
    assert learned(method, rows_of(method, "encoder")) == {"encoder.head", "encoder.body"}
    assert learned(method, rows_of(method, "projection")) == {"method.projection"}
    assert learned(method, rows_of(method, "")) == {"method.projection", "method.assistant"}


def test_while_the_encoder_learns_nothing_else_is_forwarded():
    method = semcot()
    rows = rows_of(method, "encoder")
    report = method(collate(rows), method.counts(collate(rows)))
    assert set(report.terms) == {"contrast"}
    assert report.trace.cost.passes == 0
    rows = rows_of(method, "")
    assert set(method(collate(rows), method.counts(collate(rows))).terms) == {"answer", "align"}


def test_stages_can_be_left_out_and_have_rates_of_their_own():
    method = semcot(
        inner={"name": "semcot_generator", "assistant": ASSISTANT, "warmup": {"epochs": 2, "lr": 0.5}},
        encoder_warmup={"epochs": 0},
        encoder_training={"epochs": 1.5, "lr": 0.25, "weight_decay": 0.125},
    )
    phases = method.curriculum().phases
    assert [(p.epochs, p.stage.trainable_part, p.stage.lr, p.stage.weight_decay) for p in phases] == [
        (1.5, "encoder", 0.25, 0.125),
        (2.0, "projection", 0.5, None),
        (0.0, "", None, None),
    ]
    bare = semcot(
        inner={"name": "semcot_generator", "assistant": ASSISTANT, "warmup": {"epochs": 0}},
        encoder_warmup={"epochs": 0},
        encoder_training={"epochs": 0},
    )
    assert list(stages(bare)) == [""]
    assert not any(p.requires_grad for p in bare.encoder.parameters())


def test_the_alignment_is_on_by_default():
    config = method_config({"name": "semcot", "inner": {"name": "semcot_generator", "assistant": ASSISTANT}})
    assert config.align_weight > 0
    assert config.temperature < 1
    assert (config.encoder.attention, config.encoder.latents) == ("causal", "embeddings")


# the contrast


def test_without_a_temperature_pairs_that_cannot_be_better_still_have_a_loss():
    """Four pairs, each perfectly equal and all others as far apart as four vectors can be."""
    corners = torch.eye(4) - 0.25
    own = torch.arange(4)
    released, ours = (float(pair_contrast_sum(corners, corners, own, t)) / 4 for t in (1.0, 0.05))
    assert released == pytest.approx(math.log(1 + 3 * math.exp(-4 / 3)), rel=1e-5)
    assert released > 0.341
    assert ours < 1e-6


def test_all_condensed_texts_of_a_step_are_negatives():
    """A row alone is held against the rest of its step; the released loss of a batch of one is zero."""
    method = semcot()
    rows = [row for row in rows_of(method, "encoder") if row.value("encoder_texts")]
    counts = method.counts(collate(rows))
    assert len(counts["condensed"]) == len(rows) == 4
    with torch.no_grad():
        whole = float(method(collate(rows), counts).total)
        alone = [float(method(collate([row]), counts).total) for row in rows]
        assert sum(alone) == pytest.approx(whole, rel=1e-5)
        assert min(alone) > 0
        assert float(method(collate(rows[:1]), method.counts(collate(rows[:1]))).total) == pytest.approx(0, abs=1e-6)


def test_counts_of_parts_list_the_texts_of_all():
    method = semcot()
    rows = rows_of(method, "encoder")
    added = add_counts([method.counts(collate(rows[:2])), method.counts(collate(rows[2:]))])
    assert added["condensed"].tolist() == method.counts(collate(rows))["condensed"].tolist()
    assert added["pairs"] == 4


def test_problems_with_the_same_condensed_text_are_not_held_against_each_other():
    method = semcot()
    first, second = (row for row in rows_of(method, "encoder") if row.value("encoder_texts") and row.name in ("two", "one"))
    with torch.no_grad():
        once = method(collate([first, second]), method.counts(collate([first, second]))).total
        rows = [first, first, second, second]
        twice = method(collate(rows), method.counts(collate(rows))).total
    torch.testing.assert_close(once, twice)


# reasoning


def test_where_reasoning_comes_from():
    """The data's rationale and its condensed form, or steps and a rule."""
    data, rule = semcot(condensed="data"), semcot()

    def texts(method: Any, example: Example) -> list[str]:
        row = method.layout(example, stages(method)["encoder"], Random(0))
        return [method.backbone.decode(ids) for ids in row.value("encoder_texts", ())]

    assert texts(data, PAIR) == ["She has 3, and 4 more, which is 7.", "3+4=7"]
    assert texts(rule, EXAMPLES[0]) == ["<<3+4=7>>\n<<7*2=14>>", "3+4=7; 7*2=14"]
    assert texts(data, EXAMPLES[3]) == []
    missing = r"two has no condensed reasoning: expected a text in the field 'condensed_reasoning', got None; set"
    with pytest.raises(DataError, match=missing):
        texts(data, EXAMPLES[0])
    aligned = data.layout(PAIR, stages(data)[""], Random(0))
    assert [data.backbone.decode(ids) for ids in aligned.value("encoder_texts")] == ["She has 3, and 4 more, which is 7."]


def test_a_row_without_reasoning_is_trained_by_its_answer_alone():
    method = semcot()
    (row,) = rows_of(method, "", [EXAMPLES[3]])
    with torch.no_grad():
        report = method(collate([row]), method.counts(collate([row])))
        inner = method.at_inference(collate([row]), method.at_inference.counts(collate([row])))
    assert set(report.terms) == {"answer"}
    assert float(report.total) == pytest.approx((1 - method.config.align_weight) * float(inner.total), rel=1e-6)


def test_a_step_of_which_the_encoder_can_learn_nothing_is_refused():
    method = semcot()
    rows = rows_of(method, "encoder", [EXAMPLES[3]])
    with pytest.raises(DataError, match=r"none: no example of the batch has reasoning, .*'semcot_generator'"):
        method(collate(rows), method.counts(collate(rows)))


def test_the_alignment_is_the_cosine_to_the_encoded_reasoning():
    method = semcot()
    rows = [row for row in rows_of(method, "") if row.value("encoder_texts")]
    with torch.no_grad():
        report = method(collate(rows), method.counts(collate(rows)))
        e = method.encoder
        got = e.embed_latents(report.trace.latents_BKD, np.full(len(rows), 3))
        want = e.embed([row.value("encoder_texts")[0] for row in rows])
        cosine = torch.nn.functional.cosine_similarity(got, want, dim=1)
    expected = method.config.align_weight * float((1 - cosine).mean())
    assert float(report.terms["align"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"inner": "cot"}, r"semcot needs 'semcot_generator' as 'inner', got 'cot'; or try 'sim_cot'"),
        ({"align_weight": 0.0}, r"align_weight must be between 0 and 1, got 0.0; without alignment use 'semcot_generator'"),
        ({"temperature": 0.0}, r"temperature must be positive, got 0.0"),
        ({"condensed_words": 0}, r"condensed_words must be at least 1, got 0"),
        ({"encoder": {"width": None}}, r"encoder_warmup trains a linear layer, and encoder.width=null has none"),
        ({"encoder_warmup": {"epochs": -1}}, r"epochs must be 0 or more, got -1"),
        ({"encoder_warmup": {"lr": 0}}, r"lr must be positive, got 0"),
        ({"encoder_warmup": {"weight_decay": -1}}, r"weight_decay must be 0 or more, got -1"),
    ],
)
def test_settings_that_cannot_be(more, message):
    with pytest.raises(ConfigError, match=message):
        semcot(**more)


def test_a_lesson_is_finite():
    with pytest.raises(ConfigError, match=r"epochs must be 0 or more, got inf"):
        StageSettings(epochs=math.inf)


def test_step_supervision_reaches_the_generator():
    """SIM-CoT on SemCoT: its decoder's loss alone trains projection and generator."""
    method = make("sim_cot semcot", "llama")
    row = method.layout(EXAMPLES[0], method.curriculum().last, Random(0))
    assert [method.backbone.decode(step) for step in step_targets(row)] == ["<<3+4=7>>", "<<7*2=14>>"]
    report = method(collate([row]), method.counts(collate([row])))
    assert set(report.terms) == {"answer", "align", "explain"}
    report.terms["explain"].backward()
    assert method.at_inference.projection.weight.grad.any()
    assert any(p.grad is not None and p.grad.any() for p in method.at_inference.assistant.parameters())
