"""Push a run to a stand-in of the Hub by huggingface_hub's own client, and load it from there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants
from support.command_line import START, refused, unspoken
from support.fakes.hub import TOKEN, Hub, Repo

from unspoken import load
from unspoken.errors import ConfigError, RunError
from unspoken.exporters.hub import parcel, push
from unspoken.runs.directory import RunDir
from unspoken.runs.hub import fetched, hub_run

pytestmark = pytest.mark.slow

QUESTION = "Ann has 3 pens and buys 4 more. She doubles them."
READ = "builtin:tiny-sim-cot"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    one = Hub()
    for module in [constants, *(m for n, m in list(sys.modules.items()) if n.startswith("huggingface_hub"))]:
        if getattr(module, "ENDPOINT", None) is not None:
            monkeypatch.setattr(module, "ENDPOINT", one.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", one.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in takes large files the older way
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    fetched.cache_clear()
    yield one
    fetched.cache_clear()
    one.close()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with all that must stay at home."""
    folder = tmp_path / "mine"
    shutil.copytree(RunDir(READ).path, folder)
    about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    about["config"]["train"]["tracker_project"] = "/home/somebody/secret/plans"
    (folder / "run.json").write_text(json.dumps(about), encoding="utf-8")
    (folder / "state" / "step-00000001").mkdir(parents=True)
    (folder / "state" / "step-00000001" / "state.safetensors").write_bytes(b"optimizer")
    (folder / "model" / "notes.txt").write_text("mine", encoding="utf-8")
    (folder / "questions.jsonl").write_text("{}", encoding="utf-8")
    return folder


def test_pushed_and_loaded_it_answers_the_same(hub: Hub, run: Path):
    said = unspoken("push", run, "ann/figs", "--message", "First one")
    assert said.returncode == 0, said.stderr
    repo = hub.repos["ann/figs"]
    assert said.stdout.strip().endswith(f"{hub.url}/ann/figs/commit/{repo.branches['main']}")
    assert repo.messages == ["First one"]
    assert not repo.private
    there, mine = load("hf://ann/figs", device="cpu"), load(READ, device="cpu")
    assert there.path == "hf://ann/figs"
    assert there.saved == mine.saved is not None
    said, expected = (model.answer([QUESTION], explain=True)[0] for model in (there, mine))
    assert (said.tokens, said.thoughts) == (expected.tokens, expected.thoughts)


def test_only_the_run_is_sent(hub: Hub, run: Path):
    push(parcel(run, "ann/figs"))
    files = hub.repos["ann/figs"].files()
    model = {f"model/{name}" for name in (*RunDir(run).model_info()["files"], "unspoken.json")}
    assert set(files) == {".gitattributes", "README.md", "run.json", *model}
    assert b"somebody" not in files["run.json"]
    assert b'"plans"' in files["run.json"]
    push(parcel(run, "ann/figs", also=["metrics.jsonl"]))
    assert hub.repos["ann/figs"].files()["metrics.jsonl"] == (run / "metrics.jsonl").read_bytes()
    for odd in ("", "state", "../mine/metrics.jsonl", "run.json", "none.txt"):
        with pytest.raises(ConfigError, match="--also"):
            parcel(run, "ann/figs", also=[odd])


def card_of(run: Path, repo: str) -> str:
    card = parcel(run, f"hf://{repo}").files["README.md"]
    assert isinstance(card, bytes)
    return card.decode()


def test_the_card_has_metadata_and_no_licence(hub: Hub, run: Path):
    _, header, text = card_of(run, "ann/figs@v1").split("---\n", 2)
    about = yaml.safe_load(header)
    assert about["library_name"] == "unspoken"
    assert {"unspoken", "latent-reasoning", "sim_cot"} <= set(about["tags"])
    assert "license" not in about
    assert "base_model" not in about, "it was trained from random weights"
    assert 'unspoken.load("hf://ann/figs@v1")' in text
    data = json.loads((run / "run.json").read_text(encoding="utf-8"))
    data["config"]["backbone"] = {"path": "someorg/some: model"}
    (run / "run.json").write_text(json.dumps(data), encoding="utf-8")
    assert "base_model" not in card_of(run, "ann/figs")
    data["config"]["backbone"] = {"path": "someorg/somemodel"}
    (run / "run.json").write_text(json.dumps(data), encoding="utf-8")
    assert '\nbase_model: "someorg/somemodel"\n' in card_of(run, "ann/figs")


