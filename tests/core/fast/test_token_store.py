"""Token ids kept in files: the same ids, found by other processes, never those of another tokenizer or a damaged file."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import backbones

from unspoken.core.fast import token_store
from unspoken.core.fast.token_store import Encodings
from unspoken.core.lm.markers import add_tokens

TEXTS = [f"Ann has {i} pens and buys {j} more." for i in range(40) for j in range(25)] + ["", "<<3+4=7>>", "\ud800 é"]


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(token_store, "LEAST", 100)
    monkeypatch.setattr(token_store, "MOST", 400)


def filled(folder: Path) -> Encodings:
    backbone = backbones.backbone("llama")
    backbone.encodings = Encodings(folder, backbone.tokenizer)
    for text in TEXTS[:-1]:
        backbone.encode(text)
        backbone.encode(text, special=True)
    backbone.encodings.flush()
    return backbone.encodings


def test_ids_are_the_tokenizers_own(tmp_path: Path):
    kept, words = filled(tmp_path), backbones.tokenizer()
    assert kept.mapped > 0.9 * len(kept) == 0.9 * 2 * (len(TEXTS) - 1)
    again = Encodings(tmp_path, words)
    assert again.mapped == kept.mapped
    found = 0
    for text in TEXTS[:-1]:
        for special in (False, True):
            ids = again.find(text, special)
            if ids is not None:
                found += 1
                assert ids == tuple(words(text, add_special_tokens=special)["input_ids"])
                assert all(type(i) is int for i in ids)
    assert found == again.mapped
    assert again.find("never seen", False) is None


def test_files_are_few_and_whole(tmp_path: Path):
    filled(tmp_path)
    (folder,) = tmp_path.iterdir()
    assert {path.suffix for path in folder.iterdir()} == {".ids"}
    assert len(list(folder.iterdir())) <= 7


def test_a_lone_surrogate_is_a_text_too(tmp_path: Path):
    kept = Encodings(tmp_path, backbones.tokenizer())
    kept.put(TEXTS[-1], False, (1, 2))
    assert kept.find(TEXTS[-1], False) == (1, 2)
    assert kept.find(TEXTS[-1], True) is None


def test_another_process_finds_them(tmp_path: Path):
    one, two = (Encodings(tmp_path, backbones.tokenizer()) for _ in range(2))
    for i in range(100):
        one.put(f"one {i}", False, (i,))
        two.put(f"two {i}", False, (i, i))
    assert two.find("one 7", False) == (7,)
    assert one.find("two 7", False) is None  # not looked for until it writes again
    for i in range(100):
        one.put(f"more {i}", False, (0,))
    assert one.find("two 7", False) == (7, 7)


def test_processes_that_see_the_same_texts_do_not_write_them_twice(tmp_path: Path):
    kept = [Encodings(tmp_path, backbones.tokenizer()) for _ in range(4)]
    for i in range(600):
        for one in kept:
            if one.find(f"text {i}", False) is None:
                one.put(f"text {i}", False, (i,))
    for one in kept:
        one.flush()
    again = Encodings(tmp_path, backbones.tokenizer())
    assert again.mapped <= 600
    silent = Encodings(tmp_path / "other", backbones.tokenizer(), writes=False)
    for i in range(600):
        silent.put(f"text {i}", False, (i,))
    assert not silent.folder.exists()
    assert silent.find("text 5", False) == (5,)


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    kept = Encodings("~/ids", backbones.tokenizer())
    for i in range(250):
        kept.put(f"text {i}", False, (i,))
    assert kept.find("text 3", False) == (3,)
    assert kept.mapped == 0


@pytest.mark.parametrize("harm", ["cut", "other", "header"])
def test_a_damaged_file_is_as_good_as_absent(harm: str, tmp_path: Path):
    filled(tmp_path)
    (folder,) = tmp_path.iterdir()
    for path in folder.iterdir():
        whole = path.read_bytes()
        broken = {"cut": whole[:-9], "other": b"x" * 300, "header": whole[:40] + b"?" + whole[41:]}[harm]
        path.write_bytes(broken)
    assert Encodings(tmp_path, backbones.tokenizer()).mapped == 0


def test_another_tokenizer_never_sees_them(tmp_path: Path):
    filled(tmp_path)
    words = backbones.tokenizer()
    words.add_tokens(["pens"])
    assert len(Encodings(tmp_path, words)) == 0
    backbone = backbones.backbone("llama")
    backbone.encodings = Encodings(tmp_path, backbone.tokenizer)
    add_tokens(backbone, ("<think>",), like="pens")
    assert backbone.encodings is None  # the tokenizer is another one now


def test_a_folder_that_cannot_be_written_loses_nothing(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    kept = Encodings(tmp_path / "file", backbones.tokenizer())
    for i in range(250):
        kept.put(f"text {i}", False, (i,))
    assert kept.mapped == 0
    assert kept.find("text 3", False) == (3,)
