"""The client of a chat server: what is tried again, how long it waits, what it refuses, and that the key is told nobody."""

from __future__ import annotations

import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from unspoken.errors import ConfigError, DataError
from unspoken.tasks import endpoint as module
from unspoken.tasks.endpoint import Client, Endpoint

KEY = "sk-very-secret"


def endpoint(server: Any, **more: Any) -> Endpoint:
    return Endpoint(**{"url": server.endpoint.url, "model": "m", "wait": 0.0, **more})


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds it would have waited."""
    seconds: list[float] = []
    monkeypatch.setattr(module, "_pause", lambda stopped, wait: seconds.append(wait))
    return seconds


def test_what_is_sent(serve, monkeypatch):
    monkeypatch.setenv("SOME_KEY", f" {KEY}\n")
    server = serve(lambda prompt, _: f"  {prompt}\n\tsaid ")
    with Client(endpoint(server, url=server.endpoint.url + "/", key="SOME_KEY", temperature=0.5)) as client:
        assert client.ask("what") == "what said"
    assert server.calls == [
        {
            "path": "/v1/chat/completions", "auth": f"Bearer {KEY}", "model": "m", "temperature": 0.5,
            "messages": [{"role": "user", "content": "what"}],
        }
    ]  # fmt: skip


def test_no_key_no_header(serve, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = serve(lambda prompt, _: "ok")
    Client(endpoint(server)).ask("what")
    assert server.calls[0]["auth"] is None


def test_what_goes_wrong_for_a_while_is_tried_again(serve):
    bad = [
        (503, "busy"), (429, "slow down"), (408, ""), (200, "no json"), (200, '{"choices": []}'), (200, "[" * 2000),
        (200, '{"choices": [{"message": {"content": null}}]}'), "  ", "wrong",
    ]  # fmt: skip
    server = serve(lambda prompt, n: bad[n] if n < len(bad) else "ok")
    client = Client(endpoint(server, tries=len(bad) + 1))
    assert client.ask("what", lambda text: None if text == "ok" else "is not ok") == "ok"
    assert len(server.calls) == len(bad) + 1


def test_it_waits_twice_as_long_each_time_and_as_long_as_it_is_told(serve, slept):
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=50), usegmt=True)
    bad = [
        (429, "", {"Retry-After": "7"}), (503, ""), (429, "", {"Retry-After": later}), (429, "", {"Retry-After": "soon"}),
        (429, "", {"Retry-After": "-3"}), (429, "", {"Retry-After": "1e9"}),
    ]  # fmt: skip
    server = serve(lambda prompt, n: bad[n] if n < len(bad) else "ok")
    Client(endpoint(server, wait=0.5, tries=7, longest_wait=90.0)).ask("what")
    assert [slept[i] for i in (0, 1, 3, 4, 5)] == [7.0, 1.0, 4.0, 8.0, 90.0]
    assert 40 < slept[2] <= 50


@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, "is SOME_KEY set?"), (403, "is SOME_KEY set?"), (404, "check --url"), (400, "check --url"), (301, "check --url")],
)
def test_a_refusal_is_not_tried_again(serve, status: int, advice: str):
    server = serve(lambda prompt, _: (status, "no\nsuch thing"))
    with pytest.raises(DataError) as told:
        Client(endpoint(server, key="SOME_KEY")).ask("what")
    assert f"refuses the call with {status}: no such thing; {advice}" in str(told.value)
    assert len(server.calls) == 1


def test_the_key_is_in_no_message(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for said in ((401, f"wrong key {KEY}"), (500, f"crashed on Bearer {KEY}"), f"I was told {KEY}"):
        server = serve(lambda prompt, _, said=said: said)
        with pytest.raises(DataError) as told:
            Client(endpoint(server, tries=1)).ask("what", lambda text: "is wrong")
        assert KEY not in str(told.value)
        assert "***" in str(told.value)


@pytest.mark.parametrize("key", ["two\nlines", "schlüssel", "a\x00b"])
def test_a_key_that_cannot_be_sent(serve, monkeypatch, key: str):
    monkeypatch.setattr(module.os, "environ", {"OPENAI_API_KEY": key})
    with pytest.raises(ConfigError, match="OPENAI_API_KEY holds characters that no key has") as told:
        Client(endpoint(serve(lambda prompt, _: "ok")))
    assert key not in str(told.value)


def test_nobody_there(serve):
    server = serve(lambda prompt, _: "ok")
    server.http.server_close()
    with pytest.raises(DataError, match=r"gave no usable answer in 2 tries; the last time it could not be reached: .+"):
        Client(endpoint(server, tries=2)).ask("what")


def test_a_server_that_never_answers():
    """It takes the call and says nothing: the timeout ends it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        began = time.monotonic()
        with pytest.raises(DataError, match=r"in 2 tries; the last time it could not be reached: .*timed out"):
            Client(Endpoint(url=url, model="m", wait=0.0, tries=2, timeout=0.2)).ask("what")
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://", "http://[::1", "", "http://host:port"])
def test_places_that_are_none(url: str):
    with pytest.raises(ConfigError, match=r"url must be .*, e\.g\. http://localhost:8000/v1; got"):
        Endpoint(url=url, model="m")


@pytest.mark.parametrize("wrong", [{"tries": 0}, {"wait": -1.0}, {"timeout": 0.0}, {"longest_wait": -1.0}])
def test_numbers_that_are_none(wrong: dict[str, Any]):
    with pytest.raises(ConfigError, match="an endpoint needs tries of at least 1"):
        Endpoint(url="http://localhost", model="m", **wrong)
