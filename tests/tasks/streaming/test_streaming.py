"""Rows that are read one by one and kept on the disk are the rows that are read into memory."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
from pathlib import Path
from typing import Any

import pytest

from unspoken.errors import ConfigError, DataError
from unspoken.tasks import make_task
from unspoken.tasks.reading.remarks import remarks
from unspoken.tasks.streaming import store
from unspoken.tasks.streaming.store import StoredExamples

ROWS = [
    {"question": f"{n} and 4\u2028makes?", "answer": f"Add: <<{n}+4={n + 4}>>{n + 4}\n#### {n + 4}", "kind": {"n": n}}
    for n in range(30)
]


def text(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def shards(folder: Path) -> Path:
    """train-0.jsonl ... train-10.jsonl of 3 rows each, without the last."""
    (folder / "rows").mkdir()
    for k in range(10):
        (folder / "rows" / f"train-{k}.jsonl").write_text(text(ROWS[3 * k : 3 * k + 3]), encoding="utf-8")
    return folder / "rows"


def files(tmp_path: Path, train: Path | str, **more: Any) -> Any:
    return make_task({"name": "files", "train": str(train), "stream_folder": str(tmp_path / "kept"), **more})


def both(tmp_path: Path, train: Path | str, **more: Any) -> tuple[StoredExamples, list[Any]]:
    stored = files(tmp_path, train, stream=True, **more).examples("train")
    assert isinstance(stored, StoredExamples)
    return stored, files(tmp_path, train, **more).examples("train")


def test_the_rows_of_a_folder_are_those_in_memory(tmp_path):
    folder = shards(tmp_path)
    (tmp_path / "test.jsonl").write_text(text(ROWS[4:5]), encoding="utf-8")
    for more in (
        {},
        {"test": str(tmp_path / "test.jsonl")},
        {"limit": 7},
        {"test": str(tmp_path / "test.jsonl"), "limit": 7},
    ):
        stored, held = both(tmp_path, folder, **more)
        assert list(stored) == held  # ids and other fields too
        assert (stored[-1], stored[2:9:3], len(stored)) == (held[-1], held[2:9:3], len(held))
    with pytest.raises(IndexError):
        stored[len(stored)]


def test_formats(tmp_path):
    import pyarrow
    import pyarrow.parquet
    from datasets import Dataset

    whole = text(ROWS).encode()
    for name, pack in (("a.jsonl.gz", gzip.compress), ("b.jsonl.bz2", bz2.compress), ("c.jsonl.xz", lzma.compress)):
        (tmp_path / name).write_bytes(pack(whole))
    (tmp_path / "d.jsonl").write_bytes(b"\xef\xbb\xbf" + whole.replace(b"\n", b"\r\n\n"))
    table = pyarrow.Table.from_pylist(ROWS)
    pyarrow.parquet.write_table(table, tmp_path / "e.parquet", row_group_size=7)
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "f")
    for name in ("a.jsonl.gz", "b.jsonl.bz2", "c.jsonl.xz", "d.jsonl", "e.parquet", "f"):
        stored, held = both(tmp_path, tmp_path / name)
        assert list(stored) == held, name
        assert len(held) == 30


def test_the_hub_is_streamed(tmp_path, monkeypatch):
    import datasets

    asked: dict[str, Any] = {}

    def load(name: str, config: str | None, **how: Any) -> Any:
        asked.update(how, name=name)
        return datasets.IterableDatasetDict({"train": datasets.IterableDataset.from_generator(lambda: iter(ROWS))})

    monkeypatch.setattr(datasets, "load_dataset", load)
    stored = files(tmp_path, "somebody/rows", stream=True).examples("train")
    assert asked == {"name": "somebody/rows", "streaming": True}
    (tmp_path / "rows.jsonl").write_text(text(ROWS), encoding="utf-8")
    assert list(stored) == files(tmp_path, tmp_path / "rows.jsonl").examples("train")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "q", "answer": ', r"train-4\.jsonl:2: invalid JSON"),
        ('{"question": "q"}', r"train-4\.jsonl:2: field 'answer' is missing"),
        ("[1]", r"train-4\.jsonl:2: a row must be an object"),
        (None, r"train-4\.jsonl: is empty; expected at least one row"),
        (b"\xff", r"train-4\.jsonl:2: is not UTF-8"),
        (b"\x28\xb5\x2f\xfd", r"train-4\.jsonl: is packed with zstd"),
    ],
)
def test_a_bad_row_in_the_middle_is_named(tmp_path, line, message):
    folder = shards(tmp_path)
    bad = folder / "train-4.jsonl"
    if isinstance(line, bytes):
        bad.write_bytes(line if len(line) > 1 else text(ROWS[:1]).encode() + line)
    else:
        bad.write_text("" if line is None else text(ROWS[:1]) + line + "\n" + text(ROWS[1:2]))
    with pytest.raises(DataError, match=message):
        files(tmp_path, folder, stream=True).examples("train")
    assert not list((tmp_path / "kept").glob("**/*.tmp"))
    bad.write_text(text(ROWS[12:15]), encoding="utf-8")  # mended: the other shards are not read again
    assert len(files(tmp_path, folder, stream=True).examples("train")) == 30


def test_what_cannot_be_read_row_by_row_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("question,answer\nq,1\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(text(ROWS * 99).encode())[:-40])
    for name, message in (
        ("a.csv", "not read row by row; expected JSONL"),
        ("b.jsonl.gz", "cannot be unpacked .* complete"),
    ):
        with pytest.raises(DataError, match=message):
            files(tmp_path, tmp_path / name, stream=True).examples("train")
    with pytest.raises(ConfigError, match="give a validation or test file instead of validation_fraction"):
        files(tmp_path, tmp_path / "a.jsonl", stream=True, validation_fraction=0.1)
    with pytest.raises(DataError, match=r"no validation split; set task\.validation=PATH$"):
        files(tmp_path, tmp_path / "a.jsonl", stream=True).examples("validation")
    with pytest.raises(ConfigError, match="field 'stream_folder' is empty"):
        make_task({"name": "files", "train": "x.jsonl", "stream": True, "stream_folder": " "})
    with pytest.raises(DataError, match=r"this user has no home folder; set task\.stream_folder"):
        make_task(
            {"name": "files", "train": str(tmp_path / "a.csv"), "stream": True, "stream_folder": "~nobody-here/x"}
        ).examples("train")
    part = {"task": {"name": "files", "train": "x.jsonl", "stream": True}}
    with pytest.raises(ConfigError, match=r"part 'x' has stream=true"):
        make_task({"name": "mixture", "parts": {"x": part}})


def test_rules_about_all_rows(tmp_path):
    (tmp_path / "a.jsonl").write_text(text([{"question": "q", "reasoning": "so", "answer": "1"}] * 3))
    with pytest.raises(DataError, match=r"no row has a <<\.\.\.>> marker"):
        files(tmp_path, tmp_path / "a.jsonl", stream=True).examples("train")
    (tmp_path / "b.jsonl").write_text(text([ROWS[0], {"question": "q", "answer": "1"}]))
    with pytest.raises(DataError, match=r"1 of 2 train rows have no step \(first train-1\)"):
        files(tmp_path, tmp_path / "b.jsonl", stream=True, require_steps=True).examples("train")
    (tmp_path / "two").mkdir()
    for name, rows in (("train-0", ROWS[:2]), ("train-1", [ROWS[2], {"question": "q", "answer": "1"}])):
        (tmp_path / "two" / f"{name}.jsonl").write_text(text(rows))
    with pytest.raises(DataError, match=r"train-1\.jsonl: 1 of 4 train rows have no step \(first train-3\)"):
        files(tmp_path, tmp_path / "two", stream=True, require_steps=True).examples("train")
    (tmp_path / "test.jsonl").write_text(text([ROWS[0], {"question": "Q", "answer": "2"}]))
    with pytest.raises(DataError, match="all 2 train rows are dropped"):
        files(tmp_path, tmp_path / "b.jsonl", test=str(tmp_path / "test.jsonl"), stream=True).examples("train")


def test_rows_are_read_again_only_when_they_may_have_changed(tmp_path, monkeypatch):
    folder = shards(tmp_path)
    before = files(tmp_path, folder, stream=True)
    first, known = before.fingerprint("train"), before.fingerprints("train")
    written: list[str] = []
    write = store._write
    monkeypatch.setattr(
        store, "_write", lambda source, *more: (written.append(Path(source.name).name), write(source, *more))
    )
    assert files(tmp_path, folder, stream=True).fingerprint("train") == first
    assert written == []
    (folder / "train-3.jsonl").write_text(text(ROWS[9:12][::-1]), encoding="utf-8")  # as long as before
    os.utime(folder / "train-3.jsonl", ns=(0, 0))  # and a clock that went back
    after = files(tmp_path, folder, stream=True)
    assert after.fingerprint("train") != first
    assert written == ["train-3.jsonl"]
    assert [Path(name).name for name, digest in after.fingerprints("train").items() if known[name] != digest] == [written[0]]


def test_a_damaged_file_of_rows_is_named(tmp_path):
    folder = shards(tmp_path)
    stored = files(tmp_path, folder, stream=True).examples("train")
    kept = stored.parts[0].path
    kept.write_bytes(kept.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"\.rows: is no whole file of rows .* delete it"):
        files(tmp_path, folder, stream=True).examples("train")
    kept.unlink()
    with pytest.raises(DataError, match="is no whole file of rows"):
        stored[0]


def test_processes_share_the_sources(tmp_path):
    from support.forks import Forked

    folder = shards(tmp_path)
    script = f"""
from unspoken.tasks import make_task
from unspoken.tasks.streaming import store
import time
write = store._write
def slow(source, *more):
    time.sleep(0.05)
    print(source.name)
    write(source, *more)
store._write = slow
task = make_task({{"name": "files", "train": {str(folder)!r}, "stream": True, "stream_folder": {str(tmp_path / "kept")!r}}})
assert len(task.examples("train")) == 30
"""
    started = [Forked(script=script) for _ in range(2)]
    said = [process.done() for process in started]
    assert [done.returncode for done in said] == [0, 0], said
    read = [done.stdout.split() for done in said]
    assert sorted(read[0] + read[1]) == sorted(map(str, folder.glob("*.jsonl")))  # each once
    assert read[0]
    assert read[1]


def test_oddities_are_looked_for_in_the_first_rows(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text(text([{"question": f"q{n}", "answer": "a lot"} for n in range(30)]))
    monkeypatch.setattr("unspoken.tasks.reading.remarks.FIRST", 8)
    (line,) = remarks(files(tmp_path, tmp_path / "a.jsonl", stream=True), "train")
    assert "8 of 8 train rows is no number" in line
