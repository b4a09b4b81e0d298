"""CODI: one model teaches itself. Beside its latents it learns to write the chain, and both must agree before the answer.

Paper: Shen et al., "CODI: Compressing Chain-of-Thought into Continuous Space via Self-Distillation", arXiv 2502.21074,
    section 3.
Idea: the student thinks a fixed number of latents, each a projection of the last hidden state, and answers. The teacher,
    the same weights, writes the chain and answers. Right before the answer's first token the student's states, of every
    layer, are pulled to the teacher's. Loss = student CE + a x distance of the layers + b x teacher CE.
Row:    question | bot | latent x K | eot | The answer is: N eos      student; labels behind eot
        question | step 1 ... step N-1 | The answer is: N eos         teacher (the row's branch); labels behind the question
        compared: the state before the first token of N, in both
Trains: the base model or its LoRA, the projection, the marker rows. Freezes: with LoRA, the rest of the base model.
Reference code: zhenyi4/codi 4fd88d4 (src/model.py, train.py, test.py), whyNLP/PCCoT 2e32e3e (models/modeling_gpt2.py,
    data_processor.py). They have no licence; this was written from the papers and from recorded tensors.
Relations: `coconut` feeds the state back as it is and learns by curriculum; `sim_cot` wraps it. PCCoT (arXiv 2506.18582) is
    this with `iterations`: all slots are read with their token, a latent is made from the state before each, and T times
    all of them are fed and made again; 24 latents then take 5 passes. `thinking.parallel` is nearly that: there the first
    latent is fed in the first of the passes already.
Departures:
    - Padding is masked in every pass and never counted as a position. The released code forgets the mask behind the
      question: latents and answers attend to padding, GPT-2's positions shift with it, and a row depends on its batch.
    - The compared position comes from the answer's character offsets. The released code adds 1 where the model's *path*
      contains "llama" or "qwen", which for letters and negative numbers is the answer's own token.
    - bot and eot are trained and start from "<<" (released: frozen, both the mean of the vocabulary under LoRA).
    - The question is forwarded once for both, and the teacher once, its states detached for the distance (released:
      twice, with two draws of dropout). The last latent, eot and answer go in one pass.
    - `scale="row"` divides by the spread of each row's own teacher state, so that a step does not depend on how it is
      cut into micro-batches; `scale="batch"` is the released rule.
    - `latents=0` works: the control without thoughts (released: an error).
    - The latent behind the last one is made only where it is asked for (`trailing`; released: always, and dropped).
    - Nothing is cut (released: every piece, at 256 tokens), and an answer may hold any token (released: any but eot).
    - `remove_eos=False` is not offered: no published script uses it.
    - PCCoT's iterations see no padding (released: they have no mask, so that questions of a batch attend to their own
      padding, and Llama counts it). The slots' tokens are read in a pass of their own (released: with the question). One
      spread over all layers together is not offered as a scale, and the answer's opening is spoken, not given.

Shapes: B rows, D width, L layers + 1.
"""

from __future__ import annotations

from dataclasses import field
from random import Random
from typing import Literal

import numpy as np
from torch import Tensor, nn

from unspoken.core.config import config_class
from unspoken.core.lm.backbone import Backbone
from unspoken.core.lm.markers import add_markers, refuse_markers
from unspoken.core.loop.loop import unroll
from unspoken.core.loop.self_check import check_branches
from unspoken.core.loop.sources import Jacobi, PrecomputedThoughts, Recurrence, Source
from unspoken.core.loop.trace import Trace
from unspoken.core.losses import Distance, Scale, labelled_loss, layer_distance_sum
from unspoken.core.rows.batch import Batch
from unspoken.core.rows.curriculum import Curriculum, Stage, single
from unspoken.core.rows.metrics import add_metrics
from unspoken.core.rows.row import Row, unlabelled
from unspoken.core.text.example import Example
from unspoken.core.text.template import Template, Written, answer_ids, answer_start, question_ids, written
from unspoken.errors import ConfigError
from unspoken.methods.base import Counts, LossReport, Method, Part, answer_counts, thoughts_asked


