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
