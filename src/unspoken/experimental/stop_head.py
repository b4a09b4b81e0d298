"""Learn when to stop thinking: a linear head on latents that predicts whether another latent would help.

Every problem is answered with 1, 2, ... K latents. Stopping at latent k is right if the answer after it is no worse than
the answer after all K. A logistic regression on the latents' directions learns to predict this; the model is not changed.
Takes K answers per problem, once.

Shapes: B problems, K latents, D width, N places to stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from unspoken.core.loop.sources import PrecomputedThoughts
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, DataError
from unspoken.experimental.stopping import features
from unspoken.runs.model import Model
from unspoken.tasks.base import Task


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A head and its accuracy.

    Attributes:
        weight_D, bias: the head.
        fit, held: share of places classified correctly: in the training part, and in the held-out fifth.
        usual: the share for always predicting the more common class, on the held-out fifth.
        places: number of places.
    """

    weight_D: Tensor
    bias: Tensor
    fit: float
    held: float
    usual: float
    places: int


def learn_stop(model: Model, task: Task, examples: Sequence[Example], *, decay: float = 1e-3) -> Learned:
    """Learn a head from problems that are not in a test split.

    Args:
        decay: weight of the squared norm of the head.

    Raises:
        ConfigError: the model does not make its latents one by one, or makes fewer than two.
        DataError: fewer than ten problems, or stopping is right everywhere, or nowhere.
    """
    source = model.method.source()
    if source is None or isinstance(source, PrecomputedThoughts):
        raise ConfigError("a stop head needs a method that makes its latents one by one; here they are in the prompt")
    if len(examples) < 10:
        raise DataError(f"a stop head needs at least 10 problems to learn from, got {len(examples)}; raise --limit")
    questions, step = [example.question for example in examples], model.method.at_inference.latents_per_group
    latents_BKD = torch.cat([model.think(questions[i : i + 32]).latents_BKD for i in range(0, len(questions), 32)])
    most = model.answer(questions[:1])[0].latents
    stops = list(range(step, most + 1, step))
    if len(stops) < 2:
        raise ConfigError(
            f"this model thinks {most} latents, and a stop head needs at least two thought groups to choose from"
        )
    right_BN = torch.tensor(
        [
            [task.score(example, answer.text).flexible for example, answer in zip(examples, said, strict=True)]
            for said in (model.answer(questions, latents=count) for count in stops)
        ]
    ).T
    enough_BN = (right_BN >= right_BN[:, -1:])[:, :-1].float()
    x_BND = features(latents_BKD[:, [count - 1 for count in stops[:-1]]]).cpu().clone()
    if enough_BN.min() == enough_BN.max():
        always = "always" if enough_BN.min() else "never"
        raise DataError(f"on these problems stopping early is {always} right, so there is nothing to learn; take others")
    cut = max(len(examples) // 5, 1)
    weight_D, bias = _fit(x_BND[cut:].flatten(0, 1), enough_BN[cut:].flatten(), decay)

    def share(x_BND: Tensor, enough_BN: Tensor) -> float:
        return float((((x_BND @ weight_D + bias) > 0) == (enough_BN > 0)).float().mean())

    common = float(enough_BN[:cut].mean())
    return Learned(
        weight_D=weight_D,
        bias=bias,
        fit=share(x_BND[cut:], enough_BN[cut:]),
        held=share(x_BND[:cut], enough_BN[:cut]),
        usual=max(common, 1 - common),
        places=enough_BN.numel(),
    )


def _fit(x_ND: Tensor, y_N: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Logistic regression."""
    weight_D = torch.zeros(x_ND.shape[1], requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight_D, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(x_ND @ weight_D + bias, y_N) + decay * weight_D.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weight_D.detach(), bias.detach()
