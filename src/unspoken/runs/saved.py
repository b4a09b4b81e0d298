"""Save and load a trained method: the folder model/ of a run directory.

    config.json, model*.safetensors, tokenizer ...   the base model, an ordinary Hugging Face folder (LoRA merged)
    method.safetensors     the tensors that the method has beside it
    NAME/                  a language model beside it (`Part.lm`) that was trained, or has no other place
    unspoken.json          the method's settings, the names of its tensors, hashes; of language models that are only named,
                           path and hash

A method declares its parts, and what each is needed for (`Method.parts`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from unspoken.core.config import dump, lookup
from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.lm.loading import load_backbone, restore
from unspoken.core.precision import kept_dtype
from unspoken.core.seal import broken, sealed
from unspoken.core.tensors import load_tensors, save_tensors
from unspoken.errors import BackboneError, ConfigError, RunError
from unspoken.methods import METHODS, make_method
from unspoken.methods.base import Method, Wrapper, parts_of
from unspoken.runs.earlier import updated_method

_INSIDE = "method."
"""Prefix of a wrapped method's tensors in its `Wrapper`."""


def own_state(method: Method, *, answering: bool = False) -> dict[str, Tensor]:
    """The tensors of a method besides its base model: projections, decoders. Without language models, which are saved
    separately.

    Args:
        answering: only what answering needs.
    """
    parts = parts_of(method).values()
    apart = [method.backbone.lm, *(part.lm.lm for part in parts if part.lm is not None)]
    apart += [part.module for part in parts if answering and part.needed != "answer"]
    elsewhere = {id(tensor) for module in apart for tensor in (*module.parameters(), *module.buffers())}
    return {name: tensor for name, tensor in method.state_dict(keep_vars=True).items() if id(tensor) not in elsewhere}


def write_model(
    folder: Path,
    run: str,
    method: Method,
    *,
    step: int = 0,
    score: float | None = None,
    stage: Mapping[str, int | None] | None = None,
    answering: bool = False,
) -> None:
    """Write the contents of model/.

    Args:
        folder: the folder, which the base model's writer creates.
        run: id of the run.
        step, score, stage: see `RunDir.save_model`.
        answering: leave out what answering does not need.
    """
    method.backbone.save(folder)
    own = own_state(method, answering=answering)
    if own:
        save_tensors(folder / "method.safetensors", own)
    named = save_models(method, folder, answering=answering)
    config = method.answering_config() if answering else method.config
    about: dict[str, Any] = {"run": run, "step": step, "score": score, "method": dump(config), "own": sorted(own)}
    about |= {"named": named} if named else {}
    about |= {"stage": dict(stage)} if stage else {}
    (folder / "unspoken.json").write_text(json.dumps(sealed(folder, about), indent=1), encoding="utf-8")


def save_models(
    method: Method, folder: Path, *, answering: bool = False, elsewhere: bool = False
) -> dict[str, dict[str, str]]:
    """Write the language models beside the base model, each into a folder with its name.

    Args:
        answering: only those that answering needs.
        elsewhere: also those available elsewhere, of which otherwise only path and hash are recorded.

    Returns:
        Path and hash of the models that were not written, by name.
    """
    named: dict[str, dict[str, str]] = {}
    for name, part in parts_of(method).items():
        if part.lm is None or (answering and part.needed != "answer"):
            continue
        if not elsewhere and (found := part.lm.named) is not None:
            named[name] = found
        else:
            part.lm.save(folder / name)
    return named


def placed(data: dict[str, object], name: str, folder: Path) -> bool:
    """Put the folder of a saved language model into a dumped config, at the field with the part's name; False if there is
    no such field."""
    found = False
    for key, value in data.items():
        if not isinstance(value, dict):
            continue
        if key != name:
            found |= placed(value, name, folder)
        elif "arch" in value:  # a BackboneConfig; its settings have already been applied to the saved folder
            kept = {"path": str(folder), "dtype": kept_dtype(folder)}  # trained parameters are saved in fp32
            data[key] = {k: v for k, v in value.items() if k == "attention"} | kept
            found = True
        else:
            data[key] = {**value, "path": str(folder)}
            found = True
    return found


