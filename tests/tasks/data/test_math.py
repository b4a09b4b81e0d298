"""MATH: rows, subjects and levels, answers in LaTeX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unspoken.errors import ConfigError
from unspoken.tasks import SPLITS, make_task


def row(number: int, level: object = "Level 2", subject: str = "Algebra", **more: Any) -> dict[str, Any]:
    solution = f"We halve it. So $x = {number}/2$.\n\nThe answer is $\\boxed{{\\frac{{{number}}}{{2}}}}$."
    return {"problem": f"Half of {number}?", "solution": solution, "level": level, "subject": subject, **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    train = [*(row(i) for i in range(1, 41, 2)), row(99, 5, "Geometry", answer="49.5"), row(7, "Level ?")]
    for name, rows in (("train", train), ("test", [row(3, 3, unique_id="test/algebra/1.json"), row(101)])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return tmp_path


def math(folder: Path, **fields: Any) -> Any:
    return make_task({"name": "math", "root": str(folder), "validation_fraction": 0.2, **fields})


def test_rows(folder: Path) -> None:
    task = math(folder)
    first = task.examples("test")[0]
    assert (first.question, first.answer) == ("Half of 3?", "\\frac{3}{2}")
    assert first.steps[0] == "We halve it."
    assert first.meta == {"level": 3, "subject": "Algebra", "unique_id": "test/algebra/1.json"}
    both = [*task.examples("train"), *task.examples("validation")]
    assert len(both) == 21, "the problem that is in test is dropped; the second 'Half of 7?' stays"
    assert task.score(first, "so $\\boxed{\\dfrac32}$").strict
    assert task.score(first, "#### 3/2").strict
    assert not task.score(first, "#### 1").flexible
    plain = folder / "plain.jsonl"
    plain.write_text(json.dumps({"question": "Half of 3?", "steps": ["3/2"], "answer": "\\frac{3}{2}"}) + "\n")
    files = make_task({"name": "files", "test": str(plain), "answer": task.answers})
    assert files.score(files.examples("test")[0], "\\boxed{\\dfrac32}").strict
    assert math(folder, steps="latex").examples("test")[0].steps == ("$x = 3/2$",)


def test_subjects_and_levels(folder: Path) -> None:
    assert [e.answer for e in math(folder, subjects=["Geometry"], validation_fraction=0).examples("train")] == ["49.5"]
    assert len(math(folder, levels=[2], validation_fraction=0).examples("train")) == 20
    assert math(folder, levels=[5]).examples("test") == []
    with pytest.raises(ConfigError, match=r"no subject 'Geomtry'; did you mean 'Geometry'"):
        math(folder, subjects=["Geomtry"])
    with pytest.raises(ConfigError, match="'levels' must be of 1 to 5, got 6"):
        math(folder, levels=[6])


def test_real_rows(shared_data: Path) -> None:
    if not (shared_data / "math").is_dir():
        pytest.skip("no rows of MATH")
    task = math(shared_data / "math")
    train, validation, test = (task.examples(split) for split in SPLITS)
    assert (len(train) + len(validation), len(test)) == (3682, 400)
    assert all(e.steps and e.meta["level"] for e in test)
    assert all(task.score(e, f"\\boxed{{{e.answer}}}").strict for e in test)
