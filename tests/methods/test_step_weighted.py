"""Step weights on the labels of rows: exactly the tokens of each step, for every tokenizer and inner method.

The first five tests are the five checks that the fork's README promises: its own only print.
"""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import backbones
from support.attachments import marks_on

from unspoken.core.rows.batch import collate
from unspoken.core.rows.label_marks import label_weights
from unspoken.core.rows.row import IGNORE, Row
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, DataError
from unspoken.methods import make_method
from unspoken.methods.base import add_counts
from unspoken.tasks import make_task

CHAIN = ("She has 3+4 = <<3+4=7>>7 pens.", "Then 7*2 = <<7*2=14>>14 pens.")
EXAMPLE = Example(id="two", question="Ann has 3 pens.", steps=CHAIN, answer="14")
CODI = {
    "name": "codi",
    "latents": 2,
    "template": {"question": "{question}", "step": "{step}", "answer": "The answer is: {answer}"},
}


def method(**more: Any) -> Any:
    return make_method({"name": "step_weighted", **more}, backbones.backbone())


def laid_out(made: Any, example: Example = EXAMPLE, stage: int = 0) -> Row:
    return made.layout(example, made.curriculum().phases[stage].stage, Random(0))


def groups(made: Any, row: Row) -> list[str]:
    """The text of each step of a row, from the ids that are marked as its tokens."""
    numbers = sorted({n for n in marks_on(row).steps if n >= 0})
    return [made.backbone.decode([i for i, n in zip(row.ids, marks_on(row).steps, strict=True) if n == k]) for k in numbers]


def heavy(made: Any, row: Row) -> str:
    """The text whose labels weigh more than 1."""
    return made.backbone.decode([i for i, w in zip(row.ids, marks_on(row).weights, strict=True) if w > 1])


def test_1_a_task_gives_steps_and_where_they_are(tmp_path: Any) -> None:
    answer = "She has 3+4 = <<3+4=7>>7 pens.\\nThen 7*2 = <<7*2=14>>14 pens.\\n#### 14"
    for split in ("train", "test"):
        row = f'{{"question": "Ann has {len(split)} pens.", "answer": "{answer}"}}\n'
        (tmp_path / f"{split}.jsonl").write_text(row)
    task = make_task({"name": "gsm8k", "root": str(tmp_path), "steps": "annotated", "validation_fraction": 0.0})
    (example,) = task.examples("train")
    assert (example.steps, example.answer) == (CHAIN, "14")
    made = method()
    assert groups(made, laid_out(made, example)) == ["<<3+4=7>>", "<<7*2=14>>"]
    tools = make_task({"name": "gsm8k", "root": str(tmp_path), "steps": "nanochat", "validation_fraction": 0.0})
    called = method(segmenter="tool_calls")
    assert groups(called, laid_out(called, tools.examples("train")[0])) == [
        "<|python_start|>3+4<|python_end|><|output_start|>7<|output_end|>",
        "<|python_start|>7*2<|python_end|><|output_start|>14<|output_end|>",
    ]


@given(st.lists(st.text(alphabet="abé +*=0123456789<>.数 ", max_size=25), max_size=4), st.sampled_from(["markers", "steps"]))
def test_2_tokens_that_are_marked_spell_the_steps(texts: list[str], rule: str) -> None:
    steps = tuple(f"{t.strip()} <<1+{k}={k + 1}>>" for k, t in enumerate(texts))
    made = _METHODS[rule]
    row = laid_out(made, Example(id="x", question="q", steps=steps, answer="7"))
    want = made._spans(made.method.written(Example(id="x", question="q", steps=steps, answer="7")))
    text = "".join(f"{s}\n" for s in steps)
    for said, span in zip(groups(made, row), want, strict=True):
        # A token may reach beyond the step's first or last character, never by a whole token.
        assert text[span.start : span.end].strip() in said
        assert len(said) <= span.end - span.start + 4
    assert len(want) >= len(steps)


_METHODS = {rule: method(segmenter=rule) for rule in ("markers", "steps")}


def test_3_weights_of_spans_and_of_windows() -> None:
    made = method(multiplier=3.0)
    row = laid_out(made)
    assert heavy(made, row) == "<<3+4=7>><<7*2=14>>"
    assert set(marks_on(row).weights) == {1.0, 3.0}
    question = sum(label == IGNORE for label in row.labels)
    assert set(marks_on(row).weights[:question]) == {1.0}
    first, second = (marks_on(row).steps.index(k) for k in (0, 1))
    window = marks_on(laid_out(method(multiplier=3.0, mode="window")))
    assert window is not None
    want = {t for f in (first, second) for t in range(f - 2, f + 5)}  # 2 before a step's first label and 5 from it on
    assert {t for t, w in enumerate(window.weights) if w == 3.0} == want
    assert window.steps == marks_on(row).steps  # accuracies are of the steps themselves
    narrow = marks_on(laid_out(method(multiplier=3.0, mode="window", before=0, after=1)))
    assert narrow is not None
    assert [t for t, w in enumerate(narrow.weights) if w == 3.0] == [first, second]
    # A window never reaches into the question, whose tokens are no labels.
    at_once = Example(id="x", question="Ann", steps=("<<1+1=2>>",), answer="2")
    wide = laid_out(method(mode="window", before=50), at_once)
    assert all(w == 1 for w, label in zip(marks_on(wide).weights, wide.labels, strict=True) if label == IGNORE)


