"""Every recipe is a config that survives JSON, and says where its numbers come from."""

from __future__ import annotations

import importlib
import inspect
import json
from dataclasses import replace
from random import Random

import pytest
from support.backbones import backbone

from unspoken.core.config import build, dump
from unspoken.core.text.example import Example
from unspoken.methods.codi import CodiConfig
from unspoken.methods.icot_si import removed_tokens
from unspoken.methods.sim_cot import SimCotConfig
from unspoken.recipes import RECIPES, recipe
from unspoken.recipes.tiny import CHAIN_TOKENS
from unspoken.runs.config import RunConfig
from unspoken.tasks import make_task
from unspoken.tasks.generated.multiplication import problem
from unspoken.training.feeding.checks import written_tokens
from unspoken.training.feeding.schedule import Schedule
from unspoken.training.loop import build_method


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name: str):
    config = recipe(name)
    assert build(RunConfig, json.loads(json.dumps(dump(config)))) == config
    module, function = RECIPES[name].split(":")
    assert inspect.getdoc(getattr(importlib.import_module(module), function))


def test_another_task_brings_its_own_fields():
    config = recipe("gsm8k/sim_cot", ["task.train=a.jsonl", "task.name=files", "train.lr=1e-3"])
    assert (config.task.name, config.task.train, config.train.lr) == ("files", "a.jsonl", 1e-3)
    assert recipe("gsm8k/sim_cot", ["task.name=gsm8k_aug", "task.root=x"]).task.root == "x"


def test_no_two_names_are_one_recipe():
    assert len(set(RECIPES.values())) == len(RECIPES)
    dumped = [json.dumps(dump(recipe(name))) for name in RECIPES]
    assert len(set(dumped)) == len(dumped)


@pytest.mark.parametrize(
    ("name", "stages", "align"),
    [  # YinhanHe123/SemCoT 27ca2ef, utils/utils.py: BEST_PARAMS; per stage learning rate, weight decay, epochs
        ("gsm8k", [(1e-3, 1e-2, 7), (1e-7, 1e-2, 1), (1e-3, 1e-3, 7), (1e-3, 1e-7, 2)], 0.25),
        ("svamp", [(1e-2, 1e-3, 5), (1e-3, 1e-2, 1), (1e-3, 1e-2, 5), (1e-3, 1e-2, 2)], 0.25),
        ("multiarith", [(1e-2, 1e-4, 7), (1e-3, 1e-5, 1), (1e-3, 1e-2, 5), (1e-7, 1e-5, 1)], 0.75),
        ("commonsense_qa", [(1e-3, 1e-3, 5), (1e-3, 1e-7, 3), (1e-2, 1e-2, 5), (1e-3, 1e-3, 3)], 0.75),
        ("coin_flip", [(1e-3, 1e-4, 5), (1e-3, 1e-2, 2), (1e-4, 1e-4, 5), (1e-3, 1e-7, 1)], 0.5),
        ("gsm8k_mistral", [(1e-3, 1e-3, 5), (1e-5, 1e-5, 1), (1e-3, 1e-2, 1), (1e-5, 1e-5, 2)], 0.25),
        ("svamp_mistral", [(1e-2, 1e-4, 1), (1e-7, 1e-7, 2), (1e-3, 1e-4, 1), (1e-5, 1e-5, 2)], 0.25),
        ("multiarith_mistral", [(1e-4, 1e-2, 5), (1e-7, 1e-3, 2), (1e-4, 1e-2, 1), (1e-5, 1e-5, 2)], 0.25),
        ("commonsense_qa_mistral", [(1e-4, 1e-4, 3), (1e-5, 1e-7, 2), (1e-3, 1e-3, 1), (1e-3, 1e-3, 3)], 0.25),
        ("coin_flip_mistral", [(1e-4, 1e-2, 7), (1e-7, 1e-5, 3), (1e-3, 1e-4, 3), (1e-7, 1e-7, 2)], 0.5),
        ("gsm8k_qwen", [(1e-4, 1e-3, 7), (1e-7, 1e-5, 3), (1e-4, 1e-3, 7), (1e-7, 1e-5, 3)], 0.25),  # main.py: defaults
    ],
)
def test_semcot_has_the_published_settings(name, stages, align):
    config = recipe(f"semcot/{name}")
    method, train = config.method, config.train
    lessons = (method.encoder_warmup, method.encoder_training, method.inner.warmup)
    *early, last = stages
    assert [(lesson.lr, lesson.weight_decay, lesson.epochs) for lesson in lessons] == early
    assert (train.lr, train.weight_decay, train.epochs) == (*last[:2], sum(stage[2] for stage in stages))
    assert (method.align_weight, method.inner.latents, train.batch_size, train.seed) == (align, 5, 4, 42)
    assert config.task.subset == name.removesuffix("_mistral").removesuffix("_qwen")


