"""SoftCoT's `projection.bin`: all that its authors' code saves, and so all that there is to import.

    weight     [width of the base model, width of the assistant]
    bias       [width of the base model]
    embedding  [sets of thoughts, width of the assistant]      SoftCoT++ only: what its slots hold

xuyige/SoftCoT fa7f537, `save_pretrained`; bf16, to be held in fp32. Neither the two models nor the number of slots, the task
or the prompts are in the file: the models have to be named, and the sizes must fit them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from unspoken.core.config import build
from unspoken.core.files import write_folder
from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.lm.loading import load_backbone, resolve
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.provenance import provenance
from unspoken.errors import BackboneError, CheckpointError, ConfigError
from unspoken.importers.base import BaseOutline, read_base
from unspoken.importers.files import Weights
from unspoken.importers.rules import KeyRule, Mapped, rename, require
from unspoken.importers.settings import Choices
from unspoken.methods import make_method, method_config
from unspoken.methods.base import parts_of
from unspoken.runs.config import RunConfig, TrainConfig
from unspoken.runs.directory import write_run
from unspoken.tasks import task_config

_KEYS = {"weight", "bias", "embedding"}
_BESIDE = ("assistant_model.bin", "base_model.bin")
"""What the released code saves beside the projection where it has trained the models themselves."""


@dataclass(frozen=True, kw_only=True)
class ProjectionImport:
    """What has to be said besides the file.

    Attributes:
        base, assistant: the two models, with their weights.
        eos: the token that ends an answer; None = the base model's, which is then checked.
        latents: slots; None = 32, as in the released training.
        texts: a name of `core.soft_text.TEXTS`, or a JSON file with fields of `SoftTexts`; None = "math".
        dtype: of both models.
        task: what `unspoken eval` takes by default.
    """

    base: str
    assistant: str | None
    eos: str | None
    latents: int | None
    texts: str | None
    dtype: str
    task: str


def is_projection(keys: Iterable[str]) -> bool:
    """Whether a checkpoint is one of these."""
    keys = set(keys)
    return ("weight" in keys and keys <= _KEYS) or {"weight", "bias"} <= keys


def import_projection(weights: Weights, target: Path, how: ProjectionImport) -> tuple[str, Mapped, Choices, tuple[str, ...]]:
    """Make a run directory of a projection.

    Returns:
        What it was recognised as, the account of its tensors, what was chosen, notes.

    Raises:
        ConfigError: nobody names the assistant, or the texts are none.
        CheckpointError: tensors are missing, unknown, or of another size than the two models ask for; or the models were
            trained too, in a form that cannot be read.
        RunError: it cannot be written.
    """
    several = "embedding" in weights.tensors
    title = "SoftCoT++'s projection" if several else "SoftCoT's projection"
    if how.assistant is None:
        raise ConfigError(f"{weights.path} is {title}: name the assistant it was trained with, --assistant")
    for file in weights.files:
        if trained := [name for name in _BESIDE if (file.parent / name).is_file()]:
            raise CheckpointError(
                f"{file.parent} has {trained[0]} beside the projection: that model was trained too, and how its adapters "
                "were made is not in the file; only a projection between models that were not trained can be imported"
            )
    base = read_base(how.base, how.eos)
    targets = {"weight": "projection.weight", "bias": "projection.bias", "embedding": "initial.weight"}
    mapped = rename([KeyRule(pattern=key, target=target) for key, target in targets.items()], weights.tensors)
    wide, narrow = base.architecture().width, _width(how.assistant)
    wanted: dict[str, tuple[int, ...]] = {"projection.weight": (wide, narrow), "projection.bias": (wide,)}
    if several:
        wanted["initial.weight"] = (int(weights.tensors["embedding"].shape[0]), narrow)
    where = f"{weights.path} does not fit --base {how.base} ({wide} wide) and --assistant {how.assistant} ({narrow} wide)"
    require(mapped, wanted, where)
    choices = Choices()
    data = _settings(how, base, choices, wanted.get("initial.weight", (0,))[0])
    notes = ("the prompts are ours, not those it was trained with: --texts takes a JSON file",) if how.texts is None else ()
    config = RunConfig(
        backbone=build(BackboneConfig, {"path": how.base, "dtype": how.dtype}),
        method=method_config(data),
        task=task_config(how.task),
        train=TrainConfig(steps=1, validate_limit=0),  # nothing was trained here, and nothing can go on
        # evaluate_softcot.py: sampled, top_p forced to 1; top_k is the model's own, 50 where it says nothing
        speaking=SamplingParams(
            temperature=1.0, top_k=int(getattr(base.generation, "top_k", None) or 50), max_new_tokens=1024
        ),
    )
    method = make_method(data, load_backbone(config.backbone))
    for name, part in parts_of(method).items():  # "projection"; "initial": what slots hold
        if part.lm is None:
            own = {key.removeprefix(f"{name}."): t for key, t in mapped.tensors.items() if key.startswith(f"{name}.")}
            part.module.load_state_dict(own)
    record = {
        "family": title,
        "files": weights.sources(),
        "base": how.base,
        "assistant": how.assistant,
        "eos": how.eos,
        "mapped": {name: list(keys) for name, keys in mapped.keys.items()},
        "chosen": {name: {"value": value, "source": whence} for name, (value, whence) in choices.made.items()},
        "notes": list(notes),
    }
    about = {"imported": record, "provenance": provenance()}
    write_folder(target, lambda folder: write_run(folder, config, about, method), then="import again")
    return title, mapped, choices, notes


def _width(path: str) -> int:
    """Of a model's embedding."""
    try:
        return int(AutoConfig.from_pretrained(resolve(path), trust_remote_code=False).get_text_config().hidden_size)
    except (OSError, ValueError, AttributeError) as error:
        raise BackboneError(f"cannot read the config of {path}: {str(error).splitlines()[0]}; check --assistant") from error


def _settings(how: ProjectionImport, base: BaseOutline, choices: Choices, chains: int) -> dict[str, Any]:
    """The method's config as plain values."""
    # Only its scripts for Qwen3 end the prompt with the header of the answer.
    header = base.config.get_text_config().model_type == "qwen3"
    choices.choose("generation_header", None, header, "as released for this family")
    soft = {
        "name": "softcot",
        "assistant": {"path": how.assistant, "dtype": how.dtype},
        "latents": choices.choose("latents", how.latents, 32, "as the README trains; its evaluation takes 4"),
        "texts": _texts(choices.choose("texts", how.texts, "math", "ours")),
        "generation_header": header,
    }
    return {"name": "softcot_pp", "softcot": soft, "chains": chains} if chains else soft


def _texts(given: str) -> Any:
    """A name stays as it is; a JSON file is read."""
    if not given.endswith(".json"):
        return given
    try:
        return json.loads(Path(given).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the texts in {given}: {error}") from None
