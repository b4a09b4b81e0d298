"""Prompt embeddings for a stock engine: the right vectors, in the form that vLLM's completions API takes."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import select
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.servers import running
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import unspoken
from unspoken.cli import app
from unspoken.core.lm.adapters import LoraSettings
from unspoken.errors import ConfigError, DataError, RunError
from unspoken.exporters.prompt_embeds import PromptEmbedder, encode, export_prompt_embeds
from unspoken.runs.directory import RunDir
from unspoken.serving.embeds import EmbedsService
from unspoken.serving.service import Service

RECORDED = json.loads(Path(__file__).with_name("vllm_completion.json").read_text(encoding="utf-8"))
QUESTION = "Ann has 3 pens and buys 4 more."


def decode(text: str) -> torch.Tensor:
    """As an engine does it: strictly base64, tensors only."""
    return torch.load(io.BytesIO(base64.b64decode(text, validate=True)), weights_only=True)


def kinds(value: Any) -> Any:
    """Types, all the way down."""
    return {k: kinds(v) for k, v in value.items()} if isinstance(value, dict) else type(value)


def test_a_recorded_tensor_is_read_and_written_alike():
    values = torch.tensor(RECORDED["values"]).bfloat16()
    theirs = decode(RECORDED["body"]["prompt_embeds"])
    assert torch.equal(theirs, values)
    assert theirs.dtype == torch.bfloat16
    assert torch.equal(decode(encode(values)), theirs)


def test_the_request_has_the_recorded_form(exported: Path):
    """Every field of the recorded request, of the same type; what else there is belongs to the API."""
    body = PromptEmbedder.load(exported).request(QUESTION)
    assert {name: kinds(body[name]) for name in RECORDED["body"]} == kinds(RECORDED["body"])
    assert body["prompt"] == RECORDED["body"]["prompt"] == ""
    assert set(body) - set(RECORDED["body"]) <= {"n", "stop_token_ids", "top_p", "top_k", "seed"}
    assert json.loads(json.dumps(body)) == body
    embeds = decode(body["prompt_embeds"])
    assert embeds.ndim == decode(RECORDED["body"]["prompt_embeds"]).ndim == 2


def test_an_engine_says_what_the_run_says(run: Path, exported: Path):
    """The unmodified base model, fed the vectors, goes on greedily as unspoken does."""
    assert PromptEmbedder.load(exported).chains == 2
    _hold_against_an_engine(run, exported)


def test_semcot_is_served_alike(made: Any, tmp_path: Path):
    """Its generator is a small model that was trained, with a token of its own."""
    run = made(wrap=False, name="semcot_generator")
    export_prompt_embeds(run, tmp_path / "out")
    _hold_against_an_engine(run, tmp_path / "out")


def _hold_against_an_engine(run: Path, exported: Path) -> None:
    model: Any = unspoken.load(run)
    embedder = PromptEmbedder.load(exported)
    about = json.loads((exported / "prompt_embeds.json").read_text())
    assert about["unmodified"]
    engine = _lm(about["model"]).eval()
    for latents in (None, 5, 0):
        ours = model.sample([QUESTION], chains=embedder.chains, latents=latents, max_new_tokens=6)[0]
        body = embedder.request(QUESTION, chains=embedder.chains, latents=latents)
        assert body["max_tokens"] == 6
        texts = body["prompt_embeds"] if embedder.chains > 1 else [body["prompt_embeds"]]
        for answer, text in zip(ours, texts, strict=True):
            embeds_LD = decode(text)
            out = engine.generate(
                inputs_embeds=embeds_LD[None], attention_mask=torch.ones(1, len(embeds_LD)), do_sample=False,
                max_new_tokens=6, eos_token_id=body["stop_token_ids"],
            )  # fmt: skip
            assert out[0, : len(answer.tokens)].tolist() == list(answer.tokens)


def _lm(path: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(path)


def test_the_folder_is_whole_without_the_run(exported: Path, tmp_path: Path):
    shutil.copytree(exported, tmp_path / "elsewhere")
    a, b = (PromptEmbedder.load(place).embeds(QUESTION)[0] for place in (exported, tmp_path / "elsewhere"))
    assert torch.equal(a, b)
    names = {path.name for path in exported.iterdir()}
    assert names == {
        "README.md",
        "assistant",
        "embeddings.safetensors",
        "method.safetensors",
        "prompt_embeds.json",
        "tokenizer",
    }


def test_a_base_that_was_trained_is_served_from_the_run(made, tmp_path: Path):
    run = made(wrap=False, backbone={"lora": LoraSettings(r=4, alpha=8.0)})
    export_prompt_embeds(run, tmp_path / "out")
    about = json.loads((tmp_path / "out" / "prompt_embeds.json").read_text())
    assert (about["unmodified"], about["model"]) == (False, str(run / "model"))


@pytest.mark.parametrize("kind", ["adapter", "run"])
def test_a_base_that_an_engine_cannot_take_is_served_from_the_run(made, tmp_path: Path, kind: str):
    """An adapter was merged into its base, and a run is no folder of transformers."""
    base, place = Path(RunDir(made(wrap=False)).config().backbone.path or ""), tmp_path / "place"
    if kind == "adapter":
        adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules="all-linear"))
        adapted.save_pretrained(str(place))
    else:
        shutil.copytree(made(wrap=False, backbone={"lora": LoraSettings(r=4, alpha=8.0)}), place)
    run = made(wrap=False, backbone={"path": str(place)})
    export_prompt_embeds(run, tmp_path / "out")
    about = json.loads((tmp_path / "out" / "prompt_embeds.json").read_text())
    assert (about["unmodified"], about["model"]) == (False, str(run / "model"))


def test_sampling_is_the_runs_unless_said(exported: Path):
    embedder = PromptEmbedder.load(exported)
    assert "seed" not in embedder.request(QUESTION)
    embedder.speaking = unspoken.core.loop.sampling.SamplingParams(temperature=0.7, top_p=0.9, top_k=20, seed=3)
    body = embedder.request(QUESTION, samples=4, max_tokens=9, seed=8)
    assert (body["temperature"], body["top_p"], body["top_k"], body["seed"], body["n"]) == (0.7, 0.9, 20, 8, 4)
    assert body["max_tokens"] == 9


def test_errors(exported: Path, run: Path, tmp_path: Path):
    embedder = PromptEmbedder.load(exported)
    with pytest.raises(ConfigError, match=r"chains must be in 1\.\.2"):
        embedder.request(QUESTION, chains=3)
    with pytest.raises(DataError, match="not empty"):
        embedder.request("  ")
    with pytest.raises(DataError, match="special token"):
        embedder.request("<|endoftext|> and on")
    with pytest.raises(ConfigError, match="'prompt_embeds' is what this makes"):
        embedder.request(QUESTION, prompt_embeds="x")
    with pytest.raises(RunError, match="exists and is not empty"):
        export_prompt_embeds(run, exported)
    with pytest.raises(RunError, match="no folder of `unspoken export --prompt-embeds`"):
        PromptEmbedder.load(tmp_path)
    shutil.copytree(exported, tmp_path / "cut")
    (tmp_path / "cut" / "method.safetensors").write_bytes(b"cut")
    with pytest.raises(RunError, match="missing or truncated"):
        PromptEmbedder.load(tmp_path / "cut")


def test_a_method_whose_thoughts_come_later_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="'cot' cannot be served as prompt embeddings"):
        export_prompt_embeds("builtin:tiny", tmp_path / "out")


def test_the_command(run: Path, tmp_path: Path):
    done = CliRunner().invoke(app, ["export", str(run), str(tmp_path / "out"), "--prompt-embeds"], catch_exceptions=False)
    assert done.exit_code == 0
    assert PromptEmbedder.load(tmp_path / "out").chains == 2
    with pytest.raises(ConfigError, match="a format of its own"):
        CliRunner().invoke(
            app, ["export", str(run), str(tmp_path / "x"), "--prompt-embeds", "--format", "hf"], catch_exceptions=False
        )


class _Engine(BaseHTTPRequestHandler):
    """Remembers what it was asked, as the recorded server did."""

    asked: ClassVar[list[tuple[str, Any]]] = []
    go_on: ClassVar[threading.Semaphore]
    left: ClassVar[threading.Event]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        if body.get("stream") or body["max_tokens"] == 99:
            self.slowly(body["max_tokens"])
            return
        status = 400 if body["max_tokens"] > 100 else 200
        answer = json.dumps({"choices": [{"index": 0, "text": " 7"}]} if status == 200 else {"object": "error"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def slowly(self, pieces: int) -> None:
        """Events, each when the test lets it; a stream of 7 is promised to be longer. It notices who has left."""
        self.send_response(400 if pieces == 55 else 200)
        self.send_header("Content-Type", "text/event-stream")
        if pieces == 7:
            self.send_header("Content-Length", "4096")
        self.end_headers()
        for number in range(3):
            self.wfile.write(b'data: {"choices": [{"index": 0, "text": "%d"}]}\n\n' % number)
            while not self.go_on.acquire(timeout=0.02):
                if select.select([self.connection], [], [], 0)[0]:
                    self.left.set()
                    return

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def streaming(exported: Path, started: Any) -> Iterator[httpx.Client]:
    """A client of a service whose engine streams an event for each release of `_Engine.go_on`."""
    _Engine.go_on, _Engine.left = threading.Semaphore(0), threading.Event()
    engine = started(ThreadingHTTPServer(("127.0.0.1", 0), _Engine))
    with httpx.Client(base_url=started(PromptEmbedder.load(exported), engine=f"{engine}/v1"), timeout=30) as client:
        yield client
    _Engine.go_on.release(100)


@pytest.fixture
def started():
    """started(an embedder or a server of the standard library, ...) -> its base URL; all are stopped at the end."""
    with contextlib.ExitStack() as open_:

        def start(one: Any, **more: Any) -> str:
            if isinstance(one, PromptEmbedder):
                return open_.enter_context(running(Service(embeds={"soft": EmbedsService(one, **more)})))
            threading.Thread(target=one.serve_forever, daemon=True).start()
            open_.callback(one.server_close)
            open_.callback(one.shutdown)
            return f"http://127.0.0.1:{one.server_port}"

        yield start


def call(url: str, body: Any = None) -> tuple[int, Any]:
    """Status and JSON of a request."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_the_service_asks_the_engine(exported: Path, started: Any):
    _Engine.asked.clear()
    engine = started(ThreadingHTTPServer(("127.0.0.1", 0), _Engine))
    embedder = PromptEmbedder.load(exported)
    url = started(embedder, engine=f"{engine}/v1")
    assert call(f"{url}/health") == (200, {"status": "ok", "models": ["soft"]})
    status, answer = call(f"{url}/v1/completions", {"prompt": QUESTION, "latents": 2, "temperature": 0.5, "max_tokens": 5})
    assert (status, answer["choices"][0]["text"]) == (200, " 7")
    ((path, body),) = _Engine.asked
    assert path == RECORDED["path"]
    assert {name: kinds(body[name]) for name in RECORDED["body"]} == kinds(RECORDED["body"])
    assert (body["temperature"], body["max_tokens"]) == (0.5, 5)
    assert torch.equal(decode(body["prompt_embeds"]), embedder.embeds(QUESTION, latents=2)[0])
    assert call(f"{url}/v1/completions", {"prompt": QUESTION, "max_tokens": 101}) == (400, {"object": "error"})


