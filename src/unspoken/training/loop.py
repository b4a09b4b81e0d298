"""The only training loop. It owns steps, accumulation, stages, validation and saving; the method owns the loss.

An optimizer step is a function of (weights, optimizer, step number): the batch, its rows and their randomness follow from
the seed and the step, so a killed run continues exactly as if it had not been killed. Every loss term is divided by its
count over the whole step. So micro-batches and processes do not change the result except for the order of sums, and, with
dropout (GPT-2 as published), for what is dropped.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor

from unspoken.core.engine.cuda_graphs import release
from unspoken.core.fast.activation_checkpointing import checkpoint_activations
from unspoken.core.fast.activations import fuse_activations
from unspoken.core.fast.malloc import explained_memory, keeping_freed
from unspoken.core.fast.switch import is_on, using
from unspoken.core.fast.token_store import Encodings
from unspoken.core.precision import computing, warn_if_slow
from unspoken.core.provenance import provenance
from unspoken.core.rows.batch import Batch
from unspoken.core.rows.curriculum import Stage
from unspoken.core.rows.metrics import Metrics, add_metrics
from unspoken.errors import RunError
from unspoken.inspector.monitor import Monitor
from unspoken.methods.base import LossReport, Method, latents_at, layers
from unspoken.runs.config import RunConfig, learning_rate
from unspoken.runs.directory import RunDir
from unspoken.runs.lock import Lock
from unspoken.runs.start import build_method
from unspoken.tasks import Split, make_task
from unspoken.training.callbacks import Callback, Tracking, check_trackers, tell
from unspoken.training.feeding import checks
from unspoken.training.feeding.feed import Feed, check_batches
from unspoken.training.kept import forget_after, keep, keeps
from unspoken.training.optimizer import new_optimizer
from unspoken.training.plan import plan_of
from unspoken.training.progress import Quiet, Reporter
from unspoken.training.ranks import Ranks, new_accelerator
from unspoken.training.resume import go_on, scored_otherwise
from unspoken.training.saving import Saver
from unspoken.training.sharding.place import placed
from unspoken.training.sharding.shards import Shards
from unspoken.training.sharding.states import load_state
from unspoken.training.sharding.whole import fast_of
from unspoken.training.signals import Interrupted, Signals
from unspoken.training.state import random_states, restore_random
from unspoken.training.steps import StepMetrics, add_sums, check_finite, packed, row_of, sums_of, unpacked
from unspoken.training.validation import Validation, is_better, score_of

_NOT_TRAINED = {"imported": "was made by `unspoken import`", "kept": "is a model that a run has kept"}
"""Entries of run.json of a directory that no training can go on in, and what they say of it."""


class Training:
    """A training in progress; use `train`.

    Args:
        config: the run's config.
        out: its directory; an existing run with the same config is continued.
        reporter: receives every logged row.
        signals: signals that request a stop; None = ignore signals.
    """

    callbacks: Sequence[Callback] = ()
    tracking: Tracking | None = None

    def __init__(self, config: RunConfig, out: str | Path, reporter: Reporter, signals: Signals | None = None) -> None:
        self.config, self.t, self.reporter, self.signals = config, config.train, reporter, signals or Signals()
        if self.t.threads is not None:
            torch.set_num_threads(self.t.threads)
        check_trackers(self.t)
        self.accelerator = new_accelerator(self.t.precision, self.t.rank_timeout)
        self.ranks = Ranks(self.accelerator, self.t.rank_timeout)
        self.run = RunDir(out)
        self.lock = Lock(self.run.path)
        self.ranks.gather(self._build)  # a failure on one process must not leave the others waiting
        found = checks.looked_through(config, self.task, self.method, self.examples, self.validation, self.ranks)
        self.examples, self.left_out, self.schedule = found
        self.placed = placed(self.method, self.config, self.accelerator)
        self.trained = self.placed.trained
        self.saver = Saver(self.run, self.ranks, self.placed, self.t.async_save)
        self.fused = self.accelerator.device.type in ("cuda", "cpu")
        self.optimizer = self._new_optimizer()
        self.step = 0  # optimizer steps done
        self.seconds = 0.0  # of training so far, including before interruptions
        self.best: float | None = None  # score of the saved model, within the current stage
        self.due = False  # the newest state was saved before its step's validation, ...
        self.saved: int | None = None  # step of the newest state
        self.stopping: int | None = None  # the signal that all processes have agreed to obey
        self.pending: list[StepMetrics] = []
        watched = self.task.examples("validation")[: self.t.stability_limit] if self.t.stability_limit else []
        self.monitor = Monitor(self.method, watched) if watched else None
        self.feed = Feed(self.method, self.examples, self.schedule, self.t, self.ranks.beside("rows"))
        check_batches(self.method, self.feed, self.schedule, self.ranks)
        self._seed()

    def _seed(self, step: int = 0) -> None:
        """Seed what is drawn by chance, otherwise on each process; numpy takes no more than 32 bits."""
        set_seed((self.t.seed + 1_000_003 * (self.ranks.index + 1) + step) % (1 << 32))

    def _build(self) -> None:
        """Build data, method and schedule, and check them, without communicating with other processes."""
        config, t = self.config, self.t
        if self.run.exists and (whence := next((name for name in _NOT_TRAINED if name in self.run.read()), None)):
            raise RunError(
                f"{self.run.path} {_NOT_TRAINED[whence]}: no training can go on here; give another --out, and "
                f"start from it with backbone.path={self.run.path}"
            )
        if self.ranks.main:
            self.lock.check()
            warn_if_slow(self.accelerator.device.type, config.low, "train.precision=fp32 and backbone.dtype=float32")
        self.task = make_task(config.task)
        self.examples = self.task.examples("train")
        self.validation = self.task.examples("validation")[: t.validate_limit] if t.validate_limit else []
        set_seed(t.seed)  # decides random weights; dropout gets its own seed per process later
        self.method = build_method(config)
        self.method.to(self.accelerator.device).train()
        if is_on() and t.encodings is not None and self.method.backbone.tokenizer.is_fast:
            one = self.accelerator.is_local_main_process  # all processes see the same texts
            kept = Encodings(t.encodings, self.method.backbone.tokenizer, writes=one)
            self.method.backbone.encodings = kept
        checkpoint_activations(self.method, t.activation_checkpointing)
        if t.fused_activation and is_on():
            fuse_activations(self.method)
        self.scorer = Validation(config, self.method, self.task, self.validation, self.ranks)

    # what a step is made of

    def _new_optimizer(self) -> torch.optim.AdamW:
        return new_optimizer(self.placed.tables, self.trained, self.t, self.fused)

    def _train_step(self) -> None:
        """One optimizer step. Its figures wait in `pending`, to avoid synchronising with the GPU."""
        began = time.perf_counter()
        step, t = self.step, self.t
        self.ranks.doing = f"training step {step + 1}"
        self.ranks.sign()
        stage = self.schedule.stage(step)
        if self.schedule.stage_starts(step):
            self.best = None  # scores of different stages are not comparable: early ones still write steps as text
            if stage.restart:
                self.optimizer = self._new_optimizer()
        lr = learning_rate(t, step, self.schedule.total, self.schedule.restarted(step))
        if stage.lr is not None:
            lr *= stage.lr / t.lr
        decay = t.weight_decay if stage.weight_decay is None else stage.weight_decay
        for group in self.optimizer.param_groups:
            group["lr"] = lr
            group["weight_decay"] = decay if group["decays"] else 0.0
        rows = self.feed.take(step)
        parts = rows.batches(even=isinstance(self.placed, Shards))
        terms: dict[str, Tensor] = {}
        metrics: list[Metrics] = []
        slots = passes = 0
        with self.placed.step():
            for number, (part, mine) in enumerate(parts):
                with self.placed.part(last=number == len(parts) - 1), explained_memory(step, part, t.micro_batch_tokens):
                    report = self._loss(part, rows.counts)
                    if number == len(parts) - 1:
                        self.ranks.sign()  # behind it, gradients are exchanged
                    (report.total * self.placed.factor * mine).backward()
                slots += report.trace.cost.slots
                passes = max(passes, report.trace.cost.passes)
                for name, term in report.terms.items():
                    terms[name] = terms.get(name, 0.0) + term.detach() * mine
                metrics.append(report.metrics if mine else {})
        norm = self.placed.clip(t.clip if t.clip is not None else math.inf)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.feed.settle()
        self.step += 1
        seconds = time.perf_counter() - began
        self.seconds += seconds
        self.pending.append(
            {
                "step": self.step,
                "stage": stage.index,
                "lr": lr,
                "terms": terms,
                "metrics": add_metrics(metrics),
                "norm": norm,
                "tokens": rows.positions,
                "slots": slots,
                "passes": passes,
                "names": rows.names,
                "seconds": seconds,
            }
        )

    def _loss(self, part: Batch, counts: Mapping[str, np.ndarray]) -> LossReport:
        device = self.accelerator.device
        with computing(device.type, self.config.low):
            return self.placed.loss(part.to(device), counts)

    # what is said and kept

    def _flush(self) -> None:
        """Write the pending steps as one metrics row; raises TrainingError if a loss is not finite."""
        if not self.pending:
            return
        with self.signals.patiently():
            steps, self.pending = self.pending, []
            sums = self._checked(steps)
            row = row_of(steps, sums, self.schedule, self.seconds)
            self._record({**row, **self._told([s["metrics"] for s in steps])})

    def _checked(self, steps: list[StepMetrics]) -> list[dict[str, float]]:
        """The loss terms of some steps, checked to be finite. Here several processes agree on whether to obey a signal."""
        began = time.perf_counter()
        everyone = self.ranks.gather(lambda: (sums_of(steps), self.signals.asked))
        steps[-1]["seconds"] += (waited := time.perf_counter() - began)  # on a GPU, for what the steps have asked for
        self.seconds += waited
        self.stopping = next((asked for _, asked in everyone if asked is not None), None)
        sums = add_sums([sums for sums, _ in everyone])
        check_finite(steps, sums, self.run.latest_step(), [layer.advice for layer in layers(self.method)])
        return sums

    def _told(self, parts: list[Metrics]) -> dict[str, Any]:
        """The metrics of some steps, over all processes, as an entry of a metrics row; empty if the method has none."""
        mine = self.ranks.gather(lambda: {name: metric.on_host() for name, metric in add_metrics(parts).items()})
        whole = add_metrics(mine)
        return {"metrics": {name: metric.compute() for name, metric in whole.items()}} if whole else {}

    def _record(self, row: dict[str, Any]) -> None:
        self.ranks.gather(lambda: self._write(row))

    def _write(self, row: dict[str, Any]) -> None:
        if self.ranks.main:
            self.run.log(row)
            self.reporter.row(row, self.schedule.total)
            if self.tracking is not None:
                self.tracking.row(row)
            if (hook := {"train": "on_step", "validation": "on_validation"}.get(row["kind"])) is not None:
                tell(self.callbacks, hook, self.step, self.run, row)

    def _stage(self) -> tuple[Stage, int | None]:
        """The stage of the last step, and the number of latents at that stage (None = the method's default)."""
        stage = self.schedule.stage(max(self.step - 1, 0))
        return stage, latents_at(self.method, stage, self.schedule.curriculum.last, self.examples[0].question)

    def _about_stage(self) -> dict[str, int | None]:
        """The same for `RunDir.save_model`."""
        stage, latents = self._stage()
        return {"index": stage.index, "last": self.schedule.curriculum.last.index, "latents": latents}

    def _validate(self) -> None:
        """Score the validation split; keep the model if it is the best of this stage."""
        stage, latents = self._stage()
        self.ranks.doing = f"validating step {self.step}"
        with self.placed.answering():
            found = self.scorer.score(stage, latents)
        score = score_of(found, self.t.select, self.step)
        if keep := is_better(score, self.best):
            self.best = score if score is not None and math.isfinite(score) else None
            self._with_model(lambda m: self.run.save_model(m, self.step, self.best, self._about_stage()))
        row = {"kind": "validation", "step": self.step, "stage": stage.index, **found, "kept": keep}
        self._record({**row, "seconds": round(self.seconds, 3)})
        release(self.method.backbone)

    def _with_model(self, write: Callable[[Method], None]) -> None:
        """Let the main process write the method, with whole parameters."""
        method = self.placed.saved()
        self.ranks.alone(lambda: None if method is None else write(method))

    def _watch(self) -> None:
        """Log the stability figures of some validation problems."""
        self.ranks.doing = f"watching latents of step {self.step}"
        with self.placed.answering():
            row = self._look()
        if self.ranks.main and row is not None:
            self._write(row)
        release(self.method.backbone)

    def _look(self) -> dict[str, Any] | None:
        monitor = self.monitor
        assert monitor is not None
        stage = self._stage()[0]
        everyone = self.ranks.gather(lambda: monitor.problems(stage, self.ranks.share(monitor.examples)))
        seen = [one for turn in zip_longest(*everyone) for one in turn if one is not None]
        return self.ranks.alone(lambda: monitor.look(self.step, stage, self.run.metrics(), seen))

    def _save(self, due: bool = False) -> None:
        """Write a state to resume from, after checking the losses of all its steps.

        Args:
            due: whether the step's validation, if any, is still to be done.
        """
        self.ranks.doing = f"saving the state of step {self.step}"
        with self.signals.patiently():
            if self.pending:
                self._checked(self.pending)
            parts = self.ranks.gather(lambda: random_states(self.ranks.index, self.accelerator.device))
            random = {k: v for part in parts for k, v in part.items()}
            info = {"best": self.best, "seconds": self.seconds, "processes": self.ranks.count, "due": due}
            info |= {"pending": packed(self.pending)} if self.pending else {}
            self.saved = step = self.step
            self.saver.save(
                self.optimizer, step, random, info, lambda: tell(self.callbacks, "on_save", step, self.run, step)
            )

    def _resume(self) -> None:
        """Continue from the newest state, if there is one.

        Raises:
            RunError: the state does not fit the method.
        """
        if (found := self.run.latest_state()) is None:
            if self.run.finished:  # and its states were removed: `unspoken clean`
                self.step = self.schedule.total
            return
        tensors, info = found
        load_state(self.run, self.placed, self.optimizer, self.fused, tensors, info)
        if not restore_random(tensors, self.ranks.index, self.accelerator.device):  # more processes than before
            self._seed(info["step"])
        self.step, self.seconds, self.due = info["step"], info["seconds"], info.get("due", False)
        self.pending = unpacked(info.get("pending", []), self.accelerator.device)
        self.saved = self.step
        # A score measured differently is not comparable: the next one counts as the first.
        self.best = None if scored_otherwise(self.run.read(), self.step) else info["best"]

    def _begin(self) -> None:
        """Create the run directory, or check that the existing run can be continued with this config."""
        used: list[Split] = ["train", "validation"] if self.validation else ["train"]
        data = {split: self.task.fingerprint(split) for split in used}
        data |= getattr(self.task, "fingerprints", lambda split: {})("train")  # of shards, by name
        if self.run.exists:
            go_on(self.run, self.config, data)
            return
        numbers = dict(zip(("trained", "all"), self.placed.sizes, strict=True))
        about = {"data": data, "parameters": numbers, "provenance": provenance()}
        self.run.create(self.config, about | ({"left_out": self.left_out} if self.t.max_positions else {}))

    def _forget(self) -> None:
        """Remove metrics and models from after the state that training continues from."""
        self.run.forget_after(self.step, again=self.due or self.step == 0)
        forget_after(self.run, self.step)

    def _open(self) -> None:
        """Lock the run directory."""
        if not self.run.exists:
            self.run.check_free()
        self.lock.take()
        self._begin()
        self.run.stay()

    def go(self) -> RunDir:
        """Train to the end.

        Raises:
            Interrupted: a signal requested a stop; a state of the last step was saved if possible.
        """
        # Several processes can only stop where they communicate, which is when they log.
        calm = self.signals.patiently() if self.ranks.count > 1 else contextlib.nullcontext()
        try:
            with calm, self._tells_step(), self.ranks.alive(), self.ranks.told():
                self.ranks.alone(self._open)
                self.ranks.gather(self._resume)
                self.ranks.alone(self._forget)
                self.tracking = self.ranks.alone(lambda: Tracking(self.config, self.run) if self.t.tracker else None)
                self._steps()
                self.saver.wait()
                self.ranks.alone(self._finish)
        finally:
            self.saver.close()
            self.lock.release()
            if self.tracking is not None:
                self.tracking.finish()
        self.feed.settle()
        if (encodings := self.method.backbone.encodings) is not None:
            encodings.flush()
        return self.run

    @contextlib.contextmanager
    def _tells_step(self) -> Iterator[None]:
        """Context manager that adds the step to an interruption."""
        try:
            yield
        except Interrupted as stop:
            stop.step = self.step
            raise

    def _steps(self) -> None:
        if self.step == 0 and self.monitor is not None:
            self._watch()
        if self.due:
            self._between()
        while self.step < self.schedule.total:
            with self.signals.patiently():
                self._train_step()
            self._between()

    def _between(self) -> None:
        """What follows a step: log, validate, monitor, keep and save, each when due."""
        t, ends = self.t, self.step == self.schedule.total
        every = t.validate_every or self.schedule.steps_per_epoch
        validates = ends or self.step % every == 0
        looks = self.monitor is not None and (ends or self.step % (t.stability_every or every) == 0)
        keeps_model, saves = keeps(t, self.schedule, self.step), ends or self.step % t.save_every == 0
        if self.step % t.log_every == 0 or validates or looks or keeps_model or saves or self._odd():
            self._flush()
        self._leave_if_asked(due=True)
        try:
            if validates:
                self._validate()
            if looks:
                self._watch()
            if keeps_model:
                self._with_model(lambda m: keep(self.run, m, self.step, self._about_stage()))
        except Interrupted as stop:  # nothing of this changes what is trained, so that a state can still be saved
            self.stopping = stop.number
            self._leave_if_asked(due=True)
        if saves:
            self._save()
        self.due = False
        self._leave_if_asked(due=False)

    def _leave_if_asked(self, due: bool) -> None:
        """Save a state and stop here if a signal has requested it.

        Raises:
            Interrupted: a stop was requested.
        """
        number = self.signals.asked if self.ranks.count == 1 and self.stopping is None else self.stopping
        if number is None:
            return
        if self.saved != self.step:
            self._save(due)
        self.saver.wait()
        raise Interrupted(number, self.step)

    def _finish(self) -> None:
        if self.run.finished:
            return
        rows = [row for row in self.run.metrics() if row["kind"] == "train"]
        self.run.update(
            finished={
                "steps": self.step,
                "seconds": round(self.seconds, 1),
                "best": self.best,
                "passes": max(row["passes"] for row in rows),
                "positions_per_example": round(sum(r["tokens"] for r in rows) / sum(r["examples"] for r in rows), 2),
                **self._most_memory(),
            }
        )

    def _most_memory(self) -> dict[str, int]:
        """The most bytes of a GPU that tensors of this process have had at a time since it began."""
        device = self.accelerator.device
        return {"peak_device_bytes": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}

    def _odd(self) -> bool:
        """Whether the last loss is not finite; only checked on one CPU process, where it is free."""
        if self.accelerator.device.type != "cpu" or self.ranks.count > 1:
            return False
        return bool(self.pending) and not all(math.isfinite(float(term)) for term in self.pending[-1]["terms"].values())


def train(
    config: RunConfig, out: str | Path, reporter: Reporter | None = None, callbacks: Sequence[Callback] = ()
) -> RunDir:
    """Train a run, or continue an interrupted one: the same call resumes from the last saved state.

    Args:
        config: the run's config.
        out: the run directory.
        reporter: shows progress; None = silent.
        callbacks: called on the main process, see `training/callbacks.py`.

    Returns:
        The run directory; `unspoken.load(out)` is the trained model.

    Raises:
        RunError: `out` holds something else, or a run with another config.
        TrainingError: the loss is not finite, or the disk is full; the last saved state is kept.
        Interrupted: by Ctrl-C, SIGTERM or SIGHUP (a KeyboardInterrupt). The current step is finished and a state is saved.
    """
    reporter = reporter or Quiet()
    with using(fast_of(config)), reporter, Signals() as signals:
        training = Training(config, out, reporter, signals)
        training.callbacks = callbacks
        if training.ranks.main:
            reporter.begins(plan_of(training))
        with keeping_freed(training.accelerator.device.type):
            return training.go()
