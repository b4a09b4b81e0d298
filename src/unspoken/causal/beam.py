"""Beam search over latents: a head on latents says after every thought which trajectories are continued.

After LatentTTS (arXiv 2510.07745). N candidates of a question's first thought differ by noise or dropout; the head scores
what each has thought so far, the best W stay, and each of these is continued in N / W ways. Where W = N nothing is dropped,
and what is left to choose from are the N trajectories of `scale`.

Every thought is made anew from the question, with the latents before it as they were: simple, and K times the positions of
a search that copies caches.

Shapes: Q questions, N candidates of each, W of them that stay, K latents so far, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from unspoken.causal.interventions import edit_of, traces_into
from unspoken.causal.known import KnownLatents
from unspoken.causal.latent_ranker import LatentRanker, Learned, Trajectories, head_input, scores
from unspoken.causal.ranking import Beam
from unspoken.causal.trajectories import Way
from unspoken.core.loop.edits import Edit
from unspoken.core.loop.sources import Iterated, PrecomputedThoughts
from unspoken.core.loop.trace import Answer, Trace
from unspoken.core.rows.row import LatentKey
from unspoken.errors import ConfigError
from unspoken.evaluation.evaluator import evaluate
from unspoken.runs.model import Model
from unspoken.tasks.base import Split, Task

if TYPE_CHECKING:
    from unspoken.evaluation.records import EvalReport


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


def search(model: Model, task: Task, split: Split, way: Way, width: int, learned: Learned, **how: Any) -> tuple[Beam, Beam]:
    """Search steered by a head, and by the control on another problem's latents.

    Args:
        model, task, split: what is asked.
        way: how candidates are made, and how many.
        width: W.
        learned: the head and its control.
        how: limit, batch_size, and fields of `AnswerOptions`.

    Raises:
        ConfigError: see `check_beam`, or a model that thinks for some questions longer than for others.
    """
    check_beam(model, width, way.number)
    plain: dict[LatentKey, Trace] = {}
    report = evaluate(model, task, split, latents=way.latents, on_trace=traces_into(plain), **how)
    found = _Search(model, task, split, way, width, how, report, [plain[record.id, 0] for record in report.records])
    return found.run(learned.head), found.run(learned.control, mismatched=True)


class _Search:
    """A search for the questions of a split; `traces` are those of their undisturbed trajectories."""

    def __init__(
        self, model: Model, task: Task, split: Split, way: Way, width: int, how: dict[str, Any], report: EvalReport,
        traces: Sequence[Trace],
    ) -> None:  # fmt: skip
        self.model, self.task, self.way, self.width, self.how = model, task, way, width, how
        self.split: Split = split
        self.names = [record.id for record in report.records]
        if len({trace.latents_BKD.shape[1] for trace in traces}) > 1:
            raise ConfigError("a beam needs as many latents for every question; ask for a number: latents=...")
        self.known = KnownLatents.of({(n, 0): t.latents_BKD[0] for n, t in zip(self.names, traces, strict=True)}, self.names)
        self.first = traces
        self.disturb = edit_of([way.disturbance], self.known)

    def run(self, head: LatentRanker, *, mismatched: bool = False) -> Beam:
        """Search, then answer behind the W trajectories that stay."""
        step, total = self.model.method.latents_per_group, self.known.latents_RKD.shape[1]
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
        answers: list[tuple[Answer, ...]] = []
        report = evaluate(
            self.model, self.task, self.split, chains=self.width, latents=total, edit=self._feeding(last_QWKD, None),
            on_answers=answers.extend, **self.how,
        )  # fmt: skip
        positions += sum(answer.positions for each in answers for answer in each) / len(answers)
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
        answers: list[tuple[Answer, ...]] = []
        how: dict[str, Any] = {**self.how, "max_new_tokens": 1}
        evaluate(
            self.model, self.task, self.split, chains=self.way.number, latents=latents, on_trace=traces_into(traces),
            edit=self._feeding(fed_QNKD, self.disturb), on_answers=answers.extend, **how,
        )  # fmt: skip
        rows = [[traces[name, chain] for chain in range(self.way.number)] for name in self.names]
        latents_QNKD = torch.stack([torch.stack([trace.latents_BKD[0].cpu() for trace in row]) for row in rows])
        states_QNKD = torch.stack([torch.stack([_states(trace) for trace in row]) for row in rows])
        return latents_QNKD, states_QNKD, sum(answer.positions for each in answers for answer in each) / len(answers)

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
