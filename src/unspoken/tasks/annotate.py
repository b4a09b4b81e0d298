"""Let a language model write the reasoning steps of rows that have none, into a JSONL file for the task `files`.

    OUT.jsonl            {"question": ..., "steps": [...], "answer": ..., "id": ..., "annotation": {...}}
    OUT.rejected.jsonl   {"question": ..., "answer": ..., "id": ..., "annotation": {...}, "why": [...], "said": [...]}

Idea: the model solves the problem; a solution whose answer is right, by the task's own scoring, is kept, and its reasoning
becomes the row's steps. The model never sees the answer, so it cannot argue towards it. `annotation` says who wrote a row
and what it cost, all its attempts together; "why" and "said" have an entry per attempt.

Rows are appended as they are settled and are on the disk before they count, so that a killed call goes on where it was.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from unspoken.core.text.example import Example
from unspoken.core.text.prompts import SoftTexts
from unspoken.errors import DataError
from unspoken.tasks.appended import RowsFile
from unspoken.tasks.endpoint import Client, Completion, Refusal
from unspoken.tasks.solutions import Judge

EQUATIONS = (
    "\n\nWrite nothing but calculations as steps, each once, in double angle brackets, as <<48/2=24>>, and behind the last "
    "of them the answer on a line of its own."
)
"""What is added to a prompt if only equations are wanted (steps=markers)."""

GIVE_UP = 5
"""So many rows in a row without any answer end a call: the server is not there, or refuses everything."""

_OF_THE_ROW = (400, 413, 422)
"""Refusals that may be about one row: its length, or what it says."""


class Writer(Protocol):
    """A model that solves problems.

    Attributes:
        at_once: how many problems it takes at a time.
        workers: how many such batches.
        said_of: what each row says about it.
    """

    at_once: int
    workers: int

    @property
    def said_of(self) -> Mapping[str, object]: ...

    def write(self, examples: Sequence[Example], places: Sequence[int], attempt: int) -> Sequence[Completion]:
        """A solution of each problem; `places` are their numbers in the split, `attempt` counts from 0."""
        ...

    def stop(self) -> None: ...


@dataclass(kw_only=True)
class EndpointWriter:
    """A model behind an OpenAI-compatible endpoint, asked for one problem per call."""

    client: Client
    texts: SoftTexts
    workers: int = 4
    at_once: int = field(default=1, init=False)

    @property
    def said_of(self) -> Mapping[str, object]:
        """The model and where it is, without a password that the address may hold."""
        endpoint = self.client.endpoint
        where = re.sub(r"//[^/@]*@", "//", endpoint.url.partition("?")[0])
        return {"model": endpoint.model, "at": where, "temperature": endpoint.temperature}

    def write(self, examples: Sequence[Example], places: Sequence[int], attempt: int) -> Sequence[Completion]:
        """See `Writer`."""
        return [self.client.complete(self.texts.prompt(example.question, 0, "")) for example in examples]

    def stop(self) -> None:
        """Wait for no further attempts."""
        self.client.stop()


@dataclass(kw_only=True)
class _Draft:
    """One row on its way: what was written for it, and what became of that."""

    example: Example
    place: int
    steps: tuple[str, ...] = ()
    said: list[Completion] = field(default_factory=list)
    why: list[str] = field(default_factory=list)
    fault: DataError | None = None

    def take(self, judge: Judge, said: Completion) -> None:
        """Judge a solution."""
        self.steps, why = judge.steps_of(self.example, said)
        self.said.append(said)
        if why:
            self.why.append(why)

    def row(self, said_of: Mapping[str, object]) -> dict[str, Any]:
        """The row as it is written to one of the files."""
        counted = [(one.prompt_tokens, one.completion_tokens) for one in self.said]
        annotation = {
            **said_of,
            "tries": len(self.said),
            "prompt_tokens": sum(read or 0 for read, _ in counted),
            "completion_tokens": sum(written or 0 for _, written in counted),
            "uncounted": sum(read is None or written is None for read, written in counted),
            "seconds": round(sum(one.seconds for one in self.said), 3),
        }
        row: dict[str, Any] = {"question": self.example.question}
        if self.steps:
            row["steps"] = list(self.steps)
        row |= {"answer": self.example.answer, "id": self.example.id, "annotation": annotation}
        if not self.steps:
            row |= {"why": self.why + [str(self.fault)] * bool(self.fault), "said": [one.text for one in self.said]}
        return row


@dataclass(kw_only=True)
class Annotated:
    """What became of the rows, and what it cost; earlier calls with the same file count, too.

    Attributes:
        rows: distinct rows of the data.
        copied: had steps, and are copied.
        written: got steps.
        rejected: got none; `reasons` counts the last reason of each.
        unanswered: got no answer from the server; the next call asks for them again.
        left: not asked for, because of a limit.
        tries, prompt_tokens, completion_tokens, uncounted, seconds: of all attempts; `uncounted` ones came without a count
            of tokens.
    """

    rows: int = 0
    copied: int = 0
    written: int = 0
    rejected: int = 0
    unanswered: int = 0
    left: int = 0
    tries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0
    seconds: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)

    def count(self, row: Mapping[str, Any]) -> None:
        """Add a row's costs."""
        costs = row.get("annotation")
        for name in ("tries", "prompt_tokens", "completion_tokens", "uncounted", "seconds"):
            value = costs.get(name) if isinstance(costs, dict) else None
            if isinstance(value, (int, float)):
                setattr(self, name, getattr(self, name) + value)