@config_class
class CodiConfig:
    """Settings of `Codi`; defaults are the published ones for GPT-2 (paper, section 4.1; scripts/train_gpt2_*.sh)."""

    name: Literal["codi"] = "codi"
    latents: int = 6  # K; for every problem, in training and at inference
    latents_per_step: int = 1  # size of a thought group, where `sim_cot` supervises them
    iterations: int | None = None  # T: make all latents at once in so many passes (PCCoT: 3); None = in turn
    trailing: bool = False  # make one more latent than is fed; the released SIM-CoT explains it too
    projection: bool = True  # False: the state itself is fed back
    projection_width: int | None = None  # of its hidden layer; None = the model's width
    projection_dropout: float = 0.0
    projection_norm: bool = True  # a LayerNorm at its end
    include_last_step: bool = False  # True lets the teacher copy its answer from the last step (paper: 43.7 -> 31.7)
    distance: Distance = "smooth_l1"
    scale: Scale = "row"  # what the distance is divided by: see Departures
    compare_embeddings: bool = True  # beside the layers' states; PCCoT leaves them out
    distill_weight: float = 1.0  # a; 20 for Llama
    teacher_weight: float = 1.0  # b
    marker_init: str = "<<"  # marker rows start as this text's row
    template: Template = field(
        default_factory=lambda: Template(question="{question}", step="{step}", answer="The answer is: {answer}")
    )
    separator: str = " "  # between steps
    chain_end: str = ""  # behind the last step, where there is one

    def __post_init__(self) -> None:
        if self.latents < 0:
            raise ConfigError(f"latents must be 0 or more, got {self.latents}")
        if self.iterations is not None and self.iterations < 1:
            raise ConfigError(f"iterations must be 1 or more, got {self.iterations}; null: latents in turn")
        if self.latents_per_step < 1:
            raise ConfigError(f"latents_per_step must be at least 1, got {self.latents_per_step}")
        if self.projection_width is not None and self.projection_width < 1:
            raise ConfigError(f"projection_width must be at least 1, got {self.projection_width}; null is the model's width")
        if not 0 <= self.projection_dropout < 1:
            raise ConfigError(f"projection_dropout must be in [0, 1), got {self.projection_dropout}")
        for name in ("distill_weight", "teacher_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be 0 or more, got {getattr(self, name)}")


class Projection(nn.Sequential):
    """State -> latent: a two-layer MLP, in fp32 whatever the base model's type is."""

    def __init__(self, width: int, config: CodiConfig) -> None:
        hidden = config.projection_width or width
        layers = [nn.Dropout(config.projection_dropout), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)]
        super().__init__(*layers, *([nn.LayerNorm(width)] if config.projection_norm else []))

    def forward(self, input: Tensor) -> Tensor:
        """States [N, D] -> latents [N, D]."""
        return super().forward(input.to(self[1].weight.dtype))  # pyright: ignore[reportArgumentType, reportCallIssue]


