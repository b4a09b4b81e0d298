"""Step-weighted fine-tuning: the tokens of the reasoning steps count more in the loss than the words around them.

Paper: none. A pull request to nanochat (karpathy/nanochat 267) that names itself after SIM-CoT; it has no latents and no
    decoder, so it is not SIM-CoT. What its README promises is what this method does.
Idea: steps are found in the written chain, e.g. GSM8K's <<48/2=24>>. Labels inside a step have weight m, all others 1;
    loss = sum(weight x CE) / sum(weight) over the whole optimizer step. With m = 1 it is plain SFT, bit for bit.
Row:    the inner method's, by default SFT-CoT's: question | step 1 ... step N | ### answer eos
        weight m on the labels of each step (mode "span"), or of a window around its first token (mode "window")
Trains: what the inner method trains; nothing is added. Freezes: what the inner method freezes.
Reference code: karpathy/nanochat 94c5895 (scripts/chat_simcot.py, nanochat/simcot_utils.py), MIT.
Relations: wraps a method that writes steps: `cot`, `pause`, what a curriculum of `coconut` or `icot_si` leaves in words, or
    the teacher of `codi`. Inside `sim_cot` it gives latents with an auxiliary decoder and a weighted text beside them:
    sim_cot(step_weighted(coconut)). At inference there is only the inner method.
Departures:
    - A step is found in the text and mapped to tokens by character offsets. The released code takes the number of a message
      part for a token position; these fall inside the question, so that no supervised token is ever weighted.
    - A step is all of its tokens (mode "span"). The released window of 2 tokens before its first token and 5 from it on cuts
      longer steps and reaches into words; it is mode "window".
    - Weights are normalised over the optimizer step (released: per micro-batch, then a mean of means).
    - A tool's output is a target, since nothing calculates at inference (nanochat masks it: its engine fills it in).
    - Accuracies are sums and counts over all steps' tokens (released: 3 tokens per step, 0.0 where there are none, and a
      mean of means); also per step and of results. Data without a step are refused before training (released: plain SFT).

Shapes: T tokens of the written chain and answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from random import Random
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BeforeValidator

from unspoken.core.config import config_class
from unspoken.core.lm.backbone import Backbone
from unspoken.core.rows.curriculum import Stage
from unspoken.core.rows.label_marks import LABEL_MARKS, Marks
from unspoken.core.rows.row import IGNORE, Row
from unspoken.core.text.example import Example
from unspoken.core.text.finders import finder
from unspoken.core.text.steps import RULES, Span, check_rule, result_of
from unspoken.core.text.template import Written
from unspoken.errors import ConfigError, DataError
from unspoken.methods import make_method, method_config
from unspoken.methods.base import Wrapper


def _checked(rule: str) -> str:
    try:
        return rule if rule == "steps" else check_rule(rule)
    except ConfigError as error:
        raise ValueError(f"{error}, and 'steps', the example's own") from error


_ANY = Example(id="any", question="?", steps=("1",), answer="1")
"""A problem for checking whether a method writes chains."""


@config_class
class StepWeightedConfig:
    """Settings of `StepWeighted`; defaults are the released script's where it has them."""

    name: Literal["step_weighted"] = "step_weighted"
    inner: Annotated[Any, BeforeValidator(method_config)] = field(default_factory=lambda: method_config("cot"))
    multiplier: float = 2.0  # m (step_weight_multiplier); 1 = plain SFT
    segmenter: Annotated[str, AfterValidator(_checked)] = (
        "markers"  # a rule of core/text/steps.py, or "steps": the example's own
    )
    mode: Literal["span", "window"] = "span"
    before: int = 2  # mode "window": labels before a step's first token (simcot_utils.py)
    after: int = 5  # mode "window": labels from it on (simcot_utils.py)
    track: bool = True  # count how often labels are predicted (track_step_accuracy)
    require_steps: bool = True  # refuse, before training, data of which a batch has no weighted token

    def __post_init__(self) -> None:
        if not 0 < self.multiplier < float("inf"):
            raise ConfigError(f"multiplier must be a positive number, got {self.multiplier}; 1 is plain SFT, 2 the default")
        if self.before < 0 or self.after < 1:
            raise ConfigError(f"a window needs before >= 0 and after >= 1, got {self.before} and {self.after}")


