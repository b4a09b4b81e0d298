"""A client for OpenAI-compatible chat completions, used to write or rewrite data with a language model.

Temporary faults are retried: no connection, a broken response, status 408, 409, 425, 429 and 500 to 599, a response that is
not a chat completion or fails the caller's check. `Retry-After` is obeyed. Messages never contain the key.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self

import httpx

from unspoken.core.checks import api_url, parse_json
from unspoken.core.config import config_class
from unspoken.errors import ConfigError, DataError

_AGAIN = (408, 409, 425, 429)


@config_class
class Endpoint:
    """A server, and how requests are retried.

    Attributes:
        url: up to and without "/chat/completions", e.g. http://localhost:8000/v1.
        model: the server's name of the model.
        key: name of the environment variable with the key; if it is not set, no key is sent.
        temperature: gpt4pair.py of SemCoT takes 0.2.
        tries: attempts per text.
        wait: seconds before the second attempt, doubled for each further one, or as the server says.
        longest_wait: maximum seconds between attempts, whatever the server says.
        timeout: seconds without data from the server after which a call is aborted.
        max_tokens: longest answer; None = as the server has it.
    """

    url: str
    model: str
    key: str = "OPENAI_API_KEY"
    temperature: float = 0.2
    tries: int = 5
    wait: float = 1.0
    longest_wait: float = 120.0
    timeout: float = 60.0
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        api_url(self.url, "url")
        if self.tries < 1 or self.wait < 0 or self.longest_wait < 0 or self.timeout <= 0:
            raise ConfigError("an endpoint needs tries of at least 1, waits of 0 or more, and a positive timeout")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(
                f"an endpoint needs max_tokens of at least 1, or none for the server's own, got {self.max_tokens}"
            )


class Refusal(DataError):
    """The server refuses a call, and would again.

    Attributes:
        status: its HTTP status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a model wrote.

    Attributes:
        text: as it came, without a reasoning trace that the server sends apart.
        reasoning: that trace, or "".
        finished: it ended by itself, not at a limit.
        prompt_tokens, completion_tokens: as the server counts them; None if it does not say.
        seconds: how long the call took.
    """

    text: str
    reasoning: str = ""
    finished: bool = True
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0


class _Fault(Exception):
    """A temporary fault, perhaps with a number of seconds to wait."""

    def __init__(self, said: str, wait: float = 0.0) -> None:
        super().__init__(said)
        self.wait = wait


class Client:
    """A client for an endpoint, thread-safe. Use it as a context manager, which closes its connections.

    Raises:
        ConfigError: the key in the environment variable cannot be sent.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._key = os.environ.get(endpoint.key, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError(f"{endpoint.key} holds characters that no key has, such as a line break; set it anew")
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._url = api_url(endpoint.url, "url") + "/chat/completions"
        self._stopped = threading.Event()
        self._http = httpx.Client(headers=headers, timeout=endpoint.timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._http.close()

    def stop(self) -> None:
        """Wait for no further attempt: whoever waits for one is told the last fault at once."""
        self._stopped.set()

    def ask(self, prompt: str, check: Callable[[str], str | None] = lambda text: None) -> str:
        """`complete`, as one line with white space normalised; `check` sees the same."""
        return " ".join(self.complete(prompt, lambda text: check(" ".join(text.split()))).text.split())

    def complete(self, prompt: str, check: Callable[[str], str | None] = lambda text: None) -> Completion:
        """Get one answer of the model.

        Args:
            check: returns what is wrong with a text, or None.

        Raises:
            Refusal: the server refuses the call.
            DataError: no usable answer in the allowed number of attempts.
        """
        fault, wait, asked = "", self.endpoint.wait, 0.0
        for number in range(self.endpoint.tries):
            if number and _pause(self._stopped, min(max(wait * 2 ** (number - 1), asked), self.endpoint.longest_wait)):
                break
            try:
                said = self._call(prompt)
            except _Fault as error:
                fault, asked = str(error), error.wait
                continue
            if (wrong := check(said.text)) is None:
                return said
            fault, asked = f"its answer {wrong}: {said.text.strip()!r:.80}", 0.0
        raise DataError(
            f"{self.endpoint.url} gave no usable answer in {self.endpoint.tries} tries; the last time {self._hidden(fault)}"
        )

    def _call(self, prompt: str) -> Completion:
        messages = [{"role": "user", "content": prompt}]
        body: dict[str, Any] = {
            "model": self.endpoint.model, "messages": messages, "temperature": self.endpoint.temperature,
        }  # fmt: skip
        if self.endpoint.max_tokens is not None:
            body["max_tokens"] = self.endpoint.max_tokens
        began = time.monotonic()
        try:
            response = self._http.post(self._url, json=body)
        except (httpx.HTTPError, RuntimeError) as error:  # no connection, a timeout, an answer that breaks off; closed
            raise _Fault(f"it could not be reached: {str(error) or type(error).__name__}") from error
        if not response.is_success:
            self._refused(response)
        try:
            return _completion(parse_json(response.text), time.monotonic() - began)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _Fault(f"its answer is no chat completion: {response.content[:80]!r}") from error

    def _refused(self, response: httpx.Response) -> None:
        """Raise `_Fault` for a temporary fault, else DataError."""
        code = response.status_code
        said = self._hidden(" ".join(response.content[:500].decode("utf-8", "replace").split()))
        if code in _AGAIN or code >= 500:
            raise _Fault(f"it answered {code}: {said}", _seconds(response.headers.get("Retry-After", "")))
        advice = f"is {self.endpoint.key} set?" if code in (401, 403) else "check --url and --model"
        raise Refusal(f"{self._url} refuses the call with {code}: {said}; {advice}", code)

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _pause(stopped: threading.Event, seconds: float) -> bool:
    """Wait; whether it was told to stop meanwhile."""
    return stopped.wait(seconds)


def _completion(data: Any, seconds: float) -> Completion:
    """A chat completion; what is missing in it is an error of Python's own."""
    choice = data["choices"][0]
    message, usage = choice["message"], data.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Completion(
        text=_text(message["content"]),
        reasoning=_text(message.get("reasoning_content") or message.get("reasoning")),
        finished=choice.get("finish_reason") != "length",
        prompt_tokens=_count(counts.get("prompt_tokens")),
        completion_tokens=_count(counts.get("completion_tokens")),
        seconds=seconds,
    )


def _text(said: object) -> str:
    """A text; halves of surrogate pairs, which a file cannot hold, become U+FFFD."""
    return said.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(said, str) else ""


def _count(said: object) -> int | None:
    return said if type(said) is int and said >= 0 else None


def _seconds(said: str) -> float:
    """Seconds to wait from a `Retry-After` header (seconds or a date); 0 if invalid."""
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(said).astimezone(UTC) - datetime.now(UTC)).total_seconds())
    except ValueError:
        return 0.0
