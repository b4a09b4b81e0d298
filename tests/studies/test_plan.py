"""From a study's file to its jobs: what is trained, under which fingerprint, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.small_study import changed

from unspoken.errors import ConfigError
from unspoken.recipes import recipe
from unspoken.studies.plan import evaluation_fingerprint, fingerprint
from unspoken.studies.run import planned
from unspoken.studies.study import Evaluation, read_study

ROOT = Path(__file__).resolve().parents[2]


def test_every_combination_with_every_seed(small: Path):
    jobs = planned(small, runs="runs").every
    assert [job.name for job in jobs] == ["coconut-1-1", "coconut-2-1", "codi-1-1", "coconut-1-2", "coconut-2-2", "codi-1-2"]
    assert [job.config.train.seed for job in jobs] == [1, 1, 1, 2, 2, 2]
    assert [job.config.method.name for job in jobs[:3]] == ["coconut", "coconut", "codi"]
    assert jobs[1].config.method.max_stage == 2
    assert jobs[2].config.method.latents == 1
    assert len({job.folder for job in jobs}) == 6


def test_json_says_the_same_as_toml(small: Path, tmp_path: Path):
    import tomllib

    data = tomllib.loads((small / "study.toml").read_text(encoding="utf-8"))
    other = tmp_path / "other.json"
    other.write_text(json.dumps(data), encoding="utf-8")
    assert read_study(other) == read_study(small)
    assert planned(other).places.out == tmp_path / "other"  # a folder of the file's name
    assert planned(small).places.out == small  # beside study.toml


def test_a_prepared_run_comes_first_and_counts_in_the_fingerprint(small: Path):
    before = planned(small).every
    prepare = '[[prepare]]\nname = "start"\nconfig = "tiny/cot"\nset = { "train.steps" = 2 }\n\n'
    changed(small, "[[runs]]\nset = { ", f'{prepare}[[runs]]\nset = {{ "backbone.path" = "run:start", ')
    after = planned(small, runs="runs").every
    assert [job.name for job in after][:2] == ["start", "coconut-1-1"]
    assert after[1].needs == ("start",)
    assert after[1].config.backbone.path == str(after[0].folder)
    assert before[0].fingerprint != after[1].fingerprint
    changed(small, '{ "train.steps" = 2 }', '{ "train.steps" = 3 }')
    assert planned(small).every[1].fingerprint != after[1].fingerprint
    elsewhere = planned(small, runs="/another/place").every
    assert elsewhere[1].fingerprint == planned(small, runs="runs").every[1].fingerprint


def test_a_fingerprint_is_of_what_changes_the_model():
    base = fingerprint(recipe("tiny/coconut"))
    assert fingerprint(recipe("tiny/coconut", ["train.threads=1", "train.log_every=7", "fast.enabled=false"])) == base
    for change in ("train.lr=1e-3", "train.seed=5", "method.max_stage=3", "train.validate_every=7", "task.train_size=9"):
        assert fingerprint(recipe("tiny/coconut", [change])) != base, change


def test_an_evaluation_is_known_by_what_it_asks():
    one = Evaluation(name="a")
    assert evaluation_fingerprint(Evaluation(name="b", when={"method": "x"})) == evaluation_fingerprint(one)
    others: list[dict[str, Any]] = [{"limit": 5}, {"set": {"max_steps": 9}}, {"explain": True}, {"latents": 0}]
    for other in others:
        assert evaluation_fingerprint(Evaluation(name="a", **other)) != evaluation_fingerprint(one)


def test_only_chooses_and_keeps_what_is_needed(small: Path):
    changed(
        small,
        "[[runs]]\nset = { ",
        '[[prepare]]\nname = "start"\nconfig = "tiny/cot"\n\n[[runs]]\nset = { "backbone.path" = "run:start", ',
    )
    chosen = planned(small, only=["method=codi", "seed=2"]).chosen
    assert [job.name for job in chosen] == ["start", "codi-1-2"]
    assert [job.name for job in planned(small, only=["latents=2"]).chosen] == ["start", "coconut-2-1", "coconut-2-2"]
    for bad, said in ((["method=cody"], "did you mean 'codi'"), (["metod=codi"], "no factor"), (["codi"], "factor=value")):
        with pytest.raises(ConfigError, match=said):
            planned(small, only=bad)
    with pytest.raises(ConfigError, match="leaves no run"):
        planned(small, only=["method=codi", "latents=2"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('method = ["coconut", "codi"]', "method = []", "factor 'method' has no values"),
        ('method = ["coconut", "codi"]', 'method = ["coconut", "coconut"]', "given twice"),
        ('method = ["coconut", "codi"]', 'method = ["a b", "a_b"]', "same file name"),
        ("seeds = [1, 2]", "seeds = []", "at least one seed"),
        ("seeds = [1, 2]", "seeds = [1, 1]", "given twice"),
        ("seeds = [1, 2]", 'seed_paths = ["train.sead"]\nseeds = [1, 2]', "did you mean 'seed'"),
        ("seeds = [1, 2]", "seed_paths = []\nseeds = [1, 2]", "would train the same thing"),
        ('chart = "latents"', 'chart = "latent"', "did you mean 'latents'"),
        ('"train.steps" = 4', '"train.stepps" = 4', "did you mean 'steps'"),
        ('"train.steps" = 4', '"train.steps" = "four"', "'train.steps'"),
        ('when = { method = "codi" }', 'when = { method = "cody" }', "did you mean 'codi'"),
        ('when = { method = "codi" }', 'when = { metod = "codi" }', "did you mean 'method'"),
        ('config = "tiny/codi"', 'config = "tiny/cody"', "did you mean 'tiny/codi'"),
        ('config = "tiny/codi"', "", "no [[runs]] with a config fits method=codi"),
        ("[[evaluations]]\nname = \"test\"", "", "evaluations"),
        ('name = "test"', 'name = "test"\nsplit = "tset"', "split"),
        ('name = "test"', 'name = "test"\nlimitt = 3', "limitt"),
        ('name = "test"', 'name = "test"\nlimit = 0', "limit must be at least 1"),
        ('name = "test"', 'name = "test"\nlimit = true', "'limit' of Evaluation must not be true or false"),
        ('name = "test"', 'name = "test"\nlatents = -1', "number of latents must be 0 or more"),
        ('name = "test"', 'name = "test"\nstop = "sure:0.9"', "a stop rule is written RULE:NUMBER"),
        ('name = "test"', 'name = "test"\nsamples = 3', "3 samples at temperature 0 would all be the same"),
        ("seeds = [1, 2]", "seeds = [true]", "'seeds' of Study must not be true or false"),
        ('chart = "latents"', 'chart = "method"', "no value of the factor 'method' is a number"),
        ('chart = "latents"', "contrasts = [{ a = { latents = 1 }, b = { latents = 1 } }]", "a and b are the same"),
        ('chart = "latents"', 'prepare = [{ name = "a", config = "tiny/cot", set = { start = "run:a" } }]', "no other run"),
        ('name = "test"', 'name = "test"\nset = { max_stepps = 3 }', "did you mean 'max_steps'"),
        ('name = "test"', 'name = "test"\nset = { max_steps = 99 }', "evaluation 'test' of method=coconut, latents=1"),
        ('name = "test"', 'name = "test"\ntask = "tinny"', "did you mean 'tiny'"),
        ('name = "test"', 'name = "test"\nspeaking = { temprature = 1 }', "temprature"),
        ('name = "test"', 'name = "test"\nsoft = "soft"', "soft thinking is for runs that write their thinking"),
        ('name = "test"', 'name = "test"\nsoft = "sotf"', "did you mean 'soft'"),
        ('name = "test"', 'name = "test"\nsoft = "soft"\ninspect = 3', "which 'inspect' is about"),
        ('name = "test"', 'name = "test"\nwhen = { method = "coconut" }', "no evaluation asks this run"),
        ("latents = [1, 2]", "latents = [1, 2, nan]", "finite"),
        ("latents = [1, 2]", "latents = [1, 2]\n" + "\n".join(f'f{k} = ["{"x" * 39}"]' for k in range(4)), "150 at most"),
        ("latents = [1, 2]", "latents = [1, 2, true]", "max_stage"),  # true is a value of its own, not the number 1
        ('set = { method = { latents = "{latents}" } }', 'set = { "backbone.path" = "run:begin" }', "no run 'begin' comes"),
        ('title = "Small"', "title = 3", "title"),
        ('title = "Small"', "title = ", "is no TOML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_before_anything_runs(small: Path, old: str, new: str, said: str):
    with pytest.raises(ConfigError) as error:
        planned(changed(small, old, new))
    assert said in str(error.value)


def test_no_such_file(tmp_path: Path):
    for path in (tmp_path, tmp_path / "none.toml", tmp_path / "study.yaml"):
        with pytest.raises(ConfigError, match="study"):
            planned(path)
    (tmp_path / "study.json").write_text("\ufeff[1]", encoding="utf-8")  # as Windows' editors begin a file
    with pytest.raises(ConfigError, match="table of entries"):
        planned(tmp_path)


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in (ROOT / "studies").glob("*/study.*")))
def test_the_studies_of_the_repository_can_be_planned(folder: str):
    made = planned(ROOT / "studies" / folder)
    assert made.every
    assert made.places.out == ROOT / "studies" / folder


def test_stop_rules_are_asked_of_the_models_of_the_other_study():
    """Else they would all be trained a second time."""
    asked, trained = (planned(ROOT / "studies" / name).every for name in ("adaptive", "latents"))
    assert {job.folder.name for job in asked} <= {job.folder.name for job in trained}
