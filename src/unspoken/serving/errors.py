"""What goes wrong with a request, in the form that OpenAI's clients read."""

from __future__ import annotations

import secrets
from random import Random
from typing import Any

from unspoken.errors import OverloadError, UnspokenError

_KINDS = {
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", "forbidden"),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    408: ("invalid_request_error", "request_timeout"),
    413: ("invalid_request_error", "request_too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
    429: ("rate_limit_error", "overloaded"),
    500: ("server_error", "internal_error"),
    502: ("server_error", "bad_gateway"),
    503: ("server_error", "unavailable"),
    504: ("server_error", "deadline_exceeded"),
}


DICE = Random(secrets.randbits(128))
"""For ids and seeds that nobody gave. Asking the system each time would let go of the interpreter, and wait for it again."""


def new_id() -> str:
    """A name for a request that no other one has."""
    return f"{DICE.getrandbits(128):032x}"


class ApiError(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        message: what is wrong and what to do.
        param: the field that it is about.
        code: a word that programs may ask for; None = the status's own.
        retry_after: seconds after which it may be tried again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.retry_after = status, message, param, retry_after
        self.kind, usual = _KINDS.get(status, ("invalid_request_error", "invalid_request"))
        self.code = code or usual

    @property
    def body(self) -> dict[str, Any]:
        """As it is sent."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """What is sent with it."""
        more = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        return more if self.retry_after is None else {**more, "Retry-After": str(self.retry_after)}


class Gone(Exception):
    """Whoever asked has left; nobody is told."""


def api_error(error: Exception, param: str | None = None) -> ApiError:
    """Any error as one of these; what nobody foresaw keeps its words to itself."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, OverloadError):
        return ApiError(429, str(error), retry_after=1)
    if isinstance(error, UnspokenError):
        return ApiError(400, str(error), param)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return ApiError(503, "not enough memory for this request now; ask for less, or try again", retry_after=5)
    return ApiError(500, "this request failed inside the server; its log says by what, under the request's id")


def stopping() -> ApiError:
    """What a server that stops says to those who wait, and to those who come."""
    return ApiError(503, "the server is stopping; ask again, it may be another one that answers", retry_after=1)
