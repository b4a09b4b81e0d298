"""A plain Hugging Face model as a baseline: evaluated as it is, with its chat template, zero- or few-shot.

It answers the same questions as a run, through the same engine, so records and counts of tokens, passes and positions can
be compared. The wording of prompts is that of the methods with soft thoughts (`core/text/prompts.py`), without thoughts.

    with a chat template       user: instruction and question | assistant: steps and answer    (once per shot)
                               user: instruction and question | assistant:
    without one                the same as text; with shots an answer ends at an empty line
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import field, replace
from datetime import date
from pathlib import Path
from random import Random
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator

from unspoken.core.config import config_class
from unspoken.core.lm.backbone import Backbone, BackboneConfig
from unspoken.core.lm.loading import device_or_gpu, load_backbone
from unspoken.core.rows.curriculum import Curriculum, Stage, single
from unspoken.core.rows.row import Row, unlabelled
from unspoken.core.text.chat import Message, encode, has_template, refuse_special, render
from unspoken.core.text.example import Example
from unspoken.core.text.prompts import BY_KIND, TEXTS, SoftTexts, texts_of
from unspoken.core.text.thinking import CLOSE, OPEN
from unspoken.errors import ConfigError, DataError
from unspoken.methods.base import Method
from unspoken.runs.directory import load
from unspoken.runs.model import Model
from unspoken.runs.places import is_plain
from unspoken.tasks.base import Split, Task
from unspoken.tasks.scoring.extractors import kind_of

LONGEST, LONGEST_THINKING = 512, 4096
"""Default limit of tokens per answer, without and with written thinking."""

_SWITCH = re.compile(r"\b(?:enable_)?thinking\b")
"""The variables by which chat templates turn thinking on: Qwen3's and SmolLM3's, Granite's and DeepSeek's."""


@config_class
class BaselineConfig:
    """How a plain model is asked.

    Attributes:
        texts: the wording, or a name of `TEXTS`.
        shots: solved problems shown before the question: (question, what the model should have written).
        chat: use the chat template; None = if the tokenizer has one.
        thinking: let the model write its thinking first, where the template can turn that on and off.
        today: the date that chat templates get.
    """

    name: Literal["baseline"] = "baseline"
    texts: Annotated[SoftTexts, BeforeValidator(texts_of)] = field(default_factory=lambda: TEXTS["math"])
    shots: tuple[tuple[str, str], ...] = ()
    chat: bool | None = None
    thinking: bool = False
    today: str = "2024-07-26"


class Baseline(Method):
    """A language model that is only prompted.

    Attributes:
        chat: whether the chat template is used.

    Raises:
        ConfigError: a chat template is asked for and there is none, or it cannot turn thinking on.
    """

    Config = BaselineConfig
    config: BaselineConfig

    def __init__(self, config: BaselineConfig, backbone: Backbone) -> None:
        super().__init__(config, backbone)
        known = has_template(backbone)
        if config.chat and not known:
            raise ConfigError("the model's tokenizer has no chat template; leave `chat` out, or give one that has")
        self.chat = known if config.chat is None else config.chat
        if config.thinking and not (self.chat and _SWITCH.search(backbone.tokenizer.get_chat_template())):
            raise ConfigError(
                "the model's chat template has no switch for thinking (enable_thinking), so it cannot be turned on; leave "
                "--thinking away, which is also right for models that always think"
            )

    def curriculum(self) -> Curriculum:
        """One stage."""
        return single(Stage(removed=0))

    def layout(self, example: Example, stage: Stage, rng: Random) -> Row:
        """prompt | steps | answer eos."""
        text = self.config.texts.written(example, steps=True)
        ids = (*encode(self.backbone, text, first=False), self.backbone.tokenizer.eos_token_id)
        return self.prompt(example.question, name=example.id).followed_by(ids, steps_covered=len(example.steps))

    def prompt(self, question: str, latents: int | None = None, name: str = "") -> Row:
        """Shots and question.

        Raises:
            ConfigError: latents were asked for.
            DataError: the question contains a special token.
        """
        if latents:
            raise ConfigError(f"a plain language model has no latents, got {latents}; leave --latents away")
        refuse_special(self.backbone, question, (), name)
        text = self.text(question)
        ids = self.backbone.encode(text) if self.chat else self.backbone.encode(text, special=True)
        return unlabelled(ids, name=name)

    def text(self, question: str) -> str:
        """The prompt as text."""
        asked = [(self.config.texts.prompt(one, 0, ""), said) for one, said in self.config.shots]
        last = self.config.texts.prompt(question, 0, "")
        if not self.chat:
            return "".join(f"{user.rstrip()}\n{said}\n\n" for user, said in asked) + f"{last.rstrip()}\n"
        chat: list[Message] = [part for user, said in asked for part in (("user", user), ("assistant", said))]
        return render(
            self.backbone,
            [*chat, ("user", last)],
            prompt=True,
            today=date.fromisoformat(self.config.today),
            variables={"enable_thinking": self.config.thinking, "thinking": self.config.thinking},
        )

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer: an empty line, as behind every shot, if there is no chat template to end it."""
        return ("\n\n",) if self.config.shots and not self.chat else ()

    @property
    def begun(self) -> str:
        """The mark that opens the thinking, where the template puts it into the prompt itself."""
        return f"{OPEN}\n" if self.text("?").rstrip().endswith(OPEN) else ""


