"""A complete evaluation of a run: tasks x seeds, shared by processes, resumable, with causal controls.

`evaluate_run` does all of it and returns data; `unspoken eval` uses `Campaign` and prints. It is in this room, above
evaluation, because it decides which evaluations get controls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

from unspoken.causal.control_report import ControlsReport
from unspoken.causal.controls import LIMIT, run_controls
from unspoken.causal.soft_baselines import beside_soft
from unspoken.core.files import check_file
from unspoken.core.loop.soft import SoftThinking
from unspoken.errors import ConfigError
from unspoken.evaluation.card import make_card
from unspoken.evaluation.evaluator import evaluate
from unspoken.evaluation.processes import Processes, processes
from unspoken.evaluation.records import EvalReport
from unspoken.evaluation.rescore import Agreement, agreements
from unspoken.evaluation.resume import PartialReport
from unspoken.runs.baseline import BaselineConfig, BaselineModel, baseline_config, load_baseline
from unspoken.runs.directory import RunDir, load
from unspoken.runs.model import AnswerOptions, Model
from unspoken.runs.places import is_plain
from unspoken.tasks import make_task
from unspoken.tasks.base import Split, Task, TaskConfig
from unspoken.tasks.scoring.extractors import EXTRACTORS

Progress = Callable[[str, int, int], None]
"""Called with (what is counted, done, in all)."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One evaluation of a campaign.

    Attributes:
        task: its name.
        seed: of sampling; None = the run's.
        report: the records and every figure.
        path: the report's file.
        by_rules: the same answers scored by other rules.
        left_out: rule -> why it cannot score these answers.
        controls: the controls' report; None if they were not run.
        controls_path: the file of that report.
    """

    task: str
    seed: int | None
    report: EvalReport
    path: Path
    by_rules: Sequence[Agreement] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    controls: ControlsReport | None = None
    controls_path: Path | None = None


class CampaignOptions(AnswerOptions, total=False):
    """What `evaluate_run` may be told besides, by name: fields of `Campaign`, and of `AnswerOptions`."""

    split: Split
    limit: int | None
    latents: int | None
    batch_size: int
    explain: bool
    samples: int
    chains: int | None
    parallel: int | None
    dtype: str | None
    out: str | Path | None
    controls: bool | None
    controls_limit: int
    extractors: Sequence[str]
    card: str | Path | None
    restart: bool
    shots: int
    thinking: bool
    texts: str | None


@dataclass(kw_only=True)
class Campaign:
    """What to evaluate, and how. Creating one loads the model.

    Attributes:
        run: a run directory, a model inside the package ("builtin:tiny"), or a plain Hugging Face model: a folder or hub id.
        tasks: tasks, their names or configs; () = the run's own.
        seeds: sampling seeds, with one evaluation each; () = one evaluation with the run's seed.
        split, limit, latents, batch_size, explain, samples: as in `evaluate`.
        chains: sets of thoughts per question; None = all.
        parallel: number of parallel passes for latents.
        dtype: as in `load`.
        out: file of the report, if there is only one; None = in the run, named by task, split and changed settings.
        controls: whether to run causal controls, or to compare soft thinking with ordinary thinking; None = if they are
            informative, see `controlled`.
        controls_limit: problems per control.
        extractors: further scoring rules; if all are given, those that do not apply are left out.
        card: file for a card of the report, if there is only one.
        restart: discard the batches of an interrupted evaluation.
        shots, thinking, texts: how a plain model is asked, see `load_baseline`; not for runs.
        speaking: fields of `SamplingParams`.

    Raises:
        ConfigError: a file for several reports, or settings that contradict each other.
        RunError: the run cannot be loaded.
    """

    run: str | Path
    tasks: Sequence[Any] = ()
    seeds: Sequence[int] = ()
    split: Split = "test"
    limit: int | None = None
    latents: int | None = None
    batch_size: int = 32
    explain: bool = False
    samples: int = 1
    chains: int | None = None
    parallel: int | None = None
    dtype: str | None = None
    out: str | Path | None = None
    controls: bool | None = None
    controls_limit: int = LIMIT
    extractors: Sequence[str] = ()
    card: str | Path | None = None
    restart: bool = False
    shots: int = 0
    thinking: bool = False
    texts: str | None = None
    speaking: Mapping[str, Any] = field(default_factory=dict)
    model: Model = field(init=False)
    processes: Processes = field(init=False)

    def __post_init__(self) -> None:
        if self.controls_limit < 1:
            raise ConfigError(
                f"controls_limit must be at least 1, got {self.controls_limit}; controls=False leaves them out"
            )
        if self.seeds and "seed" in self.speaking:
            raise ConfigError("seeds are the seeds of several evaluations; leave the one seed out")
        self._check_kind()
        if isinstance(soft := self.speaking.get("soft"), str):
            SoftThinking.parse(soft)  # before anything is loaded
        tasks = self.tasks or (RunDir(self.run).config().task,)
        self.tasks = [task if isinstance(task, Task) else make_task(task) for task in tasks]
        many = len(self.tasks) * max(len(self.seeds), 1)
        if many > 1 and (self.out is not None or self.card is not None):
            raise ConfigError(f"out and card are files of one report, but {many} evaluations are asked for")
        if self.out is not None:
            check_file(self.out)
        self.processes = processes()
        self.model = self._load()
        self.model.parallel = self.parallel

    @property
    def soft(self) -> bool:
        """Whether it evaluates soft thinking."""
        return self.speaking.get("soft") is not None

    @property
    def _spelt_soft(self) -> str:
        return getattr(self.speaking["soft"], "spelt", self.speaking["soft"])

    @property
    def plain(self) -> bool:
        """Whether it evaluates a plain Hugging Face model."""
        return is_plain(self.run)

    def _check_kind(self) -> None:
        """Refuse settings of the other kind of model."""
        if not self.plain:
            if self.shots or self.thinking or self.texts is not None:
                raise ConfigError(
                    f"shots, thinking and texts are for plain Hugging Face models; {self.run} is a run, which is asked as "
                    "it was trained"
                )
        elif not self.tasks:
            raise ConfigError(f"{self.run} is a plain Hugging Face model, without a task of its own; give one, e.g. gsm8k")
        elif (self.controls and not self.soft) or self.explain:
            raise ConfigError(f"{self.run} is a plain Hugging Face model without latents: none to change or explain")

    def _load(self) -> Model:
        if not self.plain:
            return load(self.run, explain=self.explain, device=self.processes.device, dtype=self.dtype)
        for task in self.tasks:
            self._asked(task)  # refuses what cannot be shown before a model is loaded
        return load_baseline(str(self.run), thinking=self.thinking, device=self.processes.device, dtype=self.dtype)

    def _asked(self, task: Task) -> BaselineConfig:
        return baseline_config(task, self.split, shots=self.shots, thinking=self.thinking, texts=self.texts)

    def path(self, task: Task, seed: int | None = None) -> Path:
        """The path of a report, whose name contains settings that differ from the run's."""
        if self.out is not None:
            return Path(self.out)
        speaking = {**self._speaking(seed), **({"soft": self._spelt_soft} if self.soft else {})}
        changed = {
            "limit": self.limit, "latents": self.latents, "parallel": self.parallel, "explain": self.explain or None,
            "dtype": self.dtype, "chains": self.chains, "samples": self.samples if self.samples > 1 else None,
            "shots": self.shots or None, "thinking": self.thinking or None, "texts": self.texts,
            **speaking,
        }  # fmt: skip
        return RunDir(self.run, here=self.plain).report_path(task.name, self.split, **_given(changed))

    def evaluate(self, task: Task, seed: int | None = None, progress: Progress | None = None) -> Evaluated:
        """Answer and score one split, resuming an interrupted evaluation, and save the report."""
        path = self.path(task, seed)
        if isinstance(self.model, BaselineModel):
            self.model.ask(self._asked(task))
        keep = PartialReport(path, self.processes, self.restart)
        report = evaluate(
            self.model, task, self.split, limit=self.limit, latents=self.latents, batch_size=self.batch_size,
            explain=self.explain, chains=self.model.chains if self.chains is None else self.chains, samples=self.samples,
            keep=keep, progress=None if progress is None else lambda done, total: progress("questions", done, total),
            **self._speaking(seed),
        )  # fmt: skip
        if self.processes.main:
            report.save(path)
        keep.forget()
        every = set(self.extractors) == set(EXTRACTORS)
        found, left_out = agreements(report, None if every else tuple(self.extractors)) if self.extractors else ([], {})
        if self.card is not None and self.processes.main:
            make_card(report).save(self.card)
        return Evaluated(task=task.name, seed=seed, report=report, path=path, by_rules=found, left_out=left_out)

    @property
    def controlled(self) -> bool:
        """Whether to run controls: as requested, else for soft thinking, and if there are latents and no stop rule, with
        which latents cannot be changed.

        Controls run on one process, and not for every seed.
        """
        if not self.processes.main or len(self.seeds) > 1:
            return False
        if self.controls is not None:
            return self.controls
        if self.soft:
            return not self._spelt_soft.startswith("chain")
        thinks = bool(self.model.method.latents_per_group) and self.latents != 0
        return thinks and "stop" not in self.speaking

    @property
    def most_controlled(self) -> int:
        """Problems per control."""
        return self.controls_limit if self.limit is None else min(self.controls_limit, self.limit)

    def control(self, task: Task, done: Evaluated, progress: Progress | None = None) -> Evaluated:
        """Run the controls of an evaluation and save their report next to its own."""
        how = {"latents": self.latents, "chains": self.chains, "batch_size": self.batch_size, **self._speaking(done.seed)}
        how.pop("expect", None)  # it changes no answer
        tell = None if progress is None else lambda name, n, total: progress(f"controls: {name}", n, total)
        if self.soft:
            how = {"batch_size": self.batch_size, **self._speaking(done.seed)}
            report = beside_soft(
                self.model, task, self.split, done.report, limit=self.most_controlled, progress=tell, **_given(how)
            )
        else:
            report = run_controls(
                self.model, task, self.split, limit=self.most_controlled, progress=tell, **_given(how)
            )  # fmt: skip
        path = done.path.with_name(f"controls-{done.path.name.removeprefix('eval-')}")
        report.save(path)
        return dataclasses.replace(done, controls=report, controls_path=path)

    def _speaking(self, seed: int | None) -> dict[str, Any]:
        return {**self.speaking, **({} if seed is None else {"seed": seed})}


