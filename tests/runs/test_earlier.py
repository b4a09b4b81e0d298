"""What version 0.1.0 wrote still loads, and its settings that have moved are found where they are now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import unspoken
from unspoken.core.config import build, dump
from unspoken.core.seal import SEAL, sealed
from unspoken.errors import ConfigError
from unspoken.recipes import recipe
from unspoken.runs.config import RunConfig
from unspoken.runs.directory import RunDir, export
from unspoken.runs.earlier import updated
from unspoken.training.loop import train

ASKED = ["Ann has 3 pens and buys 4 more. She doubles them.", "Ann has 9 pens."]


def aged(config: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A dumped config as 0.1.0 had it: its method holds some fields, the run has no `fast` and `thinking`."""
    rest = {key: value for key, value in config.items() if key not in ("fast", "thinking")}
    method = config["method"]
    if "inner" in method:
        return {**rest, "method": {**method, "inner": {**method["inner"], **fields}}}
    return {**rest, "method": {**method, **fields}}


@pytest.mark.parametrize(
    ("name", "fields", "path"),
    [
        ("tiny/coconut", {"parallel": 3}, "thinking.parallel"),
        ("tiny/sim_cot_codi", {"parallel": 3}, "thinking.parallel"),
        ("tiny/softcot", {"cache": "elsewhere", "prefix_gb": 2.5}, "fast.prefix_gb"),
        ("tiny/softcot", {"cache": None, "prefix_gb": 0.0}, "fast.states"),
        ("tiny/semcot", {"prefix_gb": 0.5}, "fast.prefix_gb"),
    ],
)
def test_a_recipe_of_earlier_is_the_same_run(name: str, fields: dict[str, Any], path: str, tmp_path: Path):
    file = tmp_path / "run.json"
    now = dump(recipe(name))
    file.write_text(json.dumps({"config": aged(now, **fields)}))
    config = dump(recipe(str(file)))
    part, field = path.split(".")
    assert config[part][field] in fields.values()
    new = {"cache": "states"}
    asked = [f"{part}.{new.get(key, key)}={json.dumps(value)}" for key, value in fields.items()]
    assert config == dump(recipe(name, asked))


def test_an_override_is_told_where_the_field_has_moved():
    with pytest.raises(ConfigError, match=r"method\.cache is no setting of a method any more.*give fast\.states=null$"):
        recipe("tiny/softcot", ["method.cache=null"])
    with pytest.raises(ConfigError, match=r"give thinking\.parallel=4$"):
        recipe("tiny/sim_cot_codi", ["train.seed=2", "method.inner.parallel=4"])
    with pytest.raises(ConfigError, match=r"no field 'parallel' in method"):
        recipe("tiny/cot", ["method.parallel=4"])


def test_what_is_no_config_is_left_for_build_to_refuse():
    for odd in (None, [], {"method": None}, {"method": {"name": 3}}):
        assert updated(odd) == odd
    config = dump(recipe("tiny/coconut"))
    assert updated(config) == config
    # what a file says in the new place counts
    assert updated({**aged(config, parallel=2), "thinking": {"parallel": 5}})["thinking"] == {"parallel": 5}
    with pytest.raises(ConfigError, match="thinking"):
        build(RunConfig, updated({**aged(config, parallel=2), "thinking": 5}))


def test_a_run_of_earlier_loads_and_goes_on(make: Any, tmp_path: Path):
    """A run that thinks in parallel passes, with its files as 0.1.0 wrote them: the same answers, and training goes on."""
    method = {"name": "coconut", "first_stage": 0, "max_stage": 2, "epochs_per_stage": 0.5}
    config = build(RunConfig, {**dump(make(method, steps=8)), "thinking": {"parallel": 2}})
    run = train(config, tmp_path / "run")
    model = unspoken.load(run.path)
    want = [(a.tokens, a.passes) for a in model.answer(ASKED)]
    assert model.think(ASKED).cost.passes == 1 + 2
    about = run.read()
    (run.path / "run.json").write_text(json.dumps({**about, "config": aged(about["config"], parallel=2)}))
    folder, saved = run.path / "model", run.model_info()
    saved = {**{key: value for key, value in saved.items() if key != SEAL}, "method": {**saved["method"], "parallel": 2}}
    (folder / "unspoken.json").unlink()
    (folder / "unspoken.json").write_text(json.dumps(sealed(folder, saved)))
    assert RunDir(run.path).config().thinking.parallel == 2
    again = unspoken.load(run.path)
    assert [(a.tokens, a.passes) for a in again.answer(ASKED)] == want
    export(run.path, tmp_path / "out")
    assert [(a.tokens, a.passes) for a in unspoken.load(tmp_path / "out").answer(ASKED)] == want
    assert train(config, run.path).config() == build(RunConfig, {**dump(config), "fast": {}})


def test_parallel_passes_are_for_latents_that_follow_from_each_other(make: Any, tmp_path: Path):
    config = build(RunConfig, {**dump(make({"name": "pause", "marker_init": "pens"})), "thinking": {"parallel": 2}})
    with pytest.raises(ConfigError, match="are known before"):
        train(config, tmp_path / "run")
    with pytest.raises(ConfigError, match="1 or more, got 0"):
        build(RunConfig, {**dump(config), "thinking": {"parallel": 0}})
