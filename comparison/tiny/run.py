"""The table in this folder: every method on `tiny`, problems of 4 operations, 3 seeds, 1,000 test problems each.
Seed 0 is left out: the recipes were chosen on its problems.

    python comparison/tiny/run.py [--seeds 1 2 3] [--out runs/comparison-tiny] [--jobs 2]

Runs that are finished are only read, interrupted ones go on; one CPU thread per run, `--jobs` runs at a time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
METHODS = ("no_cot", "pause", "icot_si", "coconut", "coconut_progressive", "sim_cot", "codi", "sim_cot_codi")
EXPLAINED = {"sim_cot": "SIM-CoT on Coconut", "sim_cot_codi": "SIM-CoT on CODI"}
START = "builtin:tiny"


def one(method: str, seed: int, out: Path) -> Path:
    """Train and evaluate one run in a process of its own; returns its report."""
    run = out / f"{method}-{seed}"
    report = run / "eval-tiny-test.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    unspoken = [sys.executable, "-m", "unspoken"]
    overrides = [f"train.seed={seed}", f"task.seed={seed}", "train.threads=1"]
    subprocess.run([*unspoken, "train", f"tiny/{method}", *overrides, "--out", run], check=True, env=environment)
    told = run / "thoughts.json"
    if not report.exists():
        subprocess.run(
            [*unspoken, "eval", run, "--batch-size", "100"], check=True, env=environment, stdout=subprocess.DEVNULL
        )
    if method in EXPLAINED and not told.exists():
        command = [*unspoken, "eval", run, "--batch-size", "100", "--explain", "--out", told]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return report


def main() -> None:
    """Run everything that is not there yet, then write table.md and table.json beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("runs/comparison-tiny"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    args = parser.parse_args()
    jobs = [(method, seed) for seed, method in itertools.product(args.seeds, args.methods)]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda job: one(*job, args.out), jobs))

    # Imported late: the jobs above are processes of their own and need no torch here.
    from unspoken.evaluation.evaluator import EvalReport, evaluate, write_atomic
    from unspoken.evaluation.report import compare, percent, with_interval
    from unspoken.evaluation.statistics import Rate
    from unspoken.tasks import make_task
    from unspoken.training.checkpoint import RunDir, load

    reports = {job: EvalReport.from_json(args.out / f"{job[0]}-{job[1]}" / "eval-tiny-test.json") for job in jobs}
    start = load(START)
    for seed in args.seeds:
        file = args.out / f"start-{seed}.json"
        if not file.exists():
            task = make_task(RunDir(args.out / f"{args.methods[0]}-{seed}").config().task)
            evaluate(start, task, "test", batch_size=100).save(file)
        reports["SFT-CoT (start)", seed] = EvalReport.from_json(file)

    lines = [
        "| method | "
        + " | ".join(f"seed {s}" for s in args.seeds)
        + " | all seeds | latents | tokens | passes | ms/question |"
    ]
    lines.append("|" + " --- |" * (6 + len(args.seeds)))
    table = {}
    for method in ("SFT-CoT (start)", *args.methods):
        mine = [reports[method, seed] for seed in args.seeds]
        total = Rate(correct=sum(r.accuracy.correct for r in mine), n=sum(r.n for r in mine))
        ms = sum(r.loop_ms_per_question for r in mine) / len(mine)
        row = [with_interval(r.accuracy) for r in mine] + [with_interval(total)]
        cost = [mine[0].mean_latents, mine[0].mean_visible_tokens, mine[0].mean_passes]
        lines.append(f"| {method} | " + " | ".join([*row, *(f"{c:.1f}" for c in cost), f"{ms:.2f}"]) + " |")
        table[method] = {"per_seed": [r.summary() for r in mine], "all_seeds": {"correct": total.correct, "n": total.n}}
    lines.append("")
    for method, seed in jobs:
        if method in EXPLAINED:
            told = EvalReport.from_json(args.out / f"{method}-{seed}" / "thoughts.json").step_accuracy
            assert told is not None
            lines.append(
                f"- {EXPLAINED[method]}, seed {seed}: of the decoded steps {percent(told.overall.value)}% are the true "
                f"step; of those of correctly answered problems {percent(told.correct_only.value)}%"
            )
            steps = table[method].setdefault("decoded_steps", {})
            steps[seed] = {"all": told.overall.value, "correct": told.correct_only.value}
    for seed in args.seeds:
        pairs = compare({m: reports[m, seed] for m in args.methods}).to_json()
        table.setdefault("paired", {})[seed] = json.loads(pairs) if isinstance(pairs, str) else pairs
    lines += ["", "| method | passes of a training step | positions per training example |", "| --- | --- | --- |"]
    for method in args.methods:
        cost = [row for row in RunDir(args.out / f"{method}-{args.seeds[0]}").metrics() if "examples" in row]
        if cost:
            positions = sum(row["tokens"] for row in cost) / sum(row["examples"] for row in cost)
            lines.append(f"| {method} | {max(row['passes'] for row in cost)} | {positions:.1f} |")
            table[method]["training"] = {"passes": max(row["passes"] for row in cost), "positions_per_example": positions}
    where = reports[jobs[0]]
    lines += ["", f"{where.n} test problems per seed, greedy, batch 100, {where.hardware}.", ""]
    write_atomic(HERE / "table.md", "\n".join(lines))
    write_atomic(HERE / "table.json", json.dumps(table, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