class StepWeighted(Wrapper):
    """Step-weighted fine-tuning. See the module's card."""

    Config = StepWeightedConfig
    config: StepWeightedConfig

    def __init__(self, config: StepWeightedConfig, backbone: Backbone) -> None:
        super().__init__(config, make_method(config.inner, backbone))
        name = config.inner.name
        if self.method.at_inference is not self.method:
            raise ConfigError(
                f"step_weighted cannot wrap {name!r}, which wraps a method itself; put step_weighted inside it"
            )
        if self.method.written(_ANY) is None:
            raise ConfigError(f"step_weighted needs a method that writes steps inside; {name!r} writes none; take e.g. cot")
        self._found: dict[str, list[Span]] = {}

    @property
    def advice(self) -> str:
        """The released README's advice on an unstable loss."""
        m = self.config.multiplier
        return f"lower method.multiplier, now {m:g}, to {1.5 if m > 1.5 else 1:g}" if m > 1 else ""

    def layout(self, example: Example, stage: Stage, rng: Random) -> Row:
        """The inner method's row with marks on its labels.

        Raises:
            ConfigError: its labels are not the written chain and answer, or an end of it.
        """
        row = self.method.layout(example, stage, rng)
        ids, marks = self._marked(example)
        branch = row.branch and self._placed(row.branch, ids, marks)
        return replace(self._placed(row, ids, marks), branch=branch)

    def _placed(self, row: Row, ids: tuple[int, ...], marks: Marks) -> Row:
        """Put the marks of the whole text onto a row's labels; a curriculum may have removed part of the chain."""
        at = [t for t, label in enumerate(row.labels) if label != IGNORE]
        labels = tuple(row.labels[t] for t in at)
        kept = next((n for n, label in enumerate(labels) if n == len(ids) or label != ids[n]), len(labels))
        # From the left, the row ends as the text does; from the right, it also begins so.
        for front in (0, kept):
            tail = len(labels) - front
            if front + tail <= len(ids) and labels[front:] == ids[len(ids) - tail :]:
                placed = marks.placed([*range(front), *range(len(ids) - tail, len(ids))], at, len(row.labels))
                return replace(row, extra={**row.extra, LABEL_MARKS: placed})
        raise ConfigError(
            f"step_weighted cannot weigh {self.config.inner.name!r}: its labels are not the text that it writes"
        )

    def _marked(self, example: Example) -> tuple[tuple[int, ...], Marks]:
        """Token ids of the whole written chain and answer, and their marks."""
        written = self.method.written(example)
        assert written is not None
        starts = np.cumsum([0, *map(len, written.parts)])
        bounds = [self.backbone.character_bounds(text) + at for text, at in zip(written.parts, starts, strict=False)]
        bounds_T2 = np.concatenate([np.zeros((0, 2), dtype=np.int64), *bounds])
        ids = sum((self.backbone.encode(text) for text in written.parts), ()) + written.rest
        weights_T, steps_T, results_T = np.ones(len(ids)), np.full(len(ids), -1), np.zeros(len(ids), dtype=bool)
        for number, span in enumerate(self._spans(written)):
            inside = np.flatnonzero(_overlap(bounds_T2, span.start, span.end))
            inside = inside[steps_T[inside] < 0]  # one token may hold the end of a step and the start of the next
            if not inside.size:
                continue
            steps_T[inside] = number
            if span.result is not None:
                results_T[inside] = _overlap(bounds_T2[inside], *span.result)
            first = int(inside[0])
            window = slice(max(first - self.config.before, 0), first + self.config.after)
            weights_T[inside if self.config.mode == "span" else window] = self.config.multiplier
        marks = Marks(
            weights=tuple(weights_T.tolist()),
            steps=tuple(steps_T.tolist()),
            results=tuple(results_T.tolist()),
            track=self.config.track,
        )
        return ids, marks

    def _spans(self, written: Written) -> list[Span]:
        """The spans of a problem's steps in its written chain."""
        text = "".join(written.parts)
        if self.config.segmenter == "steps":
            return [Span(start=a, end=b, result=result_of(text, a, b)) for a, b in written.steps]
        if not self.config.segmenter.startswith("learned:"):
            return finder(self.config.segmenter)(text)
        if text not in self._found:  # a tagger takes a millisecond, and rows are laid out anew in every epoch
            if len(self._found) > 500_000:
                self._found.clear()
            self._found[text] = finder(self.config.segmenter)(text)
        return self._found[text]

    def check(self, rows: Sequence[Row]) -> None:
        """Refuse a batch without a weighted label, because training on it would be plain SFT.

        Raises:
            DataError: names the batch, shows its text, and says which rules would find steps in it.
        """
        if self.config.multiplier == 1 or not self.config.require_steps:
            return
        marked = [(r, r.extra.get(LABEL_MARKS)) for row in rows for r in (row, row.branch) if r is not None]
        labelled = [
            [(i, w) for i, w in zip(r.labels, marks.weights, strict=True) if i != IGNORE]
            for r, marks in marked
            if isinstance(marks, Marks)
        ]
        if any(weight != 1 for row in labelled for _, weight in row):
            return
        texts = [self.backbone.tokenizer.decode([label for label, _ in row]) for row in labelled]
        others = ", ".join(rule for rule, find in RULES.items() if any(find(text) for text in texts))
        shown = " ".join(max(texts, key=len, default="").split())
        raise DataError(
            f"no token of a batch of {len(rows)} rows ({', '.join(row.name for row in rows[:3])}, ...) lies in a reasoning "
            f"step: segmenter {self.config.segmenter!r} finds none in what they write, e.g. {shown!r:.100}; "
            f"{f'rules that find some: {others}; ' if others else ''}set method.segmenter to another rule, "
            "task.steps=annotated to keep <<...>> in natural text, method.multiplier=1 for plain SFT, or "
            "method.require_steps=false to train on such batches"
        )


def _overlap(bounds_T2: np.ndarray, start: int, end: int) -> np.ndarray:
    """Which tokens contain a character of a span of text."""
    return (bounds_T2[:, 0] < end) & (bounds_T2[:, 1] > start)
