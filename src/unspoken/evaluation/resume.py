"""An evaluation whose batches are kept as they are finished: it goes on after a stop, and processes share it.

The batches of a split depend on its questions alone (`Model.batches`), and sampling on a question's place in the split. So
neither the process that answers a batch nor the sitting in which it does changes a record. Every process appends to a file
of its own beside the report that is to come, `NAME.partial-0.jsonl`: a head that says what is evaluated and how, then a line
per batch. Who assembles the report reads them all.
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
    """Where finished batches are kept, and who shares the work.

    Attributes:
        report: the file that the report will have; the batches go beside it.
        processes: this process among all.
        restart: throw away what is there.
    """

    report: Path
    processes: Processes = field(default_factory=Processes)
    restart: bool = False

    def files(self) -> list[Path]:
        """The files of all processes, of earlier sittings too."""
        return sorted(self.report.parent.glob(f"{_escaped(self.report.stem)}.partial-*.jsonl"))

    def forget(self) -> None:
        """Remove the files: the report holds everything."""
        self._remove()
        claim.release(self.lock)

    @property
    def lock(self) -> Path:
        """What tells other evaluations that this process writes here."""
        return self.report.with_name(f".{self.report.name}.lock-{self.processes.index}")

    def _remove(self) -> None:
        self.processes.wait()  # nobody reads them any more
        if self.processes.main:
            try:
                for file in self.files():
                    file.unlink(missing_ok=True)
            except OSError as error:
                raise RunError(f"could not remove {error.filename}: {error.strerror}; remove it by hand") from error

    def done(self, settings: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
        """The finished batches by number. A line that a kill has cut off does not count.

        Raises:
            RunError: batches of another evaluation; names what differs.
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

    def open(self, settings: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], None]:
        """A function that appends a line to this process's file."""
        file = self.report.with_name(f"{self.report.stem}.partial-{self.processes.index}.jsonl")

        def append(line: Mapping[str, Any]) -> None:
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
                os.truncate(file, data.rfind(b"\n") + 1)  # the rest of a line that a kill has cut off
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
    """All records in the order of the split, and the time of their batches, added up over processes and sittings."""

    records: tuple[Record, ...]
    seconds: float
    loop_seconds: float


def evaluate_missing(
    answer: Callable[[Sequence[int]], list[tuple[Answer, ...]]],
    make: Callable[[int, Sequence[Answer]], Record],
    plan: Sequence[Sequence[int]],
    settings: Mapping[str, Any],
    keep: PartialReport,
    progress: Callable[[int, int], None] | None = None,
) -> Kept:
    """Answer the batches that nobody has answered yet, this process's share of them; then read what all have answered.

    Args:
        answer: answers the questions at some places of the split.
        make: (place, answers) -> record.
        plan: places per batch; the same in every process and sitting.
        settings: everything that may change a record.
        keep: where.
        progress: called with (questions answered, questions in all): of all before this sitting, and of this process's own.

    Raises:
        RunError: batches of another evaluation are there, another one is writing here, or some are missing at the end.
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
    settings: Mapping[str, Any],
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
    me.wait()  # all have read what there is before anybody writes
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
    """The plan in a few characters: the same questions could be cut into other batches by another tokenizer."""
    from hashlib import sha256

    return sha256(json.dumps([list(places) for places in plan]).encode()).hexdigest()[:16]


def _escaped(name: str) -> str:
    """A file name for `glob`."""
    from glob import escape

    return escape(name)
