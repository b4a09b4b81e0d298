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
from support.small_study import RIGHT, SMALL, changed, finish, finished

from unspoken.errors import RunError
from unspoken.studies.places import JobPlaces
from unspoken.studies.plan import Job
from unspoken.studies.record import RunRecord, record_file
from unspoken.studies.report import tables
from unspoken.studies.results import read_results
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


def written(gone: Planned) -> Mapping[str, Any]:
    return write_results(again(gone)).results


def files(made: Planned) -> dict[str, bytes]:
    found = [file for file in made.places.out.rglob("*") if file.is_file()]
    return {str(file.relative_to(made.places.out)): file.read_bytes() for file in found}


def seeds_of(results: Mapping[str, Any], evaluation: str = "test") -> dict[str, list[int]]:
    return {c["name"]: c["evaluations"][evaluation]["seeds"] for c in results["cells"] if evaluation in c["evaluations"]}


def correct(results: Mapping[str, Any], cell: str, seed: int, evaluation: str = "test") -> int:
    (told,) = [c["evaluations"][evaluation] for c in results["cells"] if c["name"] == cell]
    return told["each"][told["seeds"].index(seed)]["correct"]


def job_of(made: Planned, name: str) -> Job:
    return next(job for job in made.every if job.name == name)


def answers(job: Job, right: int, evaluation: int) -> None:
    places = JobPlaces(job.folder)
    report([k < right for k in range(8)]).save(places.report(job.evaluations[evaluation]))


def without_bits(made: Planned) -> None:
    """Records of which it is not known which problems were right; their tests are kept instead."""
    results = read_results(made.places.results)
    for job in made.every:
        file = record_file(made.places, job)
        data = json.loads(file.read_text())
        data["id"] = job.name
        for asked in data["asked"]:
            asked["right"] = None
            for pair in results["contrasts"]:
                for test in pair["seeds"]:
                    if (pair["a"], test["seed"]) == (job.cell, job.seed):
                        asked["tests"][f"{pair['b']}-{test['seed']}"] = {
                            k: test[k] for k in ("only_a", "only_b", "interval", "p")
                        }
        file.write_text(json.dumps(data))


def test_without_runs_everything_is_as_it_was(gone: Planned):
    before = files(gone)
    assert written(gone)["missing"] == []
    assert files(gone) == before


def test_a_run_that_is_done_again_takes_the_place_of_the_old_one(gone: Planned):
    before = read_results(gone.places.results)
    finish(job_of(gone, "codi-1-2"), 7, name="another")
    results = written(gone)
    assert seeds_of(results) == seeds_of(before)
    (pair,) = results["contrasts"]
    assert [one["difference"] for one in pair["seeds"]] == [(1 - 4) / 8, (7 - 6) / 8]
    first, second = pair["seeds"]
    assert first == before["contrasts"][0]["seeds"][0]
    assert (second["only_a"], second["only_b"]) == (0, 1), "one side from its run, the other from bits"
    assert second["p"] == 1.0
    assert RunRecord.from_json(record_file(gone.places, job_of(gone, "codi-1-2"))).id == "another"


def test_a_run_that_is_not_finished_yet_takes_no_place(gone: Planned):
    before = files(gone)
    finish(job_of(gone, "codi-1-1"), 8, trained=False, name="another")
    finish(job_of(gone, "codi-1-2"), None, name="another")
    written(gone)
    assert files(gone) == before


@pytest.mark.parametrize("here", [None, 7])
def test_nor_does_it_where_the_old_one_lacks_a_new_evaluation(small: Path, gone: Planned, here: int | None):
    add(small, SECOND)
    before = written(gone)
    finish(job_of(again(gone), "codi-1-2"), here, name="another")  # its second evaluation is missing too
    after = written(gone)
    assert (after["cells"], after["runs"]) == (before["cells"], before["runs"])
    assert "codi-1-2" in after["missing"]


def add(small: Path, text: str) -> None:
    file = small / "study.toml"
    file.write_text(file.read_text(encoding="utf-8") + text, encoding="utf-8")


