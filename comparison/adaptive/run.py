"""Accuracy against cost for every stop rule, on finished runs of `tiny`.

    python comparison/adaptive/run.py RUN [RUN ...] [--limit 500] [--out comparison/adaptive]

For each run: the whole number of latents, every smaller fixed number, and each rule at several thresholds. The head is
learned from validation problems and kept in memory; nothing is written into the runs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from unspoken.core.files import write_text
from unspoken.evaluation.evaluator import evaluate
from unspoken.experimental.stop_head import learn_stop
from unspoken.experimental.stopping import decider
from unspoken.runs.directory import RunDir, load
from unspoken.tasks import make_task

RULES = {
    "fixed": (1, 2, 3),
    "confidence": (0.5, 0.7, 0.9, 0.95, 0.99),
    "convergence": (1.2, 1.0, 0.8, 0.6, 0.4),
    "head": (0.3, 0.5, 0.7, 0.9),
}


def measure(run: Path, limit: int) -> list[dict[str, Any]]:
    """A line per rule and threshold."""
    model, task = load(run, device="cpu", explain=False), make_task(RunDir(run).config().task)
    learned = learn_stop(model, task, task.examples("validation")[:limit])
    head = (learned.weight_D, learned.bias)
    lines = []
    for stop in (None, *(f"{rule}:{number}" for rule, numbers in RULES.items() for number in numbers)):
        how: dict[str, Any] = {} if stop is None else {"stop": decider(model, stop, head)}
        report = evaluate(model, task, "test", limit=limit, **how)
        accuracy, records = report.accuracy, report.records
        lines.append(
            {
                "run": run.name,
                "stop": stop or "none",
                "n": len(records),
                "accuracy": accuracy.value,
                "low": accuracy.interval[0],
                "high": accuracy.interval[1],
                "latents": sum(r.latents for r in records) / len(records),
                "passes": sum(r.passes for r in records) / len(records),
                "positions": sum(r.positions for r in records) / len(records),
                "head_right": learned.held if stop and stop.startswith("head") else None,
                "head_usual": learned.usual if stop and stop.startswith("head") else None,
            }
        )
        print(json.dumps(lines[-1]), flush=True)
    return lines


def main() -> None:
    """Measure all runs and write table.json and table.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    asked = parser.parse_args()
    lines = [line for run in asked.runs for line in measure(run, asked.limit)]
    write_text(asked.out / "table.json", json.dumps(lines, indent=1) + "\n")
    text = "| run | stop | accuracy, 95% | latents | passes | positions |\n| --- | --- | --- | --- | --- | --- |\n"
    for one in lines:
        interval = f"{100 * one['accuracy']:.1f} ({100 * one['low']:.1f}–{100 * one['high']:.1f})"
        costs = f"{one['latents']:.2f} | {one['passes']:.2f} | {one['positions']:.1f}"
        text += f"| {one['run']} | {one['stop']} | {interval} | {costs} |\n"
    write_text(asked.out / "table.md", text)


if __name__ == "__main__":
    main()