@pytest.mark.parametrize(
    ("name", "lr", "epochs", "batch", "distill", "most"),
    [  # notes of the scripts: zhenyi4/codi 4fd88d4, InternLM/SIM-CoT f3ae967
        ("gsm8k/codi", 3e-3, 40, 128, 1, None),
        ("gsm8k/codi_llama1b", 8e-4, 10, 128, 20, 200),
        ("gsm8k/sim_cot_codi", 3e-3, 40, 128, 1, None),
        ("gsm8k/sim_cot_codi_llama1b", 8e-4, 10, 128, 20, 200),
        ("gsm8k/sim_cot_codi_llama3b", 3e-4, 8, 128, 20, 200),
        ("gsm8k/sim_cot_codi_llama8b", 1e-4, 6, 128, 20, 200),
        ("gsm8k_nl/codi", 3e-3, 40, 128, 1, None),
        ("gsm8k_nl/codi_llama1b", 8e-4, 3, 128, 20, 256),
        ("commonsenseqa/codi", 3e-3, 50, 128, 1, None),
        ("commonsenseqa/codi_llama1b", 8e-4, 3, 64, 20, 1000),
    ],
)
def test_codi_has_the_settings_of_its_scripts(name, lr, epochs, batch, distill, most):
    config = recipe(name)
    train, method = config.train, config.method
    if isinstance(method, SimCotConfig):
        assert method.inner.trailing
        assert method.normalisation == "group"
        method = method.inner
    assert isinstance(method, CodiConfig)
    assert (train.lr, train.epochs, train.batch_size, train.max_positions) == (lr, epochs, batch, most)
    assert (method.latents, method.distill_weight, method.scale) == (6, distill, "batch")
    assert (train.weight_decay, train.schedule, train.warmup_share, train.clip, train.seed) == (0.1, "cosine", 0.03, 2.0, 11)
    assert config.backbone.lora is not None
    assert (config.backbone.lora.r, config.backbone.lora.alpha, config.backbone.lora.dropout) == (128, 32, 0.1)


def test_icot_si_has_the_settings_of_its_readme():
    """da03/Internalize_CoT_Step_by_Step c2e3891: the command for 9 x 9 digits, and the one for Mistral-7B on GSM8K."""
    mult, mistral = recipe("multiplication/icot_si_9"), recipe("gsm8k/icot_si_mistral")
    for config in (mult, mistral):
        method = config.method
        assert (method.remove_per_epoch, method.smoothing, method.side, method.pretrain_epochs) == (8, 4, "left", 0)
        assert method.restart_optimizer
        assert not method.keep_position
        assert (config.train.batch_size, config.train.schedule, config.train.clip) == (32, "constant", 1.0)
    assert (mult.train.epochs, mult.train.lr, mult.train.seed, mult.method.remove_all_beyond) == (200, 5e-5, 3456, None)
    assert (mult.task.digits, mult.task.train_size) == (9, 808_000)
    train = mistral.train
    assert (train.epochs, train.lr, train.seed, mistral.method.remove_all_beyond) == (80, 1e-5, 1234, 39)
    assert (train.micro_batch_size, train.precision, train.max_positions) == (16, "bf16", 150)


