"""LOTUS's and PCCoT's state dicts, recorded from the authors' code, import and give the recorded numbers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from importers.test_parity import write_base
from support.fakes.released import FORMS, write
from support.parity import cases
from support.parity.lotus import own_rows
from support.parity.pccot import left_padding

import unspoken
from unspoken.core.rows.batch import collate
from unspoken.errors import CheckpointError, ConfigError
from unspoken.importers import import_checkpoint

if cases.folder() is None:
    pytest.skip(cases.ABSENT, allow_module_level=True)

LOTUS = ["lotus_gpt2_stage3_c13", "lotus_llama_stage3_c10"]
PCCOT = cases.names("pccot")


def imported(name: str, folder: Path, **options: Any) -> tuple[cases.Case, Any, Any]:
    """A case, the import of its state dict in a form that its number picks, and the method that is loaded from it."""
    if name not in cases.names("lotus", "pccot"):
        pytest.skip(f"{name} is not in this folder")
    case = cases.load(name)
    base = write_base(folder / "base", case, case.facts["backbone_config"])
    prefix = "base_causallm." if "lotus" in name else ""
    state = {key: value.clone() for key, value in case.state(prefix).items()}
    files = write(folder / "files", state, FORMS[len(name) % len(FORMS)])
    done = import_checkpoint(files, base, folder / "run", **options)
    return case, done, unspoken.load(done.path).method


@pytest.mark.parametrize("name", LOTUS)
def test_lotus(name: str, tmp_path: Path):
    """Three rows more than tokens: LOTUS. Slots, text loss and step loss are the recorded ones."""
    c = cases.load(name).facts["method_config"]["c_thought"]
    case, done, method = imported(name, tmp_path, latents_per_step=c)
    assert done.family == "LOTUS"
    assert (method.config.latents_per_step, method.config.max_stage) == (c, 6)
    batch = collate(own_rows(case, method))
    with torch.no_grad():
        report = method(batch, method.counts(batch))
    loops = case.facts["method_config"]["n_looped_iters"]
    cases.same("latents of imports", report.trace.latents_BKD, case.tensors[f"loop/{loops}/fed"])
    cases.same("losses of imports", report.total, case.tensors["loss/total"])


@pytest.mark.parametrize("name", PCCOT)
def test_pccot(name: str, tmp_path: Path):
    """Four rows more: PCCoT, with a projection where there is one. Latents of rows without padding are the recorded ones."""
    official = cases.load(name).facts["method_config"]
    case, done, method = imported(name, tmp_path, latents=official["num_latent_tokens"])
    assert done.family == "PCCoT"
    assert (method.projection is not None) == official["use_projection"]
    assert method.config.iterations == 3
    method.config = dataclasses.replace(method.config, iterations=official["num_iterations"])  # in no file
    stage = method.curriculum().last
    batch = collate([method.layout(example, stage, Random(0)) for example in case.examples])
    with torch.no_grad():
        report = method(batch, method.counts(batch))
    whole = [b for b, left in enumerate(left_padding(case)) if left == 0]
    cases.same("latents of imports", report.trace.latents_BKD[whole], case.tensors["latents"][whole])
    cases.same("losses of imports", report.terms["teacher"], case.tensors["loss/cot"])


def test_published_settings_are_taken_where_no_file_says_them(tmp_path: Path):
    _, done, method = imported(LOTUS[0], tmp_path)
    assert (method.config.latents_per_step, method.config.max_stage) == (13, 6)
    assert done.chosen["latents"][0] == 78


def test_settings_of_another_family_and_other_rows_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="latents is no setting of LOTUS"):
        imported(LOTUS[1], tmp_path, latents=6)
    case = cases.load(LOTUS[0])
    state = {key: value[:-1] if key.endswith("wte.weight") else value for key, value in case.state("base_causallm.").items()}
    state = {key: value.clone() for key, value in state.items() if not key.startswith("lm_head")}
    base = write_base(tmp_path / "other", case, case.facts["backbone_config"])
    with pytest.raises(CheckpointError, match="rows"):
        import_checkpoint(write(tmp_path / "cut", state, FORMS[0]), base, tmp_path / "none")
