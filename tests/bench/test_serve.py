"""`bench serve`: its figures are those of the requests it sent, and a client that measures reads what is sent."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner

from unspoken.bench.http_client import Exchange, post
from unspoken.bench.serve import Load, Work, at_rate, questions, run, run_at
from unspoken.cli import app
from unspoken.errors import ConfigError


def test_a_small_report():
    report = run("small-test", requests=6, clients=(1, 3), rates=(50.0,), tokens=4, chain=8, slots=3, threads=1)
    assert set(report["sides"]) == {"1 clients", "3 clients", "engine alone", "50 per second", "explicit"}
    for name, side in report["sides"].items():
        assert side["requests_per_second"] > 0
        if name != "engine alone":
            assert side["ttft_ms"]["p50"] <= side["e2e_ms"]["p50"]
            assert side["e2e_ms"]["p50"] <= side["e2e_ms"]["p99"]
    assert report["latents"] == 6
    price = "server / engine alone, by processor time"
    assert set(report["ratios"]) == {"server / engine alone", price, "latents / explicit"}
    taken = [report["sides"][side]["processor_ms_per_request"] for side in ("engine alone", "3 clients")]
    assert report["ratios"][price] == pytest.approx(taken[0] / taken[1])
    assert json.loads(json.dumps(report)) == report


def test_the_command_on_a_run(tmp_path: Any):
    said = [
        "bench",
        "serve",
        "--requests",
        "4",
        "--clients",
        "2",
        "--tokens",
        "3",
        "--chain",
        "0",
        "--out",
        str(tmp_path / "r"),
    ]
    done = CliRunner().invoke(app, said, catch_exceptions=False)
    assert done.exit_code == 0
    assert json.loads((tmp_path / "r").read_text())["sides"]["2 clients"]["requests"] == 4


def test_a_server_that_runs_already():
    """What it is sent is what the API of OpenAI, vLLM or ours knows; what comes back is measured as ours is."""
    stream = b'data: {"choices": [{"text": "a", "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%s" % (len(stream), stream)
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append({"path": self.path, **json.loads(self.rfile.read(int(self.headers["Content-Length"])))})
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        report = run_at(url, "m", requests=4, clients=(1, 2), rates=(100.0,), latents=3)
        assert set(report["sides"]) == {"1 clients", "2 clients", "100 per second"}
        assert len(got) == 2 + 4 + 4 + 4
        assert got[0]["path"] == "/v1/completions"
        assert set(got[0]) == {"path", "model", "prompt", "temperature", "max_tokens", "stream", "ignore_eos", "vllm_xargs"}
        got.clear()
        run_at(url, "m", requests=1, clients=(1,), chat=True, free=True)
        assert set(got[0]) == {"path", "model", "messages", "temperature", "max_tokens", "stream"}
        assert got[0]["path"] == "/v1/chat/completions"
        run_at(url, "m", requests=1, clients=(1,), latents=3, ours=True)
        assert (got[-1]["latents"], got[-1]["show_thoughts"]) == (3, False)
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(ConfigError, match="answers were not whole, the first with status 0"):
        run_at(url, "m", requests=1, clients=(1,))
    done = CliRunner().invoke(app, ["bench", "serve", "--chat"])
    assert "name it with --url" in f"{done.output}{done.exception}"


def test_numbers_that_cannot_be():
    refused: list[dict[str, Any]] = [{"requests": 0}, {"clients": ()}, {"clients": (0,)}, {"rates": (0.0,)}, {"chain": -1}]
    for wrong in refused:
        with pytest.raises(ConfigError, match="bench serve needs"):
            run(**wrong)


def served(*answers: bytes) -> Any:
    """asked(coroutine of a URL) -> its result, with a server that gives these bytes to whoever asks."""

    async def inside(ask: Any) -> Any:
        left = list(answers)

        async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(left.pop(0))
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(one, "127.0.0.1", 0)
        async with server:
            return await ask(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/completions")

    return lambda ask: asyncio.run(inside(ask))


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
END = b'data: {"choices":[{"finish_reason":"stop"}]}\n\n'


@pytest.mark.parametrize(
    ("answer", "status", "whole"),
    [(STREAM + b"\r\n" + b'data: {"choices":[{}]}\n\n' + END + b"data: [DONE]\n\n", 200, True),
     (STREAM + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(END) + END + b"\r\n0\r\n\r\n", 200, True),
     (STREAM + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(END) + END[:9], 200, False),
     (STREAM + b"\r\n" + b'data: {"error":{}}\n\n', 200, False),
     (STREAM + b"\r\n" + b'data: {"choices":[{}]}\n\n', 200, False),
     (b'HTTP/1.1 429 No\r\nContent-Length: 12\r\n\r\n{"error":{}}', 429, False),
     (b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{", 200, False),
     (b"", 0, False)],
)  # fmt: skip
def test_answers_of_all_kinds_are_read(answer: bytes, status: int, whole: bool):
    found = served(answer)(lambda url: post(url, {"prompt": "x"}))
    assert (found.status, found.whole) == (status, whole)
    assert found.ended >= found.began


def test_nobody_there():
    found = asyncio.run(post("http://127.0.0.1:9/v1/completions", {}))
    assert (found.status, found.whole) == (0, False)


def test_questions_come_at_their_rate():
    """Twenty at 100 a second: in about a fifth of a second, not at once."""
    answers = [STREAM + b"\r\n" + END + b"data: [DONE]\n\n"] * 20
    load = served(*answers)(lambda url: at_rate(url, [{"prompt": q} for q in questions(20)], 100.0))
    starts = sorted(one.began for one in load.exchanges)
    assert 0.05 < starts[-1] - starts[0] < 2
    assert load.summary(Work(latents=None, tokens=1))["requests"] == 20


def test_an_answer_that_is_not_whole_is_told():
    with pytest.raises(ConfigError, match="1 of 1 answers were not whole, the first with status 429"):
        Load(exchanges=[Exchange(status=429)], seconds=1.0).summary(Work(latents=None, tokens=1))
