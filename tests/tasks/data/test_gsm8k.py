"""GSM8K and GSM8K-Aug: folders, the environment variable, the hub (a stand-in), and no leaks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unspoken.core.config import build, dump
from unspoken.errors import ConfigError, DataError
from unspoken.tasks import SPLITS, Task, make_task
from unspoken.tasks.data.gsm8k import Gsm8k, Gsm8kAug, Gsm8kAugConfig, Gsm8kConfig
from unspoken.tasks.reading.rows import question_key
from unspoken.tasks.reading.source import DATA_VARIABLE


def icot(*names: str) -> str:
    return "".join(f"{name}?||<<1+1=2>> <<2+2=4>> #### 4\n" for name in names)


def write_aug(folder: Path, train: str = "a b c", validation: str = "v w", test: str = "t u") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train.txt", train), ("valid.txt", validation), ("test.txt", test)):
        (folder / name).write_text(icot(*rows.split()))
    return folder


def names(task: Task, split: Any) -> str:
    return " ".join(example.question.removesuffix("?") for example in task.examples(split))


def aug(root: Path, **fields: Any) -> Gsm8kAug:
    return Gsm8kAug(Gsm8kAugConfig(root=str(root), **fields))


# Real data


def test_gsm8k_counts(shared_data: Path) -> None:
    task: Any = make_task({"name": "gsm8k", "root": str(shared_data / "gsm8k")})
    train, validation, test = (task.examples(split) for split in SPLITS)
    assert len(train) + len(validation) == 7473
    assert 300 < len(validation) < 450
    assert len(test) == 1119
    assert task.dropped == {"train": 0, "validation": 0, "test": 0}
    assert (train[0].question[:7], train[0].answer, train[0].id) == ("Natalia", "72", "train-0")
    assert train[0].steps == ("<<48/2=24>>", "<<48+24=72>>")
    assert sum(not e.steps for e in train + validation) == 95  # as the manifest says
    everything = [question_key(e.question) for e in train + validation + test]
    assert len(set(everything)) == len(everything)
    text = make_task({"name": "gsm8k", "root": str(shared_data / "gsm8k"), "steps": "lines"}).examples("train")
    assert text[0].steps[0] == "Natalia sold 48/2 = 24 clips in May."


def test_gsm8k_aug_counts(shared_data: Path) -> None:
    task: Any = make_task({"name": "gsm8k_aug", "root": str(shared_data / "gsm8k_aug")})
    assert [len(task.examples(split)) for split in SPLITS] == [16704, 500, 1119]
    assert task.dropped == {"train": 0, "validation": 0, "test": 0}
    first = task.examples("train")[0]
    assert first.steps == ("<<600*30/100=180>>", "<<600*10/100=60>>", "<<180+60=240>>", "<<600-240=360>>")
    assert first.answer == "360"
    assert task.score(first, "### 360").strict


def test_both_tasks_have_the_same_test_split(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(shared_data))
    assert make_task("gsm8k").fingerprint("test") == make_task("gsm8k_aug").fingerprint("test")


# Folders


def test_splits_limits_and_protocol(tmp_path: Path) -> None:
    task = aug(write_aug(tmp_path), limit_train=2, limit_test=1)
    assert isinstance(task, Task)
    assert (names(task, "train"), names(task, "validation"), names(task, "test")) == ("a b", "v w", "t")
    with pytest.raises(DataError, match=r"no split 'dev'; .*known: test, train, validation"):
        task.examples("dev")  # pyright: ignore[reportArgumentType]


def test_held_out_questions_are_dropped_before_the_limit(tmp_path: Path) -> None:
    task = aug(write_aug(tmp_path, train="T V a b", validation="v U w", test="t u"), limit_train=2)
    assert names(task, "train") == "a b"
    assert names(task, "validation") == "v w"
    assert names(task, "test") == "t u"
    assert task.dropped == {"train": 2, "validation": 1, "test": 0}


def test_gsm8k_drops_test_questions_too(tmp_path: Path) -> None:
    rows = [{"question": f"What is {i}?", "answer": f"<<{i}={i}>>{i}\n#### {i}"} for i in range(100)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows[:10])))
    task = Gsm8k(Gsm8kConfig(root=str(tmp_path), validation_fraction=0.2))
    train, validation = task.examples("train"), task.examples("validation")
    assert len(train) + len(validation) == 90
    assert task.dropped["train"] + task.dropped["validation"] == 10
    assert not {e.question for e in [*train, *validation]} & {row["question"] for row in rows[:10]}


def test_complete_files_are_preferred_to_parts(tmp_path: Path) -> None:
    write_aug(tmp_path)
    (tmp_path / "train.part.txt").write_text(icot("part"))
    rows = [{"question": "sample?", "steps": [""], "answer": "1", "idx": 0}]
    (tmp_path / "gsm_train_7500.json").write_text(json.dumps(rows))
    assert names(aug(tmp_path), "train") == "a b c"
    (tmp_path / "train.txt").unlink()
    assert names(aug(tmp_path), "train") == "part"
    (tmp_path / "train.part.txt").unlink()
    assert names(aug(tmp_path), "train") == "sample"
    assert aug(tmp_path).examples("train")[0].steps == ()


def test_folder_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder \(root of task 'gsm8k_aug'\)"):
        aug(tmp_path / "nowhere").examples("test")
    with pytest.raises(DataError, match=r"no test file for task 'gsm8k_aug'; expected test\.txt or gsm_test\.json"):
        aug(tmp_path).examples("test")
    write_aug(tmp_path)
    (tmp_path / "train.txt").write_text("no bars\n")
    with pytest.raises(DataError, match=r"train\.txt:1: no '\|\|'"):
        aug(tmp_path).examples("train")


def test_data_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: dict[Any, Any]) -> None:
    write_aug(tmp_path / "gsm8k_aug")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert names(Gsm8kAug(Gsm8kAugConfig()), "validation") == "v w"
    # No subfolder gsm8k: on to the hub.
    with pytest.raises(DataError, match=r"hub 'openai/gsm8k' could not be loaded"):
        Gsm8k(Gsm8kConfig()).examples("test")
    # root goes first.
    other = write_aug(tmp_path / "other", validation="x")
    assert names(aug(other), "validation") == "x"


# The hub


def test_hub_gsm8k(hub: dict[Any, Any]) -> None:
    rows = [{"question": f"What is {i}?", "answer": f"It is <<{i}={i}>>{i}.\n#### {i}"} for i in range(50)]
    hub["openai/gsm8k", "main"] = {"train": rows[5:], "test": rows[:5]}
    task = Gsm8k(Gsm8kConfig(validation_fraction=0.2))
    assert len(task.examples("train")) + len(task.examples("validation")) == 45
    assert (task.examples("test")[3].steps, task.examples("test")[3].answer) == (("<<3=3>>",), "3")


@pytest.mark.parametrize(
    "row",
    [
        {"question": "A?", "steps": ["<<1+1=2>>", "<<2+2=4>>"], "answer": "4"},
        {"question": "A?", "cot": "<<1+1=2>> <<2+2=4>>", "answer": "4"},
        {"question": "A?", "cot": "<<1+1=2>> <<2+2=4>>", "answer": "#### 4"},
    ],
)
def test_hub_gsm8k_aug_columns(hub: dict[Any, Any], row: dict[str, Any]) -> None:
    other = {"question": "B?", "cot": "<<1=1>>", "answer": "1"}
    hub["whynlp/gsm8k-aug", None] = {"train": [row, other], "validation": [other], "test": [other]}
    task = Gsm8kAug(Gsm8kAugConfig())
    (example,) = task.examples("train")
    assert (example.question, example.steps, example.answer) == ("A?", ("<<1+1=2>>", "<<2+2=4>>"), "4")
    assert task.dropped == {"test": 0, "validation": 1, "train": 1}


def test_hub_errors(hub: dict[Any, Any]) -> None:
    with pytest.raises(DataError) as caught:
        Gsm8kAug(Gsm8kAugConfig()).examples("train")
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "task 'gsm8k_aug' has no data",
        "hub 'whynlp/gsm8k-aug' could not be loaded (ConnectionError: Couldn't reach",
        "set root=FOLDER (or UNSPOKEN_DATA=FOLDER, with a subfolder gsm8k_aug)",
        "train: train.txt or gsm_train.json",
        "or set hub=NAME",
    ):
        assert part in message
    with pytest.raises(DataError, match=r"task 'gsm8k' has no data: root and hub are not set; either set root=FOLDER"):
        Gsm8k(Gsm8kConfig(hub=None)).examples("train")
    hub["x", None] = {"train": [], "test": [{"question": "B?", "answer": "1"}]}
    with pytest.raises(DataError, match=r"hub 'x' has no validation split; it has: train, test"):
        Gsm8kAug(Gsm8kAugConfig(hub="x")).examples("validation")
    hub["y", None] = {"validation": [{"question": "A?"}], "test": [{"question": "B?", "answer": "1"}]}
    with pytest.raises(DataError, match=r"y/validation: item 0: field 'answer' is missing"):
        Gsm8kAug(Gsm8kAugConfig(hub="y")).examples("validation")


# Configs


def test_configs_round_trip_and_reject() -> None:
    for config in (Gsm8kConfig(limit_test=5, steps="lines"), Gsm8kAugConfig(root="a", hub=None)):
        assert build(type(config), json.loads(json.dumps(dump(config)))) == config
    with pytest.raises(ConfigError, match=r"unknown field 'limit' of Gsm8kConfig; did you mean"):
        build(Gsm8kConfig, {"limit": 5})
    with pytest.raises(ConfigError, match=r"field 'limit_test' must be 1 or more"):
        Gsm8kAugConfig(limit_test=0)
    with pytest.raises(ConfigError, match=r"field 'validation_fraction' must be at least 0"):
        Gsm8kConfig(validation_fraction=-0.1)


def test_no_validation_when_the_fraction_is_zero(tmp_path: Path) -> None:
    row = json.dumps({"question": "A?", "answer": "#### 1"})
    (tmp_path / "train.jsonl").write_text(row)
    (tmp_path / "test.jsonl").write_text(row.replace("A?", "B?"))
    task = Gsm8k(Gsm8kConfig(root=str(tmp_path), validation_fraction=0))
    assert len(task.examples("train")) == 1
    with pytest.raises(DataError, match=r"no validation split of its own; set validation_fraction=0.05"):
        task.examples("validation")


def test_tasks_import_neither_torch_nor_datasets() -> None:
    code = (
        "import sys, unspoken.tasks.data.gsm8k, unspoken.tasks.reading.files\n"
        "assert not {'torch', 'datasets', 'transformers', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Other forms of GSM8K's rows

SOCRATIC = "How many in May? ** In May 48/2 = <<48/2=24>>24.\nHow many in all? ** In all 48+24 = <<48+24=72>>72.\n#### 72"


def test_the_socratic_form_has_files_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": "Plain?", "answer": "So.\n#### 1"}) + "\n")
    (tmp_path / "test_socratic.jsonl").write_text(json.dumps({"question": "Clips?", "answer": SOCRATIC}) + "\n")

    def steps(**fields: Any) -> tuple[str, ...]:
        (one,) = make_task({"name": "gsm8k", "root": str(tmp_path), **fields}).examples("test")
        return one.steps

    assert steps(steps="lines") == ("So.",)
    assert steps(hub_config="socratic") == ("<<48/2=24>>", "<<48+24=72>>")
    told = steps(hub_config="socratic", steps="lines")
    assert told == ("How many in May? ** In May 48/2 = 24.", "How many in all? ** In all 48+24 = 72.")
    assert steps(hub_config="socratic", steps="lines", subquestions=False) == ("In May 48/2 = 24.", "In all 48+24 = 72.")


def test_asdiv_aug(tmp_path: Path) -> None:
    rows = [{"question": f"{i} and 1?", "answer": f"We add.\n{i}+1={i + 1}\n#### {i + 1}"} for i in range(30)]
    (tmp_path / "aug-train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "aug-dev.jsonl").write_text(json.dumps(rows[3]) + "\n")
    task: Any = make_task({"name": "asdiv_aug", "root": str(tmp_path), "validation_fraction": 0.2})
    assert len(task.examples("train")) + len(task.examples("validation")) == 29
    (test,) = task.examples("test")
    assert (test.steps, test.answer) == (("We add.", "3+1=4"), "4")
    assert task.score(test, "#### 4").strict
