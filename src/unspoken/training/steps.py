"""Figures of optimizer steps that are not yet in metrics.jsonl. They stay on the device where they were computed, so that
logging does not synchronise with a GPU after every step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from unspoken.core.rows.metrics import Metric
from unspoken.errors import TrainingError
from unspoken.training.feeding.schedule import Schedule

StepMetrics = dict[str, Any]
"""step, stage, lr, terms, metrics, norm, tokens, slots, passes, names, seconds."""


def sums_of(steps: Sequence[StepMetrics]) -> list[dict[str, float]]:
    """This process's part of the loss terms of some steps."""
    return [{name: float(term) for name, term in s["terms"].items()} for s in steps]


def add_sums(parts: Sequence[Sequence[Mapping[str, float]]]) -> list[dict[str, float]]:
    """Add the processes' parts of the loss terms of some steps."""
    return [{name: sum(part[i][name] for part in parts) for name in terms} for i, terms in enumerate(parts[0])]


def check_finite(
    steps: Sequence[StepMetrics], sums: Sequence[Mapping[str, float]], kept: int | None, advice: Sequence[str]
) -> None:
    """Stop a run whose loss or gradient is not finite.

    Args:
        kept: step of the newest state.
        advice: advice from methods.

    Raises:
        TrainingError: names the step and its examples.
    """
    for s, values in zip(steps, sums, strict=True):
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad or not math.isfinite(float(s["norm"])):
            raise TrainingError(
                f"loss is not finite at step {s['step']} ({', '.join(bad) or 'gradient norm'}), in the batch of "
                f"{', '.join(s['names'][:4])}{', ...' if len(s['names']) > 4 else ''}; "
                + (f"the last good state is step {kept}" if kept else "no state had been saved yet")
                + "".join(f"; {words}" for words in advice if words)
                + "; lower lr, set clip, or look at these examples"
            )


def row_of(
    steps: Sequence[StepMetrics], sums: Sequence[Mapping[str, float]], schedule: Schedule, seconds: float
) -> dict[str, Any]:
    """Some steps as a row of metrics.jsonl: means over the steps.

    Args:
        seconds: of training so far.
    """
    terms = {name: sum(v[name] for v in sums) / len(sums) for name in sums[0]}
    tokens, took = sum(s["tokens"] for s in steps), sum(s["seconds"] for s in steps)
    return {
        "kind": "train",
        "step": steps[-1]["step"],
        "epoch": round(steps[-1]["step"] / schedule.steps_per_epoch, 4),
        "stage": steps[-1]["stage"],
        "lr": steps[-1]["lr"],
        "loss": sum(terms.values()),
        "terms": terms,
        "grad_norm": sum(float(s["norm"]) for s in steps) / len(steps),
        "examples": sum(len(s["names"]) for s in steps),
        "passes": max(s["passes"] for s in steps),
        "tokens": tokens,
        "tokens_per_second": round(tokens / max(took, 1e-9), 1),
        "padding": round(1 - tokens / max(sum(s["slots"] for s in steps), tokens), 4),
        "seconds": round(seconds, 3),
    }


def packed(steps: Sequence[StepMetrics]) -> list[StepMetrics]:
    """Steps of one process as JSON values, for a state saved before they are logged."""

    def plain(metric: Metric) -> dict[str, Any]:
        value, total = metric.value, metric.total
        kind = str(value.dtype).removeprefix("torch.") if isinstance(value, torch.Tensor) else None
        return {"value": np.asarray(value).tolist() if kind is None else value.tolist(), "dtype": kind,
                "total": None if total is None else np.asarray(total).tolist()}  # fmt: skip

    return [
        {**s, "terms": sums, "norm": float(s["norm"]), "metrics": {name: plain(m) for name, m in s["metrics"].items()}}
        for s, sums in zip(steps, sums_of(steps), strict=True)
    ]


def unpacked(plain: Sequence[StepMetrics], device: torch.device) -> list[StepMetrics]:
    """The inverse of `packed`."""

    def metric(value: object, dtype: str | None, total: object) -> Metric:
        value = np.array(value) if dtype is None else torch.tensor(value, dtype=getattr(torch, dtype), device=device)
        return Metric(value=value, total=None if total is None else np.array(total))

    return [{**s, "metrics": {name: metric(**one) for name, one in s["metrics"].items()}} for s in plain]