def test_a_run_here_is_followed_from_look_to_look(small: Path, tmp_path: Path):
    add(small, SECOND)
    made = planned(small, runs=tmp_path / "runs")
    job = job_of(made, "codi-1-1")
    finish(job, 3)
    results = write_results(made).results
    assert (correct(results, "codi-1", 1), seeds_of(results, "short")) == (3, {})
    assert "codi-1-1" in results["missing"]
    answers(job, 2, 1)
    results = write_results(made).results
    assert (correct(results, "codi-1", 1), correct(results, "codi-1", 1, "short")) == (3, 2)
    assert "codi-1-1" not in results["missing"]
    JobPlaces(job.folder).report(job.evaluations[0]).unlink()
    assert write_results(made).results["cells"] == results["cells"], "what was known of this run stays known"


@pytest.mark.parametrize("file", ["metrics.jsonl", "costs.json"])
def test_a_run_whose_files_are_gone_keeps_what_was_known(small: Path, tmp_path: Path, file: str):
    made = finished(small, tmp_path / "runs")
    before = write_results(made).results
    (job_of(made, "codi-1-1").folder / file).unlink()
    after = write_results(made).results
    assert (after["runs"], after["missing"]) == (before["runs"], [])


def test_operations_that_were_not_counted_are_missing(small: Path, tmp_path: Path):
    made = finished(small, tmp_path / "runs")
    JobPlaces(job_of(made, "codi-1-1").folder).costs.unlink()
    assert write_results(made).results["missing"] == ["codi-1-1"]
    assert [job.name for job in planned(small, runs=tmp_path / "empty", missing=True).chosen] == ["codi-1-1"]


def test_a_record_that_says_more_than_the_new_run_is_kept_beside(small: Path, gone: Planned):
    text = (small / "study.toml").read_text()
    add(small, SECOND)
    job = job_of(again(gone), "codi-1-2")
    finish(job, 2)
    answers(job, 1, 1)
    assert correct(written(gone), "codi-1", 2, "short") == 1
    shutil.rmtree(gone.places.runs)
    (small / "study.toml").write_text(text)
    finish(job_of(gone, "codi-1-2"), 7, name="another")
    assert correct(written(gone), "codi-1", 2) == 7
    (file,) = (gone.places.records / "replaced").iterdir()
    assert [asked.name for asked in RunRecord.from_json(file).asked] == ["test", "short"]


def test_a_run_that_was_never_asked_hides_no_other(gone: Planned, small: Path):
    add(small, SECOND)
    job = job_of(again(gone), "codi-1-1")
    record_file(gone.places, job).unlink()
    finish(job, None, name="trained")
    written(gone)
    shutil.rmtree(job.folder)
    finish(job, 3, name="another")
    assert correct(written(gone), "codi-1", 1) == 3


def test_part_of_a_study_changes_nothing_of_the_rest(gone: Planned):
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


def test_a_failure_of_today_does_not_hide_what_is_known(gone: Planned):
    before = files(gone)
    results = write_results(again(gone), {"codi-1-1": "no memory"}).results
    assert (results["failed"], results["missing"], files(gone)) == ({}, [], before)


BACK = {
    "a seed": ("seeds = [1, 2]", "seeds = [1]"),
    "a value": ("latents = [1, 2]\n\n[[exclude]]\nmethod = \"codi\"\nlatents = 2\n", "latents = [1]\n"),
    "an evaluation": ('name = "test"', 'name = "test"\nlimit = 5'),
    "a config": ('"train.steps" = 4', '"train.steps" = 5'),
}  # fmt: skip


@pytest.mark.parametrize("what", BACK)
def test_a_change_that_is_taken_back_loses_nothing(small: Path, gone: Planned, what: str):
    before, text = files(gone), (small / "study.toml").read_text()
    changed(small, *BACK[what])
    assert seeds_of(written(gone)) != seeds_of(json.loads(before["results.json"]))
    (small / "study.toml").write_text(text)
    written(gone)
    assert files(gone) == before


def test_reordered_factors_keep_their_runs(small: Path, gone: Planned):
    before = read_results(gone.places.results)
    method, latents = 'method = ["coconut", "codi"]\n', "latents = [1, 2]\n"
    changed(small, method + latents, latents + method)
    results = written(gone)
    assert results["missing"] == []
    assert {c["name"] for c in results["cells"]} == {"1-coconut", "2-coconut", "1-codi"}
    assert correct(results, "1-codi", 2) == correct(before, "codi-1", 2)


