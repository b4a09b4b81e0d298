"""Plain Hugging Face models as baselines: how they are asked, where they stop, and the report beside a run's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from support.backbones import backbone, tokenizer
from support.command_line import refused, unspoken

import unspoken as package
from unspoken.core.fast.switch import FastConfig
from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.trace import Answer
from unspoken.core.rows.curriculum import Stage
from unspoken.core.text.example import Example
from unspoken.core.text.prompts import TEXTS
from unspoken.errors import ConfigError
from unspoken.evaluation.evaluator import record_of
from unspoken.evaluation.records import EvalReport
from unspoken.evaluation.rescore import rescore
from unspoken.runs.baseline import BaselineConfig, BaselineModel, baseline_config, load_baseline
from unspoken.runs.places import is_plain
from unspoken.tasks import make_task

CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% if enable_thinking %}<think>\n{% endif %}{% endif %}"
)
TINY = {"name": "tiny", "train_size": 20, "validation_size": 4, "test_size": 6}
QUESTION = "Ann has 3 pens. How many?"


def folder(place: Path, arch: str, chat: str | None = None) -> Path:
    """A random model with its tokenizer, as transformers saves them."""
    words = tokenizer()
    words.chat_template = chat
    backbone(arch).lm.save_pretrained(place)
    words.save_pretrained(place)
    return place


def model(config: BaselineConfig, chat: str | None = None, arch: str = "llama") -> BaselineModel:
    words = tokenizer()
    words.chat_template = chat
    return BaselineModel(Backbone(backbone(arch).lm, words), config)


def asked(one: BaselineModel, question: str = QUESTION) -> str:
    return one.method.backbone.tokenizer.decode(one.method.prompt(question).ids)


def test_the_chat_template_is_used_once_per_shot_and_for_the_question():
    config = baseline_config(make_task(TINY), shots=2, texts="plain")
    shown = make_task(TINY).examples("train")[:2]
    want = "".join(
        f"<|user|>{one.question}\n\n<|assistant|>{''.join(step + chr(10) for step in one.steps)}### {one.answer}\n"
        for one in shown
    )
    assert asked(model(config, CHAT)) == f"{want}<|user|>{QUESTION}\n\n<|assistant|>"
    assert asked(model(replace(config, shots=()), CHAT)) == f"<|user|>{QUESTION}\n\n<|assistant|>"


def test_without_a_template_shots_are_text_with_empty_lines_between_them():
    config = BaselineConfig(texts=TEXTS["plain"], shots=(("1 + 1?", "### 2"),))
    one = model(config)
    assert asked(one) == f"1 + 1?\n### 2\n\n{QUESTION}\n"
    assert one.stops == ("\n\n",)
    assert model(BaselineConfig()).stops == ()


def test_thinking_is_switched_by_the_template_and_refused_where_there_is_no_switch():
    thinking = BaselineConfig(texts=TEXTS["plain"], thinking=True)
    one = model(thinking, CHAT)
    assert asked(one).endswith("<|assistant|><think>\n")
    (answer,) = one.answer([QUESTION], max_new_tokens=2)
    assert answer.text.startswith("<think>\n")  # opened in the prompt, and kept in the record
    for chat in (None, "{{ messages[0].content }}"):
        with pytest.raises(ConfigError, match="no switch for thinking"):
            model(thinking, chat)


@pytest.mark.parametrize("fast", [True, False])
def test_an_answer_of_a_model_without_a_template_ends_at_an_empty_line(monkeypatch: pytest.MonkeyPatch, fast: bool):
    """A random model never writes one, so its decoder does: every fifth token reads as an empty line."""
    one = model(BaselineConfig(texts=TEXTS["plain"], shots=(("1 + 1?", "### 2"),)))
    one.fast = None if fast else FastConfig(enabled=False)
    (free,) = one.answer([QUESTION], max_new_tokens=12)
    ended = free.tokens[4]

    def decode(self: Backbone, ids: Any) -> str:
        return "".join("\n\n" if t == ended else f"[{t}]" for t in ids if t not in self.eos_ids)

    monkeypatch.setattr(Backbone, "decode", decode)
    first = free.tokens.index(ended)
    (cut,) = one.answer([QUESTION], max_new_tokens=12)
    assert cut.text == "".join(f"[{t}]" for t in free.tokens[:first])
    assert cut.finished
    if fast:  # the engine stops there; the plain path writes on, and its text is cut
        assert cut.tokens == free.tokens[: first + 1]
        assert cut.visible == first


def test_scores_are_of_what_stands_behind_the_thinking():
    example = Example(question="2 + 2?", steps=(), answer="4", id="a")
    text = "<think>perhaps ### 5</think>### 4"
    answer = Answer(text=text, tokens=(1, 2), finished=True, latents=0, passes=2, positions=9, seconds=0.1)
    task, one = make_task(TINY), model(BaselineConfig())
    record = record_of("a", example, task, one, [answer])
    assert (record.strict, record.extracted, record.text) == (True, "4", text)
    unfinished = record_of("a", example, task, one, [replace(answer, text="<think>it is ### 4")])
    assert (unfinished.strict, unfinished.flexible, unfinished.extracted) == (False, False, None)
    report = package.evaluate(one, task, limit=1, max_new_tokens=1)
    again = rescore(replace(report, records=(record, replace(unfinished, id="b"))), "paper:coconut")
    assert [r.strict for r in again.records] == [True, False]


def test_it_can_be_trained_on_as_well():
    """`layout` is the prompt, then what a shot would have shown."""
    example = make_task(TINY).examples("train")[0]
    one = model(baseline_config(None, texts="plain"), CHAT)
    row = one.method.layout(example, Stage(removed=0), Random(0))
    prompt = one.method.prompt(example.question).ids
    written = "".join(step + "\n" for step in example.steps) + f"### {example.answer}"
    assert row.ids[: len(prompt)] == prompt
    assert one.method.backbone.decode(row.ids[len(prompt) :]) == written


@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen3"])
def test_a_folder_is_evaluated_beside_a_run(arch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    place = folder(tmp_path / "models" / arch, arch, None if arch == "gpt2" else CHAT)
    words = ["--limit", "3", "--texts", "plain", "--max-new-tokens", "3", "--task", "tiny", "test_size=6"]
    done = unspoken("eval", place, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    file = tmp_path / f"{arch}-eval-tiny-test-limit-3-texts-plain-max_new_tokens-3.json"
    report = EvalReport.from_json(file)
    assert report.n == 3
    assert report.model["path"] == str(place)
    assert report.model["method"]["name"] == "baseline"
    assert {p.name for p in place.iterdir()} & {file.name} == set()  # nothing is written into somebody's model
    mine = unspoken("eval", "builtin:tiny", *words[:2], *words[4:], cwd=tmp_path)
    assert mine.returncode == 0, mine.stderr
    other = next(file for file in tmp_path.glob("*eval-*.json") if "tiny-eval-tiny" in file.name)
    together = unspoken("compare", file, other, "--out", tmp_path / "t.csv", cwd=tmp_path)
    assert together.returncode == 0, together.stderr
    assert f"{arch}-limit-3-texts-plain-max_new_tokens-3" in (tmp_path / "t.csv").read_text()


def test_what_does_not_go_together_is_refused(tmp_path: Path):
    place = folder(tmp_path / "plain", "llama")
    refused(unspoken("eval", place), "without a task of its own", "--task")
    refused(unspoken("eval", place, "--task", "tiny", "--explain"), "without latents")
    refused(unspoken("eval", place, "--task", "tiny", "--controls"), "without latents")
    refused(unspoken("eval", place, "--task", "tiny", "--latents", "2"), "no latents, got 2")
    refused(unspoken("eval", place, "--task", "tiny", "--shots", "-1"), "0 or more")
    refused(unspoken("eval", place, "--task", "tiny", "--shots", "9", "train_size=3"), "9 shots", "3 examples")
    refused(unspoken("eval", place, "--task", "tiny", "--texts", "maths"), "math")
    refused(unspoken("eval", "builtin:tiny", "--shots", "2"), "for plain Hugging Face models")
    with pytest.raises(ConfigError, match="give the task too"):
        load_baseline(str(place), shots=2)
    with pytest.raises(ConfigError, match="no chat template"):
        load_baseline(str(place), chat=True)


def test_what_is_a_plain_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("empty").mkdir()
    assert is_plain(folder(tmp_path / "m", "llama"))
    assert is_plain("HuggingFaceTB/SmolLM2-135M")
    no: list[Any] = ["runs/mistyped", "empty", "empty/", "nothing", "builtin:tiny", "/a/b", "../a", "a/b/c", "-x/y", ""]
    assert [one for one in no if is_plain(one)] == []


def test_soft_thinking_ends_at_the_mark_of_the_model():
    """`</think>` where it writes its thinking, else what its answers begin with; refused where there is neither."""
    assert model(BaselineConfig(texts=TEXTS["plain"], thinking=True), CHAT).mark == "</think>"
    assert model(BaselineConfig()).mark == "####"
    one = model(BaselineConfig(texts=TEXTS["plain"]))
    (answer,) = one.answer([QUESTION], soft="soft,limit=3,entropy=0", max_new_tokens=12)
    assert one.mark == "###"
    assert (answer.soft, answer.latents) == (3, 3)
    assert "\n###" in answer.text
    assert answer.visible == len(answer.tokens) - 3 - answer.finished
    (cut,) = one.answer([QUESTION], soft="soft,limit=3,until=so,", max_new_tokens=12)
    assert "\nso," in cut.text
    unmarked = model(BaselineConfig(texts=replace(TEXTS["plain"], answer="{answer}")))
    with pytest.raises(ConfigError, match="nothing is known to end"):
        unmarked.answer([QUESTION], soft="soft")
    assert unmarked.answer([QUESTION], soft="soft,limit=2", max_new_tokens=4)[0].soft == 2
    with pytest.raises(ConfigError, match="soft must be soft thinking"):
        one.answer([QUESTION], soft=3)  # pyright: ignore[reportArgumentType]
