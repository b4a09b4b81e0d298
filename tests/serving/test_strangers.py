"""The server among strangers: hostile fields, odd requests, many of them, slow ones, pages of other sites, seeds.

Asked for prompt embeddings, whose answers cost little; what stands in front of them is the same for all places.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import resource
import runpy
import select
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support.servers import running
from uvicorn.protocols.http.h11_impl import H11Protocol

from unspoken.core.checks import api_url
from unspoken.core.loop.sampling import SamplingParams
from unspoken.errors import ConfigError
from unspoken.exporters.prompt_embeds import PromptEmbedder
from unspoken.serving import connections, guard, server
from unspoken.serving.embeds import EmbedsService
from unspoken.serving.server import listen
from unspoken.serving.service import Service

QUESTION = "Ann has 3 pens and buys 4 more."


@pytest.fixture
def embedder(exported: Path) -> PromptEmbedder:
    return PromptEmbedder.load(exported)


@pytest.fixture
def start(embedder: PromptEmbedder):
    """start(engine=..., waiting=..., key=...) -> the port of a server; stopped at the end."""
    with contextlib.ExitStack() as open_:

        def begin(key: str | None = None, **more: Any) -> int:
            service = Service(embeds={"soft": EmbedsService(embedder, **more)})
            return int(open_.enter_context(running(service, key=key)).rpartition(":")[2])

        yield begin


def _received(line: socket.socket) -> bytes:
    """The next bytes; none where the server has hung up on what it did not read. What it had said came before."""
    try:
        return line.recv(1 << 16)
    except ConnectionResetError:
        return b""


def raw(port: int, request: bytes, wait: float = 20.0) -> tuple[int, Any]:
    """Status and JSON of what comes back for some bytes; (0, None) where nothing does."""
    head, _, body = request.partition(b"\r\n\r\n")
    if b"Host:" not in head:
        head += b"\r\nHost: localhost"
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as line:
        with contextlib.suppress(OSError):  # refused before all was sent
            line.sendall(head + b"\r\nConnection: close\r\n\r\n" + body)
        said = b""
        while got := _received(line):
            said += got
    if not said:
        return 0, None
    head, _, body = said.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def post(body: Any, *headers: str, path: str = "/v1/prompt_embeds", kind: str | None = "application/json") -> bytes:
    """A request as bytes."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", *([f"Content-Type: {kind}"] if kind else []), *headers]
    if not any(header.startswith("Content-Length") for header in headers):
        lines.append(f"Content-Length: {len(text)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + text


HOSTILE: list[tuple[Any, str]] = [
    ({"question": "x"}, "unknown field 'question'"),
    ({"self": 1}, "unknown field 'self'"),
    ({"embedder": 1}, "unknown field 'embedder'"),
    ({"__class__": 1}, "unknown field '__class__'"),
    ({"more": {}}, "unknown field 'more'"),
    ({"prompt_embeds": "x"}, "unknown field 'prompt_embeds'"),
    ({"n": 2}, "unknown field 'n'"),
    *[({"latents": bad}, "'latents'") for bad in (-1, 10**9, 10**30, 1.5, 2.0, True, "3", [], {})],
    *[({"samples": bad}, "'samples'") for bad in (-3, 0, 10**9, 10**30, 1.0, False, "1")],
    *[({"chains": bad}, "'chains'") for bad in (-1, 0, 10**9, True, "2")],
    ({"chains": 3}, "chains must be in 1..2"),
    *[({"max_tokens": bad}, "'max_tokens'") for bad in (-1, 0, 10**12, True, "9", 1e3)],
    *[({"temperature": bad}, "'temperature'") for bad in (-0.1, 1e9, True, "0", [0])],
    *[({"top_p": bad}, "'top_p'") for bad in (0, 1.1, -1, "1")],
    *[({"seed": bad}, "'seed'") for bad in (-1, 10**30, 0.5)],
    *[({"stop": bad}, "stop") for bad in (3, [3], {"a": 1})],
    ({"logit_bias": {"3": "x"}}, "logit_bias"),
    ({"latents": 200_000}, "do not fit"),
    ({"samples": 4}, "would all be the same"),
    ({"prompt": "\ud800 is half"}, "surrogate"),
    ({"prompt": ["x"]}, "expected an object"),
    ({"prompt": ""}, "not empty"),
]


@pytest.mark.parametrize(("more", "message"), HOSTILE, ids=[str(more)[:40] for more, _ in HOSTILE])
def test_hostile_fields_are_named(service: int, more: Any, message: str):
    status, answer = raw(service, post({"prompt": QUESTION, **more}))
    assert (status, list(answer)) == (400, ["error"])
    assert message in answer["error"]["message"]
    assert len(answer["error"]["message"]) < 1200


@pytest.fixture(scope="module")
def service(exported: Path):
    """The port of one that is only asked."""
    with running(Service(embeds={"soft": EmbedsService(PromptEmbedder.load(exported))})) as url:
        yield int(url.rpartition(":")[2])


BODIES: list[tuple[bytes, str]] = [
    (b"[" * 100_000, "nested"),
    (b'{"prompt":' + b"[" * 90 + b"]" * 90 + b"}", "nested"),
    (b'{"prompt":"a","latents":' + b"9" * 20_000 + b"}", "20000 digits"),
    (b'{"prompt":"a","temperature":NaN}', "NaN is no number"),
    (b'{"prompt":"a","temperature":-Infinity}', "Infinity is no number"),
    (b'{"prompt":"a","temperature":1e999}', "beyond every number"),
    (b'{"prompt":"\xff\xfe"}', "not JSON"),
    (b"", "not JSON"),
    (b"null", "expected an object"),
    (b"{}", "expected an object"),
]


@pytest.mark.parametrize(("body", "message"), BODIES, ids=[str(body)[:30] for body, _ in BODIES])
def test_hostile_bodies_are_told_so(service: int, body: bytes, message: str):
    status, answer = raw(service, post(body))
    assert status == 400
    assert message in answer["error"]["message"]


@pytest.mark.parametrize(
    ("length", "status"),
    [("\xb2", 400), ("-5", 400), ("+5", 400), ("0x10", 400), ("1 1", 400), ("", 400), ("9" * 20_000, 400), ("2097152", 413)],
)
def test_odd_lengths(service: int, length: str, status: int):
    assert raw(service, post({"prompt": "x"}, f"Content-Length: {length}"))[0] == status


def test_other_requests_that_are_none(service: int):
    text = b'{"prompt": "a"}'
    bare = b"POST /v1/prompt_embeds HTTP/1.1\r\nContent-Type: application/json"
    assert raw(service, bare + b"\r\n\r\n")[0] == 400
    assert raw(service, bare + b"\r\nTransfer-Encoding: chunked\r\n\r\nf\r\n" + text + b"\r\n0\r\n\r\n")[0] == 200
    many = b"".join(b"8000\r\n" + b" " * 0x8000 + b"\r\n" for _ in range(40))
    assert raw(service, bare + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + many + b"0\r\n\r\n")[0] == 413
    assert raw(service, post(text, "Content-Length: 15", "Content-Length: 3"))[0] == 400
    assert raw(service, post(text, path="/v1/../etc/passwd"))[0] == 404
    assert raw(service, b"GET /nowhere HTTP/1.1\r\n\r\n")[0] == 404
    assert raw(service, b"DELETE /health HTTP/1.1\r\n\r\n")[0] == 405
    assert raw(service, b"GET /health HTTP/1.1\r\n" + b"A: b\r\n" * 300_000 + b"\r\n")[0] == 400
    assert raw(service, b"GET /health SPDY/9\r\n\r\n")[0] == 400
    assert raw(service, b"\x16\x03\x01 TLS to a place without\r\n\r\n")[0] == 400
    assert raw(service, b"GET /health HTTP/1.1\r\n\r\n")[0] == 200


def test_pages_of_other_sites_are_refused(service: int):
    """They can send neither JSON nor another Origin than their own, whatever name leads them here."""
    body = {"prompt": QUESTION}
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None):
        assert raw(service, post(body, kind=kind))[0] == 415
    assert raw(service, post(body, kind="application/json; charset=utf-8"))[0] == 200
    port = service
    for origin in ("http://evil.example", "null", f"http://evil.example:{port}", "http://[", ""):
        assert raw(service, post(body, f"Host: 127.0.0.1:{port}", f"Origin: {origin}"))[0] == 403, origin
    assert raw(service, post(body, f"Host: localhost:{port}", f"Origin: http://localhost:{port}"))[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "[", "localhost.evil.example", "10.0.0.1"):
        assert raw(service, post(body, f"Host: {host}"))[0] == 403, host
        assert raw(service, f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())[0] == 403, host