class Codi(Method):
    """Self-distillation into latents. See the module's card."""

    Config = CodiConfig
    config: CodiConfig

    def __init__(self, config: CodiConfig, backbone: Backbone) -> None:
        super().__init__(config, backbone)
        check_branches(backbone)
        self.markers = add_markers(backbone, config.marker_init)
        self.latents_per_group = config.latents_per_step
        self.projection = Projection(backbone.width, config) if config.projection else None
        self._answer_starts: dict[str, int] = {}

    @classmethod
    def most_latents(cls, config: CodiConfig) -> int:
        """The same number in every row."""
        return config.latents

    def new_tokens(self) -> tuple[int, ...]:
        """The three markers."""
        return self.markers.ids

    def parts(self) -> dict[str, Part]:
        """The projection, where there is one."""
        return {} if self.projection is None else {"projection": Part(module=self.projection)}

    def curriculum(self) -> Curriculum:
        """One stage: all latents, no written step."""
        return single(Stage(removed=None, groups=self.config.latents // self.latents_per_group))

    def _chain(self, example: Example) -> tuple[str, ...]:
        """The steps that the teacher writes and the latents stand for."""
        return example.steps if self.config.include_last_step else example.steps[:-1]

    def _teacher(self, question: tuple[int, ...], answer: tuple[int, ...], before: int, example: Example) -> Row:
        """question | chain | answer."""
        chain = sum((self.backbone.encode(part) for part in self.written(example).parts), ())
        refuse_markers((*chain, *answer), self.markers, example.id)
        place, length = len(question) + len(chain) + before - 1, len(question) + len(chain) + len(answer)
        return unlabelled(question, name=example.id).followed_by((*chain, *answer), start=length, capture_at=place)

    def written(self, example: Example) -> Written:
        """What the teacher writes: its steps as one text, then the answer. The student's labels are the answer alone."""
        c = self.config
        answer = answer_ids(self.backbone, c.template, example.answer)
        if not (steps := self._chain(example)):
            return Written(parts=(), steps=(), rest=answer)
        return written(c.template, steps, answer, separator=c.separator, after=c.chain_end)

    def layout(self, example: Example, stage: Stage, rng: Random) -> Row:
        """The student's row with the teacher's beside it; see the card."""
        answer = answer_ids(self.backbone, self.config.template, example.answer)
        before = self._answer_start(example.answer)
        head = self.prompt(example.question, name=example.id)
        question = head.ids[: head.start - 1]
        return head.followed_by(
            answer,
            steps_covered=len(self._chain(example)),
            capture_at=len(head.ids) + before - 1,
            branch=self._teacher(question, answer, before, example),
            shared=len(question),
        )

    def _answer_start(self, answer: str) -> int:
        if answer not in self._answer_starts:
            self._answer_starts[answer] = answer_start(self.backbone, self.config.template, answer)
        return self._answer_starts[answer]

    def prompt(self, question: str, latents: int | None = None, name: str = "") -> Row:
        """question | bot | latents | eot.

        Raises:
            ConfigError: a negative number of latents.
            DataError: the question contains a marker.
        """
        latents = thoughts_asked(latents, self.config.latents)
        ids = refuse_markers(question_ids(self.backbone, self.config.template, question), self.markers, name)
        return self.markers.prompt(ids, latents, name=name, unfed_latent=self.config.trailing and latents > 0)

    def source(self) -> Source | PrecomputedThoughts | None:
        """The recurrence through the projection."""
        recurrence, passes = Recurrence(self.projection), self.config.iterations
        return recurrence if passes is None else Jacobi(recurrence, passes, tokens_first=True)

    def counts(self, batch: Batch) -> Counts:
        """Numbers of labelled tokens of student and teacher, and of pairs of states to compare."""
        assert batch.branch is not None, "rows without a teacher: use `layout`, not `prompt`, to train"
        return {
            "answer": answer_counts(batch),
            "teacher": answer_counts(batch.branch),
            "pairs": np.array(float(len(batch))),
        }

    def forward(self, batch: Batch, counts: Counts) -> LossReport:
        """Student's cross-entropy, distance to the teacher, teacher's cross-entropy."""
        c = self.config
        trace = unroll(self.backbone, batch, self.source())
        assert batch.branch is not None
        assert trace.branch is not None
        student, told = labelled_loss(trace, batch, self.backbone.logits)
        teacher, taught = labelled_loss(trace.branch, batch.branch, self.backbone.logits)
        distance = self._distance(trace, trace.branch)
        return LossReport(
            terms={
                "answer": student / float(counts["answer"]),
                "distill": c.distill_weight * distance / float(counts["pairs"]),
                "teacher": c.teacher_weight * teacher / float(counts["teacher"]),
            },
            trace=trace,
            metrics=add_metrics([told, taught]),
        )

    def _distance(self, student: Trace, teacher: Trace) -> Tensor:
        """Distance between the states before the answer, summed over rows; the teacher's are the target, without
        gradient."""
        assert student.captured_LBD is not None
        assert teacher.captured_LBD is not None
        c, first = self.config, 0 if self.config.compare_embeddings else 1
        target_LBD = teacher.captured_LBD.detach()
        return layer_distance_sum(student.captured_LBD[first:], target_LBD[first:], c.distance, c.scale)
