"""A frozen teacher around a method: what it is held to, and that a saved run answers without it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from contract.cases import EXAMPLES, built, shared
from support import backbones

from unspoken.core.loop.generate import generate
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.rows.batch import collate
from unspoken.errors import ConfigError
from unspoken.methods.distill import TEACHER_ROW
from unspoken.methods.lotus import Lotus
from unspoken.runs.saved import read_model, write_model

LOTUS = {"name": "lotus", "latents_per_step": 3, "max_stage": 3}


def test_the_teacher_reads_the_steps_that_the_thoughts_stand_for():
    """Question, those steps, and the token behind the thoughts; nothing where there are no thoughts."""
    method = shared("distill lotus", "llama")
    stages = [phase.stage for phase in method.curriculum().phases]
    example = EXAMPLES[2]
    assert method.layout(example, stages[0], Random(0)).value(TEACHER_ROW) is None
    row = method.layout(example, stages[2], Random(0))
    teacher = row.value(TEACHER_ROW)
    text = method.backbone.decode(teacher.ids)
    assert text.startswith(f"{example.question}\n<<2+3=5>>\n<<5*7=35>>\n")
    assert teacher.ids[-1] == row.ids[row.capture_at] == row.ids[row.start + row.latents + 1]
    assert teacher.capture_at == len(teacher.ids) - 1


def test_the_distance_is_that_of_the_states_at_that_token():
    """Each row by itself, by one pass of either model, without cache: smooth-L1, mean over layers, width and rows."""
    method = shared("distill lotus", "gpt2")
    stage = method.curriculum().last
    rows = [method.layout(example, stage, Random(0)) for example in EXAMPLES]
    batch = collate(rows)
    with torch.no_grad():
        report = method(batch, method.counts(batch))
        distances = []
        for b, row in enumerate(rows):
            embeds = method.backbone.embed(torch.tensor(row.ids)).clone()
            embeds[row.start : row.start + row.latents] = report.trace.latents_BKD[b, : row.latents]
            teacher = torch.tensor(row.value(TEACHER_ROW).ids)
            pair = []
            for model, fed, at in (
                (method.backbone, embeds, row.capture_at),
                (method.teacher.backbone, method.teacher.backbone.embed(teacher), -1),
            ):
                states = model.states(fed[None], positions_BT=torch.arange(len(fed))[None])
                pair.append(torch.stack([layer[0, at] for layer in states]))
            distances.append(torch.nn.functional.smooth_l1_loss(*pair))
    torch.testing.assert_close(report.terms["distill"], torch.stack(distances).mean(), rtol=1e-4, atol=1e-6)


def around(inner: dict[str, Any], **teacher: Any) -> dict[str, Any]:
    """Settings of distill around a method."""
    return {"name": "distill", "inner": inner, "teacher": {**backbones.settings("llama"), **teacher}}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (around({"name": "codi", "latents": 2}), "does itself"),
        (around({"name": "cot"}), "has none"),
        (around(LOTUS, arch={**backbones.settings("llama")["arch"], "hidden_size": 48}), "cannot be compared"),
        (around(LOTUS, tokenizer="builtin:tiny-tokenizer"), "another tokenizer"),
        (around(LOTUS, lora={"r": 2}), "takes no LoRA"),
        ({"name": "distill", "inner": LOTUS}, "teacher"),
        (around(LOTUS) | {"weight": -1.0}, "weight must be 0 or more"),
    ],
)
def test_what_cannot_be_compared_is_refused(settings: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        built(settings, "llama")


def test_a_saved_run_answers_without_its_teacher(tmp_path: Path):
    """Its weights are saved, for more training; loaded to answer, only the wrapped method is left, and says the same."""
    method = shared("distill lotus", "llama")
    assert method.explains
    write_model(tmp_path / "model", "run", method)
    assert (tmp_path / "model" / "teacher" / "config.json").is_file()
    about = json.loads((tmp_path / "model" / "unspoken.json").read_text())
    shutil.rmtree(tmp_path / "model" / "teacher")
    loaded, unused = read_model(tmp_path / "model", about, explain=True)
    assert isinstance(loaded, Lotus)
    assert not unused
    rows = [method.prompt(example.question) for example in EXAMPLES[:2]]
    speaking = SamplingParams(max_new_tokens=5)
    want = generate(method.backbone, rows, method.source(), speaking, explain=method.explain)
    got = generate(loaded.backbone, rows, loaded.source(), speaking, explain=loaded.explain)
    assert [(a.tokens, a.thoughts) for a in got] == [(a.tokens, a.thoughts) for a in want]