def test_a_key(start: Any):
    service = start(key="secret")
    assert raw(service, post({"prompt": QUESTION}))[0] == 401
    assert raw(service, post({"prompt": QUESTION}, "Authorization: Bearer secre\xe9"))[0] == 401
    assert raw(service, post({"prompt": QUESTION}, "Authorization: Bearer secret"))[0] == 200
    assert raw(service, b"GET /health HTTP/1.1\r\n\r\n")[0] == 200


def test_two_hundred_at_once(service: int):
    """All are answered; none is reset."""
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda _: raw(service, post({"prompt": QUESTION}), 120.0)[0], range(200)))
    assert answers == [200] * 200


def test_too_many_are_told_to_come_back(start: Any, embedder: PromptEmbedder, monkeypatch: pytest.MonkeyPatch):
    service = start(waiting=2)
    going, embeds = threading.Event(), embedder.embeds
    monkeypatch.setattr(embedder, "embeds", lambda *a, **k: (going.wait(20), embeds(*a, **k))[1])
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(raw, service, post({"prompt": QUESTION}), 60.0) for _ in range(8)]
        while sum(one.done() for one in asked) < 6:
            time.sleep(0.02)
        going.set()
        statuses = sorted(one.result()[0] for one in asked)
    assert statuses == [200] * 2 + [429] * 6
    assert raw(service, post({"prompt": QUESTION}))[0] == 200


