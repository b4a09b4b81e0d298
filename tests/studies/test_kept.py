"""Results without their runs: they stay until the same run has been done again, and nothing else is taken for them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.command_line import said
from support.fakes.evaluation import report
from support.small_study import RIGHT, changed, finish, finished

from unspoken.errors import ConfigError, DataError
from unspoken.studies.kept import read_results
from unspoken.studies.places import JobPlaces
from unspoken.studies.run import Planned, planned, write_results

SECOND = '\n[[evaluations]]\nname = "short"\nlimit = 4\n'


@pytest.fixture
def gone(small: Path, tmp_path: Path) -> Planned:
    """A study that was finished on a machine from which only the folder of results is left."""
    made = finished(small, tmp_path / "runs")
    write_results(made)
    shutil.rmtree(made.places.runs)
    return made


def again(gone: Planned, **other: Any) -> Planned:
    return planned(gone.places.out, runs=gone.places.runs, **other)


def files(made: Planned) -> dict[str, bytes]:
    found = [file for file in made.places.out.rglob("*") if file.is_file()]
    return {str(file.relative_to(made.places.out)): file.read_bytes() for file in found}


def seeds_of(results: Mapping[str, Any], evaluation: str = "test") -> dict[str, list[int]]:
    return {c["name"]: c["evaluations"][evaluation]["seeds"] for c in results["cells"] if evaluation in c["evaluations"]}


def as_before_there_were_bits(made: Planned) -> None:
    results = read_results(made.places.results)
    for cell in results["cells"]:
        for one in cell["evaluations"]["test"]["each"]:
            del one["right"]
    made.places.results.write_text(json.dumps(results), encoding="utf-8")


def job_of(made: Planned, name: str):
    return next(job for job in made.every if job.name == name)


def test_without_runs_everything_is_as_it_was(gone: Planned):
    before = files(gone)
    results = write_results(again(gone)).results
    assert files(gone) == before
    assert results["missing"] == []


def test_a_run_that_is_done_again_takes_the_place_of_what_was_kept(gone: Planned):
    before = read_results(gone.places.results)
    finish(job_of(gone, "codi-1-2"), 7)
    results = write_results(again(gone)).results
    assert seeds_of(results) == seeds_of(before)
    (pair,) = results["contrasts"]
    assert [one["difference"] for one in pair["seeds"]] == [(1 - 4) / 8, (7 - 6) / 8]
    first, second = pair["seeds"]
    assert first == before["contrasts"][0]["seeds"][0]
    assert (second["only_a"], second["only_b"]) == (0, 1), "one side from its run, the other from the bits that were kept"
    assert second["p"] == 1.0


def test_a_run_that_is_not_finished_yet_takes_no_place(gone: Planned):
    before = files(gone)
    finish(job_of(gone, "codi-1-1"), 8, trained=False)
    finish(job_of(gone, "codi-1-2"), None)
    write_results(again(gone))
    assert files(gone) == before


def test_part_of_a_study_changes_nothing_of_the_rest(gone: Planned, tmp_path: Path):
    """The case it is for: --only in a fresh clone."""
    made = again(gone, only=["method=coconut", "latents=2", "seed=2"])
    for job in made.chosen:
        finish(job, RIGHT[job.name])
    before = read_results(gone.places.results)
    results = write_results(made).results
    assert (results["cells"], results["contrasts"]) == (before["cells"], before["contrasts"])


def test_what_was_not_finished_there_is_missing_here_too(small: Path, tmp_path: Path):
    made = planned(small, runs=tmp_path / "runs")
    finish(job_of(made, "coconut-1-1"), 4)
    write_results(made, {"codi-1-1": "no memory"})
    shutil.rmtree(made.places.runs)
    results = write_results(planned(small, runs=made.places.runs)).results
    assert results["missing"] == ["coconut-2-1", "codi-1-1", "coconut-1-2", "coconut-2-2", "codi-1-2"]
    assert seeds_of(results) == {"coconut-1": [1]}


def test_results_from_before_the_bits_keep_their_tests(gone: Planned):
    before = read_results(gone.places.results)["contrasts"]
    as_before_there_were_bits(gone)
    for _ in range(2):  # and still after they have been written again
        assert write_results(again(gone)).results["contrasts"] == before
    finish(job_of(gone, "codi-1-2"), 7)
    (pair,) = write_results(again(gone)).results["contrasts"]
    assert pair["seeds"][0] == before[0]["seeds"][0]
    assert pair["seeds"][1] == {"seed": 2, "difference": (7 - 6) / 8, "problems": "not kept one by one"}


def test_a_changed_run_or_evaluation_is_another_one(small: Path, gone: Planned):
    changed(small, 'set = { method = { latents = "{latents}" } }', 'set = { "train.lr" = 0.5, method = { latents = 1 } }')
    results = write_results(again(gone)).results
    assert seeds_of(results) == {"coconut-1": [1, 2], "coconut-2": [1, 2]}
    assert results["missing"] == ["codi-1-1", "codi-1-2"]
    changed(small, 'name = "test"', 'name = "test"\nlimit = 5')
    assert write_results(again(gone)).results["cells"] == []


def test_a_new_evaluation_leaves_the_old_one_there(small: Path, gone: Planned):
    before = read_results(gone.places.results)
    (small / "study.toml").write_text((small / "study.toml").read_text() + SECOND, encoding="utf-8")
    for _ in range(2):
        results = write_results(again(gone)).results
        assert seeds_of(results) == seeds_of(before)
        assert seeds_of(results, "short") == {}
        assert (len(results["missing"]), results["runs"]) == (6, before["runs"])


def test_a_renamed_evaluation_is_the_same(small: Path, gone: Planned):
    before = read_results(gone.places.results)
    changed(small, 'name = "test"', 'name = "all problems"')
    assert seeds_of(write_results(again(gone)).results, "all problems") == seeds_of(before)


def test_only_what_is_missing_can_be_asked_for(small: Path, gone: Planned):
    changed(small, "seeds = [1, 2]", "seeds = [1, 2, 3]")
    assert len(again(gone).chosen) == 9, "else everything is done again, as on a machine that reproduces it"
    assert [job.seed for job in again(gone, missing=True).chosen] == [3, 3, 3]
    assert [job.name for job in again(gone, missing=True, only=["method=codi"]).chosen] == ["codi-1-3"]
    with pytest.raises(ConfigError, match=r"--missing leaves no run: .*results\.json has all 6"):
        again(gone, missing=True, only=["seed=1"])


def test_missing_runs_bring_what_they_start_from(small: Path, tmp_path: Path):
    start = '[[prepare]]\nname = "start"\nconfig = "tiny/cot"\n\n[[runs]]\nset = { "backbone.path" = "run:start", '
    changed(small, "[[runs]]\nset = { ", start)
    made = planned(small, runs=tmp_path / "runs")
    for job in made.every:
        finish(job, RIGHT.get(job.name), trained=True)
    write_results(made)
    shutil.rmtree(made.places.runs)
    assert again(made).kept == {job.name for job in made.every}
    changed(small, "seeds = [1, 2]", "seeds = [1, 2, 3]")
    names = [job.name for job in again(made, missing=True, only=["method=codi"]).chosen]
    assert names == ["start", "codi-1-3"]


def test_damaged_results_are_told_before_anything_is_done_and_stay(gone: Planned):
    file = gone.places.results
    whole = file.read_bytes()
    for broken in (
        whole[: len(whole) // 2], b"", b"[]", b'{"a": 1}',
        b'{"format": "unspoken study 1"}', b'{"format": "unspoken study 7"}',
        whole.replace(b'"seeds"', b'"seed"'), whole.replace(b'"cells": [', b'"cells": [3, '),
    ):  # fmt: skip
        file.write_bytes(broken)
        with pytest.raises(DataError, match=r"results\.json"):
            again(gone)
        with pytest.raises(DataError, match=r"results\.json"):
            write_results(gone)
        assert file.read_bytes() == broken


def test_the_command(gone: Planned):
    where = ("--runs", gone.places.runs)
    code, out, _ = said("study", gone.places.out, *where, "--plan", "--only", "method=codi")
    assert (code, "2 of them have results already, from runs that are not here; --missing leaves them out" in out) == (
        0,
        True,
    )
    code, _, err = said("study", gone.places.out, *where, "--missing")
    assert (code, "--missing leaves no run" in err) == (2, True)
    code, out, _ = said("study", gone.places.out, *where, "--tables")
    assert (code, "not finished" in out) == (0, False)
    code, out, _ = said("study", gone.places.out, *where, "--verify")
    assert code == 1, "what is not here cannot be held against its card"


def test_bits_of_any_number_of_problems(small: Path, tmp_path: Path):
    made = planned(small, runs=tmp_path / "runs")
    outcomes = {"coconut-1": [False] * 9 + [True, False, True, False], "codi-1": [True] + [False] * 12}
    for job in made.every:
        finish(job, None)
        if job.cell in outcomes:
            report(outcomes[job.cell]).save(JobPlaces(job.folder).report(job.evaluations[0]))
    first = write_results(made).results
    assert [c["evaluations"]["test"]["each"][0]["right"] for c in first["cells"]] == ["000a", "1000"]
    (pair,) = first["contrasts"]
    assert [(one["only_a"], one["only_b"]) for one in pair["seeds"]] == [(2, 1)] * 2
