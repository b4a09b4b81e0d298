"""The table in this folder: every method on `tiny`, problems of 4 operations, 3 seeds, 1,000 test problems each.
Seed 0 is left out: the recipes were chosen on its problems.

    python comparison/tiny/run.py [--seeds 1 2 3] [--out runs/comparison-tiny] [--jobs 2] [--only-finished]

Runs that are finished are only read, interrupted ones go on; one CPU thread per run, `--jobs` runs at a time.
`--only-finished` starts nothing: the table then has a dash where there is no run. Each run leaves a card in cards/;
`--verify` holds the runs against them.
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
METHODS = (
    "step_weighted",
    "no_cot",
    "pause",
    "icot_si",
    "coconut",
    "coconut_progressive",
    "sim_cot",
    "codi",
    "sim_cot_codi",
    "softcot",
    "softcot_pp",
    "softcot_no_cot",
    "sim_cot_softcot",
    "semcot",
    "sim_cot_semcot",
)
EXPLAINED = {
    "sim_cot": "SIM-CoT on Coconut",
    "sim_cot_codi": "SIM-CoT on CODI",
    "sim_cot_softcot": "SIM-CoT on SoftCoT",
    "sim_cot_semcot": "SIM-CoT on SemCoT",
}
START = "builtin:tiny"
ASKED = {"step_weighted": ("min_steps=4", "max_steps=4", "train_size=20000")}
"""What a method that learns from other problems (here: of 1 to 6 operations) is asked in place of its own."""


def card_of(method: str, seed: int) -> Path:
    """What a run said, to hold it against: `unspoken verify RUN --card CARD`."""
    return HERE / "cards" / f"{method}-{seed}.json"


def one(method: str, seed: int, out: Path) -> Path:
    """Train and evaluate one run in a process of its own; returns its report."""
    run = out / f"{method}-{seed}"
    report = run / "eval-tiny-test.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    unspoken = [sys.executable, "-m", "unspoken"]
    overrides = [f"train.seed={seed}", f"task.seed={seed}", "train.threads=1"]
    subprocess.run([*unspoken, "train", f"tiny/{method}", *overrides, "--out", run], check=True, env=environment)
    told = run / "thoughts.json"
    if not report.exists() or not card_of(method, seed).exists():
        command = [*unspoken, "eval", run, *ASKED.get(method, ()), "--batch-size", "100", "--no-controls"]  # see controls.py
        command += ["--card", card_of(method, seed)]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    if method in EXPLAINED and not told.exists():
        command = [*unspoken, "eval", run, "--batch-size", "100", "--explain", "--no-controls", "--out", told]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return report


def main() -> None:
    """Run everything that is not there yet, then write table.md and table.json beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("runs/comparison-tiny"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--only-finished", action="store_true")
    parser.add_argument(
        "--verify", action="store_true", help="hold every finished run against its card, and do nothing else"
    )
    args = parser.parse_args()
    jobs = [(method, seed) for seed, method in itertools.product(args.seeds, args.methods)]
    if args.verify:
        runs = [(args.out / f"{m}-{s}", card_of(m, s)) for m, s in jobs]
        unspoken = [sys.executable, "-m", "unspoken", "verify"]
        found = [(run, card) for run, card in runs if (run / "model").is_dir() and card.exists()]
        failed = [run.name for run, card in found if subprocess.run([*unspoken, run, "--card", card]).returncode]
        sys.exit(f"error: {', '.join(failed)} no longer say what they said" if failed else None)
    if args.only_finished:
        jobs = [(method, seed) for method, seed in jobs if (args.out / f"{method}-{seed}" / "eval-tiny-test.json").exists()]
    else:
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda job: one(*job, args.out), jobs))

    # Imported late: the jobs above are processes of their own and need no torch here.
    from unspoken.evaluation.evaluator import evaluate
    from unspoken.evaluation.records import EvalReport, write_atomic
    from unspoken.evaluation.report import compare, percent, with_interval
    from unspoken.evaluation.statistics import Rate
    from unspoken.tasks import make_task
    from unspoken.training.checkpoint import RunDir, load

    reports = {job: EvalReport.from_json(args.out / f"{job[0]}-{job[1]}" / "eval-tiny-test.json") for job in jobs}
    start = load(START)
    for seed in args.seeds:
        file = args.out / f"start-{seed}.json"
        if not file.exists():
            task = make_task(RunDir(args.out / f"{next(m for m, s in jobs if s == seed)}-{seed}").config().task)
            evaluate(start, task, "test", batch_size=100).save(file)
        reports["SFT-CoT (start)", seed] = EvalReport.from_json(file)

    lines = [
        "| method | "
        + " | ".join(f"seed {s}" for s in args.seeds)
        + " | all seeds | latents | tokens | passes | ms/question | training, min |"
    ]
    lines.append("|" + " --- |" * (7 + len(args.seeds)))
    table = {}
    done = [method for method in args.methods if any(method == m for m, _ in jobs)]
    for method in ("SFT-CoT (start)", *done):
        mine = [reports[method, seed] for seed in args.seeds if (method, seed) in reports]
        total = Rate(correct=sum(r.accuracy.correct for r in mine), n=sum(r.n for r in mine))
        ms = sum(r.loop_ms_per_question for r in mine) / len(mine)
        cells = [reports.get((method, seed)) for seed in args.seeds]
        row = [with_interval(r.accuracy) if r else "-" for r in cells] + [with_interval(total)]
        minutes = [RunDir(args.out / f"{m}-{s}").metrics()[-1]["seconds"] / 60 for m, s in jobs if m == method]
        trained = f"{sum(minutes) / len(minutes):.1f}" if minutes else "-"
        cost = [mine[0].mean_latents, mine[0].mean_visible_tokens, mine[0].mean_passes]
        lines.append(f"| {method} | " + " | ".join([*row, *(f"{c:.1f}" for c in cost), f"{ms:.2f}", trained]) + " |")
        table[method] = {"per_seed": [r.summary() for r in mine], "all_seeds": {"correct": total.correct, "n": total.n}}
        table[method]["training_minutes"] = minutes
    lines.append("")
    for method, seed in jobs:
        if method in EXPLAINED and (args.out / f"{method}-{seed}" / "thoughts.json").exists():
            told = EvalReport.from_json(args.out / f"{method}-{seed}" / "thoughts.json").step_accuracy
            assert told is not None
            lines.append(
                f"- {EXPLAINED[method]}, seed {seed}: of the decoded steps {percent(told.overall.value)}% are the true "
                f"step; of those of correctly answered problems {percent(told.correct_only.value)}%"
            )
            steps = table[method].setdefault("decoded_steps", {})
            steps[seed] = {"all": told.overall.value, "correct": told.correct_only.value}
    for seed in args.seeds:
        there = {m: reports[m, seed] for m in done if (m, seed) in reports}
        if len(there) < 2:
            continue
        pairs = compare(there).to_json()
        table.setdefault("paired", {})[seed] = json.loads(pairs) if isinstance(pairs, str) else pairs
    lines += ["", "| method | passes of a training step | positions per training example |", "| --- | --- | --- |"]
    for method in done:
        first = next(seed for m, seed in jobs if m == method)
        cost = [row for row in RunDir(args.out / f"{method}-{first}").metrics() if "examples" in row]
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
