"""The six runs on real data: what is trained, how many updates fit, how each is evaluated.

All train every weight of SmolLM2-135M-Instruct on GSM8K-Aug's rows, in bf16 autocast with fp32 weights, with one optimizer
and one learning rate, so that they differ by method alone. Their number of updates is decided before they begin, because
the learning rate falls to 0 at the last one: time there is, over the time an update took in the rehearsal. Coconut, and
SIM-CoT on it, begin with the SFT-CoT run, as in their papers, and have the time that it leaves; the others train from the
base model and have the whole time, or as many updates as SFT-CoT.

Why every weight and not adapters: 135M weights with AdamW are 2.2 GB, memory is no reason; adapters of rank 128 on every
matrix add six small kernels to each, and what these passes wait for is kernels. LoRA's published learning rates (8e-4,
3e-3) are for adapters; 3e-4 with a short warm-up is usual for all weights of a model of this size.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROWS = 16_704
"""Rows of GSM8K-Aug's training set that there are."""

START = 20.0
"""Seconds until a process makes its first update: imports, the model, the data."""

REHEARSED_STEPS, VALIDATED_STEPS = 8, 20
"""Updates of a rehearsal before its pace counts, since by then it is in its last stage; and between its validations."""

SAFE = 0.92
"""Share of the time that updates are planned for; the rest is for validation and for a machine slower than in rehearsal."""

Speeds = Callable[[str], float]
"""Seconds per update of a run, by its name."""

TASKS = "gsm8k_aug,gsm_hard,svamp,multiarith"
CONTROLS = "shuffled,mean,zero"