@pytest.mark.parametrize("part", ["head", "body"])
def test_who_sends_slowly_loses_the_line(start: Any, monkeypatch: pytest.MonkeyPatch, part: str):
    """Also one who sends a byte now and then; of a body too late, one is told."""
    monkeypatch.setattr(guard, "SENDING", 0.4)
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.4)
    service = start()
    head = b"POST /v1/prompt_embeds HTTP/1.1\r\nContent-Type: application/json\r\nHost: localhost\r\nContent-Length: 99\r\n"
    with socket.create_connection(("127.0.0.1", service), timeout=10) as line:
        begun = time.monotonic()
        line.sendall(head + (b"\r\n" if part == "body" else b"X-Slow: "))
        assert raw(service, b"GET /ready HTTP/1.1\r\n\r\n")[0] == 200  # nobody else waits for it
        with contextlib.suppress(OSError):
            while time.monotonic() - begun < 8:
                line.sendall(b" ")
                time.sleep(0.1)
        assert time.monotonic() - begun < 5
        if part == "body":
            with contextlib.suppress(OSError):
                assert line.recv(100).startswith(b"HTTP/1.1 408")


ENDLESS = {
    "path": (b"GET /", b"x" * 8000),
    "value": (b"GET /ready HTTP/1.1\r\nHost: localhost\r\nX-Long: ", b"x" * 8000),
    "many": (b"GET /ready HTTP/1.1\r\nHost: localhost\r\n", b"X-More: more\r\n" * 600),
    "trailers": (
        b"POST /v1/prompt_embeds HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n",
        b"X-More: more\r\n" * 600,
    ),
}


