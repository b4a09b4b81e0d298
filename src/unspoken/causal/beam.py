"""Beam search over latents: a head on latents says after every thought which trajectories are continued.

After LatentTTS (arXiv 2510.07745). N candidates of a question's first thought differ by noise or dropout; the head scores
what each has thought so far, the best W stay, and each of these is continued in N / W ways. Where W = N nothing is dropped,
and what is left to choose from are the N trajectories of `scale`.

Every thought is made anew from the question, with the latents before it as they were: simple, and K times the positions of
a search that copies caches.

Shapes: Q questions, N candidates of each, W of them that stay, K latents so far, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from unspoken.causal.interventions import edit_of, traces_into
from unspoken.causal.known import KnownLatents
from unspoken.causal.latent_ranker import LatentRanker, Learned, Trajectories, head_input, scores
from unspoken.causal.ranking import Beam
from unspoken.causal.trajectories import Way
from unspoken.core.loop.edits import Edit
from unspoken.core.loop.generate import OnTrace
from unspoken.core.loop.sources import Iterated, PrecomputedThoughts
from unspoken.core.loop.trace import Answer, Trace
from unspoken.core.rows.row import LatentKey
from unspoken.errors import ConfigError
from unspoken.evaluation.evaluator import evaluate
from unspoken.evaluation.records import EvalReport
from unspoken.runs.model import AnswerOptions, Model
from unspoken.tasks.base import Split, Task

Asked = tuple[EvalReport, float]
"""A report, and the positions per question."""

Ask = Callable[[AnswerOptions, int | None, Edit | None, int, OnTrace], Asked]
"""See `_Search`."""


def check_beam(model: Model, width: int, number: int) -> None:
    """Refuse a beam that cannot be.

    Raises:
        ConfigError: a width that does not divide the number of candidates, or a model whose latents are not made in turn.
    """
    if not 1 <= width <= number or number % width:
        raise ConfigError(
            f"a beam of width {width} cannot go on with {number} candidates in equal parts; take a divisor of {number}, the "
            "largest number of trajectories"
        )
    if model.source is None or isinstance(model.source, (Iterated, PrecomputedThoughts)):
        raise ConfigError("a beam needs latents that are made one after the other; this model makes all of them at once")


def search(
    model: Model,
    task: Task,
    split: Split,
    way: Way,
    width: int,
    learned: Learned,
    *,
    limit: int | None = None,
    batch_size: int = 32,
    **speaking: Unpack[AnswerOptions],
) -> tuple[Beam, Beam]:
    """Search steered by a head, and by the control on another problem's latents.

    Args:
        model, task, split, limit, batch_size, speaking: as in `evaluate`.
        way: how candidates are made, and how many.
        width: W.
        learned: the head and its control.

    Raises:
        ConfigError: see `check_beam`, or a model that thinks for some questions longer than for others.
    """
    check_beam(model, width, way.number)

    def ask(more: AnswerOptions, latents: int | None, edit: Edit | None, chains: int, on_trace: OnTrace) -> Asked:
        answers: list[tuple[Answer, ...]] = []
        report = evaluate(
            model, task, split, limit=limit, batch_size=batch_size, latents=latents, edit=edit, chains=chains,
            on_trace=on_trace, on_answers=answers.extend, **{**speaking, **more},
        )  # fmt: skip
        return report, sum(answer.positions for each in answers for answer in each) / len(answers)

    plain: dict[LatentKey, Trace] = {}
    report, _ = ask({}, way.latents, None, 1, traces_into(plain))
    names = [record.id for record in report.records]
    found = _Search(ask, way, width, model.method.latents_per_group, names, [plain[name, 0] for name in names])
    return found.run(learned.head), found.run(learned.control, mismatched=True)


class _Search:
    """A search for some questions.

    Args:
        ask: asks all of them: (fields to change, latents, edit, sets of thoughts, what sees traces).
        way, width: see `search`.
        step: latents of a thought.
        names: of the questions.
        first: the traces of their undisturbed trajectories.
    """

    def __init__(self, ask: Ask, way: Way, width: int, step: int, names: Sequence[str], first: Sequence[Trace]) -> None:
        if len({trace.latents_BKD.shape[1] for trace in first}) > 1:
            raise ConfigError("a beam needs as many latents for every question; ask for a number: latents=...")
        self.ask, self.way, self.width, self.step, self.names, self.first = ask, way, width, step, names, first
        self.known = KnownLatents.of({(n, 0): t.latents_BKD[0] for n, t in zip(names, first, strict=True)}, names)
        self.disturb = edit_of([way.disturbance], self.known)

    def run(self, head: LatentRanker, *, mismatched: bool = False) -> Beam:
        """Search, then answer behind the W trajectories that stay."""
        step, total = self.step, self.known.latents_RKD.shape[1]
        fed_QNKD, positions, best_QW, last_QWKD = None, 0.0, torch.empty(0), torch.empty(0)
        for known in range(0, total, step):
            latents_QNKD, states_QNKD, cost = self._thought(min(known + step, total), fed_QNKD)
            positions += cost
            scores_QN = self._scores(head, latents_QNKD, states_QNKD, mismatched)
            # Equal scores leave the first ones, of which number 0 is undisturbed; those that stay keep their order.
            kept_QW = scores_QN.argsort(dim=1, descending=True, stable=True)[:, : self.width].sort(dim=1).values
            parents_QN = kept_QW.repeat_interleave(self.way.number // self.width, dim=1)
            fed_QNKD = _taken(latents_QNKD, parents_QN)
            best_QW = scores_QN.gather(1, kept_QW)
            last_QWKD = _taken(latents_QNKD, kept_QW)
        report, cost = self.ask({}, total, self._feeding(last_QWKD, None), self.width, lambda trace, keys: None)
        positions += cost
        return Beam(
            width=self.width,
            candidates=self.way.number,
            positions=positions,
            answers=tuple(tuple(record.answers) for record in report.records),
            scores=tuple(tuple(round(value, 6) for value in row) for row in best_QW.tolist()),
        )

    def _thought(self, latents: int, fed_QNKD: Tensor | None) -> tuple[Tensor, Tensor, float]:
        """The latents and states [Q, N, K, D] of all candidates up to a thought, and the positions per question."""
        traces: dict[LatentKey, Trace] = {}
        edit = self._feeding(fed_QNKD, self.disturb)
        _, cost = self.ask({"max_new_tokens": 1}, latents, edit, self.way.number, traces_into(traces))
        rows = [[traces[name, chain] for chain in range(self.way.number)] for name in self.names]
        latents_QNKD = torch.stack([torch.stack([trace.latents_BKD[0].cpu() for trace in row]) for row in rows])
        states_QNKD = torch.stack([torch.stack([_states(trace) for trace in row]) for row in rows])
        return latents_QNKD, states_QNKD, cost

    def _feeding(self, fed_QNKD: Tensor | None, later: Edit | None) -> Edit:
        """An edit that feeds the given latents as they are, and leaves those behind them to another edit."""
        number = {name: q for q, name in enumerate(self.names)}

        def edit(latents_ND: Tensor, keys_N: Sequence[LatentKey], index_N: np.ndarray) -> Tensor:
            if later is not None:
                latents_ND = later(latents_ND, keys_N, index_N)
            if fed_QNKD is None:
                return latents_ND
            known = [n for n, index in enumerate(index_N.tolist()) if index < fed_QNKD.shape[2]]
            if not known:
                return latents_ND
            given = torch.stack([fed_QNKD[number[keys_N[n][0]], keys_N[n][1], int(index_N[n])] for n in known])
            return latents_ND.index_copy(0, torch.tensor(known, device=latents_ND.device), given.to(latents_ND))

        return edit

    def _scores(self, head: LatentRanker, latents_QNKD: Tensor, states_QNKD: Tensor, mismatched: bool) -> Tensor:
        """Scores [Q, N] of what the candidates have thought so far; the head reads how they differ from the undisturbed."""
        K = latents_QNKD.shape[2]
        first_Q1KD = torch.stack([trace.latents_BKD[:, :K].cpu() for trace in self.first])
        states_Q1KD = torch.stack([_states(trace)[None, :K] for trace in self.first])
        input_QNKF = head_input(torch.cat([first_Q1KD, latents_QNKD], dim=1), torch.cat([states_Q1KD, states_QNKD], dim=1))[
            :, 1:
        ]
        real_QNK = torch.ones(input_QNKF.shape[:3], dtype=torch.bool)
        some = Trajectories(input_QNKF=input_QNKF, real_QNK=real_QNK, right_QN=real_QNK[:, :, 0])
        return scores(head, some.mismatched() if mismatched else some)


def _states(trace: Trace) -> Tensor:
    assert trace.states_BKD is not None, "latents made in turn have states"
    return trace.states_BKD[0].cpu()


def _taken(latents_QNKD: Tensor, chosen_QW: Tensor) -> Tensor:
    """The latents [Q, W, K, D] of the chosen candidates."""
    return torch.stack([each[chosen] for each, chosen in zip(latents_QNKD, chosen_QW, strict=True)])
