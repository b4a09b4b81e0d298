"""The benches count what they say, and their counts do not grow. Times are reported, never tested."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from unspoken.bench import generate, paired, serve_offline, shapes
from unspoken.cli import app
from unspoken.core.loop.trace import Cost
from unspoken.errors import ConfigError

SMALL = {"model": "small-test", "device": "cpu", "rounds": 1}


def test_generate_counts_what_the_issue_of_speed_is():
    """67 positions instead of 1,150, in as many passes, without padding, for one question and for many."""
    found = generate.run(**SMALL, batches=(1, 8), explicit_batches=(8,))
    sides = found["sides"]
    assert (sides["released, 1"]["passes"], sides["released, 1"]["positions"]) == (26, 1150)
    assert sides["released, 1"]["head_positions"] == 1150
    for name, size in (("ours, 1", 1), ("ours, 8", 8)):
        assert (sides[name]["passes"], sides[name]["positions"]) == (26, 67 * size)
        assert sides[name]["padding_share"] == 0
        assert sides[name]["head_positions"] == 20 * size
    assert sides["explicit chain, 8"]["positions_per_question"] == 41 + 120 - 1
    assert found["same_tokens"] == {"float32": 1.0}
    assert set(found["ratios"]) == {"released / ours, 1", "released / ours, 8", "explicit chain, 8 / ours, 8"}
    assert json.loads(json.dumps(found)) == found


def test_vllm_is_a_side_where_its_environment_is_named(tmp_path: Path):
    """A stand-in for its worker: transformers' own `generate`, so that the tokens can be held against ours."""
    stand_in = tmp_path / "python"
    script = """
import json, sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[2])
for line in sys.stdin:
    asked = json.loads(line)
    n = asked["tokens"]
    said = [model.generate(torch.tensor([ids]), max_new_tokens=n, min_new_tokens=n, do_sample=False)[0, len(ids):].tolist()
            for ids in asked["ids"]]
    print(json.dumps(said), flush=True)
"""
    (tmp_path / "worker.py").write_text(script)
    stand_in.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path / "worker.py"} "$@"\n')
    stand_in.chmod(0o755)
    found = generate.run(**SMALL, chain=5, answer=4, batches=(2,), explicit_batches=(2,), vllm=stand_in)
    assert found["same_tokens"] == {"float32": 1.0, "vLLM float32": 1.0}
    sides = found["sides"]
    assert sides["vLLM, chain, 2"]["positions"] == sides["our engine, chain, 2"]["positions"] == 2 * (41 + 9 - 1)
    assert sides["our engine, chain, 2"]["head_positions"] == 2 * 9
    for other in ("our engine, chain, 2", "ours, 2"):
        assert set(found["ratios"][f"vLLM, chain, 2 / {other}"]) == {"seconds"}


def test_a_vllm_that_does_not_start(tmp_path: Path):
    """Its last words are told; so is an interpreter that is none."""
    small: dict[str, Any] = {**SMALL, "chain": 1, "answer": 1, "batches": (1,), "explicit_batches": (1,)}
    with pytest.raises(ConfigError, match="does not run: No such file"):
        generate.run(**small, vllm=tmp_path / "none")
    with pytest.raises(ConfigError, match=r"vLLM in .* gave no answer; it said last: .*No module named 'vllm'"):
        generate.run(**small, vllm=sys.executable)


@pytest.mark.parametrize(("latents", "question"), [(0, 9), (1, 3), (6, 40)])
def test_the_released_way_says_what_we_say(latents: int, question: int):
    base = shapes.backbone_of("small-test", torch.device("cpu"))
    (row,) = generate.questions(1, question, latents, base.vocabulary)
    tokens, cost = generate.released(base, row, 7)
    assert [tokens] == generate.ours(base, [row], 7, 1)[0]
    prompt = question + 2 + latents
    assert cost.positions == sum(range(prompt, prompt + 7))


def test_the_explicit_chain_is_as_long_as_asked():
    base = shapes.backbone_of("small-test", torch.device("cpu"))
    tokens, cost = generate.explicit(base, generate.questions(3, 10, 0, base.vocabulary), 12)
    assert tokens.shape == (3, 12)
    assert cost.positions == 3 * (len(generate.questions(1, 10, 0, 9)[0].ids[:-1]) + 11)