def read_model(
    folder: Path, model: Mapping[str, Any], *, explain: bool, attention: str | None = None, parallel: int | None = None
) -> tuple[Method, list[str]]:
    """Rebuild a method from model/.

    Args:
        folder: the folder.
        model: its unspoken.json.
        explain: also load what only explaining needs. What only training needs is left out if a `Wrapper` holds it.
        attention: the implementation that the base model was trained with; None = the default.
        parallel: number of parallel passes for all latents; None = one pass per latent.

    Returns:
        The method, and the subfolders that were not used.

    Raises:
        RunError: something is missing, truncated, or does not fit.
    """
    data, ours = _needed(deepcopy(updated_method(model["method"])[0]), explain=explain)
    own = {new for name in model["own"] if (new := ours(name)) is not None}
    beside = [inside for inside in sorted(folder.glob("*/")) if (inside / "config.json").is_file()]
    unused = [inside.name for inside in beside if not placed(data, inside.name, inside)]
    try:
        how: Any = {} if attention is None else {"attention": attention}
        backbone = load_backbone(BackboneConfig(path=str(folder), dtype=kept_dtype(folder), **how))
        words = len(backbone.tokenizer)
        method = make_method(data, backbone)
        backbone.parallel = parallel
        restore(backbone, folder)
        for name, part in parts_of(method).items():
            if part.lm is not None:
                part.lm.restore(folder / name)
    except (BackboneError, ConfigError, SafetensorError, RuntimeError, OSError) as error:
        changed = broken(folder, "unspoken.json", model, without=unused)
        why = f"{changed}; " if changed else ""
        raise RunError(
            f"{folder} cannot be loaded: {why}{str(error).splitlines()[0]}; it is truncated or from another model"
        ) from error
    if added := len(backbone.tokenizer) - words:
        raise RunError(
            f"{folder}: the tokenizer lacks {added} marker tokens of method {data['name']!r}; "
            "it was replaced by another model's"
        )
    wanted = own_state(method)
    if set(wanted) != own:
        raise RunError(f"{folder} does not fit its method: tensors differ, e.g. {sorted(set(wanted) ^ own)[0]!r}")
    if wanted:
        found = {ours(name): tensor for name, tensor in load_tensors(folder / "method.safetensors").items()}
        _fill(wanted, found, folder / "method.safetensors")
    _check_named(method, model, folder)
    return method, unused


def _needed(data: dict[str, Any], *, explain: bool) -> tuple[dict[str, Any], Callable[[str], str | None]]:
    """A dumped method config without wrappers that only training needs, such as SemCoT's encoder.

    Args:
        data: the method's config.
        explain: keep wrappers that can explain latents.

    Returns:
        The remaining config, and a function from old to new tensor names; None = dropped.
    """
    kind = lookup(METHODS, data["name"], "method")
    if not issubclass(kind, Wrapper):
        return data, lambda name: name
    left, below = _needed(data["inner"], explain=explain)

    def inside(name: str) -> str | None:
        return below(name.removeprefix(_INSIDE)) if name.startswith(_INSIDE) else None

    if not (explain and kind.explains):
        return left, inside

    def around(name: str) -> str | None:
        if not name.startswith(_INSIDE):
            return name
        return None if (new := inside(name)) is None else _INSIDE + new

    return {**data, "inner": left}, around


def _fill(wanted: Mapping[str, Tensor], found: Mapping[str | None, Tensor], file: Path) -> None:
    """Copy tensors into a method's, in the type they were saved in, whatever the base model's.

    Raises:
        RunError: one is missing, has another shape, or holds nan or inf.
    """
    for name, tensor in wanted.items():
        if name not in found or found[name].shape != tensor.shape:
            got = tuple(found[name].shape) if name in found else "nothing"
            raise RunError(f"{file}: {name} should be {tuple(tensor.shape)}, got {got}")
        if not found[name].isfinite().all():
            raise RunError(f"{file}: {name} holds nan or inf; take another copy of the run")
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(found[name].dtype)
        tensor.data.copy_(found[name])


def _check_named(method: Method, model: Mapping[str, Any], folder: Path) -> None:
    """Check that language models recorded by path and hash have the weights that they had in training.

    Raises:
        RunError: the weights differ.
    """
    # Version 0.1.0 knew one, the assistant.
    named = model.get("named") or ({"assistant": model["assistant"]} if "assistant" in model else {})
    parts = parts_of(method)
    for name, about in named.items():
        lm = parts[name].lm if name in parts else None
        if lm is None or (found := lm.named) is None or found["weights"] == about["weights"]:
            continue
        raise RunError(
            f"{folder} was trained with other weights of the {name} {about['path']} than lie there now; restore them "
            f"(hash {about['weights'][:8]}, got {found['weights'][:8]}), or train again"
        )
