"""`evaluate` on a model without weights: what the model sees, what is counted, what is kept."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.fakes.evaluation import FakeModel, FakeTask, problem, record, report

from unspoken.core import provenance as described
from unspoken.core.files import write_text
from unspoken.core.provenance import provenance
from unspoken.errors import ConfigError, DataError, RunError
from unspoken.evaluation.evaluator import evaluate
from unspoken.evaluation.records import EvalReport, same_step
from unspoken.evaluation.resume import PartialReport
from unspoken.evaluation.statistics import Rate, wilson


def say(i: int, question: str) -> tuple[str, dict[str, Any]]:
    """Right, right only by the flexible rule, wrong, cut off; then the same again."""
    kind = i % 4
    text = [f"### {2 * i}", f"so it is {2 * i}", "### 999", "1 2 3"][kind]
    return text, {"passes": 4 + kind, "positions": 10 * kind, "latents": kind, "finished": kind != 3}


def test_the_model_sees_questions_only() -> None:
    model = FakeModel(say)
    evaluate(model, FakeTask(6), latents=2, batch_size=3, temperature=0.5, seed=9)
    (call,) = model.calls
    assert call == {
        "questions": [f"What is {i} + {i}?" for i in range(6)],
        "names": [f"test-{i}" for i in range(6)],
        "latents": 2,
        "batch_size": 3,
        "explain": False,
        "temperature": 0.5,
        "seed": 9,
    }


def test_figures_come_from_the_answers() -> None:
    result = evaluate(FakeModel(say), FakeTask(4))
    assert result.n == 4
    assert result.accuracy == Rate(correct=1, n=4)
    assert result.accuracy.interval == wilson(1, 4)
    assert result.flexible == Rate(correct=2, n=4)
    assert result.finished == Rate(correct=3, n=4)
    assert result.mean_latents == 1.5
    assert result.mean_passes == 5.5
    assert result.mean_positions == 15
    assert result.mean_visible_tokens == (2 + 2 + 2 + 3) / 4  # eos is not counted; the last one never reached it
    assert result.loop_seconds == 2.0
    assert result.ms_per_question == 1000 * result.seconds / 4
    assert result.by_steps == {1: Rate(correct=1, n=2), 2: Rate(correct=0, n=1), 3: Rate(correct=0, n=1)}
    assert result.step_accuracy is None
    assert not result.explained
    assert [r.extracted for r in result.records] == ["0", "2", "999", "3"]
    assert result.records[2].steps == problem(2).steps


def test_limit_takes_the_first() -> None:
    result = evaluate(FakeModel(say), FakeTask(9), limit=2)
    assert [r.id for r in result.records] == ["test-0", "test-1"]
    assert result.limit == 2
    assert result.fingerprint == FakeTask(9).fingerprint("test")


def test_provenance_is_kept() -> None:
    result = evaluate(FakeModel(say), FakeTask(1), temperature=0.5)
    assert result.task == {"name": "fake", "size": 1}
    assert result.speaking == {"temperature": 0.5}
    assert result.model == {"path": None, "method": None, "dtype": None, "device": None}
    assert set(result.environment) == set(provenance())


def test_step_accuracy_pairs_groups_with_steps() -> None:
    first, second = problem(2).steps, problem(5).steps  # three steps each
    records = (
        record(2, True, steps=first, thoughts=(first[0], "<<2 + 1 =3>>", "<<0>>", "surplus")),  # right, right, wrong
        record(5, False, steps=second, thoughts=("<<0>>", second[1])),  # wrong, right; no group for the third
        record(3, False, steps=(), thoughts=("<<0>>",)),  # no true step: not counted
    )
    steps = report([], records=records).step_accuracy
    assert steps is not None
    assert steps.overall == Rate(correct=3, n=5)
    assert steps.correct_only == Rate(correct=2, n=3)
    assert steps.by_index == (Rate(correct=1, n=2), Rate(correct=2, n=2), Rate(correct=0, n=1))
    assert steps.by_index_correct_only == (Rate(correct=1, n=1), Rate(correct=1, n=1), Rate(correct=0, n=1))


def test_step_accuracy_without_any_right_answer_is_reported() -> None:
    made = report([], records=(record(1, False, thoughts=problem(1).steps),))
    assert made.summary()["step_accuracy"]["correct_only"] == {"correct": 0, "n": 0, "value": None}
    json.loads(made.to_json())


def test_same_step_ignores_white_space_only() -> None:
    assert same_step("<<1 + 2=\n3>>", "<<1+2=3>>")
    assert not same_step("<<1+2=3>>", "<<1+2=4>>")


def test_progress_counts_finished_batches() -> None:
    seen: list[tuple[int, int]] = []
    evaluate(FakeModel(say), FakeTask(7), batch_size=3, progress=lambda *p: seen.append(p))
    assert seen == [(0, 7), (3, 7), (6, 7), (7, 7)]


def test_file_round_trip(tmp_path: Path) -> None:
    explained = FakeModel(lambda i, q: (f"### {2 * i}", {"thoughts": ("a \ud83d", "“b”\n")}))
    made = evaluate(explained, FakeTask(3), explain=True)
    path = tmp_path / "new" / "report.json"
    made.save(path)
    again = EvalReport.from_json(path)
    assert again == made
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["summary"]["accuracy"] == {"correct": 3, "n": 3, "value": 1.0, "interval": list(wilson(3, 3))}
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]


def test_a_setting_without_a_json_form_does_not_cost_the_report(tmp_path: Path) -> None:
    made = report([True], task={"name": "files", "test": Path("a.jsonl")})
    made.save(tmp_path / "r.json")
    assert EvalReport.from_json(tmp_path / "r.json").task["test"] == "a.jsonl"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read the report"),
        ('{"format": 1, "rec', "not a report, or cut off"),
        ("\x80", "not a report, or cut off|expected a report"),
        ("[]", "expected a report of format 1, got list"),
        ('{"format": 7}', "expected a report of format 1, got format 7"),
        ('{"format": 1}', "field 'task' of EvalReport is missing"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "r.json"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(RunError, match=message):
        EvalReport.from_json(path)


def test_a_report_without_records_is_refused(tmp_path: Path) -> None:
    data = json.loads(report([True]).to_json())
    (tmp_path / "r.json").write_text(json.dumps({**data, "records": []}))
    with pytest.raises(RunError, match="has no records"):
        EvalReport.from_json(tmp_path / "r.json")


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    path = tmp_path / "report.json"
    report([True]).save(path)
    before = path.read_bytes()

    def fail(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(RunError, match=r"cannot write .*report\.json: No space left on device; .*free some space"):
        report([False]).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_an_impossible_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_text(tmp_path / "file" / "r.json", "text")


@pytest.mark.parametrize(
    ("task", "options", "error", "message"),
    [
        (FakeTask(2), {"limit": 0}, ConfigError, "limit must be at least 1, or None for the whole split, got 0"),
        (FakeTask(2), {"batch_size": 0}, ConfigError, "batch_size must be at least 1, got 0"),
        (FakeTask(2), {"samples": 0}, ConfigError, "chains and samples must be at least 1, got chains=1 and samples=0"),
        (FakeTask(2), {"split": "train"}, DataError, "the train split has no examples"),
        (FakeTask(examples=[problem(1), problem(1)]), {}, DataError, "two examples of the test split have the id 'test-1'"),
    ],
)
def test_errors_come_before_any_work(task: FakeTask, options: dict[str, Any], error: type[Exception], message: str) -> None:
    model = FakeModel(say)
    with pytest.raises(error, match=message):
        evaluate(model, task, **options)
    assert not model.calls


def test_edited_latents_are_not_kept_as_plain_answers(tmp_path: Path) -> None:
    """Settings of a partial report say nothing of an edit, so it would go on with the other's answers."""
    keep = PartialReport(tmp_path / "report.json")
    with pytest.raises(ConfigError, match="edited or observed latents need an evaluation in one go"):
        evaluate(FakeModel(say), FakeTask(), keep=keep, edit=lambda latents_ND, keys_N, index_N: latents_ND)


def test_provenance_never_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    json.dumps(provenance())
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: (_ for _ in ()).throw(FileNotFoundError("git")))
    monkeypatch.setattr(described, "_checkout", described._checkout.__wrapped__)  # it remembers what it was told
    monkeypatch.setitem(sys.modules, "torch", None)
    seen = provenance()
    assert (seen["commit"], seen["changed"], seen["threads"], seen["gpu"]) == (None, None, None, [])
    assert seen["versions"]["unspoken"]


def test_reading_reports_loads_no_torch() -> None:
    code = (
        "import sys, unspoken.pages.runs, unspoken.evaluation.tables, unspoken.core.provenance\n"
        "sys.exit(', '.join(m for m in ('torch', 'transformers', 'matplotlib', 'pandas') if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