@pytest.mark.parametrize("digits", [4, 5, 7, 9])
def test_there_is_room_for_the_whole_chain(digits: int):
    """Tokens of the longest text: as many as there are digits and signs, and what stands around them."""
    config = recipe(f"multiplication/icot_si_{digits}")
    rows = (problem(10**digits - 1, 10**digits - k, digits) for k in (1, 2, 3))
    longest = max(len(" ".join([*row["steps"], "####", row["answer"]]).split()) for row in rows)
    assert longest + 6 <= config.speaking.max_new_tokens <= longest + 20


def test_pauses_are_as_many_as_coconuts_latents():
    for task, coconut in (("gsm8k", "gsm8k/coconut"), ("prosqa", "prosqa/coconut"), ("tiny", "tiny/coconut")):
        inner, control = recipe(coconut).method, recipe(f"{task}/no_cot")
        pause = recipe(f"{task}/pause")
        assert pause.method.pauses == inner.max_stage * inner.latents_per_step
        assert (pause.train, pause.speaking, pause.task) == (control.train, control.speaking, control.task)


def test_tiny_icot_si_writes_nothing_for_most_of_its_run():
    """Its chain is gone by the end, and the last stage has as much of the run as the recipe says."""
    config = recipe("tiny/icot_si")
    method = build_method(config)
    examples = make_task(config.task).examples("train")[:50]
    curriculum = method.curriculum()
    schedule = Schedule(config.train, curriculum, 20_000, lambda: written_tokens(method, examples, curriculum.extremes()))
    assert schedule.curriculum.last.index == CHAIN_TOKENS
    first = next(step for step in range(schedule.total) if removed_tokens(schedule.stage(step)).count is None)
    assert 0.3 <= first / schedule.total <= 0.7


SIZES = {"qwen3_0_6b": False, "qwen3_1_7b": False, "qwen3_4b": True, "qwen3_8b": True, "llama1b": False, "llama3b": True}
"""Sizes of Qwen3 and Llama-3.2, and whether they train with LoRA."""


@pytest.mark.parametrize("method", ["cot", "coconut", "sim_cot", "codi", "sim_cot_codi"])
def test_qwen3_and_llama_of_every_size(method: str):
    """All of them are there; of one method they differ in what the size asks for, never in method, data or batch."""
    configs = {size: recipe(f"gsm8k/{method}_{size}") for size in SIZES}
    assert len({config.backbone.path for config in configs.values()}) == len(SIZES)
    for size, large in SIZES.items():
        config = configs[size]
        assert ("Qwen3" in (config.backbone.path or "")) == size.startswith("qwen3")
        assert (config.backbone.lora is not None) == (large or "codi" in method)
        assert (config.backbone.dtype == "bfloat16") == large
        assert config.train.precision == "bf16"
        assert config.task.name == "gsm8k_aug"
        if method.startswith("sim_cot") and size.startswith("qwen3"):
            assert config.method.decoder.path == ("Qwen/Qwen3-0.6B" if large else None)
    inner = [getattr(config.method, "inner", config.method) for config in configs.values()]
    assert all(one == inner[0] or (one.name, inner[0].name) == ("codi", "codi") for one in inner)
    assert len({config.train.batch_size for config in configs.values()}) == 1


@pytest.mark.parametrize("method", ["cot", "coconut", "sim_cot", "codi", "sim_cot_codi"])
def test_qwen3_recipes_can_be_built_on_their_family(method: str, tmp_path):
    """On a random Qwen3 of a few thousand weights, LoRA included; the explaining model is one, too."""
    config = recipe(f"gsm8k/{method}_qwen3_8b")
    small = backbone("qwen3")
    small.lm.save_pretrained(tmp_path)
    small.tokenizer.save_pretrained(tmp_path)
    changed = replace_decoder(config.method, str(tmp_path)) if method.startswith("sim_cot") else config.method
    built = build_method(replace(config, backbone=replace(config.backbone, path=str(tmp_path)), method=changed))
    example = Example(question="Ann has 3 pens.", steps=("3+4=7", "7*2=14"), answer="14", id="one")
    for stage in built.curriculum().extremes():
        assert len(built.layout(example, stage, Random(0)).ids) > 3


def replace_decoder(method: SimCotConfig, path: str) -> SimCotConfig:
    return replace(method, decoder=replace(method.decoder, path=path))
