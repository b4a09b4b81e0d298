"""`unspoken import` as a user meets it, and the other commands on what it made."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.fakes.released import coconut, codi, write

from unspoken.cli import main
from unspoken.errors import CheckpointError
from unspoken.importers import import_checkpoint


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """command(*words) -> (exit code, standard output, standard error), run inside tmp_path."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["unspoken", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as done:
            code = int(done.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_import_ask_eval_export(command, tmp_path):
    fake = codi(tmp_path, decoder=True)
    files = write(tmp_path / "SIM_COT-GPT2-CODI", fake.state(), "one_shard")
    code, out, err = command("import", files, "--base", fake.base, "--alpha", 8, "--task", "tiny")
    assert (code, out) == (0, "runs/SIM_COT-GPT2-CODI\n")
    for line in (
        "SIM-CoT on CODI: ",
        "dropped: codi.base_model.model.lm_head.weight, decoder.lm_head.weight: the output head, equal to",
        "merged: LoRA of 8 layers (rank 4, alpha 8, scale 2), in fp32",
        "projection: width 20, with layer norm",
        "latents: 6 (not in the file; as published)",
    ):
        assert line in err
    run = out.strip()
    code, out, err = command("ask", run, "How many pens?", "--show-thoughts", "--max-new-tokens", 3)
    assert code == 0
    assert out.count("thought ") == 7
    assert "(6 latents, " in err
    code, out, err = command("eval", run, "--limit", 2, "--max-new-tokens", 3)
    assert code == 0, err
    report = json.loads((tmp_path / run / "eval-tiny-test-limit-2-max_new_tokens-3.json").read_text())
    assert report["summary"]["mean_latents"] == 6
    code, out, err = command("export", run, "plain")
    assert code == 0, err
    assert json.loads((tmp_path / "plain" / "run.json").read_text())["config"]["method"]["name"] == "codi"


def test_faults_are_one_line(command, tmp_path):
    fake = coconut(tmp_path)
    state = fake.state()
    state["base_causallm.transformer.ln_final.weight"] = state.pop("base_causallm.transformer.ln_f.weight")
    code, out, err = command("import", write(tmp_path / "a", state, "checkpoint"), "--base", fake.base)
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
    assert err.startswith("error: ")
    assert "ln_f.weight (did you mean base_causallm.transformer.ln_final.weight?)" in err
    code, out, err = command("import", tmp_path / "nothing", "--base", fake.base)
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_a_path_that_is_not_there_is_told_before_an_out_that_is(tmp_path):
    """Somebody who gives a hub's name must not be sent to the default output folder, which has that name's end."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"zen-E/CODI-gpt2 does not exist; .*downloads nothing"):
        import_checkpoint("zen-E/CODI-gpt2", "gpt2", tmp_path / "run")
