"""Soft thinking beside ordinary thinking: on by default, with the same limits, and the control that changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.backbones import backbone, tokenizer
from support.command_line import refused, unspoken

import unspoken as package
from unspoken.causal.campaign import Evaluated
from unspoken.causal.control_report import GREEDY, LIKELIEST, SAMPLED, ControlsReport, to_markdown

TASK = {"name": "tiny", "train_size": 20, "validation_size": 4, "test_size": 6}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain model, as transformers saves it, whose answers end at many lengths."""
    folder = tmp_path_factory.mktemp("plain") / "model"
    lm = backbone("llama", max_position_embeddings=1024).lm
    lm.generation_config.eos_token_id = list(range(3, lm.config.vocab_size, 16))
    lm.save_pretrained(folder)
    lm.generation_config.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def evaluated(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluated:
    monkeypatch.chdir(tmp_path)
    (done,) = package.evaluate_run(model, [TASK], soft="soft,entropy=0,limit=8", max_new_tokens=12, controls_limit=5)
    return done


def test_ordinary_thinking_stands_beside_soft_thinking_by_default(evaluated: Evaluated):
    report = evaluated.controls
    assert report is not None
    assert evaluated.controls_path is not None
    assert ControlsReport.from_json(evaluated.controls_path) == report
    assert [control.name for control in report.controls] == [LIKELIEST, GREEDY, SAMPLED]
    assert report.plain.n == 5 < evaluated.report.n == 6
    assert report.plain.speaking["soft"] == "soft,entropy=0,limit=8"
    assert "soft-soft" in evaluated.path.name
    assert any(record.latents for record in report.plain.records)
    by_name = {control.name: control.outcomes for control in report.controls}
    assert by_name[LIKELIEST] == by_name[GREEDY]  # without rules that could end it, the control is the greedy chain
    assert by_name[SAMPLED] != by_name[GREEDY]
    assert not any(outcome.latents for outcomes in by_name.values() for outcome in outcomes)
    assert [o.text for o in by_name[GREEDY]] != [r.text for r in report.plain.records]
    assert "right in soft thinking" in report.verdict
    assert GREEDY in to_markdown(report)


def test_commands_take_it(model: Path, tmp_path: Path):
    done = unspoken(
        "eval", model, "--task", "tiny", "test_size=4", "--soft", "switch,window=1", "--max-new-tokens", "6", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert GREEDY in done.stdout
    assert "in ordinary thinking" in done.stdout
    said = unspoken("ask", model, "How many?", "--soft", "soft,limit=3", "--max-new-tokens", "6", "--json")
    assert said.returncode == 0, said.stderr
    assert '"soft": 3' in said.stdout


def test_what_is_no_soft_thinking_is_refused_before_a_model_is_loaded(tmp_path: Path):
    done = unspoken("eval", "nobody/nothing", "--task", "tiny", "--soft", "sofd", cwd=tmp_path)
    refused(done, "unknown kind of soft thinking 'sofd'")
    refused(unspoken("ask", "builtin:tiny-sim-cot", "How many?", "--soft", "soft"), "latents of its own")


def test_an_ordinary_chain_is_compared_with_nothing_unless_asked(model: Path, tmp_path: Path):
    done = unspoken(
        "eval", model, "--task", "tiny", "test_size=2", "--soft", "chain,limit=2", "--max-new-tokens", "4", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert GREEDY not in done.stdout
