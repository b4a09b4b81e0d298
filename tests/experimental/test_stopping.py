"""Stop rules of somebody else's, and files of a trained head."""

from __future__ import annotations

import pytest
import torch
from contract import cases

from unspoken.errors import ConfigError, RunError
from unspoken.experimental.stopping import STOP_HEAD, RuleDecider, StopConfig, decider, read_head, save_head
from unspoken.runs.model import Model
from unspoken.tasks.scoring.extractors import extractor


@pytest.fixture(autouse=True)
def theirs(tmp_path, monkeypatch):
    """A module with a rule that stops where a latent is short, and one with an extractor."""
    (tmp_path / "somebodys_rules.py").write_text(
        "from unspoken.tasks.scoring.extractors import Extractor, Verdict\n"
        "class Short:\n"
        "    def __init__(self, threshold):\n"
        "        self.threshold = threshold\n"
        "    def __call__(self, thought, latent_D, before_D):\n"
        "        return latent_D.norm() < self.threshold\n"
        "ANY = Extractor(judge=lambda example, text, rule: Verdict(extracted=text, right=True), says='all is right')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_a_stop_rule_by_its_place():
    rule = StopConfig.parse("somebodys_rules:Short:0.5")
    assert (rule.rule, rule.threshold) == ("somebodys_rules:Short", 0.5)
    decider = RuleDecider(rule)
    assert decider.is_last(1, torch.tensor([0.1]), None)
    assert not decider.is_last(2, torch.tensor([0.9]), torch.tensor([0.1]))
    with pytest.raises(ConfigError, match=r"has no 'Shrot'; did you mean 'Short'"):
        StopConfig.parse("somebodys_rules:Shrot:0.5")


def test_an_extractor_by_its_place():
    assert extractor("somebodys_rules:ANY").says == "all is right"
    with pytest.raises(ConfigError, match="'somebodys_rules:Short' is no extractor: expected an `Extractor`, got type"):
        extractor("somebodys_rules:Short")


def test_a_head_that_does_not_fit_is_named(tmp_path):
    file, model = tmp_path / STOP_HEAD, Model(cases.shared("coconut", "llama"), path=str(tmp_path))
    width = model.method.backbone.width
    save_head(file, (torch.zeros(width), torch.tensor(0.0)))
    assert decider(model, "head:0.5").head is not None
    save_head(file, (torch.zeros(3), torch.tensor(0.0)))
    with pytest.raises(RunError, match=f"reads latents of 3 entries, this model's have {width}"):
        decider(model, "head:0.5")
    for wrong in (torch.full((width,), torch.nan), torch.zeros(2, width)):
        save_head(file, (wrong, torch.tensor(0.0)))
        with pytest.raises(RunError, match="it must be a vector and a number, all finite"):
            read_head(file)
