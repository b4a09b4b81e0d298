"""A released checkpoint becomes an ordinary run directory: `unspoken import PATH --base BASE`.

Tensors come from the file, architecture and tokenizer from the base model, and what neither contains (number of latents,
LoRA's alpha) from the caller or the published value. run.json records all of it, with the SHA-256 of every file.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unspoken.core.auxiliary.step_decoder import StepDecoder
from unspoken.core.config import build, dump
from unspoken.core.files import check_new, write_folder
from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.lm.loading import load_backbone
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.provenance import provenance
from unspoken.errors import ConfigError
from unspoken.importers.account import Account, account
from unspoken.importers.base import add_marker_tokens, read_base, write_lm
from unspoken.importers.families import DECODER, LM, PROJECT, PROJECTION
from unspoken.importers.files import Weights, files_of, read_weights
from unspoken.importers.generator import TITLE, Generator, account_generator, is_generator
from unspoken.importers.lora import Merged
from unspoken.importers.projection import Projection, account_projection, is_projection
from unspoken.importers.rules import listed
from unspoken.importers.settings import Choices, settings
from unspoken.methods import make_method, method_config
from unspoken.methods.base import Method, parts_of
from unspoken.methods.semcot_generator import THOUGHT
from unspoken.runs.config import RunConfig, TrainConfig
from unspoken.runs.directory import write_run
from unspoken.tasks import task_config


@dataclass(frozen=True, kw_only=True)
class Imported:
    """The result of an import.

    Attributes:
        path: the run directory.
        family: the recognised kind of checkpoint.
        mapped: target -> the keys it was made from.
        dropped: key -> reason.
        merged: LoRA, if there was any.
        chosen: settings that are not in the file -> (value, origin).
        notes: further findings.
    """

    path: Path
    family: str
    mapped: Mapping[str, tuple[str, ...]]
    dropped: Mapping[str, str]
    merged: Merged | None
    chosen: Mapping[str, tuple[Any, str]]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The result as lines of text."""
        keys = [key for sources in self.mapped.values() for key in sources]
        lines = [f"{self.family}: {len(keys)} tensors mapped, {len(self.dropped)} dropped"]
        for reason in dict.fromkeys(self.dropped.values()):
            lines.append(f"  dropped: {listed(key for key, why in self.dropped.items() if why == reason)}: {reason}")
        if (m := self.merged) is not None:
            lines.append(f"  merged: LoRA of {m.layers} layers (rank {m.r}, alpha {m.alpha:g}, scale {m.scale:g}), in fp32")
        lines += [f"  {note}" for note in self.notes]
        lines += [f"  {name}: {value} ({whence})" for name, (value, whence) in self.chosen.items()]
        return lines