@pytest.mark.parametrize("part", ENDLESS)
def test_a_head_without_an_end(service: int, part: str):
    begin, more = ENDLESS[part]
    with socket.create_connection(("127.0.0.1", service), timeout=10) as line:
        line.sendall(begin)
        sent = 0
        while not select.select([line], [], [], 0.005)[0]:
            line.sendall(more)
            sent += len(more)
            assert sent < 1 << 20, "it reads on and on"
        assert _received(line).startswith(b"HTTP/1.1 400")


def test_a_body_in_crumbs(service: int):
    """Sent byte by byte it is six times as long, which is still no head without an end."""
    body = json.dumps({"prompt": QUESTION + " " * 20_000, "nonsense": 1}).encode()
    head = "POST /v1/prompt_embeds HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    crumbs = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    status, answer = raw(service, head.encode() + crumbs + b"0\r\n\r\n")
    assert status == 400
    assert "nonsense" in answer["error"]["message"]


def test_without_the_quick_parser(start: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    plain = runpy.run_path(connections.__file__)["Connection"]
    assert issubclass(plain, H11Protocol)
    monkeypatch.setattr(server, "Connection", plain)
    service = start()
    assert raw(service, post({"prompt": QUESTION}))[0] == 200
    assert raw(service, b"NONSENSE\r\n\r\n")[0] == 400


def test_a_line_that_was_used_once_may_be_used_again(start: Any):
    service = start()
    with socket.create_connection(("127.0.0.1", service), timeout=10) as line:
        for _ in range(3):
            line.sendall(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
            said = b""
            while b"ready" not in said:
                said += line.recv(1000)
            assert said.startswith(b"HTTP/1.1 200")


def test_all_connections_taken_by_those_who_send_nothing(start: Any, monkeypatch: pytest.MonkeyPatch):
    """The oldest of them make room; no thread is left behind."""
    monkeypatch.setattr(connections, "MOST", 4)
    service, threads = start(), threading.active_count()
    held = [socket.create_connection(("127.0.0.1", service)) for _ in range(12)]
    begun = time.monotonic()
    assert raw(service, post({"prompt": QUESTION}), 60.0)[0] == 200
    assert time.monotonic() - begun < 5
    assert threading.active_count() <= threads + 6
    for line in held:
        line.close()


def test_without_descriptors_it_rests(start: Any):
    """The processor is not kept busy, and who waited is answered once there are some."""
    service = start()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers: list[Any] = []
    line = socket.socket()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (line.fileno() + 40, hard))
        while True:
            try:
                fillers.append(socket.socket())
            except OSError:
                break
        line.settimeout(30)
        line.connect(("127.0.0.1", service))
        line.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        before = time.process_time()
        time.sleep(1.0)
        assert time.process_time() - before < 0.5
    finally:
        for one in fillers:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert line.recv(100).startswith(b"HTTP/1.1 200")
    line.close()


def test_who_leaves_costs_no_traceback(start: Any, capfd: pytest.CaptureFixture[str]):
    service = start()
    for cut in (5, 40, 200):
        for linger in (True, False):
            line = socket.create_connection(("127.0.0.1", service))
            if linger:  # a reset instead of an end
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            line.sendall(post({"prompt": QUESTION})[:cut])
            line.close()
    assert raw(service, post({"prompt": QUESTION}))[0] == 200
    time.sleep(0.3)
    said = capfd.readouterr().err
    assert "error" not in said
    assert "Traceback" not in said


def test_a_fault_of_ours_is_one_line(start: Any, embedder: PromptEmbedder, capfd: Any, monkeypatch: pytest.MonkeyPatch):
    """Which says where, and not what was asked."""
    service = start()
    monkeypatch.setattr(embedder, "embeds", lambda *a, **k: int(a[0]))
    status, answer = raw(service, post({"prompt": QUESTION}))
    assert (status, answer["error"]["code"]) == (500, "internal_error")
    time.sleep(0.2)
    first, second = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"error: request \w+ failed: ValueError: .*test_strangers\.py:\d+", first)
    assert re.fullmatch(r"\w+ POST /v1/prompt_embeds 500 [\d.]+ ms", second)
    assert QUESTION not in first