class BaselineModel(Model):
    """A plain model ready to answer; see `load_baseline`."""

    def __init__(self, backbone: Backbone, config: BaselineConfig, path: str | None = None) -> None:
        asked = Baseline(config, backbone)
        super().__init__(asked, path=path)
        self._answers_by(asked)

    def ask(self, config: BaselineConfig) -> None:
        """Ask in another way from now on; the weights stay."""
        self._answers_by(Baseline(config, self.method.backbone))

    @property
    def mark(self) -> str:
        """See `Model.mark`: `</think>` where the model writes its thinking, else what comes before an answer."""
        config = self.method.config
        if config.thinking or self.begun:
            return CLOSE
        return config.texts.answer.partition("{answer}")[0].strip()

    def _answers_by(self, asked: Baseline) -> None:
        self.method = asked.eval()
        self.stops, self.begun = asked.stops, asked.begun
        most = LONGEST_THINKING if asked.config.thinking else LONGEST
        context = asked.backbone.context
        self.speaking = replace(self.speaking, max_new_tokens=most if context is None else min(most, max(context // 2, 1)))


def load_baseline(
    path: str,
    task: Task | None = None,
    split: Split = "test",
    *,
    shots: int = 0,
    thinking: bool = False,
    texts: str | SoftTexts | None = None,
    chat: bool | None = None,
    device: str | torch.device | None = None,
    dtype: str | None = None,
) -> BaselineModel:
    """Load a plain Hugging Face model to be evaluated beside runs.

    Args:
        path: a folder or hub id.
        task, split: what it will be asked, which decides on wording and shots.
        shots: how many solved problems to show before each question: the first of the task's training split.
        thinking: let it write its thinking first. Scores are of what stands behind it; costs include it.
        texts: the wording, by name or itself; None = by the kind of the task's answers.
        chat: use the chat template; None = if there is one.
        device: None = a GPU if there is one.
        dtype: float32, bfloat16 or int8 (CPU only); None = float32.

    Raises:
        BackboneError: there is no usable model.
        ConfigError: shots without a task, or settings that the model's template does not allow.
    """
    config = baseline_config(task, split, shots=shots, thinking=thinking, texts=texts, chat=chat)
    backbone = load_backbone(BackboneConfig(path=path, dtype="bfloat16" if dtype == "bfloat16" else "float32"))
    backbone.to(device_or_gpu(device)).eval()
    model = BaselineModel(backbone, config, path)
    model.use_dtype(dtype)
    return model


def load_any(
    path: str | Path,
    *,
    thinking: bool = False,
    texts: str | None = None,
    device: str | torch.device | None = None,
    explain: bool = True,
    dtype: str | None = None,
) -> Model:
    """Load a run, or a plain Hugging Face model to be asked any question: as it stands, unless `texts` says otherwise.

    Args:
        path: a run as `load` takes it, or a folder or hub id of a plain model.
        thinking, texts: see `load_baseline`; for plain models.
        device, explain, dtype: see `load`.

    Raises:
        ConfigError: `thinking` or `texts` for a run.
        UnspokenError: see `load` and `load_baseline`.
    """
    if is_plain(path):
        return load_baseline(str(path), thinking=thinking, texts=texts or "plain", device=device, dtype=dtype)
    if thinking or texts is not None:
        raise ConfigError(f"thinking and texts are for plain Hugging Face models; {path} is a run, asked as it was trained")
    return load(path, device=device, explain=explain, dtype=dtype)


def baseline_config(
    task: Task | None,
    split: Split = "test",
    *,
    shots: int = 0,
    thinking: bool = False,
    texts: str | SoftTexts | None = None,
    chat: bool | None = None,
) -> BaselineConfig:
    """How to ask a plain model the questions of a task; the arguments are those of `load_baseline`.

    Raises:
        ConfigError: shots without a task, or of a task that has no examples to show.
    """
    if shots < 0:
        raise ConfigError(f"shots must be 0 or more, got {shots}")
    if shots and task is None:
        raise ConfigError("shots are examples of a task; give the task too")
    if texts is None:
        kind = "number" if task is None else kind_of(_first(task, split).answer)
        texts = BY_KIND.get(kind, "math")
    wording = texts_of(texts) if isinstance(texts, str) else texts
    shown = () if task is None or not shots else _shots(task, shots)
    return BaselineConfig(
        texts=wording,
        shots=tuple((one.question, wording.written(one, steps=True)) for one in shown),
        chat=chat,
        thinking=thinking,
    )


def _first(task: Task, split: Split) -> Example:
    examples = task.examples(split)
    if not examples:
        raise DataError(f"the {split} split has no examples, so there is nothing to evaluate; choose another split or task")
    return examples[0]


def _shots(task: Task, count: int) -> Sequence[Example]:
    try:
        found = task.examples("train")[:count]
    except DataError as error:
        raise ConfigError(f"shots are examples of the training split, which {task.name!r} lacks: {error}") from error
    if len(found) < count:
        raise ConfigError(f"{count} shots are asked for, but the training split of {task.name!r} has {len(found)} examples")
    return found