def test_a_stream_comes_as_the_engine_sends_it(streaming: httpx.Client):
    with streaming.stream("POST", "/v1/completions", json={"prompt": QUESTION, "stream": True}) as answer:
        assert (answer.status_code, answer.headers["X-Accel-Buffering"]) == (200, "no")
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        texts = []
        for event in (line for line in answer.iter_lines() if line):
            texts.append(json.loads(event.removeprefix("data: "))["choices"][0]["text"])
            _Engine.go_on.release()  # nothing of the next one is there before
        assert texts == ["0", "1", "2"]


def test_an_engines_stream_that_is_an_error_or_breaks_off(streaming: httpx.Client):
    _Engine.go_on.release(100)
    refused = streaming.post("/v1/completions", json={"prompt": QUESTION, "stream": True, "max_tokens": 55})
    assert refused.status_code == 400
    broken = streaming.post("/v1/completions", json={"prompt": QUESTION, "stream": True, "max_tokens": 7})
    *events, last = [json.loads(line.removeprefix("data: ")) for line in broken.text.splitlines() if line]
    assert [event["choices"][0]["text"] for event in events] == ["0", "1", "2"]
    assert "broke off" in last["error"]["message"]
    several = streaming.post(
        "/v1/completions", json={"prompt": QUESTION, "stream": True, "chains": 2, "temperature": 1.0, "seed": 1}
    )
    assert several.status_code == 400
    assert "are not streamed" in several.json()["error"]["message"]


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_hangs_up_on_the_engine(streaming: httpx.Client, stream: bool):
    """Also who waits for a whole answer; 99 tokens take their time."""
    _Engine.asked.clear()
    line = http.client.HTTPConnection(streaming.base_url.host, streaming.base_url.port or 80, timeout=30)
    body = json.dumps({"prompt": QUESTION, "max_tokens": 99, "stream": stream})
    line.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    while not _Engine.asked:
        time.sleep(0.02)
    if stream:
        assert line.getresponse().readline().startswith(b"data: ")
    line.close()
    assert _Engine.left.wait(10)


