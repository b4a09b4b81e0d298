"""The run directory: one place that knows what lies where, writes it atomically, and refuses what is broken.

    run.json             resolved config, run id, data hashes, versions, hardware; re-runs the run
    metrics.jsonl        one JSON object per logged step or validation
    model/               an ordinary Hugging Face folder (LoRA merged) + method.safetensors: what the method adds to it
    state/step-0000120/  what resuming needs: trained weights, optimizer, random states
    models/step-40/      models kept on the way (`train.keep_every`), each a run directory of its own

Only safetensors and JSON; nothing is unpickled. Everything is written under a temporary name and renamed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from unspoken.core.backbone import BUILTIN, BackboneConfig, builtin, load_backbone
from unspoken.core.config import build, dump, lookup
from unspoken.core.fast_linear import use_dtype
from unspoken.core.slots import covered
from unspoken.core.stopping import STOP_HEAD, read_head
from unspoken.errors import BackboneError, ConfigError, RunError, TrainingError
from unspoken.methods import METHODS, make_method
from unspoken.methods.base import Method
from unspoken.model import Model
from unspoken.training.config import RunConfig
from unspoken.training.lock import LOCK
from unspoken.training.stage import own_latents, stage_of

_DECODER = "decoder"
"""Folder inside `model/` for a step decoder that came from elsewhere, so that a run directory is whole by itself."""

_ASSISTANT = "assistant"
"""Folder inside `model/` for an assistant model that was trained, or has no other place; others are named with a hash."""

_INSIDE = "method."
"""What the tensors of a wrapped method begin with, in the method around it."""


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically.

    Raises:
        TrainingError: the disk is full, or the place cannot be written.
    """

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(data, file, indent=1, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())

    _replace(path, write)


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file or folder under a temporary name beside `path`, then put it in place of `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    old = path.with_name(f".{path.name}.old")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        if temporary.is_dir() and path.exists():
            # A folder cannot be replaced in one call; `_recover` puts the old one back if we are killed in between.
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        temporary.replace(path)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"cannot write {path}: {error}; what was there before is untouched; free some space and run the same command "
            "again, training goes on from the last saved state"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            _recover(path)
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)


def _recover(path: Path) -> None:
    """Finish a replacement that was interrupted between its two renames."""
    old = path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():
        old.rename(path)


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors; entries that share memory are written once, the others' names go into the metadata."""
    owner: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    unique: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()))
        if tensor.numel() and key in owner:
            aliases[name] = owner[key]
        else:
            owner[key] = name
            unique[name] = tensor.detach().contiguous().cpu()
    save_file(unique, str(path), metadata={"aliases": json.dumps(aliases), "format": "pt"})


def load_tensors(path: Path) -> dict[str, Tensor]:
    """What `save_tensors` wrote.

    Raises:
        RunError: the file is missing or truncated.
    """
    try:
        tensors = load_file(str(path))
        with safe_open(str(path), framework="pt") as file:
            aliases = json.loads((file.metadata() or {}).get("aliases", "{}"))
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} is missing or truncated ({error}); take another checkpoint, or train again") from error
    return {**tensors, **{name: tensors[owner] for name, owner in aliases.items()}}


def own_state(method: Any) -> dict[str, Tensor]:
    """What a method has beyond its base model: projections, decoders. Another LM (a decoder, an assistant) is not here."""
    parts = [method.backbone.lm]
    if (assistant := _assistant(method)) is not None:
        parts.append(assistant.backbone.lm)
    if (decoder := _other_lm(method)) is not None:
        parts.append(decoder)
    elsewhere = {id(tensor) for part in parts for tensor in (*part.parameters(), *part.buffers())}
    return {name: tensor for name, tensor in method.state_dict(keep_vars=True).items() if id(tensor) not in elsewhere}


def _other_lm(method: Any) -> Any:
    """A step decoder's LM that came from elsewhere, or None."""
    decoder = getattr(method, "decoder", None)
    return decoder.lm if decoder is not None and decoder.config.path is not None else None


def _assistant(method: Any) -> Any:
    """The assistant model of a method (`core/assistant.py`), or None."""
    return getattr(method.inner, "assistant", None)


def _is_elsewhere(assistant: Any) -> bool:
    """An assistant can be named instead of saved: it was not trained, and does not lie in a run's own folder."""
    path = assistant.config.path
    return assistant.frozen and path is not None and not (Path(path).parent / "unspoken.json").is_file()


def _with_assistant(data: dict[str, Any], folder: Path) -> None:
    """Put the folder of a saved assistant into a dumped method config, wherever in it an assistant is configured."""
    for key, value in data.items():
        if key == "assistant" and isinstance(value, dict):
            data[key] = {k: v for k, v in value.items() if k in ("dtype", "attention")} | {"path": str(folder)}
        elif isinstance(value, dict):
            _with_assistant(value, folder)


def _check_assistant(method: Any, named: Any, folder: Path) -> None:
    """An assistant that was only named must have the weights that it had in training.

    Raises:
        RunError: it has others.
    """
    assistant = _assistant(method)
    if named and assistant is not None and assistant.hash != named["weights"]:
        raise RunError(
            f"{folder} was trained with other weights of the assistant {named['path']} than lie there now; restore them "
            f"(hash {named['weights'][:8]}, got {assistant.hash[:8]}), or train again"
        )


def _needed(data: dict[str, Any], *, explain: bool) -> tuple[dict[str, Any], Callable[[str], str | None]]:
    """A dumped method without the methods around another one that only training needs, as SemCoT's encoder is.

    Args:
        data: the method's config.
        explain: keep those that can explain latents.

    Returns:
        The config of what is left, and what its tensors were called: old name -> new name, None = not there any more.
    """
    if "inner" not in data:
        return data, lambda name: name
    left, below = _needed(data["inner"], explain=explain)

    def inside(name: str) -> str | None:
        return below(name.removeprefix(_INSIDE)) if name.startswith(_INSIDE) else None

    if not (explain and lookup(METHODS, data["name"], "method").explains):
        return left, inside

    def around(name: str) -> str | None:
        if not name.startswith(_INSIDE):
            return name
        return None if (new := inside(name)) is None else _INSIDE + new

    return {**data, "inner": left}, around


class RunDir:
    """A run directory on disk.

    Args:
        path: the folder, made by `create`; or a model inside the package ("builtin:tiny").
    """

    def __init__(self, path: str | Path) -> None:
        self.path = builtin(str(path)) if str(path).startswith(BUILTIN) else Path(path)

    @property
    def exists(self) -> bool:
        """There is a run here."""
        return (self.path / "run.json").is_file()

    def create(self, config: RunConfig, about: Mapping[str, Any]) -> None:
        """Start a run: write run.json.

        Raises:
            RunError: the folder holds something that is not a run.
        """
        self.check_free()
        write_json(self.path / "run.json", {"id": uuid.uuid4().hex, "config": dump(config), **about})

    def check_free(self) -> None:
        """See that a run can begin here.

        Raises:
            RunError: the folder holds something that is not a run.
        """
        if self.path.exists() and (not self.path.is_dir() or any(p.name != LOCK for p in self.path.iterdir())):
            raise RunError(f"{self.path} exists and is no run directory; give another --out, or empty it")

    def read(self) -> dict[str, Any]:
        """run.json as a dict.

        Raises:
            RunError: there is none, or it is broken.
        """
        file = self.path / "run.json"
        if not file.is_file():
            hint = "give a folder that `unspoken train` wrote"
            if (self.path / "config.json").is_file():
                hint = "it is a Hugging Face folder: load it with transformers, or train from it (backbone.path)"
            raise RunError(f"{self.path} is no run directory: it has no run.json; {hint}")
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            if not {"id", "config"} <= set(data):
                raise ValueError("no id or config in it")
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file} is truncated or broken ({error}); take another copy of the run") from error
        return data

    def config(self) -> RunConfig:
        """The run's config."""
        return build(RunConfig, self.read()["config"], f"{self.path / 'run.json'}: ")

    def update(self, **more: Any) -> None:
        """Add fields to run.json."""
        write_json(self.path / "run.json", {**self.read(), **more})

    # metrics

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row to metrics.jsonl."""
        try:
            with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise TrainingError(
                f"cannot write {self.path / 'metrics.jsonl'}: {error}; free some space and resume"
            ) from error

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl; a half-written last line is dropped."""
        file = self.path / "metrics.jsonl"
        rows = []
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
        return rows

    def forget_after(self, step: int, again: bool = False) -> None:
        """Drop metrics of steps that will be trained again; and of that step itself, where it will be validated again."""
        rows = [row for row in self.metrics() if row["step"] <= step]
        rows = [row for row in rows if not again or row["step"] < step or row["kind"] == "train"]

        def write(temporary: Path) -> None:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

        _replace(self.path / "metrics.jsonl", write)

    # states to resume from

    def save_state(self, step: int, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
        """Write a resumable state and drop the one before it."""

        def write(temporary: Path) -> None:
            temporary.mkdir()
            save_tensors(temporary / "state.safetensors", tensors)
            (temporary / "state.json").write_text(json.dumps({"step": step, **info}), encoding="utf-8")

        target = self.path / "state" / f"step-{step:08d}"
        _replace(target, write)
        for old in self._states():
            if old != target:
                shutil.rmtree(old, ignore_errors=True)

    def _states(self) -> list[Path]:
        return sorted((self.path / "state").glob("step-*"))

    def latest_step(self) -> int | None:
        """The step of the newest state, or None."""
        states = self._states()
        return int(states[-1].name.removeprefix("step-")) if states else None

    def sweep(self) -> None:
        """Remove what a killed process has left half-written."""
        for left in (*self.path.glob(".*.tmp"), *self.path.glob("state/.*.tmp"), *self.path.glob("models/.*.tmp")):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)

    def latest_state(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest state that is whole, or None.

        Raises:
            RunError: there are states, but all are broken.
        """
        states = self._states()
        for folder in reversed(states):
            with contextlib.suppress(RunError, OSError, ValueError):
                return load_tensors(folder / "state.safetensors"), json.loads((folder / "state.json").read_text())
        if states:
            raise RunError(f"no state in {self.path / 'state'} is readable; delete the folder to train from the start")
        return None

    # the model

    def save_model(self, method: Method, step: int, score: float | None, stage: Mapping[str, Any] | None = None) -> None:
        """Write model/: the base model as a Hugging Face folder, and what the method adds.

        Args:
            stage: what it was trained for, where that is not the end of training: "index" of its stage, that of the "last"
                one, and how many "latents" it thinks then (None = as many as at the end).
        """
        run_id = self.read()["id"]

        def write(temporary: Path) -> None:
            method.backbone.save(temporary)
            extra = own_state(method)
            if extra:
                save_tensors(temporary / "method.safetensors", extra)
            if (lm := _other_lm(method)) is not None:
                lm.save_pretrained(temporary / _DECODER)
                method.backbone.tokenizer.save_pretrained(temporary / _DECODER)
            named = None
            if (assistant := _assistant(method)) is not None:
                if _is_elsewhere(assistant):
                    named = {"path": assistant.config.path, "weights": assistant.hash}
                else:
                    assistant.backbone.save(temporary / _ASSISTANT)
            about: dict[str, Any] = {
                "run": run_id,
                "step": step,
                "score": score,
                "method": dump(method.config),
                "own": sorted(extra),
            }
            about |= {"assistant": named} if named else {}
            about |= {"stage": dict(stage)} if stage else {}
            (temporary / "unspoken.json").write_text(json.dumps(about, indent=1), encoding="utf-8")

        _replace(self.path / "model", write)

    def load_method(self, *, inner: bool = False) -> Method:
        """Rebuild the trained method from model/.

        Args:
            inner: only what answering needs; a SIM-CoT decoder is left out too. What only training needs always is.

        Raises:
            RunError: model/ is missing, truncated, or belongs to another run.
        """
        about, folder = self.read(), self.path / "model"
        _recover(folder)
        try:
            model = json.loads((folder / "unspoken.json").read_text(encoding="utf-8"))
            run, data, own = model["run"], model["method"], set(model["own"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{folder} is missing or truncated ({error}); the run may not have reached a validation yet"
            ) from error
        if run != about["id"]:
            raise RunError(
                f"{folder} belongs to another run ({run[:8]}, expected {about['id'][:8]}); restore the run's own model"
            )
        data, ours = _needed(data, explain=not inner)
        own = {new for name in own if (new := ours(name)) is not None}
        if not inner and (folder / _DECODER).is_dir():
            data["decoder"]["path"] = str(folder / _DECODER)
        if (folder / _ASSISTANT).is_dir():
            _with_assistant(data, folder / _ASSISTANT)
        try:
            trained = about["config"].get("backbone", {})
            settings = {k: trained[k] for k in ("dtype", "attention") if k in trained}
            backbone = load_backbone(BackboneConfig(path=str(folder), **settings))
            words = len(backbone.tokenizer)
            method = make_method(data, backbone)
        except (BackboneError, ConfigError, SafetensorError, RuntimeError, OSError) as error:
            raise RunError(
                f"{folder} cannot be loaded: {str(error).splitlines()[0]}; it is truncated or from another model"
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
            found = load_tensors(folder / "method.safetensors")
            found = {ours(name): tensor for name, tensor in found.items()}
            for name, tensor in wanted.items():
                if name not in found or found[name].shape != tensor.shape:
                    got = tuple(found[name].shape) if name in found else "nothing"
                    raise RunError(f"{folder / 'method.safetensors'}: {name} should be {tuple(tensor.shape)}, got {got}")
                tensor.data.copy_(found[name])
        _check_assistant(method, model.get("assistant"), folder)
        return method


def load(
    path: str | Path, *, device: str | torch.device | None = None, explain: bool = True, dtype: str | None = None
) -> Model:
    """A trained model, from its run directory.

    Args:
        path: what `unspoken train` or `export` wrote, or a model inside the package ("builtin:tiny").
        device: where to put it; None = a GPU if there is one, else the CPU.
        explain: also load an auxiliary decoder, if the run has one, so that thoughts can be decoded.
        dtype: float32, bfloat16 or int8 (CPU only); None = as trained. Answers of the latter two are near, not equal.

    Raises:
        RunError: the folder is missing, truncated, or from another model.
        ConfigError: no such dtype, or none that this machine can do.
    """
    run = RunDir(path)
    config = run.config()
    method: Any = run.load_method(inner=not explain)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Model(method.to(device).eval(), config.speaking, latents=own_latents(run.path), path=str(path))
    if dtype == "int8":  # asked of exact layers: those of 8 bits round by what else is in a pass
        covered(method.backbone, 0)
    use_dtype(method, dtype)
    model.dtype = dtype
    model.stop_head = read_head(run.path / STOP_HEAD)
    return model


def export(path: str | Path, out: str | Path) -> None:
    """Write a run directory that holds exactly what inference needs: the inner method, without decoder and states.

    Raises:
        RunError: `path` is no run, or `out` exists and is not empty.
    """
    source, target = RunDir(path), Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunError(f"{target} exists and is not empty; give a new directory")
    about = source.read()
    method = source.load_method(inner=True)
    config = build(RunConfig, {**about["config"], "method": dump(method.config)})

    def write(temporary: Path) -> None:
        run = RunDir(temporary)
        run.create(config, {"exported_from": about["id"], "provenance": about.get("provenance")})
        run.save_model(method, step=0, score=None, stage=stage_of(source.path))

    if target.exists():
        target.rmdir()
    _replace(target, write)
