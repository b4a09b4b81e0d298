"""Commands side by side on one machine until the time is up: each has its logs and a moment at which it is ended.

Nothing here is waited for longer than the time there is. Results are packed again and again while the jobs run, so that a
call that is cut off still leaves the newest.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_pack.results import pack

ROOT = Path(__file__).resolve().parents[2]
"""Where every job runs."""

Command = Sequence[str | Path]

POLL, PACK_EVERY, GRACE = 0.2, 20.0, 3.0
"""Seconds between two looks at the jobs, between two packings, and between asking a job to end and ending it."""


@dataclass(kw_only=True)
class Job:
    """One command.

    Attributes:
        name: of the job and its logs.
        command: asked for when its turn comes; None = there is nothing to do.
        until: seconds since the beginning of the call at which it is ended.
        after: names of jobs that must have ended before, however they did.
        lane: jobs of one lane share its places; None = it starts at once.
        environment: variables beside those of the call.
        nice: how far it stands back for others.
        aside: it watches; the call does not wait for it.
    """

    name: str
    command: Callable[[], Command | None]
    until: float
    after: Sequence[str] = ()
    lane: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    nice: int = 0
    aside: bool = False
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    ended: str | None = None  # how, once it has


class Board:
    """All jobs of a call.

    Args:
        work: where they work; logs lie in its folder logs/.
        out: where results are brought.
        seconds: how long the call may take, packing included.
        environment: variables of every job.
        lanes: places of each lane.
    """

    def __init__(
        self, work: Path, out: Path, seconds: float, environment: Mapping[str, str], lanes: Mapping[str, int] | None = None
    ) -> None:
        self.work, self.out, self.seconds = work, out, seconds
        self.environment, self.lanes = dict(environment), dict(lanes or {})
        self.jobs: dict[str, Job] = {}
        self.logs = work / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.out.mkdir(parents=True, exist_ok=True)
        self._zero = time.monotonic()
        self._packed = 0.0
        self.watchers: list[Callable[[float], None]] = []
        self.closing: list[Callable[[], None]] = []
        signal.signal(signal.SIGTERM, lambda *_: self.close(1))

    def __enter__(self) -> Board:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Whatever happens, what there is comes back."""
        if error is not None:
            self.tell("".join(traceback.format_exception(error)))
        self.close(error is not None)

    @property
    def clock(self) -> float:
        """Seconds since the call began."""
        return time.monotonic() - self._zero

    def tell(self, text: str) -> None:
        """A line on the screen and in OUT/progress.log, with the time."""
        line = f"[{self.clock:6.1f}] {text}"
        print(line, flush=True)
        with (self.out / "progress.log").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def add(self, *jobs: Job) -> None:
        """Hand in jobs; they start inside `run`."""
        self.jobs |= {job.name: job for job in jobs}

    def run(self, until: float | None = None) -> None:
        """Run all jobs to their ends, or until a moment (seconds since the beginning); those that run then go on."""
        end = self.seconds if until is None else until
        while self.clock < end and any(job.ended is None and not job.aside for job in self.jobs.values()):
            for job in self.jobs.values():
                self._look(job)
            for watcher in self.watchers:
                watcher(self.clock)
            if self.clock - self._packed > PACK_EVERY:
                self.pack()
            time.sleep(POLL)

    def _look(self, job: Job) -> None:
        if job.ended is not None:
            return
        if job.process is None:
            if self._may_begin(job):
                self._begin(job)
            return
        code = job.process.poll()
        if code is not None:
            self._end(job, "done" if code == 0 else f"failed with {code}")
        elif self.clock > job.until:
            self._kill(job)
            self._end(job, "out of time")

    def _may_begin(self, job: Job) -> bool:
        if any(name in self.jobs and self.jobs[name].ended is None for name in job.after):
            return False
        if job.lane is None:
            return True
        running = (other for other in self.jobs.values() if other.process is not None and other.ended is None)
        busy = sum(other.lane == job.lane for other in running)
        return busy < self.lanes.get(job.lane, 1)

    def _begin(self, job: Job) -> None:
        if self.clock >= job.until:
            self._end(job, "no time left")
            return
        command = job.command()
        if command is None:
            self._end(job, "nothing to do")
            return
        job.began = self.clock
        words = [*(["nice", "-n", str(job.nice)] if job.nice else []), *map(str, command)]
        self.tell(f"{job.name}: begins")
        (self.logs / f"{job.name}.command").write_text(" ".join(words) + "\n", encoding="utf-8")
        with (self.logs / f"{job.name}.out").open("wb") as out, (self.logs / f"{job.name}.err").open("wb") as err:
            job.process = subprocess.Popen(
                words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
                env={**os.environ, **self.environment, **job.environment},
            )  # fmt: skip

    def _end(self, job: Job, how: str) -> None:
        job.ended = how
        took = f" after {self.clock - job.began:.1f} s" if job.process is not None else ""
        self.tell(f"{job.name}: {how}{took}" + ("" if how in ("done", "nothing to do") else self._last_words(job)))

    def _last_words(self, job: Job) -> str:
        file = self.logs / f"{job.name}.err"
        lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines() if file.exists() else []
        return f": {lines[-1][:300]}" if lines else ""

    def _kill(self, job: Job) -> None:
        """End a job and what it has started."""
        assert job.process is not None
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.process.wait(GRACE)

    def pack(self) -> None:
        """Bring back what there is so far."""
        self._packed = self.clock
        pack(self.work, self.out)

    def close(self, code: int = 0) -> None:
        """End everything, pack, print how each job ended, leave."""
        for job in self.jobs.values():
            if job.process is not None and job.ended is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(job.process.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        for job in self.jobs.values():
            if job.process is None or job.ended is not None:
                continue
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.process.wait(max(0.0, deadline - time.monotonic()))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.process.pid, signal.SIGKILL)
            self._end(job, "the call is over")
        for close in self.closing:
            close()
        self.pack()
        self.tell("; ".join(f"{job.name} {job.ended or 'not begun'}" for job in self.jobs.values()))
        os._exit(code)  # no thread or handler of a job's is worth waiting for