def evaluate_run(
    run: str | Path,
    tasks: Sequence[str | Mapping[str, object] | TaskConfig | Task] = (),
    seeds: Sequence[int] = (),
    *,
    progress: Progress | None = None,
    **settings: Unpack[CampaignOptions],
) -> list[Evaluated]:
    """Evaluate a run like `unspoken eval`: every task once per seed, with reports saved in the run.

    The same call resumes an interrupted evaluation; processes started by torchrun share the problems.

    Args:
        run, tasks, seeds: see `Campaign`.
        progress: called with (what is counted, done, in all).
        settings: other fields of `Campaign` (split, limit, controls, ...) and of `SamplingParams` (temperature, ...).

    Returns:
        One per task and seed, grouped by task.

    Raises:
        UnspokenError: as `Campaign`, `evaluate` and `run_controls`.
    """
    known = {f.name for f in dataclasses.fields(Campaign) if f.init and f.name != "speaking"}
    speaking = {name: value for name, value in settings.items() if name not in known}
    own: dict[str, Any] = {name: value for name, value in settings.items() if name in known}
    campaign = Campaign(run=run, tasks=tasks, seeds=seeds, speaking=speaking, **own)
    found = []
    for task in campaign.tasks:
        for seed in campaign.seeds or (None,):
            done = campaign.evaluate(task, seed, progress)
            found.append(campaign.control(task, done, progress) if campaign.controlled else done)
    return found


def _given(options: Mapping[str, object]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
