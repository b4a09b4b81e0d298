"""The first call: half of the model, the GPU tests, a rehearsal of the six runs, then speed on a quiet machine.

    python3 -m benchmarks.gpu_pack.first OUT --seconds 270

The rehearsal trains random weights of the same shape, all six runs at once, through every stage and one validation, and is
then ended: what fails in the second call fails here, and how long an update takes is written down for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from benchmarks.gpu_pack import machine, runs
from benchmarks.gpu_pack.jobs import Job

REHEARSED, TEXT_REHEARSED, EVALUATED, TESTED, MARGIN = 84.0, 36.0, 40.0, 120.0, 8.0
"""Seconds: of the rehearsal, in it of those that write their steps where others wait for them, of its evaluations, of the
tests; and between the last job's end and the call's."""


def main() -> None:
    """Run everything."""
    call = machine.begin(__doc__, 1, {"bench": 1})
    with call.board:
        _go(call)


def _go(call: machine.Call) -> None:
    board, end, slower = call.board, call.board.seconds - MARGIN, 10 if call.tiny else 1
    if call.bench:
        board.add(*machine.watch_gpu(call), *_benches(call, end, []))
        board.run(until=end)
        return
    tokens = machine.tokens(call.by_turns)
    few = runs.Size(tokens=tokens, update=call.update, asked=48, controlled=48, explained=48)
    size = runs.TINY if call.tiny else few
    shape = [sys.executable, "-m", "benchmarks.gpu_pack.random_model", call.work / "shape", call.random]
    shape += ["--tiny"] * call.tiny
    board.add(*machine.watch_gpu(call), Job(name="shape", command=lambda: shape, until=end))
    board.add(_tests(call, slower))
    begins = board.clock
    pace = runs.Pace({name: call.run_of(f"rehearsal/{name}") for name in call.names})
    board.watchers.append(pace.look)
    board.add(*(job for name in call.names for job in _rehearsal(call, name, size, begins, slower)))
    if not call.rehearse:
        quiet = ["shape", "tests", *(name for name in board.jobs if name.startswith("rehearsal"))]
        board.add(*_benches(call, end, quiet))
    board.run(until=min(begins + (REHEARSED + EVALUATED) * slower + 10, end))
    found = pace.updates(1) | pace.updates(1 if call.tiny else runs.REHEARSED_STEPS)
    machine.write(call.work / "speeds.json", found)
    board.tell("seconds per update: " + ", ".join(f"{name} {seconds:.3f}" for name, seconds in found.items()))
    board.run(until=end)
    if (said := board.logs / "tests.out").exists():
        print("\n".join(said.read_text(encoding="utf-8", errors="replace").splitlines()[-40:]))


def _tests(call: machine.Call, slower: int) -> Job:
    """The tests that only a GPU can run; with Liger's kernels, which nothing else here uses."""
    sought = os.pathsep.join([call.board.environment["PYTHONPATH"], str(call.work / "site-liger")])
    command = [
        sys.executable, "-m", "pytest", "-m", "gpu", machine.ROOT / "tests" / "gpu", "-n", "1" if call.tiny else "4",
        "--dist", "worksteal", "--timeout", "110", "-p", "no:cacheprovider", "-ra", "--tb=long", "--durations=15",
        f"--junitxml={call.work / 'logs' / 'tests.xml'}",
    ]  # fmt: skip
    until = min(call.board.clock + TESTED * slower, call.board.seconds - MARGIN)
    return Job(name="tests", command=lambda: command, until=until, environment={"PYTHONPATH": sought}, nice=10)


def _rehearsal(call: machine.Call, name: str, size: runs.Size, begins: float, slower: int) -> list[Job]:
    """A run's rehearsal, then its evaluations with the model that its validation kept."""
    run = call.run_of(f"rehearsal/{name}")
    until = min(begins + REHEARSED * slower, call.board.seconds - MARGIN)
    updates = size.updates or 100_000
    train = runs.training(name, call.random, run, updates, size, 0, rehearsed=True, validated=not call.rehearse)
    trained = f"rehearsal-{name}"
    before = [f"rehearsal-{other}" for other in call.waits_for(name)]
    if any(name in call.waits_for(other) for other in call.names):
        until = begins + TEXT_REHEARSED * slower
    jobs = [Job(name=trained, command=lambda: train, until=until, after=["shape", *before])]
    if call.rehearse:
        return jobs
    for what, command in runs.evaluations(name, run, size).items():
        if what == "eval" or name == "sim_cot_codi":  # every kind once, every run once
            there = run / "model"
            jobs.append(
                Job(
                    name=f"{trained}-{what}",
                    command=lambda command=command, there=there: command if there.is_dir() else None,
                    until=until + EVALUATED * slower,
                    after=[trained],
                )
            )
    return jobs


def _benches(call: machine.Call, end: float, quiet: Sequence[str]) -> list[Job]:
    """Training and answering at the shapes of 135M, 1B and GPT-2 small, one after the other, as many as fit."""
    train, unspoken = [sys.executable, "-m", "benchmarks.train", "--json"], [sys.executable, "-m", "unspoken", "bench"]
    short = ["--batches", "1,32", "--explicit-batches", "1,32", "--json"]
    wanted = [
        ("generate-1b", [*unspoken, "generate", *short], "llama-1b", 1, "--dtypes bfloat16"),
        ("train-1b", [*train, "--what", "coconut,codi"], "llama-1b", 2, "--precision bf16"),
        ("serve-135m", [*unspoken, "serve-offline", "--json"], "smollm2-135m", 2, "--dtype bfloat16"),
        ("train-135m", [*train, "--what", "coconut,sim_cot,coconut-32,codi"], "smollm2-135m", 3, "--precision bf16"),
        ("generate-135m", [*unspoken, "generate", *short], "smollm2-135m", 2, "--dtypes float32,bfloat16"),
        ("train-gpt2", [*train, "--what", "coconut,sim_cot,coconut-32,codi"], "gpt2-small", 3, "--precision bf16"),
        ("generate-gpt2", [*unspoken, "generate", *short], "gpt2-small", 2, "--dtypes float32,bfloat16"),
    ]
    if call.tiny:
        wanted = [(name, command, "small-test", 1, more) for name, command, _, _, more in wanted if "135m" in name]
    jobs = []
    for name, command, model, rounds, more in wanted:
        whole = [*command, "--model", model, "--rounds", str(rounds), *more.split()]
        jobs.append(Job(name=f"bench-{name}", command=lambda whole=whole: whole, until=end, after=list(quiet), lane="bench"))
    return jobs


if __name__ == "__main__":
    main()
