"""Distillation from a frozen teacher: behind the thoughts, states are pulled to those of a model that read the steps.

Paper: CODI's loss (Shen et al., arXiv 2502.21074, section 3) as LOTUS + CODI uses it (arXiv 2606.31779).
Idea: a model that was trained to write its steps, such as the run that training starts from, reads the question, the steps
    that the thoughts stand for, and the first token behind them. At this token the student's states, of every layer, are
    pulled to the teacher's. Loss = inner method's loss + weight x distance of the layers, mean over rows with thoughts.
Row:    the inner method's; and, to the teacher:   question | step 1 | ... | step k | first token behind the thoughts
        compared: the state at that token, in both
Trains: what the inner method trains. Freezes: the teacher, which is a model of its own.
Reference code: yingfan-bot/lotus eb77e2f (scripts/lotus.py), MIT.
Relations: around `lotus` it is the paper's LOTUS + CODI; it goes around any method with thoughts and a template, such as
    `coconut`. `codi` has the same loss with itself as the teacher, one token earlier.
Departures:
    - The teacher reads no padding. The released code hands it the row's padding as ordinary tokens, with which the states
      that it teaches depend on the other rows of the batch.
    - The teacher stops at the compared token (released: it reads the whole row).
    - Distances can be divided by the spread of the teacher's states (`scale`), as in CODI; released: they are not.

Shapes: L layers + 1, N rows with thoughts, D width.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from random import Random
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator
from torch import Tensor

from unspoken.core.auxiliary.assistant import Assistant
from unspoken.core.auxiliary.step_decoder import check_vocabulary
from unspoken.core.config import config_class
from unspoken.core.embeddings import text_config
from unspoken.core.lm.backbone import Backbone, BackboneConfig
from unspoken.core.loop.loop import unroll
from unspoken.core.loop.trace import Trace
from unspoken.core.losses import Distance, Scale, layer_distance_sum
from unspoken.core.rows.attachment import HostValue
from unspoken.core.rows.batch import Batch, collate
from unspoken.core.rows.curriculum import Stage
from unspoken.core.rows.row import IGNORE, Row, unlabelled
from unspoken.core.text.example import Example
from unspoken.core.text.template import Template, pieces
from unspoken.errors import ConfigError, DataError
from unspoken.methods import make_method, method_config
from unspoken.methods.base import Counts, LossReport, Part, Wrapper

TEACHER_ROW = "teacher_row"
"""The name in `Row.extra` of the row that the teacher reads."""


@config_class
class DistillConfig:
    """Settings of `Distill`."""

    name: Literal["distill"] = "distill"
    inner: Annotated[Any, BeforeValidator(method_config)]  # the method that learns
    teacher: BackboneConfig  # the model that writes its steps, with the base's tokenizer, width and number of layers
    weight: float = 1.0  # scripts/run.py: codi_loss_weight; the published value is in no file
    distance: Distance = "smooth_l1"
    scale: Scale = "none"  # see `core/losses.py:layer_distance_sum`

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ConfigError(f"weight must be 0 or more, got {self.weight}")
        if self.teacher.lora is not None:
            raise ConfigError("the teacher of distill is frozen and takes no LoRA; leave teacher.lora away")


class Distill(Wrapper):
    """A frozen teacher beside a method. See the module's card."""

    Config = DistillConfig
    config: DistillConfig

    def __init__(self, config: DistillConfig, backbone: Backbone) -> None:
        known = len(backbone.tokenizer)
        super().__init__(config, make_method(config.inner, backbone))
        template = self.method.at_inference.template
        if template is None:
            raise ConfigError(f"distill goes around a method whose prompts are a template; {config.inner.name!r} has none")
        self._template: Template = template
        self.explains = self.method.explains
        self._check_rows()
        self.teacher = Assistant(config.teacher)
        self._check_teacher(known)

    def _check_rows(self) -> None:
        """Refuse a method that compares states itself, or has no thoughts to compare behind.

        Raises:
            ConfigError: names the method.
        """
        name = self.config.inner.name
        if not self.latents_per_group:
            raise ConfigError(f"distill compares states behind the thoughts; {name!r} has none")
        with contextlib.suppress(DataError):  # a method that needs more of its data than steps
            row = self.method.layout(_ANY, self.method.curriculum().last, Random(0))
            if row.capture_at is not None or row.branch is not None:
                raise ConfigError(f"distill compares states, which {name!r} does itself; put it around another method")

    def _check_teacher(self, known: int) -> None:
        """Refuse a teacher whose tokens or states are not the base model's.

        Args:
            known: tokens of the base model before the method added its own.
        """
        mine, theirs = self.backbone, self.teacher.backbone
        what = f"the teacher {self.config.teacher.path or 'given by its arch'!r}"
        check_vocabulary(mine, theirs, what)
        if len(theirs.tokenizer) < known:
            raise ConfigError(f"{what} has {len(theirs.tokenizer)} tokens, the base model {known}; take one of its family")
        shapes = [(b.width, text_config(b.lm).num_hidden_layers) for b in (theirs, mine)]
        if shapes[0] != shapes[1]:
            raise ConfigError(
                f"{what} has states of width {shapes[0][0]} in {shapes[0][1]} layers, the base model {shapes[1][0]} in "
                f"{shapes[1][1]}: they cannot be compared; take a model of the same size"
            )

    def parts(self) -> dict[str, Part]:
        """The teacher, which only training needs."""
        return {"teacher": Part(module=self.teacher, needed="train", lm=self.teacher)}

    def explain(self, trace: Trace) -> list[tuple[str, ...]]:
        """See `Method.explain`."""
        return self.method.explain(trace)

    def expected(self, example: Example, groups: int) -> tuple[str | None, ...] | None:
        """See `Method.expected`."""
        return self.method.expected(example, groups)

    def layout(self, example: Example, stage: Stage, rng: Random) -> Row:
        """The inner method's row, with the row of the teacher if it has thoughts."""
        row = self.method.layout(example, stage, rng)
        if not row.latents:
            return row
        first = next(t for t, label in enumerate(row.labels) if label != IGNORE)
        parts = pieces(self.backbone, self._template, example)
        ids = (*parts.question, *sum(parts.steps[: row.steps_covered], ()), row.ids[first])
        teacher = unlabelled(ids, name=example.id, capture_at=len(ids) - 1)
        return replace(row, capture_at=first, extra={**row.extra, TEACHER_ROW: HostValue(teacher)})

    def counts(self, batch: Batch) -> Counts:
        """The inner method's counts, and the number of pairs of states to compare."""
        pairs = sum(row is not None for row in batch.values(TEACHER_ROW))
        return {**self.method.counts(batch), "pairs": np.array(float(pairs))}

    def forward(self, batch: Batch, counts: Counts) -> LossReport:
        """The inner method's loss, and the distance to the teacher."""
        report = self.method(batch, counts)
        distance = self._distance(batch, report.trace) / max(float(counts["pairs"]), 1.0)
        return replace(report, terms={**report.terms, "distill": self.config.weight * distance})

    def _distance(self, batch: Batch, student: Trace) -> Tensor:
        """Distance between the states, summed over rows with thoughts."""
        found = [(b, row) for b, row in enumerate(batch.values(TEACHER_ROW)) if row is not None]
        if not found:
            assert student.hidden_BSD is not None
            return student.hidden_BSD.sum() * 0.0
        with torch.no_grad():
            taught = unroll(self.teacher.backbone, collate([row for _, row in found]).to(self.backbone.device), None)
        assert taught.captured_LBD is not None
        assert student.captured_LBD is not None
        rows_N = torch.tensor([b for b, _ in found], device=self.backbone.device)
        student_LND = student.captured_LBD.index_select(1, rows_N)
        return layer_distance_sum(student_LND, taught.captured_LBD, self.config.distance, self.config.scale)


_ANY = Example(id="any", question="How many?", steps=("<<1+1=2>>", "<<2+2=4>>"), answer="4")
"""A problem to see what a method's rows hold."""