def test_without_an_engine_the_body_comes_back(exported: Path, started: Any):
    url = started(PromptEmbedder.load(exported))
    status, body = call(f"{url}/v1/prompt_embeds", {"prompt": QUESTION, "chains": 2})
    assert (status, body["n"], len(body["prompt_embeds"])) == (200, 1, 2)
    status, answer = call(f"{url}/v1/completions", {"prompt": QUESTION})
    assert status == 501
    assert "--engine" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not JSON"),
        (["x"], "expected an object with a question"),
        ({"prompt": 3}, "expected an object with a question"),
        ({"prompt": "?", "stream": "yes"}, "field 'stream'"),
        ({"prompt": "?", "chains": "2"}, "field 'chains' of EmbedsRequest: input should be a valid integer"),
        ({"prompt": "?", "latents": -1}, "greater than or equal to 0, got -1"),
        ({"prompt": "<|endoftext|>"}, "special token"),
    ],
)
def test_bad_requests_are_told_so(exported: Path, started: Any, body: Any, message: str):
    url = started(PromptEmbedder.load(exported))
    status, answer = call(f"{url}/v1/prompt_embeds", body)
    assert status == 400
    assert message in answer["error"]["message"]


def test_other_places_and_a_dead_engine(exported: Path, started: Any):
    url = started(PromptEmbedder.load(exported), engine="http://127.0.0.1:9/v1")
    assert call(f"{url}/elsewhere")[0] == 404
    assert call(f"{url}/elsewhere", {})[0] == 404
    status, answer = call(f"{url}/v1/completions", {"prompt": QUESTION})
    assert status == 502
    assert "--enable-prompt-embeds" in answer["error"]["message"]
    line = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    line.putrequest("POST", "/v1/prompt_embeds")
    line.putheader("Content-Type", "application/json")
    line.putheader("Content-Length", str(1 << 21))  # the service does not wait for it
    line.endheaders()
    assert line.getresponse().status == 413
