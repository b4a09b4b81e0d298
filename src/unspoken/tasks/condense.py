"""Condensed reasoning from a language model behind an OpenAI-compatible endpoint, kept as a JSONL file for the task `files`.

    {"question": ..., "steps": [...], "answer": ..., "id": ..., "condensed_reasoning": ...}

A row is appended as soon as its answer is there, so that a call which was cut off goes on where it stopped. What is empty
or far too long is asked for again and then refused, never written: the encoder would learn from it.
"""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unspoken.core.config import STRICT
from unspoken.core.files import write_file
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, DataError

PROMPT = (
    "Below are a problem and its solution. Rewrite the solution as one short line of at most {words} words: every quantity "
    "and every operation that leads to the answer, in order, and nothing else. Do not explain.\n\n"
    "Problem: {question}\n\nSolution: {reasoning}\n\nAnswer: {answer}"
)
"""What the model is asked; the wording is ours."""

_AGAIN = (408, 409, 425, 429)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A server that speaks OpenAI's chat completions.

    Attributes:
        url: up to and without "/chat/completions", e.g. http://localhost:8000/v1.
        model: the name it knows its model by.
        key: the name of the environment variable that holds the key; without one, none is sent.
        temperature: gpt4pair.py takes 0.2.
        tries: calls for one text before giving up.
        wait: seconds before the second try; twice as many before each further one.
        timeout: seconds that one call may take.
        extra: how many times the asked number of words a text may have. The released data, asked for 10, go far beyond.
    """

    __pydantic_config__ = STRICT

    url: str
    model: str
    key: str = "OPENAI_API_KEY"
    temperature: float = 0.2
    tries: int = 5
    wait: float = 1.0
    timeout: float = 60.0
    extra: float = 3.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"url must begin with http:// or https://, got {self.url!r}; e.g. http://localhost:8000/v1")
        if self.tries < 1 or self.wait < 0 or self.timeout <= 0 or self.extra < 1:
            raise ConfigError("an endpoint needs tries and extra of at least 1, wait of 0 or more, and a positive timeout")


class _Fault(Exception):
    """A call that may go better the next time."""


def ask(endpoint: Endpoint, prompt: str, check: Callable[[str], str | None]) -> str:
    """One answer of the model.

    Args:
        check: says what is wrong with an answer; None = nothing.

    Raises:
        DataError: the server refuses, or gives no usable answer in as many tries as are allowed.
    """
    fault, wait = "", endpoint.wait
    for number in range(endpoint.tries):
        if number:
            time.sleep(wait)
            wait *= 2
        try:
            text = _call(endpoint, prompt)
        except _Fault as error:
            fault = str(error)
            continue
        if (wrong := check(text)) is None:
            return text
        fault = f"its answer {wrong}: {text!r:.80}"
    raise DataError(f"{endpoint.url} gave no usable answer in {endpoint.tries} tries; the last time {fault}")


def _call(endpoint: Endpoint, prompt: str) -> str:
    body = {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": endpoint.temperature,
    }
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(endpoint.key):
        headers["Authorization"] = f"Bearer {key}"
    url = endpoint.url.rstrip("/") + "/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=endpoint.timeout) as response:
            answer = response.read()
    except urllib.error.HTTPError as error:
        said = " ".join(error.read(500).decode("utf-8", "replace").split())
        if error.code in _AGAIN or error.code >= 500:
            raise _Fault(f"it answered {error.code}: {said}") from error
        advice = f"; is {endpoint.key} set?" if error.code in (401, 403) else "; check --url and --model"
        raise DataError(f"{url} refuses the call with {error.code}: {said}{advice}") from error
    except (OSError, http.client.HTTPException) as error:  # no connection, a timeout, an answer that breaks off
        raise _Fault(f"it could not be reached: {error}") from error
    try:
        text = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise _Fault(f"its answer is no chat completion: {answer[:80]!r}") from error
    return " ".join(text.split()) if isinstance(text, str) else ""


def condense_one(endpoint: Endpoint, example: Example, words: int) -> str:
    """The condensed reasoning of a problem.

    Raises:
        DataError: names the problem; see `ask`.
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
        if len(text.split()) > words * endpoint.extra:
            return f"has {len(text.split())} words, where {words} were asked for"
        return None

    try:
        return ask(endpoint, prompt, check)
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
    """Condense the reasoning of problems into a JSONL file; rows that are there already stay as they are.

    Args:
        words: how many the model is asked for.
        workers: calls at the same time; rows are written in the order of `examples` all the same.
        progress: called with (done, all).

    Returns:
        How many were asked for.

    Raises:
        DataError: see `condense_one`; the file keeps what came before. Or it is of other problems.
    """
    kept = _kept(out)
    for number, (row, example) in enumerate(zip(kept, examples, strict=False)):
        if (row.get("question"), row.get("answer")) != (example.question, example.answer):
            raise DataError(f"{out}:{number + 1}: is of other data: not the question of {example.id!r}; give another --out")
    if len(kept) > len(examples):
        raise DataError(f"{out} has {len(kept)} rows, the data {len(examples)}; it is of other data: give another --out")
    todo = examples[len(kept) :]
    with out.open("a", encoding="utf-8") as file:
        for number, (example, text) in enumerate(_in_order(endpoint, todo, words, workers), start=1):
            row: dict[str, Any] = {
                "question": example.question, "steps": list(example.steps), "answer": example.answer, "id": example.id,
                "condensed_reasoning": text,
            }  # fmt: skip
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            if progress is not None:
                progress(len(kept) + number, len(examples))
    return len(todo)


def _in_order(endpoint: Endpoint, examples: Iterable[Example], words: int, workers: int) -> Iterator[tuple[Example, str]]:
    """The examples with their condensed reasoning. One that fails ends it, once those before it have come."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=workers) as pool:
        waiting = [(example, pool.submit(condense_one, endpoint, example, words)) for example in examples]
        try:
            for example, answer in waiting:
                yield example, answer.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _kept(out: Path) -> list[dict[str, Any]]:
    """The rows that are there; what a killed process left half-written is cut off.

    Raises:
        DataError: a line is no row.
    """
    if not out.is_file():
        out.parent.mkdir(parents=True, exist_ok=True)
        return []
    data = out.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        write_file(out, lambda new: new.write_bytes(whole))
    rows = []
    for number, line in enumerate(whole.decode("utf-8").split("\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{out}:{number}: is no JSON ({error}); give another --out") from error
        if not isinstance(row, dict) or not row.get("condensed_reasoning"):
            raise DataError(f"{out}:{number}: is no row with 'condensed_reasoning'; give another --out")
        rows.append(row)
    return rows
