"""A latent reranker: a small recurrent head that reads a trajectory's latents and says how likely its answer is right.

After LatentTTS (arXiv 2510.07745): the scores of several trajectories of one question are compared in a softmax, and the
right ones shall have the mass. Ours differs in size and labels. Theirs is a copy of the whole model with a scalar head, and
the label of each thought is estimated by continuing it many times; ours reads latents and the states they were made from,
and every thought has its trajectory's outcome for a label, so that a run's own samples are all it needs.

Shapes: Q questions, N trajectories of each, K latents, F entries of the head's input, D width of the model.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unspoken.causal.ranking import FORMAT, Lesson, above_error
from unspoken.core.config import build
from unspoken.core.files import read_object, sha256, write_file, write_json
from unspoken.errors import ConfigError, DataError, RunError

LEAST = 20
"""Fewest problems with right and wrong trajectories to learn from (ours)."""

_BATCH, _RATE, _DECAY, _DROPOUT, _EPOCHS, _PATIENCE = 16, 1e-3, 0.01, 0.2, 60, 12


class LatentRanker(nn.Module):
    """Reads latents in order and adds up a score per latent, so that a part of a trajectory has a score too.

    Args:
        width: F.
        hidden: width of the head.
    """

    def __init__(self, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.drop = nn.Dropout(_DROPOUT)
        self.read = nn.GRU(width, hidden, batch_first=True)
        self.judge = nn.Linear(hidden, 1)
        nn.init.zeros_(self.judge.weight)  # before it has learnt anything it scores all alike

    def forward(self, input_NKF: Tensor, real_NK: Tensor) -> Tensor:
        """Scores [N, K] of trajectories after each latent; those of the whole trajectories are the last column."""
        step_NK = self.judge(self.read(self.drop(input_NKF))[0]).squeeze(2)
        return (step_NK * real_NK).cumsum(dim=1)


def head_input(latents_QNKD: Tensor, states_QNKD: Tensor | None) -> Tensor:
    """What a head reads, [Q, N, K, F]: the directions of latents and of the states that they were made from, how they
    differ from those of the question's first trajectory, which is undisturbed, and how much.

    The first state has read the question and nothing else; the later ones have read the latents before them. Lengths are
    left out because they differ between methods. Precomputed thoughts have no states: the head then reads latents alone.
    """
    read = [latents_QNKD] if states_QNKD is None else [latents_QNKD, states_QNKD]
    directions = [nn.functional.layer_norm(part.float(), part.shape[-1:]) for part in read]
    away = [part - part[:, :1] for part in directions]
    sizes = [part.square().mean(dim=3, keepdim=True).sqrt() for part in away]
    return torch.cat([*directions, *away, *sizes], dim=3)


def contrastive_loss(scores_QNK: Tensor, right_QN: Tensor, real_QK: Tensor) -> Tensor:
    """Cross-entropy between the trajectories' softmax and equal shares for the right ones, mean over latents.

    Args:
        scores_QNK: after each latent.
        right_QN: which trajectories are right, at least one of each question.
        real_QK: which latents there are.
    """
    return (_step_losses(scores_QNK, right_QN) * real_QK).sum() / real_QK.sum()


def _step_losses(scores_QNK: Tensor, right_QN: Tensor) -> Tensor:
    """The cross-entropy [Q, K] after each latent."""
    share_QN = right_QN / right_QN.sum(dim=1, keepdim=True)
    return -(share_QN[:, :, None] * scores_QNK.log_softmax(dim=1)).sum(dim=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectories:
    """Trajectories of questions, as a head is taught and asked with.

    Attributes:
        input_QNKF: see `head_input`.
        real_QNK: which latents there are.
        right_QN: whether the answer is right.
    """

    input_QNKF: Tensor
    real_QNK: Tensor
    right_QN: Tensor

    def some(self, chosen: Tensor) -> Trajectories:
        """Those of the chosen questions."""
        return Trajectories(
            input_QNKF=self.input_QNKF[chosen], real_QNK=self.real_QNK[chosen], right_QN=self.right_QN[chosen]
        )

    def mismatched(self) -> Trajectories:
        """Every question with the latents of the next one: what is left is which trajectory was disturbed, and how much."""
        return dataclasses.replace(
            self, input_QNKF=self.input_QNKF.roll(-1, dims=0), real_QNK=self.real_QNK.roll(-1, dims=0)
        )

    @property
    def mixed(self) -> Tensor:
        """Numbers of the questions with right and wrong trajectories; the others teach nothing."""
        share_Q = self.right_QN.float().mean(dim=1)
        return ((share_Q > 0) & (share_Q < 1)).nonzero().flatten()


@dataclass(frozen=True, kw_only=True, eq=False)
class Learned:
    """A head, the control that was taught with another problem's latents, and their lesson."""

    head: LatentRanker
    control: LatentRanker
    lesson: Lesson

    def save(self, path: str | Path) -> None:
        """Write the heads to `path`, which ends in .safetensors, and the lesson next to it (.json), each atomically."""
        path = Path(path)
        heads = {"head": self.head, "control": self.control}
        tensors = {f"{name}.{key}": value for name, head in heads.items() for key, value in head.state_dict().items()}
        write_file(path, lambda new: save_file(tensors, str(new)))
        write_json(path.with_suffix(".json"), {**dataclasses.asdict(self.lesson), "sha256": sha256(path)})

    @classmethod
    def load(cls, path: str | Path) -> Learned:
        """Read what `save` wrote.

        Raises:
            RunError: a file is missing or damaged, or they do not belong together.
        """
        path = Path(path)
        again = "`unspoken scale RUN --rank` makes one"
        try:
            told = read_object(path.with_suffix(".json"))
            if told.pop("sha256", None) != sha256(path):
                raise ValueError("the two are not from one training")
            lesson = build(Lesson, told)
            if lesson.format != FORMAT:
                raise ValueError(f"its format is {lesson.format}, expected {FORMAT}")
            tensors = load_file(str(path))
            if odd := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
                raise ValueError(f"{odd[0]} holds nan or inf")
            heads = [LatentRanker(lesson.width, lesson.hidden) for _ in range(2)]
            for name, head in zip(("head", "control"), heads, strict=True):
                head.load_state_dict({key: tensors.pop(f"{name}.{key}") for key in head.state_dict()})
        except OSError as error:
            raise RunError(f"{path}: cannot read the latent ranker ({error.strerror or error}); {again}") from None
        except (ValueError, ConfigError, SafetensorError, KeyError, RuntimeError) as error:
            raise RunError(f"{path} or its .json is no latent ranker, or damaged ({error}); {again}") from None
        return cls(head=heads[0].eval(), control=heads[1].eval(), lesson=lesson)