def test_another_study_in_the_same_folder_takes_nothing_away(gone: Planned, tmp_path: Path):
    before = files(gone)
    (tmp_path / "other.toml").write_text(SMALL.replace('"train.steps" = 4', '"train.steps" = 5'), encoding="utf-8")
    other = planned(tmp_path / "other.toml", out=gone.places.out, runs=gone.places.runs)
    assert write_results(other).results["cells"] == []
    written(gone)
    assert files(gone) == before | {"study.toml": (gone.places.out / "study.toml").read_bytes()}


def test_an_evaluation_that_comes_and_goes_leaves_the_runs_whole(small: Path, gone: Planned):
    before, text = read_results(gone.places.results), (small / "study.toml").read_text()
    add(small, SECOND)
    for _ in range(2):
        results = written(gone)
        assert (seeds_of(results), seeds_of(results, "short")) == (seeds_of(before), {})
        assert (len(results["missing"]), results["runs"]) == (6, before["runs"])
    (small / "study.toml").write_text(text)
    assert written(gone)["missing"] == []


def test_a_renamed_evaluation_is_the_same(small: Path, gone: Planned):
    before = read_results(gone.places.results)
    changed(small, 'name = "test"', 'name = "all problems"')
    assert seeds_of(written(gone), "all problems") == seeds_of(before)


def test_tests_outlive_the_bits(gone: Planned):
    before = read_results(gone.places.results)["contrasts"]
    without_bits(gone)
    for _ in range(2):
        assert written(gone)["contrasts"] == before
    finish(job_of(gone, "codi-1-2"), 7, name="another")
    results = written(gone)
    (pair,) = results["contrasts"]
    assert pair["seeds"][0] == before[0]["seeds"][0]
    assert pair["seeds"][1] == {"seed": 2, "difference": (7 - 6) / 8, "problems": "not known one by one"}
    (_, table) = tables(results)["test"]
    assert table.rows[0][-1] == "0.25, –", "which seed has which"


def test_tests_are_found_from_either_side(small: Path, gone: Planned):
    (pair,) = read_results(gone.places.results)["contrasts"]
    without_bits(gone)
    add(small, '\n[[contrasts]]\na = { method = "codi" }\nb = { method = "coconut" }\n')
    (turned,) = written(gone)["contrasts"]
    assert (turned["a"], turned["b"]) == (pair["b"], pair["a"])
    for one, other in zip(turned["seeds"], pair["seeds"], strict=True):
        assert (one["only_a"], one["only_b"], one["p"]) == (other["only_b"], other["only_a"], other["p"])
        assert one["interval"] == [-other["interval"][1], -other["interval"][0]]


def test_only_what_is_missing_can_be_asked_for(small: Path, gone: Planned):
    changed(small, "seeds = [1, 2]", "seeds = [1, 2, 3]")
    assert len(again(gone).chosen) == 9, "else everything is done again, as on a machine that reproduces it"
    assert [job.seed for job in again(gone, missing=True).chosen] == [3, 3, 3]
    assert [job.name for job in again(gone, missing=True, only=["method=codi"]).chosen] == ["codi-1-3"]
    assert again(gone, missing=True, only=["seed=1"]).chosen == []


def test_missing_runs_bring_what_they_start_from(small: Path, tmp_path: Path):
    start = '[[prepare]]\nname = "start"\nconfig = "tiny/cot"\n\n[[runs]]\nset = { "backbone.path" = "run:start", '
    changed(small, "[[runs]]\nset = { ", start)
    made = planned(small, runs=tmp_path / "runs")
    for job in made.every:
        finish(job, RIGHT.get(job.name))
    write_results(made)
    shutil.rmtree(made.places.runs)
    assert again(made).known == {job.name for job in made.every}
    changed(small, "seeds = [1, 2]", "seeds = [1, 2, 3]")
    names = [job.name for job in again(made, missing=True, only=["method=codi"]).chosen]
    assert names == ["start", "codi-1-3"]
    code, out, _ = said("study", small, "--runs", made.places.runs, "--plan", "--missing", "--only", "method=codi")
    assert (code, "results already" in out) == (0, False)


