"""Stop rules of somebody else's."""

from __future__ import annotations

import pytest
import torch

from unspoken.errors import ConfigError
from unspoken.experimental.stopping import RuleDecider, StopConfig
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
