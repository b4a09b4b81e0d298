"""Resumable evaluation: finished batches are saved, so that it can be continued after a stop and shared by processes.

Batches depend only on a split's questions (`Model.batches`), and sampling on a question's place in the split. So it does
not matter which process answers a batch, or when. Every process appends to a file of its own next to the future report,
`NAME.partial-0.jsonl`: a head with the settings, then a line per batch. The report is assembled from all of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from unspoken.core.config import dump
from unspoken.errors import RunError
from unspoken.evaluation import claim
from unspoken.evaluation.processes import Processes
from unspoken.evaluation.records import Record

if TYPE_CHECKING:
    from unspoken.core.loop.trace import Answer

FORMAT = 1
_RECORDS = TypeAdapter(tuple[Record, ...])


@dataclass(frozen=True)
class PartialReport:
    """Where finished batches are saved, and which processes share the work.

    Attributes:
        report: the future report's file; batches are saved next to it.
        processes: this process among all.
        restart: discard existing batches.
    """

    report: Path
    processes: Processes = field(default_factory=Processes)
    restart: bool = False

    def files(self) -> list[Path]:
        """The files of all processes, including earlier ones."""
        return sorted(self.report.parent.glob(f"{_escaped(self.report.stem)}.partial-*.jsonl"))

    def forget(self) -> None:
        """Remove the files, when the report holds everything."""
        self._remove()
        claim.release(self.lock)

    @property
    def lock(self) -> Path:
        """The lock file of this process."""
        return self.report.with_name(f".{self.report.name}.lock-{self.processes.index}")

    def _remove(self) -> None:
        self.processes.wait()  # they are not read any more
        if self.processes.main:
            try:
                for file in self.files():
                    file.unlink(missing_ok=True)
            except OSError as error:
                raise RunError(f"could not remove {error.filename}: {error.strerror}; remove it by hand") from error

    def done(self, settings: Mapping[str, object]) -> dict[int, dict[str, Any]]:
        """The finished batches by number. A truncated line is ignored.

        Raises:
            RunError: the batches belong to another evaluation; names what differs.
        """
        found: dict[int, dict[str, Any]] = {}
        for file in self.files():
            if not (whole := _whole_lines(file)):
                continue
            head, *lines = whole
            if not lines:  # nothing was answered, perhaps because the settings were refused
                continue
            if differ := [name for name in settings if head.get(name) != settings[name]]:
                raise RunError(
                    f"{file} holds part of an evaluation with other settings ({', '.join(differ)}); give the same settings "
                    "to go on with it, or --restart to throw it away"
                )
            found |= {line["batch"]: line for line in lines}
        return found

    def open(self, settings: Mapping[str, object]) -> Callable[[Mapping[str, object]], None]:
        """A function that appends a line to this process's file."""
        file = self.report.with_name(f"{self.report.stem}.partial-{self.processes.index}.jsonl")

        def append(line: Mapping[str, object]) -> None:
            try:
                with file.open("a", encoding="ascii") as out:
                    out.write(json.dumps(line) + "\n")
            except OSError as error:
                raise RunError(
                    f"could not write {file}: {error.strerror or error}; free disk space; the same command goes on"
                ) from error

        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.exists():
                data = file.read_bytes()
                os.truncate(file, data.rfind(b"\n") + 1)  # after a truncated line
            begun = file.exists() and file.read_bytes().count(b"\n") > 1
            if not begun:
                file.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"could not write {file}: {error.strerror or error}; choose another place with --out") from error
        if not begun:  # no answers yet
            append(settings)
        return append


@dataclass(frozen=True)
class Kept:
    """All records in the order of the split, and the total time of their batches."""

    records: tuple[Record, ...]
    seconds: float
    loop_seconds: float


def evaluate_missing(
    answer: Callable[[Sequence[int]], list[tuple[Answer, ...]]],
    make: Callable[[int, Sequence[Answer]], Record],
    plan: Sequence[Sequence[int]],
    settings: Mapping[str, object],
    keep: PartialReport,
    progress: Callable[[int, int], None] | None = None,
) -> Kept:
    """Answer this process's share of the unanswered batches; then read what all processes have answered.

    Args:
        answer: answers the questions at some places of the split.
        make: (place, answers) -> record.
        plan: places per batch; the same in every process.
        settings: everything that may change a record.
        keep: where batches are saved.
        progress: called with (questions answered, questions in all), counting earlier batches and this process's own.

    Raises:
        RunError: there are batches of another evaluation, another evaluation is writing here, or batches are missing at the
            end.
    """
    claim.claim(keep.lock)
    try:
        kept = _in_turns(answer, make, plan, settings, keep, progress)
    except BaseException:
        claim.release(keep.lock)
        raise
    claim.pause(keep.lock)
    return kept


def _in_turns(
    answer: Callable[[Sequence[int]], list[tuple[Answer, ...]]],
    make: Callable[[int, Sequence[Answer]], Record],
    plan: Sequence[Sequence[int]],
    settings: Mapping[str, object],
    keep: PartialReport,
    progress: Callable[[int, int], None] | None,
) -> Kept:
    from time import perf_counter

    me, total = keep.processes, sum(map(len, plan))
    settings = json.loads(json.dumps({"format": FORMAT, "plan": _digest(plan), **dump(dict(settings))}, default=str))
    if keep.restart:
        keep._remove()
    me.wait()
    done = keep.done(settings)
    mine = [number for number in range(len(plan)) if number not in done][me.index :: me.count]
    me.wait()  # all processes have read the files before any writes
    append = keep.open(settings)
    answered = sum(len(plan[number]) for number in done)
    for number in mine:
        if progress is not None:
            progress(answered, total)
        began = perf_counter()
        given = answer(plan[number])
        made = [make(place, said) for place, said in zip(plan[number], given, strict=True)]
        append(
            {
                "batch": number,
                "records": [dump(record) for record in made],
                "seconds": perf_counter() - began,
                "loop_seconds": sum(one.seconds for said in given for one in said),
            }
        )
        answered += len(plan[number]) * me.count
        answered = min(answered, total)
    me.wait()
    done = keep.done(settings)
    if missing := len(plan) - len(done):
        raise RunError(
            f"{missing} of {len(plan)} batches are missing beside {keep.report}; processes on several machines must share "
            "that folder; the same command goes on"
        )
    if progress is not None:
        progress(total, total)
    records: dict[int, Record] = {}
    for number, places in enumerate(plan):
        records.update(zip(places, _RECORDS.validate_python(done[number]["records"]), strict=True))
    ordered = [done[number] for number in range(len(plan))]
    return Kept(
        records=tuple(records[place] for place in range(total)),
        seconds=sum(line["seconds"] for line in ordered),
        loop_seconds=sum(line["loop_seconds"] for line in ordered),
    )


def _whole_lines(file: Path) -> list[dict[str, Any]]:
    try:
        data = file.read_bytes()
        return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({error}); give --restart to throw it away") from None


def _digest(plan: Sequence[Sequence[int]]) -> str:
    """A hash of the plan: another tokenizer could give other batches of the same questions."""
    from hashlib import sha256

    return sha256(json.dumps([list(places) for places in plan]).encode()).hexdigest()[:16]


def _escaped(name: str) -> str:
    """Escape a file name for `glob`."""
    from glob import escape

    return escape(name)
