"""The second call: the model's other half, the six runs, their evaluations.

    python3 -m benchmarks.gpu_pack.second OUT --seconds 480

Needs what the first call left in `--work`. The moment at which training ends is fixed; a run that is not done by then is
ended, and the model of its last validation is evaluated and is said to be that.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_pack import machine, runs
from benchmarks.gpu_pack.jobs import Job

EVALUATED, LATE, MARGIN = 78.0, 25.0, 10.0
"""Seconds: kept for evaluation behind the end of training, granted to a run that is almost done, kept for packing."""

FIRST_PART = 0.28
"""Share of the training time that SFT-CoT has, with which others begin, and No-CoT."""


def main() -> None:
    """Run everything."""
    call = machine.begin(__doc__, 2, {})
    with call.board:
        _go(call)


def _go(call: machine.Call) -> None:
    board = call.board
    trained = board.seconds - MARGIN - EVALUATED
    size = runs.TINY if call.tiny else runs.Size(tokens=machine.tokens(call.by_turns), update=call.update)
    update = runs.speeds(call.work / "speeds.json")
    board.tell("seconds per update, by rehearsal or guess: " + ", ".join(f"{name} {update(name):.3f}" for name in runs.RUNS))
    gguf = machine.joined(call)
    convert = [
        sys.executable,
        machine.ROOT / "studies/get_smollm2.py",
        call.base,
        "--gguf",
        str(gguf),
        "--like",
        call.work / "shape",
    ]
    board.add(*machine.watch_gpu(call))
    board.add(Job(name="model", command=lambda: convert if gguf is not None else None, until=trained))
    planned: dict[str, int] = {}
    for name in call.names:
        board.add(_training(call, name, size, update, trained, planned), *_evaluations(call, name, size))
    board.run(until=board.seconds - MARGIN)
    _tell(call)


def _training(
    call: machine.Call, name: str, size: runs.Size, update: runs.Speeds, trained: float, planned: dict[str, int]
) -> Job:
    """A run; how many updates it makes is decided when the first of its budget begins."""
    run = runs.RUNS[name]

    def command() -> Sequence[str | Path] | None:
        base = call.random if call.tiny and call.random.is_dir() else call.base
        if run.begins_with is not None and (call.run_of(run.begins_with) / "model").is_dir():
            base = call.run_of(run.begins_with)
        if not base.is_dir():
            return None
        if run.budget not in planned:
            left = (trained - call.board.clock) * (FIRST_PART if run.budget == "text" else 1.0)
            planned[run.budget] = runs.planned(left, runs.pace_of(run.budget, update), size)
            machine.write(call.work / "logs" / "planned.json", planned)
        call.board.tell(f"{name}: {planned[run.budget]} updates of {size.update} rows planned, from {base.name}")
        return runs.training(name, base, call.run_of(name), planned[run.budget], size, 1)

    until = trained + LATE
    after = ["model", *([run.begins_with] if run.begins_with else []), *call.waits_for(name)]
    return Job(name=name, command=command, until=until, after=after)


def _evaluations(call: machine.Call, name: str, size: runs.Size) -> list[Job]:
    """What is asked of a trained run, side by side."""
    run = call.run_of(name)
    return [
        Job(
            name=f"{name}-{what}",
            command=lambda command=command: command if (run / "model").is_dir() else None,
            until=call.board.seconds - MARGIN,
            after=[name],
        )
        for what, command in runs.evaluations(name, run, size).items()
    ]


def _tell(call: machine.Call) -> None:
    """A line per report."""
    for report in sorted((call.work / "runs").glob("*/eval-*.json")):
        try:
            summary = json.loads(report.read_text(encoding="utf-8"))["summary"]
        except (OSError, ValueError, KeyError):  # being written
            continue
        call.board.tell(f"{report.parent.name} {report.stem}: {summary['correct']} of {summary['n']} right")


if __name__ == "__main__":
    main()
