"""Trainings whose disk gets full, turns read-only or goes away, or whose clock jumps; then the same command is given again.

    python -m benchmarks.faults                    # all; part of `make endurance`
    python -m benchmarks.faults clock moved        # some of them

Each training writes to a file system of its own, 128 MB of ext4 in a file. The fault comes at a random moment behind a
state. Then the training must end by itself within a minute, with an exit code and one line that says what is wrong.
When the fault is mended, no half-written file may be left that counts as whole, and the same command must end with the
weights, states and metrics of a run without a fault, bit for bit. A JSON object a line; exit code 1 if anything is
different, 77 where file systems may not be mounted (that takes root on Linux).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.kills import COMMON, Started, contents, differing, ends

MEGABYTES = 128
PATIENCE = 60
"""Seconds that a training may go on behind a fault."""

WORDS = ["train", "tiny/sim_cot", *COMMON, "--quiet", "--out"]


class Disk:
    """A small file system of its own.

    Args:
        folder: holds the file that it is in, and the place where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.image, self.place = folder / "disk.ext4", folder / "disk"
        self.place.mkdir()
        with self.image.open("wb") as file:
            file.truncate(MEGABYTES * 2**20)
        self._call("mkfs.ext4", "-q", str(self.image))
        self.mount()

    def mount(self) -> None:
        """Attach it."""
        self._call("mount", "-o", "loop", str(self.image), str(self.place))

    def unmount(self) -> None:
        """Take it away, also from under a process that writes to it."""
        self._call("umount", "-l", str(self.place))

    def fill(self) -> None:
        """Leave no byte free."""
        with contextlib.suppress(OSError), (self.place / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        """Undo `fill`."""
        (self.place / "filler").unlink()

    def fail(self) -> None:
        """Let the kernel find an error in it: it turns read-only, as a broken disk does."""
        self._call("mount", "-o", "remount,errors=remount-ro", str(self.place))
        device = self._call("findmnt", "-n", "-o", "SOURCE", str(self.place)).strip()
        Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("a benchmark\n")

    def repair(self) -> None:
        """Undo `fail`, as an administrator would."""
        self._call("umount", str(self.place))
        subprocess.run(["e2fsck", "-fy", str(self.image)], capture_output=True, check=False)
        self.mount()

    def _call(self, *words: str) -> str:
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def delete(run: Path) -> None:
    """Remove a folder that is being written to."""
    while run.exists():
        shutil.rmtree(run, ignore_errors=True)


FAULTS: dict[str, tuple[Callable[[Disk, Path], object], Callable[[Disk, Path], object], str]] = {
    "full": (lambda disk, run: disk.fill(), lambda disk, run: disk.free(), "No space left on device"),
    "read-only": (lambda disk, run: disk.fail(), lambda disk, run: disk.repair(), "Read-only file system"),
    "moved": (lambda disk, run: run.rename(f"{run}-away"), lambda disk, run: Path(f"{run}-away").rename(run), "taken away"),
    "deleted": (lambda disk, run: delete(run), lambda disk, run: None, "taken away"),
    "unmounted": (lambda disk, run: disk.unmount(), lambda disk, run: disk.mount(), "taken away"),
}
"""Name: (what happens, how it is mended, what the training says)."""

CLOCKS = {"clock back": -3.2e7, "clock forward": 3.2e7}
"""Name: seconds that the clock jumps by, a year."""


def jump(seconds: float) -> None:
    """Let every other look at the clock of this process come from another year."""
    looks, clock, nanoseconds = itertools.count(), time.time, time.time_ns
    time.time = lambda: clock() + seconds * (next(looks) % 2)
    time.time_ns = lambda: nanoseconds() + int(seconds * 1e9) * (next(looks) % 2)


def struck(disk: Disk, run: Path, name: str, dice: random.Random) -> dict[str, Any]:
    """Strike a training, and mend the fault.

    Returns:
        What it said, and the step of the state that it had saved.
    """
    fault, mend, expected = FAULTS[name]
    (training,) = [Started([*WORDS, str(run)], {})]
    wanted = dice.randrange(2, 17, 2)
    while (reached := max([0, *(int(state.name[5:]) for state in run.glob("state/step-*"))])) < wanted:
        if training.ended() is not None:
            break
        time.sleep(dice.uniform(0, 0.05))
    assert training.ended() is None, training.said()
    try:
        fault(disk, run)
        training.process.join(PATIENCE)
        code, said = training.ended(), training.said().strip()
    finally:
        training.kill()
        remade = run.exists() and name in ("moved", "deleted", "unmounted")
        mend(disk, run)
    odd = [] if code == 2 else [f"exit code {code}"]
    odd += [] if said.startswith("error: ") and len(said.splitlines()) == 1 and expected in said else ["another message"]
    odd += ["made a folder where the run had been"] if remade else []
    return {"fault": name, "said": said.replace(str(run.parent), ""), "state": reached, "different": odd}


def trial(name: str, folder: Path, dice: random.Random) -> dict[str, Any]:
    """A training with a fault, and the same command afterwards."""
    folder.mkdir()
    whole = folder / "whole"
    ends([Started([*WORDS, str(whole)], {})])
    if name in CLOCKS:
        run = folder / "run"
        ends([Started([*WORDS, str(run)], {}, first=partial(jump, CLOCKS[name]))])
        return {"fault": name, "different": differing(contents(whole), contents(run))}
    disk = Disk(folder)
    try:
        run = disk.place / "run"
        found = struck(disk, run, name, dice)
        ends([Started([*WORDS, str(run)], {})])
        found["different"] += differing(contents(whole), contents(run))
        return found
    finally:
        disk.unmount()


def mountable() -> bool:
    """Whether file systems may be mounted here."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            Disk(Path(folder)).unmount()
        except (OSError, subprocess.CalledProcessError):
            return False
    return True


def main() -> None:
    """Make all trials."""
    options = argparse.ArgumentParser(description="Trainings whose disk or clock fails.")
    options.add_argument("faults", nargs="*", choices=[[], *FAULTS, *CLOCKS], help="all where none is named")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    names = given.faults or [*FAULTS, *CLOCKS]
    if set(names) & set(FAULTS) and not mountable():
        print("file systems may not be mounted here")
        raise SystemExit(77)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            found = trial(name, Path(folder, name), random.Random(f"{given.seed}/{name}"))
            print(json.dumps(found), flush=True)
            failed |= bool(found["different"])
    raise SystemExit(int(failed))


if __name__ == "__main__":
    main()