Key = tuple[str, str]


def annotate_file(
    writer: Writer,
    examples: Sequence[Example],
    judge: Judge,
    out: Path,
    *,
    tries: int = 3,
    again: bool = False,
    rewrite: bool = False,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Annotated:
    """Write steps for the rows that have none; rows that are in the files already are kept.

    Args:
        writer: the model.
        examples: all rows of the split; of equal ones the first counts.
        judge: decides what is kept.
        out: the JSONL file; those that are not kept go to `rejected_file(out)`.
        tries: solutions per row, at most.
        again: ask for rejected rows once more.
        rewrite: ask for steps also where a row has some.
        limit: only the first rows, so many.
        progress: called with (rows settled, rows to settle).

    Raises:
        DataError: a file is of other data or written by another process; the server is not there or refuses everything
            (what is settled is kept); or no row at all has steps in the end.
    """
    with RowsFile(out, "steps") as kept, RowsFile(rejected_file(out), "why") as rejected:
        try:
            found = _Files(kept, rejected, examples)
            return found.fill(writer, judge, tries, again, rewrite, limit, progress)
        finally:
            for path in (out, rejected.path):
                if not path.stat().st_size:
                    path.unlink()


def rejected_file(out: Path) -> Path:
    """Where rows without steps go: data/a.jsonl -> data/a.rejected.jsonl."""
    return out.with_name(f"{out.stem}.rejected.jsonl")


class _Files:
    """The two files, and which rows they settle."""

    def __init__(self, kept: RowsFile, rejected: RowsFile, examples: Sequence[Example]) -> None:
        self.kept, self.rejected = kept, rejected
        self.wanted: dict[Key, tuple[int, Example]] = {}
        for place, example in enumerate(examples):
            self.wanted.setdefault((example.question, example.answer), (place, example))
        self.kept_rows = {_key(row): row for row in kept.rows}
        self.rejected_rows = {_key(row): row for row in rejected.rows}
        self.spent = Annotated()
        for file in (kept, rejected):
            for number, row in enumerate(file.rows, start=1):
                if _key(row) not in self.wanted:
                    raise DataError(f"{file.path}:{number}: is of other data: no row of the task; give another --out")
                self.spent.count(row)

    def fill(
        self, writer: Writer, judge: Judge, tries: int, again: bool, rewrite: bool, limit: int | None,
        progress: Callable[[int, int], None] | None,
    ) -> Annotated:  # fmt: skip
        """Copy, ask for and append what is missing."""
        rows = list(self.wanted.items())[:limit]
        has_steps = {key for key, (_, example) in rows if example.steps and not rewrite}
        self._keep(*(_copied(example) for key, (_, example) in rows if key in has_steps and key not in self.kept_rows))
        settled = self.kept_rows if again else {**self.rejected_rows, **self.kept_rows}
        todo = [_Draft(example=example, place=place) for key, (place, example) in rows if key not in settled]
        unanswered = self._ask(writer, judge, todo, tries, progress or (lambda done, total: None))
        return self._told(len(rows), unanswered)

    def _ask(
        self, writer: Writer, judge: Judge, todo: Sequence[_Draft], tries: int, progress: Callable[[int, int], None]
    ) -> int:
        """Settle rows as their answers come; returns how many got none."""
        answered, streak, unanswered = False, 0, 0
        held: list[_Draft] = []  # refused before anything was answered: perhaps it is the call that is wrong, not the row
        progress(0, len(todo))
        for number, draft in enumerate(_drafted(writer, judge, todo, tries), start=1):
            answered, streak = answered or bool(draft.said), 0 if draft.said else streak + 1
            if draft.steps or draft.fault is None or isinstance(draft.fault, Refusal):
                held.append(draft)
            else:
                unanswered += 1
            if streak >= GIVE_UP and not (answered and isinstance(draft.fault, Refusal)):
                raise DataError(
                    f"{streak} rows one after the other got no answer, the last because: {draft.fault}; what is settled is "
                    "kept, and the same command goes on"
                )
            if answered or number == len(todo):
                for one in held:
                    self._settle(one, writer.said_of)
                held = []
            progress(number, len(todo))
        return unanswered

    def _settle(self, draft: _Draft, said_of: Mapping[str, object]) -> None:
        row = draft.row(said_of)
        if draft.steps:
            self._keep(row)
        else:
            self.rejected.append(row)
            self.rejected_rows[_key(row)] = row
            self.spent.count(row)

    def _keep(self, *rows: dict[str, Any]) -> None:
        if rows:
            self.kept.append(*rows)
        for row in rows:
            self.kept_rows[_key(row)] = row
            self.spent.count(row)

    def _told(self, rows: int, unanswered: int) -> Annotated:
        told = self.spent
        copied = sum("annotation" not in row for row in self.kept_rows.values())
        reasons = [row["why"][-1] for key, row in self.rejected_rows.items() if key not in self.kept_rows]
        told = replace(
            told, rows=len(self.wanted), copied=copied, written=len(self.kept_rows) - copied, rejected=len(reasons),
            unanswered=unanswered, left=len(self.wanted) - rows,
            reasons=dict(Counter(_kind_of(why) for why in reasons).most_common()),
        )  # fmt: skip
        if not self.kept_rows and self.wanted:
            most = ", ".join(told.reasons) or "no row was answered"
            raise DataError(
                f"none of {rows} rows has steps now ({most}); {self.rejected.path} says what was written; try another "
                "model, or the wording that it knows"
            )
        return told


def _drafted(writer: Writer, judge: Judge, todo: Sequence[_Draft], tries: int) -> Iterator[_Draft]:
    """Rows as they are done, in no order."""
    size = writer.at_once
    batches = (todo[at : at + size] for at in range(0, len(todo), size))
    with concurrent.futures.ThreadPoolExecutor(max_workers=writer.workers) as pool:

        def begun(count: int) -> set[concurrent.futures.Future[Sequence[_Draft]]]:
            return {pool.submit(_finish, writer, judge, batch, tries) for batch in itertools.islice(batches, count)}

        waiting = begun(2 * writer.workers)  # no more, so that little is asked for in vain where the call ends
        try:
            while waiting:
                done, waiting = concurrent.futures.wait(waiting, return_when="FIRST_COMPLETED")
                for one in done:
                    yield from one.result()
                waiting |= begun(len(done))
        finally:
            writer.stop()
            pool.shutdown(cancel_futures=True)


def _finish(writer: Writer, judge: Judge, batch: Sequence[_Draft], tries: int) -> Sequence[_Draft]:
    """Have each row written until a solution is kept, `tries` times at most.

    Raises:
        Refusal: of a kind that is not about a row.
    """
    for attempt in range(tries):
        still = [draft for draft in batch if not draft.steps and draft.fault is None]
        if not still:
            break
        for draft, said in _written(writer, still, attempt):
            if isinstance(said, Completion):
                draft.take(judge, said)
            else:
                draft.fault = said
    return batch


def _written(writer: Writer, drafts: Sequence[_Draft], attempt: int) -> Iterator[tuple[_Draft, Completion | DataError]]:
    """What was written for each row, or why nothing was; of a batch that fails, each row alone."""
    try:
        said = writer.write([draft.example for draft in drafts], [draft.place for draft in drafts], attempt)
    except DataError as error:
        if isinstance(error, Refusal) and error.status not in _OF_THE_ROW:
            raise
        if len(drafts) == 1:
            yield drafts[0], error
            return
        for draft in drafts:
            yield from _written(writer, [draft], attempt)
        return
    yield from zip(drafts, said, strict=True)


def _copied(example: Example) -> dict[str, Any]:
    return {"question": example.question, "steps": list(example.steps), "answer": example.answer, "id": example.id}


def _key(row: Mapping[str, Any]) -> Key:
    return str(row.get("question")), str(row.get("answer"))


def _kind_of(why: str) -> str:
    """A reason without what differs from row to row."""
    if why.startswith("its answer is "):
        return "no answer" if why.endswith(" none") else "a wrong answer"
    return (
        "refused by the server" if "refuses the call" in why else why.removeprefix("it ") if len(why) < 80 else "an odd row"
    )