def test_a_second_push_keeps_the_card_and_removes_old_weights(hub: Hub, run: Path):
    push(parcel(run, "ann/figs"))
    repo = hub.repos["ann/figs"]
    repo.commit({**repo.files(), "README.md": b"---\nlicense: mit\n---\n", "model/old.safetensors": b"", "notes.md": b"1"})
    (run / "run.json").write_text((run / "run.json").read_text(encoding="utf-8") + "\n", encoding="utf-8")
    push(parcel(START, "ann/figs"))
    files = repo.files()
    assert files["README.md"] == b"---\nlicense: mit\n---\n"
    assert "model/old.safetensors" not in files
    assert "model/method.safetensors" not in files, "the CoT model has none"
    assert files["notes.md"] == b"1"
    assert load("hf://ann/figs", device="cpu").method.config.name == "cot"


def test_a_branch_is_made_and_loaded(hub: Hub, run: Path):
    push(parcel(START, "ann/figs"))
    push(parcel(run, "hf://ann/figs@try/two"))
    assert load("hf://ann/figs", device="cpu").method.config.name == "cot"
    assert load(Path("hf://ann/figs@try/two"), device="cpu").method.config.name == "sim_cot"
    assert RunDir("hf://ann/figs@try/two").place("x").as_posix() == "figs-try-two-x"
    with pytest.raises(RunError, match="no such revision"):
        load("hf://ann/figs@none")
    with pytest.raises(ConfigError, match="one revision"):
        parcel(run, "hf://ann/figs@one", revision="two")


def test_private_is_kept(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch):
    push(parcel(run, "ann/hidden"), private=True)
    assert hub.repos["ann/hidden"].private
    push(parcel(run, "ann/open"))
    before = hub.repos["ann/open"].branches["main"]
    with pytest.raises(ConfigError, match="public"):
        push(parcel(run, "ann/open"), private=True)
    assert hub.repos["ann/open"].branches["main"] == before
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(RunError, match="HF_TOKEN"):
        load("hf://ann/hidden")
    assert unspoken("ask", "hf://ann/open", QUESTION).returncode == 0
    refused(unspoken("push", run, "ann/open"), "no token", "hf auth login")


def test_a_dry_run_asks_nobody(hub: Hub, run: Path):
    said = unspoken("push", run, "ann/figs", "--dry-run")
    assert said.returncode == 0
    lines = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in said.stdout.splitlines()[:-1]}
    assert lines["model/model.safetensors"] == (run / "model" / "model.safetensors").stat().st_size
    assert int(said.stdout.splitlines()[-1].split()[0].replace(",", "")) == sum(lines.values())
    assert "nothing was sent" in said.stderr
    assert hub.asked == []


