"""The only training loop. It owns steps, accumulation, stages, validation and saving; the method owns the loss.

One optimizer step is a function of (weights, optimizer, step number): the batch, its rows and what is random in them
come from the seed and the step, so a run that was killed goes on exactly as if it had not been. Every loss term is
divided by its count over the whole step, whatever the micro-batches and processes, so these do not change the result.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list, gather_object, set_seed
from torch import Tensor

from unspoken.core.checkpointing import keep_less
from unspoken.core.config import dump
from unspoken.core.encodings import Encodings
from unspoken.core.graphs import release
from unspoken.core.layout import collate
from unspoken.core.lm import fuse_activations
from unspoken.core.marks import Metrics, add_metrics
from unspoken.core.provenance import provenance
from unspoken.errors import ConfigError, RunError, TrainingError
from unspoken.evaluation.evaluator import evaluate
from unspoken.inspector.monitor import Monitor
from unspoken.methods.base import LossReport, Picky, add_counts, layers
from unspoken.model import Model
from unspoken.tasks import Split, make_task
from unspoken.training import data as rows_of
from unspoken.training.allocator import keeping_freed
from unspoken.training.checkpoint import RunDir
from unspoken.training.config import RunConfig, differences, learning_rate
from unspoken.training.data import Schedule
from unspoken.training.progress import Quiet, Reporter
from unspoken.training.start import build_method


class Training:
    """A run under way. `train` is the way in.

    Args:
        config: the run's config.
        out: its directory; a run of the same config that is there goes on.
        reporter: told about every logged step.
    """

    def __init__(self, config: RunConfig, out: str | Path, reporter: Reporter) -> None:
        self.config, self.t, self.reporter = config, config.train, reporter
        if self.t.threads is not None:
            torch.set_num_threads(self.t.threads)
        if self.t.tracker is not None and self.t.tracker not in (known := [str(t) for t in get_available_trackers()]):
            raise ConfigError(
                f"tracker {self.t.tracker!r} is not installed or unknown to accelerate; "
                f"installed: {', '.join(known) or 'none'}; pip install it, or set train.tracker=null"
            )
        self.accelerator = Accelerator(log_with=self.t.tracker, project_dir=str(out) if self.t.tracker else None)
        self.run = RunDir(out)
        if self.run.exists and "imported" in self.run.read():
            raise RunError(
                f"{out} was made by `unspoken import`: nothing was trained here that could go on; give another --out, and "
                f"start from it with backbone.path={out}"
            )
        self.task = make_task(config.task)
        self.examples = self.task.examples("train")
        self.validation = self.task.examples("validation")[: self.t.validate_limit] if self.t.validate_limit else []
        set_seed(self.t.seed)  # decides random weights; dropout gets its own seed per process below
        self.method: Any = build_method(config)
        self.method.to(self.accelerator.device).train()
        if self.t.encodings is not None and self.method.backbone.tokenizer.is_fast:
            one = self.accelerator.is_local_main_process  # all processes see the same texts
            kept = Encodings(self.t.encodings, self.method.backbone.tokenizer, writes=one)
            self.method.backbone.encodings = kept
        keep_less(self.method, self.t.activation_checkpointing)
        if self.t.fused_activation:
            fuse_activations(self.method)
        curriculum = self.method.curriculum()
        stages = curriculum.extremes()
        self.examples, self.left_out = rows_of.drop_long(self.method, self.examples, stages, self.t.max_positions)
        self.schedule = Schedule(
            self.t, curriculum, len(self.examples), lambda: rows_of.written_tokens(self.method, self.examples, stages)
        )
        rows_of.check_steps(self.method, self.examples)
        rows_of.warn_of(self.task, self.method, self.examples, validates=bool(self.validation))
        rows_of.check_lengths(self.method, self.examples, stages)
        rows_of.check_prompts(self.method, self.validation, config.speaking.max_new_tokens)
        if (last := self.schedule.stage(self.schedule.total - 1)) != self.schedule.curriculum.last:
            warnings.warn(
                f"training ends in stage {last.index} of the curriculum, before its last stage "
                f"{self.schedule.curriculum.last.index}, which begins after "
                f"{self.schedule.curriculum.boundaries()[-1]:g} epochs, and in which the model will be asked to think; "
                "train longer, or shorten the stages, unless you mean to stop here",
                stacklevel=3,
            )
        if any(stage.trains for stage in stages):  # parameters wait while other parts of the method learn
            self.accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)  # pyright: ignore[reportAttributeAccessIssue]
        self.wrapped = self.accelerator.prepare_model(self.method) if self.accelerator.num_processes > 1 else self.method
        self.trained = {name: p for name, p in self.method.named_parameters() if p.requires_grad}
        self.fused = self.accelerator.device.type in ("cuda", "cpu")
        self.optimizer = self._new_optimizer()
        self.step = 0  # optimizer steps done
        self.seconds = 0.0  # of training so far, over all sittings
        self.best: float | None = None  # score of the model kept, inside the current stage
        self.pending: list[dict[str, Any]] = []
        watched = self.task.examples("validation")[: self.t.stability_limit] if self.t.stability_limit else []
        self.monitor = Monitor(self.method, watched) if watched else None
        self.feed = rows_of.Feed(self.method, self.examples, self.schedule, self.t.seed)
        self.picky = [part for part in layers(self.method) if isinstance(part, Picky)]
        self._check_batches()
        set_seed(self.t.seed + 1_000_003 * (self.accelerator.process_index + 1))

    # what a step is made of

    def _new_optimizer(self) -> torch.optim.AdamW:
        # Only matrices decay. Embedding rows do not either: rows that a batch does not contain would shrink for nothing.
        tables = {id(m.weight) for m in self.method.modules() if isinstance(m, torch.nn.Embedding)}
        decays = [p for p in self.trained.values() if p.ndim > 1 and id(p) not in tables]
        rest = [p for p in self.trained.values() if p.ndim <= 1 or id(p) in tables]
        groups = [
            {"params": decays, "decays": True, "weight_decay": self.t.weight_decay},
            {"params": rest, "decays": False, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW([g for g in groups if g["params"]], lr=self.t.lr, betas=self.t.betas, fused=self.fused)

    def _check_batches(self) -> None:
        """Let the method refuse a batch of the first epoch before there is a run directory."""
        for step in range(min(self.schedule.steps_per_epoch, self.schedule.total) if self.picky else 0):
            rows = self.feed.rows(step, self.schedule.stage(0))  # the stage that writes most
            for part in self.picky:
                part.check(rows)

    def _train_step(self) -> None:
        """One optimizer step; what it reports waits in `pending`, so that a GPU is not stopped to be asked."""
        began = time.perf_counter()
        step, t = self.step, self.t
        stage = self.schedule.stage(step)
        if self.schedule.stage_starts(step):
            self.best = None  # scores of different stages do not compare: early ones still write steps in words
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
        # Every process lays out the whole step: its counts are needed everywhere.
        mine = rows[self.accelerator.process_index :: self.accelerator.num_processes]
        parts = [
            collate(part) for part in rows_of.micro_batches(mine, t.micro_batch_size, t.micro_batch_tokens) or [rows[:1]]
        ]
        counts = self.method.counts(collate(rows))
        terms: dict[str, Tensor] = {}
        metrics: list[Metrics] = []
        slots = passes = 0
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            with self.accelerator.no_sync(self.wrapped) if not last else contextlib.nullcontext(), _memory(step, part):
                report = self._loss(part, counts)
                # DDP averages over processes; each already divides by the count of all.
                loss = report.total * self.accelerator.num_processes * (1.0 if mine else 0.0)
                loss.backward()
            slots += report.trace.cost.slots
            passes = max(passes, report.trace.cost.passes)
            for name, term in report.terms.items():
                terms[name] = terms.get(name, 0.0) + term.detach() * (1.0 if mine else 0.0)
            metrics.append(report.metrics if mine else {})
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), t.clip if t.clip is not None else math.inf)
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
                "tokens": sum(row.positions for row in rows),
                "slots": slots,
                "passes": passes,
                "names": [row.name for row in rows],
                "seconds": seconds,
            }
        )

    def _loss(self, part: Any, counts: Mapping[str, np.ndarray]) -> LossReport:
        device = self.accelerator.device
        if self.t.precision == "bf16":
            with torch.autocast(device.type, dtype=torch.bfloat16):
                return self.wrapped(part.to(device), counts)
        return self.wrapped(part.to(device), counts)

    # what is said and kept

    def _flush(self) -> None:
        """Write the pending steps as one metrics row, means over the steps; stop if a loss is not finite.

        Raises:
            TrainingError: names the step and its examples.
        """
        if not self.pending:
            return
        steps, self.pending = self.pending, []
        sums = [{name: float(term) for name, term in s["terms"].items()} for s in steps]
        if self.accelerator.num_processes > 1:
            everyone = gather_object([sums])
            sums = [{n: sum(process[i][n] for process in everyone) for n in sums[i]} for i in range(len(sums))]
        for s, values in zip(steps, sums, strict=True):
            bad = [name for name, value in values.items() if not math.isfinite(value)]
            if bad or not math.isfinite(float(s["norm"])):
                kept = self.run.latest_step()
                raise TrainingError(
                    f"loss is not finite at step {s['step']} ({', '.join(bad) or 'gradient norm'}), in the batch of "
                    f"{', '.join(s['names'][:4])}{', ...' if len(s['names']) > 4 else ''}; "
                    + (f"the last good state is step {kept}" if kept else "no state had been saved yet")
                    + "".join(f"; {part.advice}" for part in self.picky if part.advice)
                    + "; lower lr, set clip, or look at these examples"
                )
        terms = {name: sum(v[name] for v in sums) / len(sums) for name in sums[0]}
        tokens, seconds = sum(s["tokens"] for s in steps), sum(s["seconds"] for s in steps)
        row = {
            "kind": "train",
            "step": steps[-1]["step"],
            "epoch": round(steps[-1]["step"] / self.schedule.steps_per_epoch, 4),
            "stage": steps[-1]["stage"],
            "lr": steps[-1]["lr"],
            "loss": sum(terms.values()),
            "terms": terms,
            "grad_norm": sum(float(s["norm"]) for s in steps) / len(steps),
            "examples": sum(len(s["names"]) for s in steps),
            "passes": max(s["passes"] for s in steps),
            "tokens": tokens,
            "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
            "padding": round(1 - tokens / max(sum(s["slots"] for s in steps), tokens), 4),
            "seconds": round(self.seconds, 3),
            **self._told([s["metrics"] for s in steps]),
        }
        self._record(row)

    def _told(self, parts: list[Metrics], everywhere: bool = True) -> dict[str, Any]:
        """The metrics of some steps, of all processes, as an entry of a metrics row; none where the method has none."""
        mine = {name: metric.on_host() for name, metric in add_metrics(parts).items()}
        whole = add_metrics(gather_object([mine])) if everywhere and self.accelerator.num_processes > 1 else mine
        return {"metrics": {name: metric.told() for name, metric in whole.items()}} if whole else {}

    def _record(self, row: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            self.run.log(row)
            self.reporter.row(row, self.schedule.total)
        if self.t.tracker:
            flat = {k: v for k, v in row.items() if isinstance(v, (int, float)) and k != "step"}
            flat |= {f"terms/{k}": v for k, v in row.get("terms", {}).items()}
            flat |= {f"metrics/{k}": v for k, v in row.get("metrics", {}).items() if isinstance(v, float)}
            self.accelerator.log({f"{row['kind']}/{k}": v for k, v in flat.items()}, step=row["step"])

    @torch.no_grad()
    def _validate(self) -> None:
        """Score the validation split; keep the model if it is the best of this stage."""
        self._flush()
        if self.accelerator.is_main_process:
            accuracy, (loss, metrics) = (
                (self._accuracy(), self._validation_loss()) if self.validation else (None, (None, {}))
            )
            stage = self.schedule.stage(max(self.step - 1, 0))
            score = {"accuracy": accuracy, "loss": None if loss is None else -loss, "last": None}[self.t.select]
            keep = score is None or self.best is None or score >= self.best
            if keep:
                self.run.save_model(self.method, self.step, score)
                self.best = score
            row = {"kind": "validation", "step": self.step, "stage": stage.index, "accuracy": accuracy, "loss": loss,
                   "kept": keep, "seconds": round(self.seconds, 3), **metrics}  # fmt: skip
            self._record(row)
            release(self.method.backbone)
        self.best = broadcast_object_list([self.best])[0]
        self.accelerator.wait_for_everyone()

    def _watch(self) -> None:
        """Log how the latents of some validation problems stand to each other."""
        self._flush()
        if self.accelerator.is_main_process and self.monitor is not None:
            stage = self.schedule.stage(max(self.step - 1, 0))
            if (row := self.monitor.look(self.step, stage, self.run.metrics())) is not None:
                self._record(row)
            release(self.method.backbone)
        self.accelerator.wait_for_everyone()

    def _accuracy(self) -> float:
        model = Model(self.method, self.config.speaking)
        report = evaluate(model, self.task, "validation", limit=len(self.validation), batch_size=128)
        return report.accuracy.value

    def _validation_loss(self) -> tuple[float, dict[str, Any]]:
        """The whole loss on the validation split at the current stage, with the data's own dice; and its metrics. No token
        goes by chance."""
        stage = replace(self.schedule.stage(max(self.step - 1, 0)), smoothing=None)
        rows = [self.method.layout(e, stage, Random(f"{self.t.seed}/validation/{e.id}")) for e in self.validation]
        size = self.t.micro_batch_size or self.t.batch_size
        parts = [collate(rows[i : i + size]) for i in range(0, len(rows), size)]
        counts = add_counts([self.method.counts(part) for part in parts])
        self.method.eval()
        total, metrics = 0.0, []
        for part in parts:
            report = self.method(part.to(self.accelerator.device), counts)
            total += float(report.total)
            metrics.append(report.metrics)
        self.method.train()
        return total, self._told(metrics, everywhere=False)

    def _save(self) -> None:
        """Write a state to resume from. It holds no step whose loss has not been looked at."""
        self._flush()
        random = {f"rng/{self.accelerator.process_index}/cpu": torch.get_rng_state()}
        if self.accelerator.device.type == "cuda":
            random[f"rng/{self.accelerator.process_index}/cuda"] = torch.cuda.get_rng_state()
        if self.accelerator.num_processes > 1:
            random = {k: v for part in gather_object([random]) for k, v in part.items()}
        if self.accelerator.is_main_process:
            tensors: dict[str, Tensor] = {f"weights/{name}": p.detach() for name, p in self.trained.items()}
            for name, p in self.trained.items():
                for key, value in self.optimizer.state.get(p, {}).items():
                    tensors[f"optimizer/{name}/{key}"] = torch.as_tensor(value)
            info = {"best": self.best, "seconds": self.seconds, "processes": self.accelerator.num_processes}
            self.run.save_state(self.step, {**tensors, **random}, info)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        """Go on from the newest state, if there is one.

        Raises:
            RunError: the state does not fit the method.
        """
        found = self.run.latest_state()
        if found is None:
            if self.accelerator.is_main_process:
                self.run.forget_after(0)
            return
        tensors, info = found
        if info["processes"] != self.accelerator.num_processes:
            raise RunError(
                f"the run in {self.run.path} was trained by {info['processes']} processes, not "
                f"{self.accelerator.num_processes}; its random states fit that number only: start as many again"
            )
        weights = {k.removeprefix("weights/"): v for k, v in tensors.items() if k.startswith("weights/")}
        if set(weights) != set(self.trained):
            odd = sorted(set(weights) ^ set(self.trained))[0]
            raise RunError(f"the state in {self.run.path} does not fit the method: {odd!r} differs; was the code changed?")
        with torch.no_grad():
            for name, p in self.trained.items():
                p.copy_(weights[name])
        for name, p in self.trained.items():
            prefix = f"optimizer/{name}/"
            state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if state:
                # A fused optimizer counts its steps on the device, the plain one on the host.
                stays = () if self.fused else ("step",)
                self.optimizer.state[p] = {k: v if k in stays else v.to(p.device) for k, v in state.items()}
        me = f"rng/{self.accelerator.process_index}"
        if f"{me}/cpu" in tensors:
            torch.set_rng_state(tensors[f"{me}/cpu"])
        if f"{me}/cuda" in tensors and self.accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(tensors[f"{me}/cuda"])
        self.step, self.best, self.seconds = info["step"], info["best"], info["seconds"]
        if self.accelerator.is_main_process:
            self.run.forget_after(self.step)

    def _begin(self) -> None:
        """Make the run directory, or check that the one there is of the same config."""
        if self.accelerator.is_main_process:
            used: list[Split] = ["train", "validation"] if self.validation else ["train"]
            data = {split: self.task.fingerprint(split) for split in used}
            if self.run.exists:
                old, new = dump(self.run.config()), dump(self.config)
                if told := differences(old, new):
                    raise RunError(
                        f"{self.run.path} holds a run with another config ({told}); "
                        "give another --out, or the same settings to resume"
                    )
                if self.run.read().get("data") != data:
                    raise RunError(
                        f"the data of the run in {self.run.path} have changed since it began; "
                        "restore them to resume, or give another --out"
                    )
                self.run.sweep()
            else:
                numbers = {"trained": sum(p.numel() for p in self.trained.values()),
                           "all": sum(p.numel() for p in self.method.parameters())}  # fmt: skip
                about = {"data": data, "parameters": numbers, "provenance": provenance()}
                self.run.create(self.config, about | ({"left_out": self.left_out} if self.t.max_positions else {}))
        self.accelerator.wait_for_everyone()
        if self.t.tracker:
            self.accelerator.init_trackers("unspoken", config={"run": str(self.run.path)})

    def go(self) -> RunDir:
        """Train to the end."""
        self._begin()
        self._resume()
        every = self.t.validate_every or self.schedule.steps_per_epoch
        if self.step == 0 and self.monitor is not None:
            self._watch()
        while self.step < self.schedule.total:
            self._train_step()
            ends = self.step == self.schedule.total
            if self.step % self.t.log_every == 0 or ends or self._odd():
                self._flush()
            if ends or self.step % every == 0:
                self._validate()
            if self.monitor is not None and (ends or self.step % (self.t.stability_every or every) == 0):
                self._watch()
            if ends or self.step % self.t.save_every == 0:
                self._save()
        if self.accelerator.is_main_process and "finished" not in self.run.read():
            rows = [row for row in self.run.metrics() if row["kind"] == "train"]
            self.run.update(
                finished={
                    "steps": self.step,
                    "seconds": round(self.seconds, 1),
                    "best": self.best,
                    "passes": max(row["passes"] for row in rows),
                    "positions_per_example": round(sum(r["tokens"] for r in rows) / sum(r["examples"] for r in rows), 2),
                }
            )
        if self.t.tracker:
            self.accelerator.end_training()
        self.feed.settle()
        if (encodings := self.method.backbone.encodings) is not None:
            encodings.flush()
        return self.run

    def _odd(self) -> bool:
        """On one CPU process it costs nothing to see at once that a loss has gone wrong."""
        if self.accelerator.device.type != "cpu" or self.accelerator.num_processes > 1:
            return False
        return not all(bool(torch.isfinite(term)) for term in self.pending[-1]["terms"].values())


@contextlib.contextmanager
def _memory(step: int, part: Any) -> Iterator[None]:
    """Say what to do where a forward or backward pass does not fit.

    Raises:
        TrainingError: out of memory.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        rows, T = part.ids_BT.shape
        raise TrainingError(
            f"out of memory at step {step + 1}, in a pass of {rows} rows of up to {T} positions; set train.micro_batch_size "
            f"below {rows}: gradients add up to the same step; or train.max_positions below {T}, to leave long examples out"
        ) from error


def train(config: RunConfig, out: str | Path, reporter: Reporter | None = None) -> RunDir:
    """Train a run, or finish one that was interrupted: the same call goes on from the last saved state.

    Args:
        config: the run's config.
        out: the run directory.
        reporter: shows progress; None = silent.

    Returns:
        The run directory; `unspoken.load(out)` is the trained model.

    Raises:
        RunError: `out` holds something else, or a run of another config.
        TrainingError: the loss is not finite, or the disk is full; the last saved state is kept.
    """
    reporter = reporter or Quiet()
    with reporter:
        training = Training(config, out, reporter)
        with keeping_freed(training.accelerator.device.type):
            return training.go()
