"""Every published form is read to the same tensors; what is incomplete, unsafe or no checkpoint is refused by name."""

from __future__ import annotations

import json
import pickle
import sys

import pytest
import torch
from safetensors.torch import save_file
from support.fakes.released import FORMS, write

from unspoken.errors import CheckpointError
from unspoken.importers.files import read_weights

STATE = {f"h.{i}.weight": torch.full((2, 3), float(i)) for i in range(7)}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_tensors(tmp_path, form):
    weights = read_weights(write(tmp_path / form, STATE, form))
    assert set(weights.tensors) == set(STATE)
    assert all(torch.equal(weights.tensors[key], value) for key, value in STATE.items())
    assert len(weights.files) == (3 if form in ("shards", "index", "bin_shards") else 1)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_can_be_given_instead_of_its_folder(tmp_path, form):
    """Any shard stands for its set; so does the index."""
    path = write(tmp_path / form, STATE, form)
    folder = path if path.is_dir() else path.parent
    for file in sorted(folder.iterdir()):
        if file.suffix in (".safetensors", "") or file.name.startswith("pytorch_model") or "index" in file.name:
            assert set(read_weights(file).tensors) == set(STATE)


def test_a_folder_with_a_raw_checkpoint(tmp_path):
    path = write(tmp_path / "a", STATE, "checkpoint")
    (path.parent / "LICENSE").write_text("MIT")
    assert set(read_weights(path.parent).tensors) == set(STATE)


def test_a_checkpoint_of_an_old_torch(tmp_path):
    torch.save(STATE, tmp_path / "checkpoint_3", _use_new_zipfile_serialization=False)
    assert set(read_weights(tmp_path / "checkpoint_3").tensors) == set(STATE)


def test_sources_are_hashed(tmp_path):
    path = write(tmp_path / "a", STATE, "shards")
    sources = read_weights(path).sources()
    assert [s["name"] for s in sources] == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert all(s["bytes"] == (path / s["name"]).stat().st_size and len(s["sha256"]) == 64 for s in sources)
    assert len({s["sha256"] for s in sources}) == 3


def test_safetensors_go_before_torch_files(tmp_path):
    path = write(tmp_path / "a", STATE, "safetensors")
    torch.save({"other": torch.zeros(1)}, path / "pytorch_model.bin")
    assert set(read_weights(path).tensors) == set(STATE)
    (path / "pytorch_model.bin.index.json").write_text('{"weight_map": {"x": "pytorch_model-00001-of-00002.bin"}}')
    assert set(read_weights(path).tensors) == set(STATE)


def test_an_empty_index_is_passed_over(tmp_path):
    path = write(tmp_path / "a", STATE, "shards")
    (path / "model.safetensors.index.json").write_bytes(b"")
    assert set(read_weights(path).tensors) == set(STATE)
    with pytest.raises(CheckpointError, match=r"index\.json is empty or broken"):
        read_weights(path / "model.safetensors.index.json")


@pytest.mark.parametrize("form", ["shards", "index", "bin_shards"])
def test_a_missing_shard_is_named(tmp_path, form):
    path = write(tmp_path / "a", STATE, form)
    kind = "pytorch_model-00002-of-00003.bin" if form == "bin_shards" else "model-00002-of-00003.safetensors"
    (path / kind).unlink()
    with pytest.raises(CheckpointError, match=rf"lacks 1 of 3 weight files.*{kind}"):
        read_weights(path)


def test_shards_of_two_sets(tmp_path):
    path = write(tmp_path / "a", STATE, "shards")
    save_file({"x": torch.zeros(1)}, path / "model-00001-of-00002.safetensors")
    with pytest.raises(
        CheckpointError, match=r"holds 4 checkpoints: model-00001-of-00002\.safetensors, model-00001-of-00003"
    ):
        read_weights(path)
    (path / "model-00001-of-00002.safetensors").rename(path / "model-00004-of-00003.safetensors")
    with pytest.raises(CheckpointError, match=r"files of another set .*: model-00004-of-00003"):
        read_weights(path)


