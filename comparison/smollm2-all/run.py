"""The table in this folder: every method on real models and real GSM8K rows, for a few optimizer steps on a CPU.

    python comparison/smollm2-all/run.py --model DIR --data DIR [--steps 6] [--rows 8] [--limit 40] [--out runs/smollm2]

Base: SmolLM2-135M-Instruct (`comparison/smollm2-gsm8k/get_model.py`). Assistant of SoftCoT and SemCoT: the model inside the
package, of another family, tokenizer and width. Data: a folder with gsm8k/, gsm8k_aug/ and semcot/ (docs/tasks.md).
Runs that are finished are only read, interrupted ones go on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SMALL = "ASSISTANT"  # replaced by `assistant`
STAGE = "STAGE"  # replaced by the share of an epoch in which five stages take half of the run (GSM8K-Aug)
LESSON = "LESSON"  # replaced by the share of an epoch that one optimizer step is (SemCoT's rows)
SOFT = [f"method.assistant.path={SMALL}", "method.assistant.dtype=float32", "method.latents=4", "backbone.dtype=float32"]
METHODS: dict[str, tuple[str, list[str]]] = {
    "SFT-CoT": ("gsm8k/cot", []),
    "step-weighted SFT": ("gsm8k/step_weighted", []),
    "No-CoT": ("gsm8k/no_cot", []),
    "pause tokens": ("gsm8k/pause", []),
    "iCoT-SI": ("gsm8k/icot_si", ["method.remove_per_epoch=8000", "train.lr=1e-4"]),
    "Coconut": ("gsm8k/coconut", [f"method.epochs_per_stage={STAGE}"]),
    "SIM-CoT on Coconut": ("gsm8k/sim_cot", [f"method.inner.epochs_per_stage={STAGE}"]),
    "CODI": ("gsm8k/codi", ["train.lr=8e-4", "method.distill_weight=20"]),
    "SIM-CoT on CODI": ("gsm8k/sim_cot_codi", ["train.lr=8e-4", "method.inner.distill_weight=20"]),
    "SoftCoT": ("gsm8k/softcot_llama8b", [*SOFT, "train.lr=1e-3"]),
    "SoftCoT++": (
        "gsm8k/softcot_pp_llama8b",
        [*(word.replace("method.", "method.softcot.") for word in SOFT), "method.chains=3", "train.lr=1e-3"],
    ),
    "SIM-CoT on SoftCoT": (
        "gsm8k/sim_cot_softcot_llama8b",
        [*(word.replace("method.", "method.inner.") for word in SOFT), "method.inner.latents_per_step=1", "train.lr=1e-3"],
    ),
    "SemCoT": (
        "semcot/gsm8k",
        [
            f"method.inner.assistant.path={SMALL}",
            f"method.inner.warmup.epochs={LESSON}",
            f"method.encoder_warmup.epochs={LESSON}",
            f"method.encoder_training.epochs={LESSON}",
        ],
    ),
}


def folder(label: str) -> str:
    """A run's folder."""
    return label.lower().replace(" ", "_").replace("+", "p")


def assistant(out: Path) -> Path:
    """The model inside the package with a longer context: its tokenizer spells GSM8K's words out."""
    from unspoken.core.lm.loading import builtin

    copy = out / "assistant"
    if not copy.exists():
        temporary = out / ".assistant"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(builtin("builtin:tiny") / "model", temporary)
        config = json.loads((temporary / "config.json").read_text())
        (temporary / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
        temporary.rename(copy)
    return copy


def fill(word: str, args: argparse.Namespace) -> str:
    """An override with what it depends on: the assistant's place, and how long the run is."""
    stage, lesson = args.steps * args.rows / 2 / 5 / args.aug_rows, args.rows / args.semcot_rows
    for name, value in ((SMALL, str(assistant(args.out))), (STAGE, f"{stage:.6f}"), (LESSON, f"{lesson:.6f}")):
        word = word.replace(name, value)
    return word


def one(label: str, args: argparse.Namespace) -> None:
    """Train and evaluate one method in processes of their own."""
    recipe, more = METHODS[label]
    run = args.out / folder(label)
    unspoken = [sys.executable, "-m", "unspoken"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "UNSPOKEN_DATA": str(args.data)}
    overrides = [
        f"backbone.path={args.model}",
        "train.epochs=null",
        f"train.steps={args.steps}",
        f"train.batch_size={args.rows}",
        f"train.micro_batch_size={args.rows}",
        "train.precision=fp32",
        "train.threads=1",
        "train.warmup_steps=2",
        "train.warmup_share=0",
        "train.schedule=linear",
        "train.clip=1.0",
        "train.log_every=1",
        f"train.validate_every={args.steps}",
        "train.validate_limit=4",
        "train.seed=0",
        f"speaking.max_new_tokens={args.tokens}",
        "speaking.temperature=0",
        *(fill(word, args) for word in more),
    ]
    subprocess.run([*unspoken, "train", recipe, *overrides, "--out", run], check=True, env=environment)
    if not (run / "eval.json").exists():
        words = [
            "eval",
            run,
            "--task",
            "gsm8k",
            "--limit",
            str(args.limit),
            "--batch-size",
            "50",
            "--no-controls",
            "--out",
            run / "eval.json",
        ]
        subprocess.run([*unspoken, *words], check=True, env=environment, stdout=subprocess.DEVNULL)


def main() -> None:
    """Run what is not there yet, then write table.md and table.json beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--aug-rows", type=int, default=16_704, help="rows of GSM8K-Aug's train file")
    parser.add_argument("--semcot-rows", type=int, default=718, help="training rows of SemCoT's GSM8K subset")
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("runs/smollm2"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    args = parser.parse_args()
    for label in args.methods:
        one(label, args)
    write(args.methods, args.out)


def write(labels: list[str], out: Path) -> None:
    """Accuracy and cost of each run, what its training cost, and the loss in its first and last three steps."""
    from unspoken.core.files import write_text
    from unspoken.evaluation.records import EvalReport
    from unspoken.evaluation.tables import with_interval
    from unspoken.runs.directory import RunDir

    lines = [
        "| method | accuracy % (95%) | latents | visible tokens | forward passes | train s | loss, first and last 3 steps |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    table = {}
    reports = {label: EvalReport.from_json(out / folder(label) / "eval.json") for label in labels}
    for label, report in reports.items():
        run = RunDir(out / folder(label))
        losses = [row["loss"] for row in run.metrics() if row["kind"] == "train"]
        seconds = run.metrics()[-1]["seconds"]
        first, last = sum(losses[:3]) / 3, sum(losses[-3:]) / 3
        cost = f"{report.mean_latents:.1f} | {report.mean_visible_tokens:.1f} | {report.mean_passes:.1f}"
        lines.append(f"| {label} | {with_interval(report.accuracy)} | {cost} | {seconds:.0f} | {first:.2f}, {last:.2f} |")
        table[label] = {
            "recipe": METHODS[label][0],
            "overrides": METHODS[label][1],
            "steps": len(losses),
            "seconds": seconds,
        }
        table[label] |= {"losses": losses, "evaluation": report.summary()}
    n, hardware = next((report.n, report.hardware) for report in reports.values())
    lines += ["", f"First {n} test problems of GSM8K, greedy, one run each, {hardware}.", ""]
    write_text(HERE / "table.md", "\n".join(lines))
    write_text(HERE / "table.json", json.dumps(table, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
