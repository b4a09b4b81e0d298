"""Our iCoT-SI on the frozen runs `icot_*`: rows, schedule, and the whole run again, step by step, evaluations included."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import torch
from support.parity import cases
from torch import Tensor

from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.generate import generate
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.trace import Answer
from unspoken.core.rows.batch import Batch, collate
from unspoken.core.rows.curriculum import Stage
from unspoken.core.rows.row import Row
from unspoken.methods import make_method
from unspoken.methods.icot_si import MOST_BY_CHANCE, removed_tokens
from unspoken.runs.config import TrainConfig
from unspoken.training.feeding.checks import written_tokens
from unspoken.training.feeding.schedule import Schedule


class Loaded:
    """Dice that give the offset that the official run drew: somewhere inside its share of [0, 1)."""

    def __init__(self, rate: float | None, offset: int) -> None:
        self.draw = 0.0 if rate is None else 1 - math.exp(-rate * (offset + (0.5 if offset < MOST_BY_CHANCE else 0)))

    def random(self) -> float:
        return self.draw


def finite(value: float | str) -> float | None:
    """case.json writes infinity as a text; ours is None."""
    return None if value in ("inf", math.inf) else float(value)


def settings_of(case: cases.Case) -> dict[str, Any]:
    """Our settings for a case."""
    official = case.facts["method_config"]
    beyond = finite(official["remove_all_when_remove_beyond"])
    return {
        "name": "icot_si",
        "remove_per_epoch": float(official["remove_per_epoch"]),
        "remove_all_beyond": None if beyond is None else int(beyond),
        "remove_from": official["remove_start_from"],
        "pretrain_epochs": float(official["pretrain_epochs"]),
        "smoothing": finite(official["removal_smoothing_lambda"]),
        "side": official["removal_side"],
        "keep_position": official.get("keep_position", False),
        "restart_optimizer": official.get("reset_optimizer", False),
    }


def method_of(case: cases.Case) -> Any:
    """Ours, from the case's initial weights."""
    backbone = Backbone(case.lm("base_model.", case.facts["backbone_config"]), case.tokenizer())
    return make_method(settings_of(case), backbone)


def schedule_of(case: cases.Case, method: Any) -> Schedule:
    """The schedule of the official run: its rows, epochs and batch size."""
    official = case.facts["method_config"]
    train = TrainConfig(epochs=official["epochs"], batch_size=official["batch_size"])
    curriculum = method.curriculum()
    return Schedule(
        train, curriculum, len(case.examples), lambda: written_tokens(method, case.examples, curriculum.extremes())
    )


def strip(ids: list[int], eos: int, count: int) -> tuple[int, ...]:
    """An official row without the eos that pad it: it ends with its `count`-th eos."""
    seen = 0
    for place, token in enumerate(ids):
        seen += token == eos
        if seen == count:
            return tuple(ids[: place + 1])
    return tuple(ids)


@dataclasses.dataclass(frozen=True)
class Step:
    """One training step of ours on an official batch."""

    stage: Stage
    rows: list[Row]
    batch: Batch
    loss: Tensor
    norm: float
    gradients: dict[str, Tensor]
    restarted: bool
    logits: Tensor | None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What the model of a moment makes of an evaluation batch."""

    prompts: list[Row]
    answers: list[Answer]
    loss: float
    labels: int


@dataclasses.dataclass(frozen=True)
class Solved:
    """The whole run.

    Attributes:
        first: answers of the initial weights to all questions.
        after_step, after: parameters, by official name, after the first step and after the last.
    """

    case: cases.Case
    method: Any
    schedule: Schedule
    first: list[Answer]
    steps: list[Step]
    evaluations: list[Evaluation]
    after_step: dict[str, Tensor]
    after: dict[str, Tensor]


def parameters_of(method: Any) -> dict[str, torch.nn.Parameter]:
    """Our parameters under the official names."""
    return {f"base_model.{name}": value for name, value in method.backbone.lm.named_parameters()}


def rows_of_step(case: cases.Case, method: Any, stage: Stage, n: int) -> list[Row]:
    """Our rows of the official batch of step `n`, with the offsets that were drawn."""
    eos = method.backbone.tokenizer.eos_token_id
    whole = {method.layout(e, Stage(), Loaded(None, 0)).ids: e for e in case.examples}
    raw = case.tensors[f"step/{n}/raw_input_ids"].tolist()
    return [
        method.layout(whole[strip(ids, eos, 3)], stage, Loaded(removed_tokens(stage).smoothing, offset))
        for ids, offset in zip(raw, case.tensors[f"step/{n}/offset"].tolist(), strict=True)
    ]


def _optimizer(case: cases.Case, method: Any) -> torch.optim.AdamW:
    step = case.facts["optimizer_step"]
    kept = {"lr": step["lr"], "betas": tuple(step["betas"]), "eps": step["eps"], "weight_decay": step["weight_decay"]}
    return torch.optim.AdamW(parameters_of(method).values(), **kept)


def _copy(method: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in parameters_of(method).items()}


def _speak(case: cases.Case, method: Any, examples: list[Any]) -> tuple[list[Row], list[Answer]]:
    rows = [method.prompt(example.question, name=example.id) for example in examples]
    speaking = SamplingParams(max_new_tokens=case.facts["generate"]["max_new_tokens"])
    return rows, generate(method.backbone, rows, method.source(), speaking, batch_size=len(rows))


def _evaluate(case: cases.Case, method: Any, stage: Stage, examples: list[Any]) -> Evaluation:
    rows = [method.layout(example, method.curriculum().without_chance(stage), Loaded(None, 0)) for example in examples]
    batch = collate(rows)
    counts = method.counts(batch)
    with torch.no_grad():
        loss = float(method(batch, counts).total)
    prompts, answers = _speak(case, method, examples)
    return Evaluation(prompts, answers, loss, int(counts["answer"]))


@functools.cache
def solve(name: str) -> Solved:
    """Train and evaluate as the official run did, from its initial weights and on its batches."""
    case = cases.load(name)
    method = method_of(case)
    schedule = schedule_of(case, method)
    first = _speak(case, method, case.examples)[1]
    optimizer = _optimizer(case, method)
    steps: list[Step] = []
    evaluations: list[Evaluation] = []
    after_step: dict[str, Tensor] = {}
    size = case.facts["method_config"]["batch_size"]
    for n in range(schedule.total):
        stage = schedule.stage(n)
        restarted = schedule.stage_starts(n) and stage.restart
        if restarted:
            optimizer = _optimizer(case, method)
        rows = rows_of_step(case, method, stage, n)
        batch = collate(rows)
        report = method(batch, method.counts(batch))
        report.total.backward()
        gradients = {key: p.grad.clone() for key, p in parameters_of(method).items() if p.grad is not None}
        norm = torch.nn.utils.clip_grad_norm_(parameters_of(method).values(), case.facts["clip"]["max_grad_norm"])
        logits = None
        if (index := case.tensors.get(f"step/{n}/logits_index")) is not None:
            logits = method.backbone.logits(report.trace.hidden_at(index[:, 0].numpy(), index[:, 1].numpy())).detach()
        steps.append(Step(stage, rows, batch, report.total.detach(), float(norm), gradients, restarted, logits))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if n == 0:
            after_step = _copy(method)
        if (n + 1) % schedule.steps_per_epoch == 0:
            for begin in range(0, len(case.examples), size):
                evaluations.append(_evaluate(case, method, stage, case.examples[begin : begin + size]))
    return Solved(case, method, schedule, first, steps, evaluations, after_step, _copy(method))
