"""The table in this folder: every method on `tiny`, problems of 4 operations, 3 seeds, 1,000 test problems each.
Seed 0 is left out: the recipes were chosen on its problems.

    python comparison/tiny/run.py [--seeds 1 2 3] [--out runs/comparison-tiny] [--jobs 2] [--only-finished]

Runs that are finished are only read, interrupted ones go on; one CPU thread per run, `--jobs` runs at a time.
`--only-finished` starts nothing: the table then has a dash where there is no run. `--tables` writes table.md again from
table.json alone. Each run leaves a card in cards/; `--verify` holds the runs against them.
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
from typing import Any

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
FIRST = "SFT-CoT (start)"
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
    parser.add_argument("--tables", action="store_true", help="write table.md from table.json, and do nothing else")
    args = parser.parse_args()
    if args.tables:
        write_tables(json.loads((HERE / "table.json").read_text(encoding="utf-8")))
        return
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
            list(pool.map(lambda job: one(job[0], job[1], args.out), jobs))

    table = gather(jobs, args)
    write_tables(table)


def gather(jobs: list[tuple[str, int]], args: argparse.Namespace) -> dict[str, Any]:
    """Every figure of the runs, as table.json holds it."""
    # Imported late: the jobs above are processes of their own and need no torch here.
    from unspoken.evaluation.evaluator import evaluate
    from unspoken.evaluation.records import EvalReport
    from unspoken.evaluation.tables import compare
    from unspoken.runs.directory import RunDir, load
    from unspoken.tasks import make_task

    reports = {job: EvalReport.from_json(args.out / f"{job[0]}-{job[1]}" / "eval-tiny-test.json") for job in jobs}
    start = load(START)
    for seed in args.seeds:
        file = args.out / f"start-{seed}.json"
        if not file.exists():
            task = make_task(RunDir(args.out / f"{next(m for m, s in jobs if s == seed)}-{seed}").config().task)
            evaluate(start, task, "test", batch_size=100).save(file)
        reports[FIRST, seed] = EvalReport.from_json(file)

    table: dict[str, Any] = {}
    done = [method for method in args.methods if any(method == m for m, _ in jobs)]
    for method in (FIRST, *done):
        seeds = [seed for seed in args.seeds if (method, seed) in reports]
        minutes = [RunDir(args.out / f"{m}-{s}").metrics()[-1]["seconds"] / 60 for m, s in jobs if m == method]
        per_seed = [reports[method, seed].summary() for seed in seeds]
        table[method] = {"training_seeds": seeds, "per_seed": per_seed, "training_minutes": minutes}
    for method, seed in jobs:
        if method in EXPLAINED and (args.out / f"{method}-{seed}" / "thoughts.json").exists():
            told = EvalReport.from_json(args.out / f"{method}-{seed}" / "thoughts.json").step_accuracy
            assert told is not None
            steps = table[method].setdefault("decoded_steps", {})
            steps[str(seed)] = {"all": told.overall.value, "correct": told.correct_only.value}
    for method in done:
        first = next(seed for m, seed in jobs if m == method)
        cost = [row for row in RunDir(args.out / f"{method}-{first}").metrics() if "examples" in row]
        if cost:
            positions = sum(row["tokens"] for row in cost) / sum(row["examples"] for row in cost)
            table[method]["training"] = {"passes": max(row["passes"] for row in cost), "positions_per_example": positions}
    for seed in args.seeds:
        there = {m: reports[m, seed] for m in done if (m, seed) in reports}
        if len(there) > 1:
            table.setdefault("paired", {})[str(seed)] = json.loads(compare(there).to_json())
    where = reports[jobs[0]]
    table["conditions"] = f"{where.n} test problems per seed, greedy, batch 100, {where.hardware}."
    return table


def write_tables(table: dict[str, Any]) -> None:
    """Write table.json, with means over training seeds, and what people read of it as table.md."""
    from unspoken.core.files import write_text
    from unspoken.evaluation.statistics import OverSeeds, Rate, over_training_seeds
    from unspoken.evaluation.tables import each_seed, over_seeds_cell, percent, with_interval

    methods = [name for name, row in table.items() if isinstance(row, dict) and "per_seed" in row]
    every = sorted({seed for name in methods for seed in table[name]["training_seeds"]})
    heading = ["method", "mean over training seeds (95% over them)", *(f"seed {seed} (95% within it)" for seed in every)]
    heading += ["latents", "tokens", "passes", "ms/question", "training, min"]
    lines = [f"| {' | '.join(heading)} |", "|" + " --- |" * len(heading)]
    for method in methods:
        row = table[method]
        by_seed = dict(zip(row["training_seeds"], row["per_seed"], strict=True))
        over: OverSeeds = over_training_seeds(Rate(correct=r["correct"], n=r["n"]) for r in by_seed.values())
        row["over_training_seeds"] = {"mean": over.mean, "interval": over.interval, "each": each_seed(over)}
        rates = dict(zip(by_seed, over.rates, strict=True))
        cells = [over_seeds_cell(over), *(with_interval(rates[seed]) if seed in rates else "-" for seed in every)]
        first = row["per_seed"][0]
        cells += [f"{first[name]:.1f}" for name in ("mean_latents", "mean_visible_tokens", "mean_passes")]
        cells += [f"{sum(r['loop_ms_per_question'] for r in by_seed.values()) / len(by_seed):.2f}"]
        minutes = row["training_minutes"]
        cells += [f"{sum(minutes) / len(minutes):.1f}" if minutes else "-"]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    lines += [
        "",
        "Over training seeds: t interval of the mean, none for one seed or equal ones. Within a seed: Wilson's, about that "
        "one model on other problems.",
        "",
    ]
    told = [(seed, method, one) for method in methods for seed, one in table[method].get("decoded_steps", {}).items()]
    for seed, method, one in sorted(told, key=lambda each: each[0]):
        lines.append(
            f"- {EXPLAINED[method]}, seed {seed}: of the decoded steps {percent(one['all'])}% are the true "
            f"step; of those of correctly answered problems {percent(one['correct'])}%"
        )
    lines += ["", "| method | passes of a training step | positions per training example |", "| --- | --- | --- |"]
    for method in methods:
        if cost := table[method].get("training"):
            lines.append(f"| {method} | {cost['passes']} | {cost['positions_per_example']:.1f} |")
    lines += ["", table["conditions"], ""]
    write_text(HERE / "table.md", "\n".join(lines))
    write_text(HERE / "table.json", json.dumps(table, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
