"""Every recipe is a config that survives JSON, and says where its numbers come from."""

from __future__ import annotations

import importlib
import inspect
import json

import pytest

from unspoken.core.config import build, dump
from unspoken.methods.codi import CodiConfig
from unspoken.methods.sim_cot import SimCotConfig
from unspoken.recipes import RECIPES, recipe
from unspoken.training.config import RunConfig


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name: str):
    config = recipe(name)
    assert build(RunConfig, json.loads(json.dumps(dump(config)))) == config
    module, function = RECIPES[name].split(":")
    assert inspect.getdoc(getattr(importlib.import_module(module), function))


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
    assert (config.backbone.lora.r, config.backbone.lora.alpha, config.backbone.lora.dropout) == (128, 32, 0.1)
