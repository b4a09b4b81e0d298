"""iCoT-SI: stepwise internalisation. The written chain loses one token after the other until only the answer is left.

Paper: Deng, Choi and Shieber, "From Explicit CoT to Implicit CoT: Learning to Internalize CoT Step by Step",
    arXiv 2405.14838, section 3.
Idea: a model that can write the chain is trained on with its first token gone, then the first two, and so on, so that what
    is no longer written must be worked out in the states of the question. No thoughts, no new parameters.
    s(t) tokens are gone after t updates, a few more in some rows (smoothing), and the optimizer restarts with each token.
Row:    question eos | chain without its first s(t) + o tokens | eos | #### answer eos
        labels behind the first eos. o is geometric: P(o) = (1 - exp(-lambda)) exp(-lambda o); side="right": without its last
Trains: the base model. Freezes: nothing (LoRA: all but the adapters).
Reference code: da03/Internalize_CoT_Step_by_Step c2e3891 (src/train.py, data.py, model.py), MIT.
Relations: removes tokens where `coconut` removes steps, and puts nothing in their place; `cot` is where it starts from.
Departures:
    - The schedule counts optimizer steps; the released one counts micro-batches, which differs where it accumulates.
    - The optimizer restarts until the longest chain of the training data is gone, on either side (released: unless the
      batch before had no chain left; with side="right" that test is always true, so that it never restarts again).
    - Examples that are too long are left out (`train.max_positions`; released: every batch that holds one, as long as it
      does), and the loop decays matrices only.
    - Answers are decoded greedily, each until its own second eos (released: sampled, all until the last row is done), and
      written as the data have them (released: without commas).
    - The parts are encoded one by one. The released code finds them by counting eos ids in the whole text, which fails for
      tokenizers that end every text with one, and for questions that hold one.
    - `keep_position` shifts positions from the token before the hole on, as released; at inference nothing is shifted, since
      nobody knows by how much. It works for every base model (released: GPT-2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal

from unspoken.core.config import config_class
from unspoken.core.rows.curriculum import Curriculum, Phase, Stage
from unspoken.core.rows.row import Row, unlabelled
from unspoken.core.text.example import Example
from unspoken.core.text.template import Template, Written, question_ids, written
from unspoken.errors import ConfigError
from unspoken.methods.base import Method

MOST_BY_CHANCE = 99
"""The most tokens that smoothing removes: the released distribution has 100 bins, the last with the remaining mass."""


@config_class
class IcotSiConfig:
    """Settings of `IcotSi`; defaults are those of the published commands (README of the reference code)."""

    name: Literal["icot_si"] = "icot_si"
    remove_per_epoch: float = 8.0  # tokens of the chain; Delta in the paper
    remove_all_beyond: int | None = None  # once so many are scheduled, all go; GSM8K: 39; None: one by one to the end
    remove_from: int = 0  # tokens that are gone from the start
    pretrain_epochs: float = 0.0  # on the chain as it is at the start, before any token goes
    smoothing: float | None = 4.0  # lambda; None: every row loses as many tokens as are scheduled
    side: Literal["left", "right"] = "left"  # which end of the chain goes first
    keep_position: bool = False  # what is left keeps the positions it had
    restart_optimizer: bool = True  # whenever one more token goes
    template: Template = field(
        default_factory=lambda: Template(question=" {question} ", step="{step}", answer=" #### {answer} ")
    )
    separator: str = " "  # between steps
    chain: str = " {chain} "  # around all of them

    def __post_init__(self) -> None:
        if not 0 < self.remove_per_epoch < math.inf:
            raise ConfigError(f"remove_per_epoch must be positive and finite, got {self.remove_per_epoch}")
        if self.remove_all_beyond is not None and self.remove_all_beyond < 1:
            raise ConfigError(f"remove_all_beyond must be at least 1, got {self.remove_all_beyond}; null never removes all")
        if self.remove_from < 0:
            raise ConfigError(f"remove_from must be 0 or more, got {self.remove_from}")
        if not 0 <= self.pretrain_epochs < math.inf:
            raise ConfigError(f"pretrain_epochs must be 0 or more and finite, got {self.pretrain_epochs}")
        if self.smoothing is not None and not 0 < self.smoothing < math.inf:
            raise ConfigError(f"smoothing must be positive and finite, got {self.smoothing}; null is no smoothing")
        if "{chain}" not in self.chain:
            raise ConfigError(f"field 'chain' must contain {{chain}}, got {self.chain!r}")


def by_chance(rate: float | None, rng: Random) -> int:
    """Draw how many further tokens a row loses: geometric, at most `MOST_BY_CHANCE`; 0 without a rate."""
    if rate is None:
        return 0
    return min(int(-math.log1p(-rng.random()) / rate), MOST_BY_CHANCE)


REMOVED_TOKENS = "removed_tokens"
"""The name of `RemovedTokens` in `Stage.extra`."""


@dataclass(frozen=True, kw_only=True)
class RemovedTokens:
    """What has been removed from the written chain at a stage.

    Attributes:
        count: number of removed tokens, whichever step they belong to; None = all.
        smoothing: rate of the geometric number of further tokens that each row loses at random; None = none.
    """

    count: int | None = 0
    smoothing: float | None = None


def removed_tokens(stage: Stage) -> RemovedTokens:
    """What has been removed at a stage; nothing by default."""
    return stage.extra.get(REMOVED_TOKENS, RemovedTokens())


def _stage(gone: RemovedTokens, index: int | None = None, *, removed: int | None = 0, restart: bool = False) -> Stage:
    """A stage whose number is its number of removed tokens, unless given otherwise."""
    return Stage(
        index=gone.count or 0 if index is None else index, removed=removed, restart=restart, extra={REMOVED_TOKENS: gone}
    )


@dataclass(frozen=True, kw_only=True)
class TokenRemoval(Curriculum):
    """Removes one more token of the written chain at equal intervals, until none is left.

    Attributes:
        per_epoch: tokens removed per epoch.
        longest: length of the longest chain.
        first: tokens removed from the start.
        wait: epochs before the first interval begins; until then, rows lose no tokens at random.
        beyond: once this many tokens are scheduled, all are removed at once; None = one by one to the end.
        smoothing: see `RemovedTokens`.
        restart: reset the optimizer with every token.
        steps_per_epoch: optimizer steps per epoch. The steps between two removals are rounded half to even; 0 means one
            token per step, starting with the first. None = exact intervals.
    """

    per_epoch: float
    longest: int
    first: int = 0
    wait: float = 0.0
    beyond: int | None = None
    smoothing: float | None = None
    restart: bool = False
    steps_per_epoch: int | None = None
    phases: tuple[Phase, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        distance, at_once = 1 / self.per_epoch, False
        if self.steps_per_epoch is not None:
            steps = round(self.steps_per_epoch / self.per_epoch)
            distance, at_once = max(steps, 1) / self.steps_per_epoch, steps == 0
        most = self.longest if self.beyond is None else min(self.beyond, self.longest)
        phases: list[Phase] = []
        if self.first < most:
            begin = _stage(RemovedTokens(count=self.first))
            smooth = _stage(RemovedTokens(count=self.first, smoothing=self.smoothing))
            phases = [Phase(epochs=self.wait, stage=begin), Phase(epochs=0.0 if at_once else distance, stage=smooth)]
            for count in range(self.first + 1, most):
                stage = _stage(RemovedTokens(count=count, smoothing=self.smoothing), restart=self.restart)
                phases.append(Phase(epochs=distance, stage=stage))
        last = _stage(RemovedTokens(count=None), index=max(self.first, most), removed=None, restart=self.restart)
        phases = [phase for phase in phases if phase.epochs > 0]
        object.__setattr__(self, "phases", (*phases, Phase(epochs=0.0, stage=last)))
        super().__post_init__()

    def extremes(self) -> tuple[Stage, ...]:
        """The first stage, without random removal, and the last one."""
        return (self.without_chance(self.phases[0].stage), self.last)

    def without_chance(self, stage: Stage) -> Stage:
        """Rows lose exactly the scheduled tokens."""
        return replace(stage, extra={REMOVED_TOKENS: replace(removed_tokens(stage), smoothing=None)})

    def fit(self, steps_per_epoch: int, written: Callable[[], int]) -> TokenRemoval:
        """Intervals in whole steps, and no stages beyond the longest chain, each of which would reset the optimizer."""
        longest = self.longest if self.beyond is not None else min(self.longest, self.phases[0].stage.index + written())
        return replace(self, steps_per_epoch=steps_per_epoch, longest=longest)


class IcotSi(Method):
    """Stepwise internalisation. See the module's card."""

    Config = IcotSiConfig
    config: IcotSiConfig

    def curriculum(self) -> Curriculum:
        """Remove one more token at equal intervals, until no chain that fits into the context has any left."""
        c = self.config
        return TokenRemoval(
            per_epoch=c.remove_per_epoch,
            longest=self.backbone.context or 2**15,
            first=c.remove_from,
            wait=c.pretrain_epochs,
            beyond=c.remove_all_beyond,
            smoothing=c.smoothing,
            restart=c.restart_optimizer,
        )

    def layout(self, example: Example, stage: Stage, rng: Random) -> Row:
        """question eos | what is left of the chain | eos | answer eos, with labels behind the first eos."""
        c = self.config
        head = self.prompt(example.question, name=example.id)
        text = self.written(example)
        chain = self.backbone.encode(text.parts[0])
        scheduled = removed_tokens(stage)
        gone = len(chain)
        if scheduled.count is not None:
            gone = min(scheduled.count + by_chance(scheduled.smoothing, rng), gone)
        kept = chain[gone:] if c.side == "left" else chain[: len(chain) - gone]
        tail = (*kept, *text.rest)
        hole = len(head.ids) + (0 if c.side == "left" else len(kept))
        gap = (hole - 1, gone) if c.keep_position and gone else (0, 0)
        return head.followed_by(tail, start=len(head.ids) + len(tail), position_gap=gap)

    def written(self, example: Example) -> Written:
        """All steps as one text, eos, answer, eos."""
        c, eos = self.config, self.backbone.tokenizer.eos_token_id
        before, _, after = c.chain.partition("{chain}")
        answer = self.backbone.encode(c.template.answer.replace("{answer}", example.answer))
        return written(c.template, example.steps, (eos, *answer, eos), separator=c.separator, before=before, after=after)

    def prompt(self, question: str, latents: int | None = None, name: str = "") -> Row:
        """question eos. The answer has two eos: one after what is left of the chain, and one at the end.

        Raises:
            ConfigError: latents were asked for.
        """
        if latents:
            raise ConfigError(f"method 'icot_si' thinks without latents: it takes 0 of them, got {latents}")
        ids, eos = question_ids(self.backbone, self.config.template, question), self.backbone.tokenizer.eos_token_id
        if ids[-1:] != (eos,):  # a tokenizer that ends every prompt with one has put it there
            ids = (*ids, eos)
        return unlabelled(ids, name=name, num_eos=2)
