"""The engine behind the server: requests that are cancelled or fail, a pass that fails as a whole, deadlines, too many."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from support.servers import events, running, thinker
from typer.testing import CliRunner

from unspoken.cli import app
from unspoken.serving import server
from unspoken.serving.errors import ApiError
from unspoken.serving.models import ServedModel
from unspoken.serving.service import Service

LONG = {"max_tokens": 150, "ignore_eos": True, "temperature": 0}


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch):
    """slow(**service) -> (service, a model of 2 slots, one more may wait, whose passes take 10 ms)."""

    def make(**more: Any) -> tuple[Service, ServedModel]:
        served = thinker("sim_cot", slots=2, max_waiting=1)
        step = served.model.method.backbone.step
        monkeypatch.setattr(served.model.method.backbone, "step", lambda *a, **k: (time.sleep(0.01), step(*a, **k))[1])
        return Service(models=[served], **more), served

    return make


def post(url: str, timeout: float = 60, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/completions", json={"prompt": "Ann has 3 pens.", **body}, timeout=timeout)


def until(done: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)


def test_too_many_are_told_to_come_back(slow: Any):
    service, _ = slow()
    with running(service) as url, ThreadPoolExecutor(8) as pool:
        first = [pool.submit(post, url, **LONG) for _ in range(3)]
        until(lambda: service.engine.busy == 3)
        refused = [post(url, **LONG) for _ in range(3)]
        assert [answer.status_code for answer in refused] == [429] * 3
        assert all(answer.headers["retry-after"] == "1" for answer in refused)
        assert refused[0].json()["error"]["type"] == "rate_limit_error"
        assert [one.result().status_code for one in first] == [200] * 3
        assert post(url, max_tokens=2).status_code == 200
        assert 'requests_refused_total{model_name="sim_cot"} 3.0' in httpx.get(f"{url}/metrics").text


def test_a_batch_that_does_not_fit_is_refused_whole(slow: Any):
    service, _ = slow()
    with running(service) as url:
        answer = post(url, prompt=["Ann has 3 pens."] * 4)
        assert answer.status_code == 429
        assert service.engine.busy == 0


@pytest.mark.parametrize("streaming", [False, True])
def test_whoever_leaves_is_cancelled_within_a_pass(slow: Any, streaming: bool):
    service, served = slow()
    with running(service) as url:
        if streaming:
            with httpx.stream("POST", f"{url}/v1/completions", json={"prompt": "x", "stream": True, **LONG}) as answer:
                next(answer.iter_text())
        else:
            with pytest.raises(httpx.ReadTimeout):
                post(url, timeout=0.5, **LONG)
        until(lambda: service.engine.busy == 0, 2)
        until(lambda: not service.engine.scheduler(served).running, 2)
        assert 'finished_reason="abort",model_name="sim_cot"} 1.0' in httpx.get(f"{url}/metrics").text
        assert post(url, max_tokens=2).status_code == 200


def test_a_deadline(slow: Any):
    service, _ = slow(deadline=0.5)
    with running(service) as url:
        answer = post(url, **LONG)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        last = events(post(url, stream=True, **LONG).text)[-1]
        assert last["error"]["code"] == "deadline_exceeded"
        until(lambda: service.engine.busy == 0, 2)
        assert post(url, max_tokens=2).status_code == 200


def test_a_request_that_fails_ends_alone(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """With an error that says nothing of the question or the code; its neighbours are answered."""
    served = thinker("sim_cot", slots=4)
    backbone = served.model.method.backbone
    embed = backbone.embed
    odd = backbone.encode("ž")[0]

    def failing(ids: Any) -> Any:
        if odd in ids.flatten().tolist():
            raise ValueError("secret ž")
        return embed(ids)

    monkeypatch.setattr(backbone, "embed", failing)
    with running(Service(models=[served])) as url, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(post, url, prompt=text, max_tokens=8) for text in ("Ann has", "a ž", "Bob", "How many?")]
        answers = [one.result() for one in asked]
        assert [answer.status_code for answer in answers] == [200, 500, 200, 200]
        assert answers[1].json()["error"]["code"] == "internal_error"
        assert "secret" not in answers[1].text
        (stream,) = [events(post(url, prompt="a ž", stream=True).text)]
        assert stream[-1]["error"]["code"] == "internal_error"
        assert post(url, max_tokens=2).status_code == 200
    log = capfd.readouterr().err
    assert "ValueError" in log
    assert "secret" not in log


def test_a_pass_that_fails_as_a_whole(monkeypatch: pytest.MonkeyPatch):
    """Nobody knows whose fault it is: those under way end with an error, whoever waits is answered."""
    served = thinker("sim_cot", slots=1)
    service = Service(models=[served])
    scheduler = service.engine.scheduler(served)
    go, failed = threading.Event(), []

    def broken() -> Any:
        go.wait(20)
        if not failed:
            failed.append(True)
            scheduler._admit()
            raise MemoryError
        return type(scheduler).step(scheduler)

    monkeypatch.setattr(scheduler, "step", broken)
    with running(service) as url, ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(post, url, max_tokens=4) for _ in range(3)]
        until(lambda: service.engine.busy == 3)
        go.set()
        statuses = sorted(one.result().status_code for one in asked)
        assert statuses == [200, 200, 503]
        assert httpx.get(f"{url}/health").status_code == 200


def test_thoughts_that_cannot_be_decoded_cost_the_answer_nothing(monkeypatch: pytest.MonkeyPatch):
    served = thinker("sim_cot", slots=2)
    monkeypatch.setattr(served.model.method, "explain", lambda trace: 1 // 0)
    with running(Service(models=[served])) as url:
        answer = post(url, max_tokens=4)
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["thoughts"] == []


@pytest.mark.parametrize("drain", [0.2, 30.0])
def test_stopping(slow: Any, drain: float):
    """Nothing new is taken; what is under way is finished, or ended with an error that the client sees."""
    service, _ = slow()
    with ThreadPoolExecutor(3) as pool:
        with running(service, drain=drain) as url:
            whole = pool.submit(post, url, **LONG)
            stream = pool.submit(post, url, stream=True, **LONG)
            until(lambda: service.engine.busy == 2)
            pool.submit(lambda: (until(lambda: service.draining), states.append(httpx.get(f"{url}/ready").status_code)))
            states: list[int] = []
        answer, chunks = whole.result(), events(stream.result().text)
    if drain > 1:
        assert answer.status_code == 200
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    else:
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert "stopping" in chunks[-1]["error"]["message"]
    assert states == [503]


def test_nothing_is_left_behind(slow: Any):
    """After requests of every kind nobody is known any more."""
    service, served = slow()
    served.slots = 4
    with running(service) as url:
        for body in (
            {},
            {"stream": True},
            {"prompt": ""},
            {"prompt": ["a", "b"]},
            {"max_tokens": 10**6},
            {"n": 2, "temperature": 1},
        ):
            post(url, **{"max_tokens": 3, **body})
        until(lambda: service.engine.busy == 0)
        scheduler = service.engine.scheduler(served)
        assert not scheduler.done
        assert not scheduler.running
        assert not any(service.engine._listeners.values())


def test_a_call_between_passes():
    """For what else needs the models; its error is the caller's."""
    service = Service(models=[thinker("coconut")])
    with running(service):
        assert service.engine.call(lambda: threading.current_thread().name).result(10) == "engine"
        with pytest.raises(ZeroDivisionError):
            service.engine.call(lambda: 1 // 0).result(10)


def test_calls_that_nobody_waits_for_or_nobody_does():
    """One that was given up does not end the engine; one that it is too late for is told so, and holds no thread up."""
    service = Service(models=[thinker("coconut")])
    with running(service):
        begun, go_on = threading.Event(), threading.Event()
        first = service.engine.call(lambda: (begun.set(), go_on.wait(10)))
        assert begun.wait(10)
        given_up = service.engine.call(lambda: None)
        assert given_up.cancel()
        go_on.set()
        first.result(10)
        assert service.engine.call(lambda: 1).result(10) == 1
        begun.clear()
        go_on.clear()
        service.engine.call(lambda: (begun.set(), go_on.wait(10)))
        assert begun.wait(10)
        queued = service.engine.call(lambda: 2)
        threading.Timer(0.1, go_on.set).start()
        service.engine.stop()
    for late in (queued, service.engine.call(lambda: 3)):
        with pytest.raises(ApiError, match="the server is stopping"):
            late.result(10)


def test_an_engine_that_has_died_is_not_ready(monkeypatch: pytest.MonkeyPatch):
    service = Service(models=[thinker("coconut")])
    with running(service) as url:
        service.engine.stop()
        assert httpx.get(f"{url}/ready").status_code == 503
        assert httpx.get(f"{url}/health").status_code == 503
        assert post(url).status_code == 503


def test_the_command_is_settled_before_it_serves(monkeypatch: pytest.MonkeyPatch):
    """Unsettled, the process takes a second of processor time to end, and answers pause."""
    done: list[str] = []
    monkeypatch.setattr(server, "settle", lambda: done.append("settle"))
    monkeypatch.setattr(server.Server, "serve_forever", lambda self: done.append("serve"))
    assert CliRunner().invoke(app, ["serve", "builtin:tiny", "--port", "0"]).exit_code == 0
    assert done == ["settle", "serve"]
