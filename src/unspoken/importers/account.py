"""Match a checkpoint with its base model: every tensor under our name, LoRA merged, or an error that names the fault."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from unspoken.errors import CheckpointError, ConfigError
from unspoken.importers.base import Architecture, BaseOutline, check_frozen
from unspoken.importers.families import DECODER, LM, Family, detect, projection_of, rules_of, told_by_rows, wanted_of
from unspoken.importers.files import Weights
from unspoken.importers.lora import Merged, is_lora, merge, whole_name, with_parts
from unspoken.importers.nanochat import check_meta
from unspoken.importers.rules import Mapped, listed, rename, require


@dataclass(frozen=True, kw_only=True)
class Account:
    """A matched checkpoint.

    Attributes:
        family: its layout.
        base, decoder: the models that it was made from.
        model: the base model's tensors before tokens were added.
        mapped: its tensors under our names; added rows are still in the released code's place.
        merged: LoRA, if there was any.
        projection: CODI's projection as fields of its config; empty where there is none.
        notes: further findings, to print.
    """

    family: Family
    base: BaseOutline
    decoder: BaseOutline
    model: Architecture
    mapped: Mapped
    merged: Merged | None
    projection: dict[str, Any]
    notes: tuple[str, ...]


def account(
    weights: Weights, base: BaseOutline, decoder: BaseOutline | None, alpha: float | None, dtype: torch.dtype
) -> Account:
    """Recognise a checkpoint and account for all of it.

    Args:
        weights: the checkpoint's tensors.
        base: the model it was trained from.
        decoder: the model that an auxiliary decoder was made from; None = `base`.
        alpha: of LoRA; None = the published one.
        dtype: of weights that LoRA is merged into.

    Raises:
        CheckpointError: no known layout, rows or tensors missing, unknown or of another shape, frozen ones that differ.
        ConfigError: an option for a part that the checkpoint does not have.
    """
    model = base.architecture()
    family = told_by_rows(detect(weights.tensors, model), weights.tensors, base, model)
    if decoder is not None and not family.decoder:
        raise ConfigError(f"a decoder's base was given, but {weights.path} ({family.title}) has no auxiliary decoder")
    if maps := sorted(key for key in weights.tensors if key.startswith("pj_out.")):
        raise CheckpointError(
            f"{weights.path} has {listed(maps)}: a map from the decoder's vocabulary to the base model's, which is not "
            "supported; import a copy without decoder.*, pj_in.* and pj_out.*"
        )
    explains = model if decoder is None else decoder.architecture()
    mapped = rename(rules_of(family, model, explains, weights.tensors), weights.tensors)
    table = mapped.tensors.get(DECODER + explains.embedding)
    if decoder is None and table is not None and table.shape[-1] != model.width:
        raise CheckpointError(
            f"{weights.path}: the auxiliary decoder is {table.shape[-1]} wide, {base.path} {model.width}: it was made from "
            "another model; give that one with --decoder-base"
        )
    rows = _rows(mapped, family, base, model, weights)
    resized = base.architecture(rows)
    frozen = {
        whole_name(name).removeprefix(LM): (mapped.name(name), tensor)
        for name, tensor in mapped.tensors.items()
        if family.lora and name.startswith(LM) and not is_lora(name)
    }
    merged = merge(mapped, {LM + name for name in resized.conv1d}, alpha, dtype)
    wanted = with_parts(wanted_of(family, resized, explains, mapped), mapped)
    require(mapped, wanted, f"{weights.path} does not fit {family.title} on {base.path}")
    projection = projection_of(mapped.tensors, model.width)
    notes = check_meta(weights.files, base) if family.nanochat else []
    if family.method == "codi":
        norm = "with" if projection.get("projection_norm") else "without"
        notes.append(
            f"projection: width {projection['projection_width']}, {norm} layer norm" if projection else "projection: none"
        )
        if (spare := rows - base.rows - 3) > 0:
            notes.append(f"dropped: the last {spare} of {rows} rows; the released code uses {base.rows + 3}")
    if frozen and (compared := check_frozen(base, model.body, frozen)):
        notes.append(f"checked: {compared} tensors that LoRA leaves alone are equal to those of {base.path}")
    return Account(
        family=family, base=base, decoder=decoder or base, model=model, mapped=mapped, merged=merged, projection=projection,
        notes=tuple(notes),
    )  # fmt: skip


def _rows(mapped: Mapped, family: Family, base: BaseOutline, model: Architecture, weights: Weights) -> int:
    """Rows of the embedding in the file.

    Raises:
        CheckpointError: not as many as the base model and the added tokens have.
    """
    allowed, before = family.embedding_rows(base)
    name = LM + model.embedding
    if name not in mapped.tensors:
        return allowed[0]  # `require` reports it
    rows = int(mapped.tensors[name].shape[0])
    if rows not in allowed:
        added = allowed[0] - before
        parts = f" ({before} of {base.path} and {added} of added tokens)" if added else f", those of {base.path}"
        lost = "the rows of the added tokens are lost; " if added and rows == before else ""
        raise CheckpointError(
            f"{weights.path}: {mapped.name(name)} has {rows} rows, expected {' or '.join(map(str, allowed))}{parts}; {lost}"
            "check --base, or take another copy of the file"
        )
    return rows