def test_no_question_is_remembered(start: Any, embedder: PromptEmbedder):
    method: Any = embedder.method
    service, encoded = start(), method.assistant.backbone._encoded
    for k in range(3):
        assert raw(service, post({"prompt": f"{k} " * 20}))[0] == 200
        assert raw(service, post({"prompt": f"<|endoftext|> {k}"}))[0] == 400
    assert len(encoded) == 0


class _Engine(BaseHTTPRequestHandler):
    """Answers with the seed it was given."""

    asked: ClassVar[list[Any]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        choices = [{"index": i, "text": f"{body['seed'] + i}"} for i in range(body["n"])]
        answer = json.dumps({"choices": choices, "usage": {"total_tokens": 5, "details": None}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_every_set_of_thoughts_draws_with_seeds_of_its_own(start: Any, embedder: PromptEmbedder):
    """vLLM draws answer i of a request with seed + i; two sets in one request would draw alike."""
    embedder.speaking = SamplingParams(temperature=0.7, seed=40)
    engine = ThreadingHTTPServer(("127.0.0.1", 0), _Engine)
    threading.Thread(target=engine.serve_forever, daemon=True).start()
    service = start(engine=f"http://127.0.0.1:{engine.server_port}/v1/")
    _Engine.asked.clear()
    asked = {"prompt": QUESTION, "chains": 2, "samples": 3}
    status, answer = raw(service, post(asked, path="/v1/completions"))
    assert status == 200
    assert [choice["text"] for choice in answer["choices"]] == ["40", "41", "42", "43", "44", "45"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3, 4, 5]
    assert answer["usage"] == {"total_tokens": 10, "details": None}
    assert sorted(body["seed"] for body in _Engine.asked) == [40, 43]
    status, bodies = raw(service, post({**asked, "seed": 7}))
    assert [(body["seed"], body["n"]) for body in bodies] == [(7, 3), (10, 3)]
    assert bodies[0]["prompt_embeds"] != bodies[1]["prompt_embeds"]
    engine.shutdown()
    engine.server_close()


def test_a_temperature_of_the_request_brings_the_runs_seed(embedder: PromptEmbedder):
    """The run is greedy, the request is not: without a seed its answers could not be had again."""
    assert embedder.speaking.temperature == 0
    body = embedder.request(QUESTION, temperature=0.5)
    assert (body["seed"], body["top_p"]) == (embedder.speaking.seed, 1.0)
    assert "seed" not in embedder.request(QUESTION, temperature=0)


@pytest.mark.parametrize(
    "url",
    ["notaurl", "", "localhost:8000", "ftp://a/v1", "http://", "http://a:99999", "http://a:x/v1", "http://a b/v1",
     "http://a/v1?x=1", "http://a/\n", "http://[", "file:///etc/passwd"],
)  # fmt: skip
def test_an_engine_that_is_no_url(url: str):
    with pytest.raises(ConfigError, match="must be the base URL of an API"):
        api_url(url, "the engine")


def test_an_engine_that_is_one():
    assert api_url("http://localhost:8000/v1/", "x") == "http://localhost:8000/v1"
    assert api_url("https://[::1]:8000/v1", "x") == "https://[::1]:8000/v1"


@pytest.mark.parametrize(
    "address",
    [("127.0.0.1", 99999), ("127.0.0.1", -1), ("", 0), ("no.such.host.invalid", 0), ("a" * 300, 0), ("203.0.113.1", 0)],
)
def test_addresses_at_which_nothing_can_listen(address: tuple[str, int]):
    with pytest.raises(ConfigError, match="cannot listen at"):
        listen(*address)