def import_checkpoint(
    path: str | Path,
    base: str,
    out: str | Path,
    *,
    latents: int | None = None,
    latents_per_step: int | None = None,
    max_stage: int | None = None,
    alpha: float | None = None,
    eos: str | None = None,
    decoder_base: str | None = None,
    assistant: str | None = None,
    texts: str | None = None,
    dtype: str = "float32",
    task: str = "gsm8k_aug",
) -> Imported:
    """Turn a released checkpoint of Coconut, CODI, SIM-CoT on either, LOTUS, PCCoT, SoftCoT or SemCoT into a run directory.

    Args:
        path: a file or folder; see `importers.files`.
        base: the model it was trained from: a Hugging Face folder (weights may be absent), hub id or "builtin:..."; for
            SemCoT the frozen model, with its weights.
        out: the run directory to make.
        latents: number of latents; None = 6 for CODI, as in every released model, 24 for PCCoT, 5 for SemCoT, as trained.
        latents_per_step, max_stage: Coconut, LOTUS: c and K, which make c K latents; None = the published ones for GSM8K.
        alpha: of LoRA; None = 32, if the rank is the published 128.
        eos: the token that ends an answer; None = the base model's, which is then checked.
        decoder_base: the model that an auxiliary decoder was made from; None = `base`.
        assistant: SoftCoT: the model whose states were projected, with its weights. SemCoT: the small model that the
            generator was made from; its weights may be absent.
        texts: SoftCoT: a name of `core.text.prompts.TEXTS`, or a JSON file with fields of `SoftTexts`.
        dtype: of the weights in the run: float32 or bfloat16. LoRA is merged in fp32 in any case.
        task: what `unspoken eval` takes by default.

    Returns:
        What was mapped, merged and dropped, and why.

    Raises:
        CheckpointError: the file cannot be read, or does not fit the base model; names every wrong key.
        ConfigError: an option that does not apply to this checkpoint.
        RunError: `out` exists and is not empty.
    """
    files_of(Path(path))  # errors about the command's first argument come first
    target = Path(out)
    check_new(target)
    evaluated, ground = task_config(task), build(BackboneConfig, {"path": base, "dtype": dtype})
    weights = read_weights(path)
    theirs = {"latents_per_step": latents_per_step, "max_stage": max_stage, "alpha": alpha, "decoder_base": decoder_base}
    foreign = [name for name, value in theirs.items() if value is not None]
    choices = Choices()
    merged, notes = None, ()
    found: Account | Generator | Projection
    if is_projection(weights.tensors):
        if foreign:
            raise ConfigError(f"{foreign[0]} is no setting of SoftCoT; its own: assistant, latents, texts")
        found = account_projection(weights, read_base(base, eos), assistant)
        data, family = found.settings(choices, latents, texts, dtype), found.title
        method_config(data)
        if texts is None:
            notes = ("the prompts are ours, not those it was trained with: --texts takes a JSON file",)
    elif texts is not None:
        raise ConfigError(f"texts is a setting of SoftCoT, and {weights.path} is none of its projections")
    elif is_generator(weights.tensors):
        if foreign:
            raise ConfigError(f"{foreign[0]} is no setting of {TITLE}; its own: assistant, latents")
        small = None if assistant is None else read_base(assistant, speaks=False)
        found = account_generator(weights, read_base(base, eos), small)
        data = found.settings(choices.choose("latents", latents, 5, "as trained; the released evaluation thinks 1"))
        method_config({**data, "assistant": {"path": assistant}})  # an impossible number is reported before writing
        family = TITLE
    else:
        if assistant is not None:
            raise ConfigError(f"assistant is a setting of SoftCoT and SemCoT, and {weights.path} is neither")
        explains = None if decoder_base is None else read_base(decoder_base, eos)
        found = account(weights, read_base(base, eos), explains, alpha, getattr(torch, ground.dtype))
        if found.merged is not None:
            choices.choose("alpha", alpha, found.merged.alpha, "the published one for this rank")
        data = settings(found, choices, latents, latents_per_step, max_stage)
        method_config(data)
        family, merged, notes = found.family.title, found.merged, found.notes
    done = Imported(
        path=target,
        family=family,
        mapped=found.mapped.keys,
        dropped=found.mapped.dropped,
        merged=merged,
        chosen=choices.made,
        notes=notes,
    )

    def write(folder: Path) -> None:
        parts = folder.with_name(f"{folder.name}.parts")
        if isinstance(found, Account):
            method = _build(data, found, ground, parts, target)
        elif isinstance(found, Generator):
            method = _build_generator(data, found, ground, parts, target)
        else:
            found.fill(method := make_method(data, load_backbone(ground)))
        config = RunConfig(
            backbone=ground,
            method=method_config(method.config),
            task=evaluated,
            train=TrainConfig(steps=1, validate_limit=0),  # nothing was trained here, and nothing can go on
            speaking=_speaking(found),
        )
        given = {"base": base, "decoder_base": decoder_base, "assistant": assistant, "eos": eos}
        about = {"imported": _record(done, weights, given), "provenance": provenance()}
        write_run(folder, config, about, method)
        shutil.rmtree(parts, ignore_errors=True)

    write_folder(target, write, then="import again")
    return done