def test_4_accuracies_are_of_the_marked_labels() -> None:
    made = method()
    row = laid_out(made)
    batch = collate([row])
    report = made(batch, made.counts(batch))
    told = {name: metric.compute() for name, metric in report.metrics.items()}
    labels = np.array(row.labels)
    with torch.no_grad():
        best = made.backbone.lm(input_ids=batch.ids_BT).logits[0].argmax(dim=1).numpy()
    at = np.flatnonzero(labels != IGNORE)
    hits, steps = best[at - 1] == labels[at], np.array(marks_on(row).steps)[at]
    assert told["num_tokens"] == len(at)
    assert told["weighted_tokens"] == len(at) + (steps >= 0).sum()
    assert told["step_tokens"] == (steps >= 0).sum()
    assert told["token_accuracy"] == pytest.approx(hits.mean(), abs=1e-6)
    assert told["step_accuracy"] == pytest.approx(hits[steps >= 0].mean(), abs=1e-6)
    assert told["step_accuracy_by_step"] == pytest.approx([hits[steps == k].mean() for k in (0, 1)], abs=1e-6)
    results = [i for i, r in zip(row.ids, marks_on(row).results, strict=True) if r]
    assert made.backbone.decode(results) == "714"
    silent = method(track=False)
    batch = collate([laid_out(silent)])
    assert set(silent(batch, silent.counts(batch)).metrics) == {"num_tokens", "weighted_tokens"}


def test_4b_a_model_that_predicts_every_step_scores_one() -> None:
    made = method()
    row = laid_out(made)
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2)
    batch = collate([row])
    report = made(batch, made.counts(batch))
    for _ in range(60):
        report = made(batch, made.counts(batch))
        report.total.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert report.metrics["step_accuracy"].compute() == 1.0
    assert report.metrics["result_accuracy"].compute() == 1.0


def test_5_a_batch_holds_weights_and_labels_at_the_same_places() -> None:
    made = method(multiplier=2.0)
    plain = Example(id="none", question="How many?", steps=("three",), answer="3")
    rows = [laid_out(made, plain), laid_out(made)]
    batch = collate(rows)
    weights, (at_B, at_T, labels) = label_weights(batch), batch.label_places()
    assert weights is not None
    assert len(weights) == len(labels) == sum(label != IGNORE for row in rows for label in row.labels)
    assert made.backbone.decode([int(i) for i in labels[weights == 2]]) == "<<3+4=7>><<7*2=14>>"
    assert set(at_B[weights == 2]) == {1}
    assert set(batch.ids_BT.numpy()[at_B, at_T + 1] - labels) == {0}
    assert float(made.counts(batch)["answer"]) == weights.sum()


def test_the_loss_is_the_weighted_mean_over_the_whole_step() -> None:
    made = method(multiplier=2.5)
    examples = [EXAMPLE, Example(id="b", question="Bob has 9.", steps=("<<9-2=7>>",), answer="7")]
    rows = [laid_out(made, example) for example in examples]
    total = weight = 0.0
    for row in rows:
        batch = collate([row])
        with torch.no_grad():
            logits = made.backbone.lm(input_ids=batch.ids_BT).logits[0].double()
        for t, (label, w) in enumerate(zip(row.labels, marks_on(row).weights, strict=True)):
            if label != IGNORE:
                total, weight = total - w * float(logits[t - 1].log_softmax(0)[label]), weight + w
    whole = collate(rows)
    assert float(made(whole, made.counts(whole)).total.detach()) == pytest.approx(total / weight, rel=1e-5)
    counts = add_counts([made.counts(collate([row])) for row in rows])
    parts = sum(float(made(collate([row]), counts).total.detach()) for row in rows)
    assert parts == pytest.approx(total / weight, rel=1e-5)


@pytest.mark.parametrize("inner", [{"name": "cot"}, {"name": "coconut", "first_stage": 0}, {**CODI}])
def test_multiplier_1_is_the_inner_method_bit_for_bit(inner: dict[str, Any]) -> None:
    made, plain = method(inner=inner, multiplier=1.0), make_method(inner, backbones.backbone())
    reports = []
    for each in (made, plain):
        batch = collate([laid_out(each), laid_out(each, Example(id="b", question="q", steps=("a", "b"), answer="1"))])
        report = each(batch, each.counts(batch))
        report.total.backward()
        grads = {name.removeprefix("method."): p.grad for name, p in each.named_parameters()}
        reports.append((report.terms, grads))
    for (name, one), two in zip(reports[0][0].items(), reports[1][0].values(), strict=True):
        assert torch.equal(one, two), name
    for name, grad in reports[1][1].items():
        assert torch.equal(reports[0][1][name], grad), name


