"""llama.cpp: its own server on models whose answers are tokens, and latents over its C API. Runs where a build of it is
installed (`make test-vllm` installs one)."""

from __future__ import annotations

import importlib.util
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import unspoken
from unspoken.exporters.gguf_folder import Bits, export_gguf

pytest.importorskip("llama_cpp_py_sync")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/edge/think.py"


@pytest.fixture(scope="module")
def think() -> Any:
    """The example; llama.cpp's library is that of xllamacpp, which an older glibc takes too."""
    library = importlib.util.find_spec("xllamacpp")
    spec = importlib.util.spec_from_file_location("think", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        if library is not None and library.origin is not None:
            patch.setenv("LLAMA_LIBRARY", str(Path(library.origin).parent / "xllamacpp.abi3.so"))
        spec.loader.exec_module(module)
        yield module


@pytest.mark.parametrize(("bits", "least"), [("f32", 200), ("q8_0", 170)])
def test_llama_cpp_answers_as_unspoken(bits: Bits, least: int, think: Any, tmp_path: Path):
    """200 questions; in 8 bits nearly as many."""
    export_gguf("builtin:tiny-sim-cot", tmp_path / "out", bits)
    thinker, model = think.Thinker(tmp_path / "out"), unspoken.load("builtin:tiny-sim-cot", device="cpu")
    asked = [f"Ann has {7 + n % 12} figs. She finds {2 + n // 12}. How many figs has Ann?" for n in range(200)]
    want = [answer.text for answer in model.answer(asked)]
    said = [thinker.answer(question) for question in asked]
    assert sum(a == b for a, b in zip(said, want, strict=True)) >= least
    assert thinker.answer(asked[0], 0) == model.answer(asked[:1], latents=0)[0].text


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2", "mistral"])
def test_every_family_thinks_through_a_projection(family: str, think: Any, tmp_path: Path):
    """Random models; nearly every answer, because some words are as likely as others."""
    from support.vllm_runs import FAMILIES, METHODS, random_run

    run = random_run(tmp_path / "run", METHODS["codi"], FAMILIES[family])
    export_gguf(run, tmp_path / "out")
    thinker, model = think.Thinker(tmp_path / "out"), unspoken.load(str(run), device="cpu")
    asked = [f"Ann has {n} figs and eats {n // 3}. How many?" for n in range(40)]
    want = [answer.text for answer in model.answer(asked)]
    said = [thinker.answer(question, most=model.speaking.max_new_tokens) for question in asked]
    assert sum(a == b for a, b in zip(said, want, strict=True)) >= 39
    assert len(set(said)) > 5


@pytest.mark.parametrize(
    "method", [{"name": "cot"}, {"name": "pause", "pauses": 4, "marker_init": "pens"}], ids=["cot", "pause"]
)
def test_llama_server_answers_models_whose_answers_are_tokens(method: dict[str, Any], tmp_path: Path):
    """The file as it is, asked as chats over HTTP; it leaves out a letter whose bytes are not all there. Of a random model's
    answers some part at words as likely as others."""
    xllamacpp = pytest.importorskip("xllamacpp")  # llama.cpp's server inside a library of Python's
    from support.vllm_runs import FAMILIES, random_run

    run = random_run(tmp_path / "run", method, FAMILIES["llama"])
    export_gguf(run, tmp_path / "out")
    settings = xllamacpp.CommonParams()
    settings.model.path = str(tmp_path / "out/model.gguf")
    settings.use_jinja, settings.warmup, settings.n_ctx, settings.port, settings.verbosity = True, False, 512, 0, -1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server, model = xllamacpp.Server(settings), unspoken.load(str(run), device="cpu")
    asked = [f"Ann has {n} figs and eats {n // 3}. How many?" for n in range(40)]
    want = [answer.text.rstrip("\ufffd") for answer in model.answer(asked, max_new_tokens=6, temperature=0.0)]
    said = [chat(server.listening_address, question).rstrip("\ufffd") for question in asked]
    assert sum(a == b for a, b in zip(said, want, strict=True)) >= 37
    assert len(set(said)) > 20


def chat(url: str, question: str) -> str:
    """The answer of a server of OpenAI's API."""
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 6}
    asked = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=60) as reply:
        return json.load(reply)["choices"][0]["message"]["content"]