def scores(head: LatentRanker, some: Trajectories) -> Tensor:
    """Scores [Q, N] of whole trajectories."""
    with torch.no_grad():
        return _scores(head, some)[:, :, -1]


def _scores(head: LatentRanker, some: Trajectories) -> Tensor:
    Q, N = some.right_QN.shape
    return head(some.input_QNKF.flatten(0, 1), some.real_QNK.flatten(0, 1)).unflatten(0, (Q, N))


@dataclass(frozen=True, kw_only=True, eq=False)
class Taught:
    """A head, and what it is worth on problems that neither taught it nor ended its training.

    Attributes:
        head: as it was at its best; with equal scores for all where it is not kept.
        loss, chance: its loss on those problems, and that of equal scores, both before it is decided whether to keep it.
        gain, error: the mean of what it lowers each problem's loss by, and the standard error of that mean.
    """

    head: LatentRanker
    loss: float
    chance: float
    gain: float
    error: float

    @property
    def kept(self) -> bool:
        """Whether the gain is above one standard error."""
        return above_error(self.gain, self.error)


def teach(some: Trajectories, *, hidden: int = 64, seed: int = 0) -> Taught:
    """Teach a head: AdamW, until the loss on a held-out fifth of the problems has stopped falling; another fifth judges it.

    A head whose gain there is within one standard error scores all alike, so that the choice is the first trajectory, which
    is undisturbed: a gain by chance would only disturb it.

    Raises:
        DataError: fewer than `LEAST` problems with right and wrong trajectories.
    """
    mixed = some.mixed
    if len(mixed) < LEAST:
        raise DataError(
            f"a latent ranker learns from problems with right and wrong trajectories, at least {LEAST}; of "
            f"{len(some.right_QN)} there are {len(mixed)}. Take more problems, more trajectories, or more strength"
        )
    fold_M = torch.arange(len(mixed)) % 5
    held, judge, taught = (some.some(mixed[chosen_M]) for chosen_M in (fold_M == 0, fold_M == 1, fold_M > 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = LatentRanker(some.input_QNKF.shape[3], hidden)
        equal = copy.deepcopy(head.state_dict())
        chance_Q = _losses(head.eval(), judge)
        _train(head, taught, held)
    gain_Q = chance_Q - _losses(head.eval(), judge)
    error = float(gain_Q.std()) / len(gain_Q) ** 0.5
    chance, gain = float(chance_Q.mean()), float(gain_Q.mean())
    if not above_error(gain, error):
        head.load_state_dict(equal)
    return Taught(head=head.eval(), loss=chance - gain, chance=chance, gain=gain, error=error)


def _losses(head: LatentRanker, some: Trajectories) -> Tensor:
    """Each question's loss [Q], the mean over its latents."""
    with torch.no_grad():
        steps_QK = _step_losses(_scores(head, some), some.right_QN.float())
    real_QK = some.real_QNK[:, 0]
    return (steps_QK * real_QK).sum(dim=1) / real_QK.sum(dim=1)


def _train(head: LatentRanker, taught: Trajectories, held: Trajectories) -> None:
    """Train a head that scores all alike, and leave it as it was at its best."""
    optimizer = torch.optim.AdamW(head.parameters(), lr=_RATE, weight_decay=_DECAY)
    best, kept, since = float(_losses(head.eval(), held).mean()), copy.deepcopy(head.state_dict()), 0
    for _ in range(_EPOCHS):
        head.train()
        for part in torch.randperm(len(taught.right_QN)).split(_BATCH):
            optimizer.zero_grad()
            _loss(head, taught.some(part)).backward()
            optimizer.step()
        loss = float(_losses(head.eval(), held).mean())
        since = since + 1 if loss >= best else 0
        if loss < best:
            best, kept = loss, copy.deepcopy(head.state_dict())
        if since == _PATIENCE:
            break
    head.load_state_dict(kept)


def _loss(head: LatentRanker, some: Trajectories) -> Tensor:
    return contrastive_loss(_scores(head, some), some.right_QN.float(), some.real_QNK[:, 0])