def test_an_index_that_names_what_is_not_there(tmp_path):
    path = write(tmp_path / "a", STATE, "index")
    index = path / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    table["weight_map"]["h.9.weight"] = "model-00001-of-00003.safetensors"
    index.write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match=r"the index names 1 tensors that are not in their files: h\.9\.weight"):
        read_weights(path)
    table["weight_map"]["h.9.weight"] = "../outside.safetensors"
    index.write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match=r"outside its folder: \.\./outside\.safetensors"):
        read_weights(path)


def test_a_key_in_two_shards(tmp_path):
    path = write(tmp_path / "a", STATE, "shards")
    save_file(STATE, path / "model-00003-of-00003.safetensors")
    with pytest.raises(CheckpointError, match=r"h\.0\.weight stands in model-0000\d-.* and in model-00003-of-00003"):
        read_weights(path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "checkpoint_25"])
def test_a_git_lfs_pointer_is_recognised(tmp_path, name):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 406398137\n"
    (tmp_path / name).write_text(text)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(CheckpointError, match=rf"{name} is a git-lfs pointer \(\d+ bytes of text\).*git lfs pull"):
            read_weights(path)


class Evil:
    """Unpickling it creates a file."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (open, (str(self.place), "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_refused(tmp_path, zipped):
    mark = tmp_path / "was-run"
    torch.save({"w": torch.zeros(1), "x": Evil(mark)}, tmp_path / "m.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"m\.bin is no plain dictionary of tensors: .*refused.*safetensors"):
        read_weights(tmp_path / "m.bin")
    assert not mark.exists()
    (tmp_path / "p.bin").write_bytes(pickle.dumps(Evil(mark), protocol=2))
    with pytest.raises(CheckpointError, match=r"p\.bin"):
        read_weights(tmp_path / "p.bin")
    assert not mark.exists()
    # The same bytes do run where nobody forbids it: the test would notice.
    torch.load(tmp_path / "m.bin", weights_only=False)["x"].close()
    assert mark.exists()


def test_what_is_no_state_dict(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "list.bin")
    with pytest.raises(CheckpointError, match=r"holds a list, expected a state dict"):
        read_weights(tmp_path / "list.bin")
    torch.save({"state_dict": {"w": torch.zeros(1)}, "epoch": 3}, tmp_path / "nested.bin")
    with pytest.raises(CheckpointError, match=r"2 entries are no tensors: state_dict, epoch"):
        read_weights(tmp_path / "nested.bin")
    torch.save({}, tmp_path / "empty.bin")
    with pytest.raises(CheckpointError, match=r"holds no tensors"):
        read_weights(tmp_path / "empty.bin")


@pytest.mark.parametrize("form", ["bin", "safetensors", "checkpoint"])
@pytest.mark.parametrize("keep", [0, 40, 0.6])
def test_a_truncated_file_is_named(tmp_path, form, keep):
    path = write(tmp_path / "a", STATE, form)
    names = {"bin": "pytorch_model.bin", "safetensors": "model.safetensors", "checkpoint": "checkpoint_25"}
    file = (path if path.is_dir() else path.parent) / names[form]
    data = file.read_bytes()
    file.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=rf"{file.name} is (truncated|empty).*download it again"):
        read_weights(file)


def test_other_things_at_the_path(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere does not exist; give a checkpoint"):
        read_weights(tmp_path / "nowhere")
    (tmp_path / "README.md").write_text("hello")
    with pytest.raises(CheckpointError, match=r"holds no weights .*it has: README\.md"):
        read_weights(tmp_path)
    (tmp_path / "page.bin").write_text("<html>404</html>")
    with pytest.raises(CheckpointError, match=r"page\.bin is truncated or no file of torch\.save"):
        read_weights(tmp_path)
    for n in (1, 2):
        torch.save(STATE, tmp_path / f"checkpoint_{n}")
    (tmp_path / "page.bin").unlink()
    with pytest.raises(CheckpointError, match=r"holds 2 checkpoints: checkpoint_1, checkpoint_2; give one"):
        read_weights(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need rights there")
def test_links_are_followed_as_in_the_hubs_cache(tmp_path):
    real = write(tmp_path / "blobs", STATE, "safetensors") / "model.safetensors"
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.safetensors").symlink_to(real)
    assert set(read_weights(tmp_path / "snapshot").tensors) == set(STATE)
