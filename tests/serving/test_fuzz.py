"""Requests made up from our own OpenAPI document: none makes the server fail, each error has its form."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from support.servers import running, thinker

from unspoken.serving.service import Service


@pytest.fixture(scope="module")
def document():
    """What the server says of itself."""
    with running(Service(models=[thinker("sim_cot", slots=8)])) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


PLACES = (
    ("/v1/completions", "POST"),
    ("/v1/chat/completions", "POST"),
    ("/v1/prompt_embeds", "POST"),
    ("/v1/thoughts", "POST"),
    ("/v1/problems/{name}", "GET"),
    ("/v1/models", "GET"),
    ("/v1/models/{name}", "GET"),
    ("/health", "GET"),
    ("/ready", "GET"),
    ("/metrics", "GET"),
    ("/version", "GET"),
)


def test_all_places_are_in_the_document(document: Any):
    found = {(one.ok().path, one.ok().method.upper()) for one in document.get_all_operations()}
    assert set(PLACES) == found


@pytest.mark.parametrize(("path", "method"), PLACES)
def test_no_request_makes_the_server_fail(document: Any, path: str, method: str):
    @settings(max_examples=40, deadline=None, suppress_health_check=[*HealthCheck], derandomize=True, database=None)  # pyright: ignore[reportArgumentType]
    @given(case=document[path][method].as_strategy())
    def ask(case: Any) -> None:
        for field in ("max_tokens", "max_completion_tokens"):  # answers of a few tokens: it is requests that are tried
            if isinstance(case.body, dict) and type(case.body.get(field)) is int and case.body[field] > 2:
                case.body[field] = 2
        answer = case.call(timeout=60)
        assert answer.status_code < 500, answer.text[:300]
        assert answer.status_code != 422
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        statuses.add(answer.status_code)

    statuses: set[int] = set()
    ask()
    assert statuses
