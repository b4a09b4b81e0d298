"""Latents over llama.cpp's C API. Runs where a build of it is installed (`make test-vllm` installs one)."""

from __future__ import annotations

import importlib.util
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