def test_what_a_curriculum_leaves_is_what_is_weighted() -> None:
    made = method(inner={"name": "coconut", "first_stage": 0})
    assert [groups(made, laid_out(made, stage=k)) for k in (0, 1, 2)] == [["<<3+4=7>>", "<<7*2=14>>"], ["<<7*2=14>>"], []]
    row = laid_out(made, stage=1)
    assert {n for n in marks_on(row).steps if n >= 0} == {1}  # it keeps its number


def test_the_teacher_of_codi_is_weighted_and_its_student_is_not() -> None:
    made = method(inner={**CODI, "include_last_step": True})
    row = laid_out(made)
    assert row.branch is not None
    assert groups(made, row) == []
    assert groups(made, row.branch) == ["<<3+4=7>>", "<<7*2=14>>"]
    batch = collate([row])
    counts = made.counts(batch)
    assert float(counts["teacher"]) == sum(label != IGNORE for label in row.branch.labels) + len(
        [n for n in marks_on(row.branch).steps if n >= 0]
    )
    assert made(batch, counts).metrics["step_accuracy"].total > 0
    made.check([row])  # the teacher's weights count


@pytest.mark.parametrize("side", ["left", "right"])
def test_icot_keeps_the_weights_of_the_tokens_that_are_left(side: str) -> None:
    made = method(inner={"name": "icot_si", "side": side, "smoothing": None})
    whole = laid_out(made)
    assert groups(made, whole) == ["<<3+4=7>>", "<<7*2=14>>"]
    chain = [t for t, label in enumerate(whole.labels) if label != IGNORE]
    for gone in (1, 5, 12):
        row = laid_out(made, stage=gone)
        at = [t for t, label in enumerate(row.labels) if label != IGNORE]
        assert len(at) == len(chain) - gone
        n = len(made.backbone.encode(made.method.written(EXAMPLE).parts[0]))
        kept = chain[gone:] if side == "left" else chain[: n - gone] + chain[n:]
        assert [marks_on(row).weights[t] for t in at] == [marks_on(whole).weights[t] for t in kept]
        assert [row.labels[t] for t in at] == [whole.labels[t] for t in kept]


def test_a_template_around_steps_is_not_part_of_them() -> None:
    template = {"step": "Now: {step}; ", "question": "{question}\n", "answer": "### {answer}"}
    made = method(inner={"name": "cot", "template": template}, segmenter="steps")
    assert [said.strip() for said in groups(made, laid_out(made))] == list(CHAIN)


def test_labels_that_are_not_the_text_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = method()
    monkeypatch.setattr(made.method, "written", lambda example: type(made.method).written(
        made.method, Example(id="o", question="q", steps=("other",), answer="1")))  # fmt: skip
    with pytest.raises(ConfigError, match=r"step_weighted cannot weigh 'cot': its labels are not the text that it writes"):
        laid_out(made)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"multiplier": 0.0}, "multiplier must be a positive number, got 0.0; 1 is plain SFT, 2 the default"),
        ({"multiplier": float("inf")}, "multiplier must be a positive number"),
        ({"mode": "window", "after": 0}, "a window needs before >= 0 and after >= 1, got 2 and 0"),
        ({"segmenter": "line"}, "unknown rule 'line' for finding steps; did you mean 'lines'"),
        ({"inner": {"name": "sim_cot", "inner": {"name": "coconut"}}}, "cannot wrap 'sim_cot', which wraps a method itself"),
    ],
)
def test_settings_that_cannot_be(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        method(**config)


def test_a_batch_without_a_weighted_label_is_refused_and_told_which_rules_would_find_some() -> None:
    natural = Example(id="nl", question="q", steps=("So 3+4 = 7.",), answer="7")
    made = method()
    made.check([laid_out(made, natural), laid_out(made)])
    with pytest.raises(
        DataError, match=r"no token of a batch of 1 rows \(nl, ...\) lies in a reasoning step: segmenter 'markers'"
    ) as e:
        made.check([laid_out(made, natural)])
    for advice in (
        "So 3+4 = 7.",
        "rules that find some: lines, sentences, equations",
        "task.steps=annotated",
        "multiplier=1",
    ):
        assert advice in str(e.value)
    assert "\n" not in str(e.value)
    for allowed in ({"multiplier": 1.0}, {"require_steps": False}):
        free = method(**allowed)
        free.check([laid_out(free, natural)])


def test_inference_has_the_inner_methods_parameters_and_no_more() -> None:
    made, plain = method(), make_method({"name": "cot"}, backbones.backbone())
    assert {n.removeprefix("method.") for n, _ in made.named_parameters()} == {n for n, _ in plain.named_parameters()}
    assert made.at_inference is made.method
    assert made.prompt("q").ids == plain.prompt("q").ids