def test_a_run_that_starts_from_one_that_starts_from_another(small: Path, tmp_path: Path):
    """All three are chosen, in their order; and a start that nothing needs is not missed."""
    changed(small, "[[runs]]\nset = {", '[[prepare]]\nname = "start"\nconfig = "tiny/cot"\n\n[[runs]]\nset = {')
    changed(small, 'config = "tiny/coconut"\nset = {', 'config = "tiny/coconut"\nset = { "backbone.path" = "run:start",')
    changed(small, 'config = "tiny/codi"\nset = {', 'config = "tiny/codi"\nset = { "backbone.path" = "run:coconut-1",')
    made = planned(small, runs=tmp_path / "runs", only=["method=codi", "seed=1"])
    assert [job.name for job in made.chosen] == ["start", "coconut-1-1", "codi-1-1"]
    for job in made.every:
        if job.cell:
            finish(job, RIGHT[job.name])
    assert write_results(made).results["missing"] == []


BROKEN = {
    "cut off": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "another format": lambda text: text.replace("study run 1", "study run 7"),
    "no number of problems": lambda text: text.replace('"n": 8', '"m": 8'),
    "a number as text": lambda text: text.replace('"n": 8', '"n": "8"'),
    "more right than asked": lambda text: text.replace('"correct": 1,', '"correct": 9,'),
    "other bits": lambda text: text.replace('"right": "80"', '"right": "c0"'),
    "too many bits": lambda text: text.replace('"right": "80"', '"right": "800"'),
    "signed bits": lambda text: text.replace('"right": "80"', '"right": "-0"'),
    "no bits": lambda text: text.replace('"right": "80"', '"right": "zz"'),
    "no accuracy": lambda text: text.replace('"accuracy": {', '"accurate": {'),
    "no updates": lambda text: text.replace('"updates"', '"up"'),
}  # fmt: skip


@pytest.mark.parametrize("how", BROKEN)
def test_a_damaged_record_is_told_before_anything_is_done_and_stays(gone: Planned, how: str):
    file = record_file(gone.places, job_of(gone, "codi-1-1"))
    whole = file.read_text(encoding="utf-8")
    broken = BROKEN[how](whole)
    assert broken != whole
    file.write_text(broken, encoding="utf-8")
    before = files(gone)
    for do in (lambda: again(gone), lambda: write_results(gone)):
        with pytest.raises(RunError, match=rf"{file.name}.*or delete it to do the run again"):
            do()
    assert files(gone) == before


def test_damaged_results_are_made_anew_from_the_records(gone: Planned):
    before = files(gone)
    for broken in (b"", b"<<<<<<< HEAD\n"):
        gone.places.results.write_bytes(broken)
        written(gone)
        assert files(gone) == before


def test_the_command(small: Path, gone: Planned):
    where = ("--runs", gone.places.runs)
    code, out, _ = said("study", gone.places.out, *where, "--plan", "--only", "method=codi")
    assert code == 0
    assert "2 of them have results already, of runs that are not here; --missing leaves them out" in out
    for option in ("--tables", "--verify"):
        code, _, err = said("study", gone.places.out, *where, "--missing", option)
        assert (code, "--missing chooses what is run" in err) == (2, True)
    before = files(gone)
    code, out, _ = said("study", gone.places.out, *where, "--missing")
    assert (code, "0 runs in" in out, files(gone)) == (0, True, before)
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
    (pair,) = write_results(made).results["contrasts"]
    assert [(one["only_a"], one["only_b"]) for one in pair["seeds"]] == [(2, 1)] * 2
    kept = {job.cell: RunRecord.from_json(record_file(made.places, job)).asked for job in made.every}
    assert [asked.right for cell in outcomes for asked in kept[cell]] == ["000a", "1000"]
    assert [asked.outcomes() for cell in outcomes for asked in kept[cell]] == list(outcomes.values())


def test_times_are_of_the_machines_on_which_they_were_taken(gone: Planned):
    file = record_file(gone.places, job_of(gone, "codi-1-1"))
    data = json.loads(file.read_text())
    data["environment"]["cpu"] = "Abacus"
    file.write_text(json.dumps(data))
    results = written(gone)
    assert "Abacus" in results["hardware"]
    assert "on Abacus" in tables(results)["training"][0].markdown()
