"""Condense reasoning with a language model behind an OpenAI-compatible endpoint, into a JSONL file for the task `files`.

    {"question": ..., "steps": [...], "answer": ..., "id": ..., "condensed_reasoning": ...}

Rows are appended as answers arrive, so that an interrupted call can be resumed. Empty or far too long answers are requested
again and then refused, never written, because the encoder would learn from them.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from unspoken.core.text.example import Example
from unspoken.errors import DataError
from unspoken.tasks.appended import RowsFile
from unspoken.tasks.endpoint import Client, Endpoint

MOST = 3.0
"""How many times the requested number of words a text may have. The released data, made with 10 requested, go far
beyond."""

PROMPT = (
    "Below are a problem and its solution. Rewrite the solution as one short line of at most {words} words: every quantity "
    "and every operation that leads to the answer, in order, and nothing else. Do not explain.\n\n"
    "Problem: {question}\n\nSolution: {reasoning}\n\nAnswer: {answer}"
)
"""The prompt; the wording is ours."""


def condense_one(client: Client, example: Example, words: int) -> str:
    """The condensed reasoning of a problem.

    Raises:
        DataError: names the problem; see `Client.ask`.
    """
    told = example.meta.get("reasoning")
    reasoning = told if isinstance(told, str) else "\n".join(example.steps)
    if not reasoning.strip():
        raise DataError(f"{example.id or 'an example'} has no reasoning to condense; drop the row")
    prompt = PROMPT.replace("{words}", str(words)).replace("{answer}", example.answer)
    prompt = prompt.replace("{reasoning}", reasoning).replace("{question}", example.question)

    def check(text: str) -> str | None:
        if not text:
            return "is empty"
        if len(text.split()) > words * MOST:
            return f"has {len(text.split())} words, where {words} were asked for"
        return None

    try:
        return client.ask(prompt, check)
    except DataError as error:
        raise DataError(f"{example.id or 'an example'}: {error}") from error


def condense_file(
    endpoint: Endpoint,
    examples: Sequence[Example],
    out: Path,
    *,
    words: int = 10,
    workers: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Condense the reasoning of problems into a JSONL file; existing rows are kept.

    Args:
        words: number of words to ask for.
        workers: concurrent calls; rows are still written in the order of `examples`.
        progress: called with (done, all).

    Returns:
        How many problems were condensed.

    Raises:
        DataError: see `condense_one` (earlier rows are kept); or the file is of other problems.
    """
    with RowsFile(out, "condensed_reasoning") as file:
        kept = file.rows
        for number, (row, example) in enumerate(zip(kept, examples, strict=False)):
            if (row.get("question"), row.get("answer")) != (example.question, example.answer):
                raise DataError(
                    f"{out}:{number + 1}: is of other data: not the question of {example.id!r}; give another --out"
                )
        if len(kept) > len(examples):
            raise DataError(f"{out} has {len(kept)} rows, the data {len(examples)}; it is of other data: give another --out")
        todo = examples[len(kept) :]
        with Client(endpoint) as client:
            for number, (example, text) in enumerate(_in_order(client, todo, words, workers), start=1):
                file.append({
                    "question": example.question, "steps": list(example.steps), "answer": example.answer, "id": example.id,
                    "condensed_reasoning": text,
                })  # fmt: skip
                if progress is not None:
                    progress(len(kept) + number, len(examples))
    return len(todo)


def _in_order(client: Client, examples: Iterable[Example], words: int, workers: int) -> Iterator[tuple[Example, str]]:
    """The examples with their condensed reasoning, in order. Ends at one that fails."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=workers) as pool:
        waiting = [(example, pool.submit(condense_one, client, example, words)) for example in examples]
        try:
            for example, answer in waiting:
                yield example, answer.result()
        finally:
            client.stop()
            pool.shutdown(cancel_futures=True)