def test_the_queue_takes_fewer_passes_and_no_padding():
    """The same answers; positions are the same in number, what batches pad falls away."""
    found = serve_offline.run(**SMALL, requests=48, rows=8)
    static, continuous = found["sides"]["static"], found["sides"]["continuous"]
    assert found["answers_that_differ"] == 0
    assert continuous["positions"] == static["positions"]
    assert continuous["padding_share"] == 0 < 0.2 < static["padding_share"]
    assert continuous["passes"] < 0.8 * static["passes"]
    assert continuous["head_positions"] == static["head_positions"]
    assert continuous["cache_bytes"] < 1.4 * static["cache_bytes"]


def test_requests_are_as_mixed_as_they_say():
    rows = [request.row for request in serve_offline.mixed(256, 300)]
    texts = [len(row.ids) - row.latents for row in rows]
    assert (min(texts), max(texts)) == (20, 200)
    assert {row.latents for row in rows} == set(range(13))
    assert {request.speaking.max_new_tokens for request in serve_offline.mixed(256, 300)} <= set(range(2, 61))


def test_operations_are_those_of_the_matrices():
    base = shapes.backbone_of("small-test", torch.device("cpu"))
    body, head = shapes.operations(base)
    attention, mlp = 32 * (32 + 16 + 16 + 32), 3 * 32 * 48
    assert body == 2 * 2 * (attention + mlp)
    assert head == 2 * 32 * base.vocabulary


def test_ratios_are_taken_inside_rounds():
    slow = [paired.Taken(seconds=s, cpu_seconds=1.0, memory=None) for s in (2.0, 20.0, 3.0)]
    fast = [paired.Taken(seconds=s, cpu_seconds=0.5, memory=None) for s in (1.0, 10.0, 3.0)]
    found = paired.ratio(slow, fast, 4)
    assert found["seconds"] == {"median": 8.0, "low": 4.0, "high": 8.0}
    assert found["cpu_seconds"]["median"] == 8.0
    assert paired.counts(Cost(passes=2, positions=6, slots=8)) == {"passes": 2, "positions": 6, "padding_share": 0.25}


def test_variants_share_weights_unless_they_cannot():
    base = shapes.backbone_of("small-test", torch.device("cpu"))
    fast, short = shapes.variant(base, "float32"), shapes.variant(base, "bfloat16")
    assert fast.lm.get_input_embeddings().weight is base.lm.get_input_embeddings().weight
    assert {type(m).__name__ for m in base.lm.modules()}.isdisjoint({"_FastLinear"})
    assert short.lm.get_input_embeddings().weight.dtype == torch.bfloat16


def test_commands(tmp_path):
    out = tmp_path / "bench.json"
    asked = ["bench", "generate", "--model", "small-test", "--batches", "1,2", "--explicit-batches", "2", "--chain", "5"]
    done = CliRunner().invoke(app, [*asked, "--rounds", "1", "--device", "cpu", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "released / ours, 2: " in done.output
    assert json.loads(out.read_text())["sides"]["ours, 2"]["positions"] == 2 * 67
    asked = ["bench", "serve-offline", "--model", "small-test", "--requests", "6", "--rows", "2", "--rounds", "1", "--json"]
    done = CliRunner().invoke(app, [*asked, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["requests"] == 6


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["generate", "--dtypes", "int4"], "unknown dtype 'int4' in --dtypes; known: float32, bfloat16, int8"),
        (["generate", "--batches", "many"], "--batches needs whole numbers with commas between them, e.g. 1,8,32; got"),
        (["generate", "--threads", "0"], "--threads must be in 1..1024, got 0"),
        (["generate", "--rounds", "0"], "bench generate needs lengths, batches and rounds of at least 1"),
        (["serve-offline", "--dtype", "int4"], "unknown dtype 'int4'"),
        (["serve-offline", "--requests", "0"], "bench serve-offline needs requests, rows, chunk and rounds of at least 1"),
    ],
)
def test_bad_options(asked: list[str], message: str):
    done = CliRunner().invoke(app, ["bench", *asked])
    assert done.exit_code != 0
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)
