"""Jobs side by side: a process per job, as many at a time as there are places to run; one that fails stops no other."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unspoken.errors import ConfigError, RunError
from unspoken.runs.lock import Lock
from unspoken.studies.places import BUSY, JobPlaces
from unspoken.studies.plan import Job
from unspoken.studies.state import done

CPU = "cpu"
WAIT = 10.0
"""Seconds before a job on which somebody else works is looked at again."""

_PATIENCE = 120.0
"""Seconds that a process gets to save a state when it is asked to stop."""

Tell = Callable[[str, Mapping[str, Any]], None]
"""Called with (name of a job, what its process says: "doing", "step", "of")."""


def places_to_run(jobs: int | None, devices: Sequence[str] | None) -> list[str]:
    """The places in which processes run, one process each: "cpu" or "cuda:N", the same one any number of times.

    Raises:
        ConfigError: no place, both kinds given, or a name that is no device.
    """
    if jobs is not None and devices:
        raise ConfigError("give --jobs (so many processes on the CPU) or --devices (a process per device named), not both")
    if devices is None or not devices:
        count = 1 if jobs is None else jobs
        if count < 1:
            raise ConfigError(f"--jobs must be at least 1, got {count}")
        return [CPU] * count
    for one in devices:
        name, _, number = one.partition(":")
        if one != CPU and (name != "cuda" or (number and not number.isdecimal())):
            raise ConfigError(
                f"--devices: {one!r:.40} is no device; give names with commas, e.g. cuda:0,cuda:0,cuda:1 or cpu"
            )
    return list(devices)


def environment(place: str) -> dict[str, str]:
    """The environment of a process: it sees its own device only, and its arithmetic takes one core."""
    own = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    visible = "" if place == CPU else _device(place.partition(":")[2] or "0")
    return {**os.environ, **own, "CUDA_VISIBLE_DEVICES": visible}


def _device(number: str) -> str:
    """The name that the system has for the device of a number, where only some of them may be seen."""
    seen = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return seen[int(number)] if seen and int(number) < len(seen) else number


@dataclass(kw_only=True)
class Workers:
    """Runs jobs until each is done or has failed.

    Attributes:
        jobs: in the order in which they are begun; a job waits for those that it needs.
        places: see `places_to_run`.
        tell: hears how far each job is.
        command: starts a job's process.
        failed: name -> what went wrong, in a line.
        ended: names of the jobs that are done.
    """

    jobs: Sequence[Job]
    places: Sequence[str]
    tell: Tell
    command: Sequence[str] = (sys.executable, "-m", "unspoken.studies.work")
    failed: dict[str, str] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    _running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    _waits: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._change = threading.Condition()
        self._left = list(self.jobs)
        self._stopped = False

    def go(self) -> None:
        """Run everything.

        Raises:
            KeyboardInterrupt: somebody stopped it; the processes have saved their states and ended.
        """
        threads = [threading.Thread(target=self._in_place, args=(place,), daemon=True) for place in self.places]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.2)
        except KeyboardInterrupt:
            self._stop(threads)
            raise

    def _stop(self, threads: Sequence[threading.Thread]) -> None:
        with self._change:
            self._stopped = True
            running = list(self._running.values())
            self._change.notify_all()
        for process in running:
            process.terminate()
        until = time.monotonic() + _PATIENCE
        for thread in threads:
            thread.join(max(until - time.monotonic(), 0))
        for process in running:
            if process.poll() is None:
                process.kill()

    def _in_place(self, place: str) -> None:
        while (job := self._next()) is not None:
            try:
                code, said = self._result(job, place)
            except Exception as error:  # no place for its log, no memory for a process, ...: that job's failure alone
                code, said = 1, f"{type(error).__name__}: {error}"
            with self._change:
                if self._stopped:
                    return
                if code == BUSY:
                    self._waits[job.name] = time.monotonic() + WAIT
                    self._left.append(job)
                    self.tell(job.name, {"doing": "another process is at it; looking again later"})
                elif code == 0:
                    self.ended.append(job.name)
                    self.tell(job.name, {"doing": "done"})
                else:
                    self.failed[job.name] = said
                    self.tell(job.name, {"doing": f"failed: {said}"})
                self._change.notify_all()

    def _next(self) -> Job | None:
        """The next job that can begin; None = there is nothing left to do in this place."""
        with self._change:
            while True:
                if self._stopped:
                    return None
                self._give_up()
                for job in self._left:
                    if self._waits.get(job.name, 0) <= time.monotonic() and all(name in self.ended for name in job.needs):
                        self._left.remove(job)
                        return job
                if not self._left:
                    return None
                self._change.wait(1.0)

    def _give_up(self) -> None:
        """Jobs whose start has failed fail too."""
        for job in list(self._left):
            if lost := [name for name in job.needs if name in self.failed]:
                self._left.remove(job)
                self.failed[job.name] = f"it starts from {lost[0]}, which failed"
                self.tell(job.name, {"doing": f"failed: {self.failed[job.name]}"})

    def _result(self, job: Job, place: str) -> tuple[int, str]:
        """The exit code of a job and what its process said last; a job that is done, or taken, needs no process."""
        if done(job):
            return 0, ""
        try:
            Lock(JobPlaces(job.folder).claim).check()
        except RunError:
            return BUSY, ""
        return self._run(job, place)

    def _run(self, job: Job, place: str) -> tuple[int, str]:
        """Run a job's process to its end; its exit code, and the last thing that it said on standard error."""
        places = JobPlaces(job.folder)
        places.log.parent.mkdir(parents=True, exist_ok=True)
        with places.log.open("a", encoding="utf-8") as log:
            began = log.tell()
            process = subprocess.Popen(
                list(self.command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                text=True, encoding="utf-8", env=environment(place), start_new_session=True,
            )  # fmt: skip
            with self._change:
                self._running[job.name] = process
                if self._stopped:
                    process.terminate()
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(OSError):  # it has ended already: its exit code and its log say why
                process.stdin.write(job.line())
                process.stdin.flush()
            for line in process.stdout:
                self._hear(job.name, line)
            code = process.wait()
            with contextlib.suppress(OSError):
                process.stdin.close()
        with self._change:
            self._running.pop(job.name, None)
        return code, _reason(places.log, began, code)

    def _hear(self, name: str, line: str) -> None:
        try:
            said = json.loads(line)
        except ValueError:  # something that a library prints
            return
        if isinstance(said, dict):
            self.tell(name, said)


def _reason(log: Path, began: int, code: int) -> str:
    """Why a process ended with an exit code, in a line: what it said last, or the signal that ended it."""
    with log.open("rb") as file:
        file.seek(began)
        lines = file.read()[-20_000:].decode("utf-8", errors="replace").strip().splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1]
    if code < 0:
        return f"ended by signal {-code}" + (" (killed: perhaps too little memory)" if code == -9 else "") + f"; see {log}"
    return f"{lines[-1] if lines else f'exit code {code}'}; see {log}"