COMMON = (
    "train.epochs=null", "train.micro_batch_size=null", "train.precision=bf16",
    "train.lr=3e-4", "train.weight_decay=0.01", "train.schedule=linear", "train.warmup_share=0.05", "train.clip=1.0",
    "train.select=last", "train.save_every=1000000", "train.encodings=null", "train.threads=1",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Run:
    """One of the runs.

    Attributes:
        recipe: whose settings hold where `COMMON` and `overrides` say nothing.
        budget: runs of one budget make equally many updates, as many as the slowest of them can.
        overrides: of the recipe.
        begins_with: the run whose weights it starts from; None = the base model.
        stages: the field that says how long a stage of its curriculum is, and the number of stages before the last.
        explains: its auxiliary decoder can say what the latents stand for.
        thinks: it has latents.
        update: seconds of an update beside the other five, where no rehearsal has measured it.
    """

    recipe: str
    budget: str
    overrides: Sequence[str] = ()
    begins_with: str | None = None
    stages: tuple[str, int] | None = None
    explains: bool = False
    thinks: bool = True
    update: float


_SHORT = "speaking.max_new_tokens=32"  # an answer without steps
_CODI = (_SHORT, "backbone.lora=null")
_COCONUT = (_SHORT, "train.restart_warmup_steps=10")
RUNS: Mapping[str, Run] = {
    "cot": Run(recipe="gsm8k/cot", budget="text", thinks=False, update=0.3),
    "no_cot": Run(recipe="gsm8k/no_cot", budget="text", overrides=(_SHORT,), thinks=False, update=0.15),
    "codi": Run(recipe="gsm8k/codi", budget="codi", overrides=(*_CODI, "method.distill_weight=20"), update=0.5),
    "sim_cot_codi": Run(
        recipe="gsm8k/sim_cot_codi",
        budget="codi",
        overrides=(*_CODI, "method.inner.distill_weight=20"),
        explains=True,
        update=0.6,
    ),
    "coconut": Run(
        recipe="gsm8k/coconut",
        budget="coconut",
        overrides=_COCONUT,
        begins_with="cot",
        stages=("method.epochs_per_stage", 3),
        update=0.5,
    ),
    "sim_cot": Run(
        recipe="gsm8k/sim_cot",
        budget="coconut",
        overrides=(*_COCONUT, "method.inner.max_stage=3", "method.inner.restart_optimizer=true"),
        begins_with="cot",
        stages=("method.inner.epochs_per_stage", 4),
        explains=True,
        update=0.6,
    ),
}
"""The order is that of their worth: what comes first, begins first. All latent runs think in six latents.

CODI's distillation weight is that of its scripts for Llama models, whose architecture SmolLM2 has."""

LAST_STAGE = 0.5
"""Share of a curriculum's updates after which its last stage, all latents and no written step, has begun."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large everything is: as meant, or so small that a CPU goes through all of it in a minute or two.

    Attributes:
        tokens: positions of a micro-batch, which memory limits.
        update: rows of an update.
        validated: problems of a validation.
        asked: questions of an evaluation; None = all.
        controlled: problems of each control.
        explained: problems whose thoughts are decoded.
        batch: questions at a time.
        more: further overrides of a training.
        updates: of every run; None = as many as fit.
    """

    tokens: int = 5120
    update: int = 96
    validated: int = 64
    asked: int | None = None
    controlled: int = 500
    explained: int = 300
    batch: int = 400
    more: Sequence[str] = field(default=())
    updates: int | None = None


TINY = Size(tokens=512, validated=2, asked=4, controlled=4, explained=4, batch=4, more=("task.limit_train=128",), updates=6)


def planned(seconds: float, update: float, size: Size) -> int:
    """How many updates to plan for so many seconds, start of the process included."""
    return size.updates or max(60, int((seconds - START) * SAFE / update))


def pace_of(budget: str, update: Speeds) -> float:
    """Seconds per update of the slowest run of a budget."""
    return max(update(name) for name, run in RUNS.items() if run.budget == budget)


def training(
    name: str, base: Path, out: Path, updates: int, size: Size, seed: int, *, rehearsed: bool = False, validated: bool = True
) -> list[str]:
    """The command that trains a run.

    Args:
        name: of the run, a key of `RUNS`.
        base: the weights it begins with: a model folder or a run.
        out: its directory.
        updates: how many it makes.
        size: see `Size`.
        seed: of everything random.
        rehearsed: go through all stages at once and validate early: the run is ended before it is done.
        validated: validate on the way, not only at the end.
    """
    run = RUNS[name]
    every = updates if not validated else VALIDATED_STEPS if rehearsed else max(updates // 3, 1)
    overrides = [
        f"backbone.path={base}", *COMMON, *run.overrides, f"train.steps={updates}", f"train.seed={seed}",
        f"train.batch_size={size.update}",
        f"train.micro_batch_tokens={size.tokens}", f"train.validate_limit={8 if rehearsed else size.validated}",
        f"train.validate_every={every}", f"train.log_every={4 if rehearsed else 10}", *size.more,
    ]  # fmt: skip
    if run.stages is not None:
        field_name, before = run.stages
        length = 3 if rehearsed else updates * LAST_STAGE / before
        overrides.append(f"{field_name}={length * size.update / rows(size):.6f}")
    if run.begins_with is not None and base.name != run.begins_with and not rehearsed:
        overrides.append("method.inner.first_stage=0" if run.explains else "method.first_stage=0")
    return [sys.executable, "-m", "unspoken", "train", run.recipe, *overrides, "--out", str(out), "--quiet"]


def chosen(shared: bool) -> list[str]:
    """The runs that a machine can make: all six at once where processes share its GPU, else four, two at a time."""
    return list(RUNS) if shared else [name for name, run in RUNS.items() if run.begins_with is None]


def waits_for(name: str, names: Sequence[str]) -> list[str]:
    """Those of some runs that must have ended so that a run has the GPU to itself and one other."""
    return [] if RUNS[name].budget == "text" else [other for other in names if RUNS[other].budget == "text"]


def rows(size: Size) -> int:
    """Rows of the training set."""
    limits = [int(word.split("=")[1]) for word in size.more if word.startswith("task.limit_train=")]
    return min([ROWS, *limits])


def evaluations(name: str, run: Path, size: Size) -> dict[str, list[str]]:
    """The commands that evaluate a trained run, by what they ask."""
    unspoken = [sys.executable, "-m", "unspoken"]
    limit = [] if size.asked is None else ["--limit", str(size.asked)]
    batch = ["--batch-size", str(size.batch)]
    found = {"eval": [*unspoken, "eval", str(run), "--tasks", TASKS, *limit, *batch, "--no-controls"]}
    if RUNS[name].thinks:
        asked = ["--limit", str(size.controlled), "--only", CONTROLS]
        found["controls"] = [*unspoken, "controls", str(run), *asked, *batch]
    if RUNS[name].explains:
        asked = ["--limit", str(size.explained), "--explain"]
        found["explain"] = [*unspoken, "eval", str(run), *asked, *batch, "--no-controls"]
    return found


class Pace:
    """How long an update of each run takes, seen from outside: the last step in its metrics, again and again.

    The time that a run itself notes on a GPU is partly that of asking for work, not of the work.

    Args:
        runs: name -> run directory.
    """

    def __init__(self, runs: Mapping[str, Path]) -> None:
        self.runs = dict(runs)
        self.seen: dict[str, list[tuple[float, int]]] = {name: [] for name in runs}

    def look(self, clock: float) -> None:
        """Note how far each run is."""
        for name, run in self.runs.items():
            step = last_step(run)
            if step is not None and (not self.seen[name] or step > self.seen[name][-1][1]):
                self.seen[name].append((clock, step))

    def updates(self, warm: int) -> dict[str, float]:
        """Seconds per update of every run that has made some behind the first `warm`; without those that a validation, or
        the saving of a model, came between."""
        found = {}
        for name, seen in self.seen.items():
            late = [(clock, step) for clock, step in seen if step >= warm]
            took = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(late)]
            usual = statistics.median([seconds / steps for seconds, steps in took]) if took else 0.0
            took = [(seconds, steps) for seconds, steps in took if seconds <= 3 * usual * steps]
            if took:
                found[name] = sum(seconds for seconds, _ in took) / sum(steps for _, steps in took)
        return found


def last_step(run: Path) -> int | None:
    """The last step that a run's metrics speak of."""
    try:
        lines = (run / "metrics.jsonl").read_bytes().splitlines()
        return next((int(json.loads(line)["step"]) for line in reversed(lines) if line.endswith(b"}")), None)
    except (OSError, ValueError, KeyError):
        return None


def speeds(file: Path) -> Speeds:
    """Seconds per update by the rehearsal; by guess where it has none."""
    try:
        measured = {name: float(value) for name, value in json.loads(file.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError):
        measured = {}
    return lambda name: measured.get(name) or RUNS[name].update
