"""A client for OpenAI-compatible chat completions, used to write or rewrite data with a language model.

Temporary faults are retried: no connection, a broken response, status 408, 409, 425, 429 and 500 to 599, a response that is
not a chat completion or fails the caller's check. `Retry-After` is obeyed. Messages never contain the key.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Self

import httpx

from unspoken.core.checks import parse_json
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
    """

    url: str
    model: str
    key: str = "OPENAI_API_KEY"
    temperature: float = 0.2
    tries: int = 5
    wait: float = 1.0
    longest_wait: float = 120.0
    timeout: float = 60.0

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise ConfigError(f"url {self.url!r} is none: {error}; e.g. http://localhost:8000/v1") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise ConfigError(f"url must begin with http:// or https://, got {self.url!r}; e.g. http://localhost:8000/v1")
        if self.tries < 1 or self.wait < 0 or self.longest_wait < 0 or self.timeout <= 0:
            raise ConfigError("an endpoint needs tries of at least 1, waits of 0 or more, and a positive timeout")


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
        self._url = endpoint.url.rstrip("/") + "/chat/completions"
        self._http = httpx.Client(headers=headers, timeout=endpoint.timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(self, prompt: str, check: Callable[[str], str | None] = lambda text: None) -> str:
        """Get one answer of the model, with white space normalised.

        Args:
            check: returns what is wrong with an answer, or None.

        Raises:
            DataError: the server refuses, or gives no usable answer in the allowed number of attempts.
        """
        fault, wait, asked = "", self.endpoint.wait, 0.0
        for number in range(self.endpoint.tries):
            if number:
                time.sleep(min(max(wait * 2 ** (number - 1), asked), self.endpoint.longest_wait))
            try:
                text = self._call(prompt)
            except _Fault as error:
                fault, asked = str(error), error.wait
                continue
            if (wrong := check(text)) is None:
                return text
            fault, asked = f"its answer {wrong}: {text!r:.80}", 0.0
        raise DataError(
            f"{self.endpoint.url} gave no usable answer in {self.endpoint.tries} tries; the last time {self._hidden(fault)}"
        )

    def _call(self, prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        body = {"model": self.endpoint.model, "messages": messages, "temperature": self.endpoint.temperature}
        try:
            response = self._http.post(self._url, json=body)
        except httpx.HTTPError as error:  # no connection, a timeout, an answer that breaks off
            raise _Fault(f"it could not be reached: {str(error) or type(error).__name__}") from error
        if not response.is_success:
            self._refused(response)
        try:
            text = parse_json(response.text)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise _Fault(f"its answer is no chat completion: {response.content[:80]!r}") from error
        return " ".join(text.split()) if isinstance(text, str) else ""

    def _refused(self, response: httpx.Response) -> None:
        """Raise `_Fault` for a temporary fault, else DataError."""
        code = response.status_code
        said = self._hidden(" ".join(response.content[:500].decode("utf-8", "replace").split()))
        if code in _AGAIN or code >= 500:
            raise _Fault(f"it answered {code}: {said}", _seconds(response.headers.get("Retry-After", "")))
        advice = f"is {self.endpoint.key} set?" if code in (401, 403) else "check --url and --model"
        raise DataError(f"{self._url} refuses the call with {code}: {said}; {advice}")

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


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