def test_commands_take_it_and_write_into_the_current_folder(hub: Hub, tmp_path: Path):
    push(parcel(READ, "ann/figs"))
    words = ("hf://ann/figs", "--limit", "3", "--no-controls")
    said = unspoken("eval", *words, cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    report = json.loads((tmp_path / "figs-eval-tiny-test-limit-3.json").read_text(encoding="utf-8"))
    assert report["model"]["path"] == "hf://ann/figs"
    refused(unspoken("learn-stop", "hf://ann/figs"), "not a folder of yours")
    refused(unspoken("probe", "hf://ann/figs"), "give --out")
    assert not list((tmp_path / "cache").rglob("eval-*"))


def test_offline_takes_what_was_fetched(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    push(parcel(START, "ann/figs"))
    said = load("hf://ann/figs", device="cpu").answer([QUESTION])[0].text
    asked = len(hub.asked)
    for name, value in (("HF_HUB_OFFLINE", True), ("ENDPOINT", hub.url)):
        monkeypatch.setattr(constants, name, value)
    fetched.cache_clear()
    assert load("hf://ann/figs", device="cpu").answer([QUESTION])[0].text == said
    assert len(hub.asked) == asked
    with pytest.raises(RunError, match="HF_HUB_OFFLINE"):
        load("hf://ann/other")


def test_without_a_network_the_cache_answers_and_the_rest_says_so(hub: Hub, run: Path):
    push(parcel(START, "ann/figs"))
    load("hf://ann/figs", device="cpu")
    hub.close()
    fetched.cache_clear()
    assert load("hf://ann/figs", device="cpu").answer([QUESTION])
    refused(unspoken("ask", "hf://ann/other", QUESTION), "cannot be reached", "hf://ann/other")


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (401, "", "log in"),
        (401, "RepoNotFound", "log in"),
        (404, "RepoNotFound", "not on the Hub"),
        (403, "", "refused (403)"),
        (403, "GatedRepo", "on request only"),
    ],
)
def test_refusals_are_one_line_without_the_token(hub: Hub, run: Path, status: int, code: str, said: str):
    hub.refuse = (status, code)
    loaded = unspoken("ask", "hf://ann/figs", QUESTION)
    refused(loaded, said)
    sent = unspoken("push", run, "ann/figs")
    assert sent.returncode == 2
    assert TOKEN not in loaded.stderr + sent.stderr + sent.stdout
    assert sent.stderr.count("\n") == 1


def test_what_holds_no_run_is_not_fetched(hub: Hub):
    hub.repos["ann/plain"] = Repo()
    hub.repos["ann/plain"].commit({"config.json": b"{}", "model.safetensors": b"0" * 100, "model/x.safetensors": b"0"})
    with pytest.raises(RunError, match="no run of unspoken"):
        load("hf://ann/plain")
    assert not [path for path in hub.asked if "safetensors" in path]


def test_no_code_comes_with_a_run(hub: Hub, tmp_path: Path):
    push(parcel(START, "ann/figs"))
    repo = hub.repos["ann/figs"]
    files = dict(repo.files())
    about = json.loads(files["run.json"])
    for name, install in (("no_such_package.method:Mine", "no_such_package.method"), ("nobodys", "brings it")):
        about["config"]["method"] = {"name": name}
        files |= {"run.json": json.dumps(about).encode(), "no_such_package/method.py": b"", "model/evil.bin": b"1"}
        repo.commit(files)
        fetched.cache_clear()
        with pytest.raises(RunError, match=f"no code comes with a run; install .*{install}"):
            load("hf://ann/figs")
    assert not [path for path in hub.asked if path.endswith((".py", ".bin"))]


@pytest.mark.parametrize(
    "name", ["hf://", "hf://ann", "hf://ann/b/c", "hf://ann/..", "hf://ann/b@", "hf://ann/b@../x", "hf://a b/c"]
)
def test_names_that_are_none(hub: Hub, name: str):
    with pytest.raises(ConfigError, match="owner/name"):
        hub_run(name)
    refused(unspoken("eval", name), "owner/name")
    assert hub.asked == []


def test_the_real_command_by_environment(hub: Hub, tmp_path: Path):
    """HF_ENDPOINT, HF_TOKEN and HF_HOME, in a process of its own."""
    more = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
    more |= {"HF_HUB_DISABLE_XET": "1"}
    env = {**os.environ, **more}
    push, ask = ["unspoken", "push", START, "ann/figs", "--private"], ["unspoken", "ask", "hf://ann/figs", QUESTION]
    code = f"import sys\nfrom unspoken.cli import main\nfor sys.argv in ({push!r}, {ask!r}):\n    main()"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert hub.repos["ann/figs"].private