def _build(data: dict[str, Any], found: Account, ground: BackboneConfig, parts: Path, target: Path) -> Method:
    """Build the method with the checkpoint's weights, like any method from Hugging Face folders, which are made in
    `parts`."""
    kind, base = getattr(torch, ground.dtype), found.base
    if found.family.decoder:
        write_lm(parts / "decoder", found.decoder, found.decoder.rows, _part(found, DECODER), kind)
        data["decoder"]["path"] = str(parts / "decoder")
    lm = _part(found, LM)
    if found.family.method == "codi":
        lm = _move_markers(lm, found)
    if found.family.method != "cot":
        add_marker_tokens(base.tokenizer)
    write_lm(parts / "lm", base, lm[found.model.embedding].shape[0], lm, kind)
    method = make_method(data, load_backbone(replace(ground, path=str(parts / "lm"))))
    if found.projection:
        parts_of(method)["projection"].module.load_state_dict(_part(found, PROJECTION))
    if found.family.decoder:
        decoder = parts_of(method)["decoder"].module
        assert isinstance(decoder, StepDecoder)
        decoder.project.load_state_dict(_part(found, PROJECT))
        _will_lie(method, "decoder", target)
    return method


def _will_lie(method: Method, name: str, target: Path) -> None:
    """Set the final path of a language model beside the base model, so that run.json names an existing place."""
    place = replace(getattr(method.config, name), path=str(target / "model" / name))
    method.config = replace(method.config, **{name: place})


def _build_generator(data: dict[str, Any], found: Generator, ground: BackboneConfig, parts: Path, target: Path) -> Method:
    """Build SemCoT's generator; the frozen model is used unchanged."""
    found.small.tokenizer.add_tokens([THOUGHT])
    rows = found.small.words
    write_lm(parts / "assistant", found.small, rows, found.lm(), getattr(torch, ground.dtype))
    data["assistant"] = {"path": str(parts / "assistant"), "dtype": ground.dtype}
    method = make_method(data, load_backbone(ground))
    parts_of(method)["projection"].module.load_state_dict(found.projection())
    _will_lie(method, "assistant", target)
    return method


def _speaking(found: Account | Generator | Projection) -> SamplingParams:
    """As in the released evaluations."""
    if isinstance(found, Projection):
        return found.speaking()
    if isinstance(found, Generator):
        return SamplingParams(max_new_tokens=30)  # utils/utils.py
    return SamplingParams(max_new_tokens=256 if found.family.method == "codi" else 64)  # CODI test.py; Coconut run.py


def _part(found: Account, prefix: str) -> dict[str, Tensor]:
    """The tensors of one module, under its own names."""
    return {name.removeprefix(prefix): t for name, t in found.mapped.tensors.items() if name.startswith(prefix)}


def _move_markers(lm: dict[str, Tensor], found: Account) -> dict[str, Tensor]:
    """Move CODI's rows V, V + 1, V + 2 (pad, bot, eot) to our ids: bot, eot, latent after the tokenizer's last token.

    A latent's placeholder is never looked up; it gets the row of pad. Later rows are unused and left out.
    """
    V, first = found.base.rows, found.base.words
    moved = dict(lm)
    for name in {found.model.embedding, found.model.head} & set(lm):
        table = lm[name]
        more = max(0, first + 3 - V)  # 3, unless the base model has spare rows behind its last token
        moved[name] = torch.cat([table[:V], table[V : V + more]])
        moved[name][first : first + 3] = table[[V + 1, V + 2, V]]
    return moved


def _record(done: Imported, weights: Weights, given: Mapping[str, str | None]) -> dict[str, Any]:
    """The import and the given options as plain values, for run.json."""
    return {
        "family": done.family,
        "files": weights.sources(),
        **given,
        "tensors": len(weights.tensors),
        "mapped": {target: list(keys) for target, keys in done.mapped.items()},
        "dropped": dict(done.dropped),
        "lora": None if done.merged is None else dump(done.merged),
        "chosen": {name: {"value": value, "source": whence} for name, (value, whence) in done.chosen.items()},
        "notes": list(done.notes),
    }
