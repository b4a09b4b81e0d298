"""Do the latents of the runs in this folder matter? Every control on each finished run of `run.py` that thinks in latents.

    python comparison/tiny/controls.py [--seeds 1 2 3] [--out runs/comparison-tiny] [--limit 1000] [--methods ...]

Writes RUN/controls.json where it is not there yet, then controls.md and controls.json beside this file. One run after the
other, one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
METHODS = (
    "pause",
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
"""The methods of `run.py` that have latents (of pause tokens two controls make sense, and say so)."""


def one(run: Path, limit: int) -> Path:
    """The controls of one run, in a process of its own."""
    report = run / "controls.json"
    if not report.exists():
        words = ["controls", run, "--limit", str(limit), "--batch-size", "100", "--out", report]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "unspoken", *words]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return report


def main() -> None:
    """Run what is not there yet, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("runs/comparison-tiny"))
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--to", type=Path, default=HERE, help="where the tables go")
    args = parser.parse_args()
    runs = [args.out / f"{method}-{seed}" for method in args.methods for seed in args.seeds]
    found = [run for run in runs if (run / "model").is_dir()]
    if not found:
        sys.exit(f"error: no finished run in {args.out}; start comparison/tiny/run.py, or name another folder with --out")
    for run in found:
        print(one(run, args.limit), flush=True)

    # Imported late: the jobs above are processes of their own and need none of it here.
    from unspoken.causal.control_report import MEAN, NOISE, SHUFFLED, STOP, TOKENS, ZERO, ControlsReport, finding
    from unspoken.core.files import write_text
    from unspoken.evaluation.records import EvalReport
    from unspoken.evaluation.tables import percent, points, with_interval

    reports = {run.name: ControlsReport.from_json(run / "controls.json") for run in found}
    columns = [
        (SHUFFLED, None),
        (MEAN, None),
        (ZERO, None),
        (TOKENS, None),
        (NOISE, 0.5),
        (NOISE, 1.0),
        (NOISE, 2.0),
        (STOP, 0.0),
    ]
    names = [name if setting is None else f"{name} {setting:g}" for name, setting in columns[:-1]]
    heading = ["run", "No-CoT, same seed", "unmodified", *names, "no latents", "shuffled - unmodified, points", "found"]
    lines = [f"| {' | '.join(heading)} |", "|" + " --- |" * len(heading)]
    for name, report in reports.items():
        cells = []
        for control, setting in columns:
            made = report.get(control, setting)
            cells.append("-" if made is None else percent(made.accuracy.value))
        bare = args.out / f"no_cot-{name.rpartition('-')[2]}" / "eval-tiny-test.json"
        base = percent(EvalReport.from_json(bare).accuracy.value) if bare.exists() else "-"
        shuffled = report.get(SHUFFLED)
        told = "-"
        if shuffled is not None:
            effect = report.effect(shuffled)
            told = f"{points(effect.value)} ({points(effect.interval[0])} to {points(effect.interval[1])})"
        row = [name, base, with_interval(report.plain.accuracy), *cells, told, finding(report)]
        lines.append(f"| {' | '.join(row)} |")
    sizes = sorted({report.plain.n for report in reports.values()})
    lines += [
        "",
        f"Accuracy in per cent on {' or '.join(map(str, sizes))} test problems, greedy; intervals 95%, paired.",
        "",
    ]
    lines += [f"- **{name}**: {report.verdict}" for name, report in reports.items()]
    summary = {name: {**report.summary(), "environment": report.plain.environment} for name, report in reports.items()}
    write_text(args.to / "controls.md", "\n".join(lines) + "\n")
    write_text(args.to / "controls.json", json.dumps(summary, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
