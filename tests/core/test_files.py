"""Files are written whole or not at all, whatever stands in the way; what kills leave is removed, what lives is not."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from unspoken.core import files
from unspoken.core.tensors import load_tensors, save_tensors
from unspoken.errors import RunError, TrainingError


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_file_replaces_the_one_before(tmp_path):
    files.write_text(tmp_path / "new" / "a.txt", "one")
    files.write_text(tmp_path / "new" / "a.txt", "two\ud800")  # a lone surrogate has no UTF-8
    assert (tmp_path / "new" / "a.txt").read_text() == "two?"
    assert names(tmp_path / "new") == ["a.txt"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes_are_those_of_the_umask(tmp_path, umask):
    """safetensors makes its files for their owner alone."""
    before = os.umask(umask)
    try:
        files.write_file(tmp_path / "x.safetensors", lambda new: save_tensors(new, {"a": torch.ones(2)}))

        def folder(new: Path) -> None:
            new.mkdir()
            save_tensors(new / "y.safetensors", {"a": torch.ones(2)})
            (new / "y.json").write_text("{}")

        files.write_folder(tmp_path / "model", folder)
    finally:
        os.umask(before)
    for file in (tmp_path / "x.safetensors", tmp_path / "model" / "y.safetensors", tmp_path / "model" / "y.json"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask


def test_a_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("old")
    (tmp_path / "link").symlink_to("real/a")
    (tmp_path / "dangling").symlink_to("real/b")
    (tmp_path / "folder").symlink_to("real")
    for name in ("link", "dangling"):
        files.write_text(tmp_path / name, name)
    files.write_text(tmp_path / "folder" / "c", "c")
    assert (tmp_path / "link").is_symlink()
    assert [(tmp_path / "real" / name).read_text() for name in "abc"] == ["link", "dangling", "c"]


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "to-pipe").symlink_to("pipe")
    for path, kind in (("pipe", "a pipe"), ("to-pipe", "a pipe"), ("folder", "a folder"), ("/dev/null", "a device")):
        with pytest.raises(RunError, match=f"is {kind}, not a file"):
            files.write_text(tmp_path / path, "x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert names(tmp_path) == ["folder", "pipe", "to-pipe"]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("", "name of a file is empty"),
        ("x" * 300, "File name too long; .*give a shorter name"),
        ("file/below", "Not a directory"),
        ("loop", "Too many levels of symbolic links"),
        ("a\0b", "embedded null"),
    ],
)
def test_names_that_cannot_be(tmp_path, monkeypatch, path, told):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    Path("loop").symlink_to("loop")
    with pytest.raises(RunError, match=told) as error:
        files.write_text(path, "x")
    assert "free some space" not in str(error.value)
    assert names(tmp_path) == ["file", "loop"]


def test_a_name_as_long_as_the_system_allows(tmp_path):
    for name in ("x" * 255, "ä" * 127):
        files.write_text(tmp_path / name, "x")
        files.write_folder(tmp_path / ("f" + name[1:]), lambda new: new.mkdir())


@pytest.mark.parametrize(("number", "hint"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "you may write to")])
def test_a_fault_is_told_with_what_helps(tmp_path, number, hint):
    (tmp_path / "a").write_text("old")

    def fails(new: Path) -> None:
        new.write_text("half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(TrainingError, match=rf"cannot write .*a: {os.strerror(number)}; .*{hint}; resume") as error:
        files.write_file(tmp_path / "a", fails, error=TrainingError, then="resume")
    assert str(tmp_path / "a:") in str(error.value)
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_full_disks_as_libraries_tell_them(tmp_path):
    """safetensors and tokenizers raise errors of their own, with the system's number in the text."""
    for kind in (Exception, OSError):
        with pytest.raises(RunError, match=r"No space left on device; .*free some space"):
            files.write_file(tmp_path / "a", lambda _, kind=kind: (_ for _ in ()).throw(kind("IO (os error 28)")))


def test_a_fault_of_the_program_is_not_called_a_full_disk(tmp_path):
    with pytest.raises(ZeroDivisionError):
        files.write_file(tmp_path / "a", lambda _: 1 / 0)
    assert names(tmp_path) == []


KILLED = """
import os, sys, time
from pathlib import Path
from unspoken.core import files

def slow(new):
    new.mkdir()
    (new / "half").write_text("half")
    print("writing", flush=True)
    time.sleep(60)

files.write_folder(sys.argv[1], slow)
"""


def test_what_a_kill_leaves_is_removed_and_what_is_being_written_is_not(tmp_path):
    out = tmp_path / "out"
    other = subprocess.Popen([sys.executable, "-c", KILLED, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "writing\n"
        (being_written,) = tmp_path.iterdir()
        files.sweep(tmp_path)
        files.write_folder(out, lambda new: new.mkdir())
        assert being_written.exists()
        other.send_signal(signal.SIGKILL)
        other.wait()
    finally:
        other.kill()
    assert (being_written / "out" / "half").exists()
    (tmp_path / ".out.1234.tmp").mkdir()  # as older versions named theirs
    (tmp_path / ".other.12.tmp").write_text("another's")
    (tmp_path / ".outer.tmp").write_text("the user's")
    files.write_folder(out, lambda new: new.mkdir())
    assert names(tmp_path) == [".other.12.tmp", ".outer.tmp", "out"]


def test_a_replacement_cut_off_between_its_renames_is_undone(tmp_path):
    (tmp_path / ".model.old").mkdir()
    files.recover(tmp_path / "model")
    assert names(tmp_path) == ["model"]
    (tmp_path / ".model.old").mkdir()  # after the second one
    files.recover(tmp_path / "model")
    assert names(tmp_path) == ["model"]


def test_equal_tensors_make_equal_files(tmp_path):
    """The order in which safetensors writes several entries of metadata changes from call to call."""
    a = torch.arange(6.0)
    assert len({save({"a": a}, metadata={"x": "1", "y": "2", "z": "3"}) for _ in range(40)}) > 1
    for number in range(40):
        save_tensors(tmp_path / f"{number}.safetensors", {"a": a, "b": a, "c": a + 1})
    assert len({file.read_bytes() for file in tmp_path.iterdir()}) == 1
    assert load_tensors(tmp_path / "0.safetensors")["b"].tolist() == list(range(6))


@given(st.lists(st.dictionaries(st.text(), st.integers())), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_lines_json_is_json_with_a_record_a_line(rows, indent):
    text = files.lines_json({"format": 1, "rows": rows}, ("rows",), indent)
    assert json.loads(text) == {"format": 1, "rows": rows}
    assert len(text.splitlines()) == (5 + len(rows) if rows else 4)


@pytest.mark.parametrize(
    "text", ["", "[]", "1", "null", '{"a": ', "[" * 100_000, '{"a":' * 100_000, "1" * 5000, b"\xff\xfe{}"]
)
def test_what_is_no_object_is_a_value_error(tmp_path, text):
    (tmp_path / "x").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError):
        files.read_object(tmp_path / "x")


def test_a_home_that_there_is_not_stays_as_it_is_written(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert files.expanded("~/rows") == Path("/home/ann/rows")
    there = files.expanded("~nobody-of-that-name/rows")
    assert there == Path("~nobody-of-that-name/rows")
    assert files.homeless(there)
    assert not files.homeless(Path("/home/ann/~rows"))
    assert not files.homeless(Path())
