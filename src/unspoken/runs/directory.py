"""The run directory: its layout, atomic writing, and checks for damage.

    run.json             resolved config, run id, data hashes, versions, hardware; re-runs the run
    metrics.jsonl        one JSON object per logged step or validation
    model/               an ordinary Hugging Face folder (LoRA merged) + method.safetensors: what the method adds to it
                         (+ adapter.safetensors, see core/lm/adapters.py)
    state/step-0000120/  what resuming needs: trained weights, optimizer, random states
    models/step-40/      models kept on the way (`train.keep_every`), each a run directory of its own

Only safetensors and JSON; nothing is unpickled. Everything is written under a temporary name and renamed
(`core/files.py`), and models and states are compared with their hashes when they are loaded (`core/seal.py`).
"""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unspoken.core.config import build, dump
from unspoken.core.fast.switch import using
from unspoken.core.files import (
    check_new,
    read_object,
    reason,
    recover,
    sweep,
    sync,
    write_folder,
    write_json,
    write_text,
)
from unspoken.core.lm.loading import device_or_gpu
from unspoken.core.seal import SEAL, broken, model_info, sealed, state_info
from unspoken.core.tensors import load_tensors, save_tensors
from unspoken.errors import RunError, TrainingError
from unspoken.methods.base import Method
from unspoken.runs.config import RunConfig
from unspoken.runs.lock import LOCK
from unspoken.runs.model import Model
from unspoken.runs.places import Places
from unspoken.runs.saved import read_model, write_model
from unspoken.runs.stage import own_latents, stage_of

TRAINING: Any = {
    "error": TrainingError,
    "then": "run the same command again, training goes on from the last saved state",
}
"""How failed writes are reported during training."""


def _unwritten(file: Path, error: OSError) -> TrainingError:
    why, hint = reason(error)
    return TrainingError(f"cannot write {file}: {why}; {hint} and resume")


class RunDir(Places):
    """A run directory on disk, made by `create`; see `Places` for the files around the model."""

    _trained: str | None = None  # the run's id, while it is being trained

    def create(self, config: RunConfig, about: Mapping[str, object]) -> None:
        """Start a run: write run.json.

        Raises:
            RunError: the folder holds something that is not a run.
            TrainingError: it cannot be written.
        """
        self.check_free()
        write_json(self.path / "run.json", _begun(config, about), **TRAINING)

    def check_free(self) -> None:
        """Check that a run can be started here.

        Raises:
            RunError: the folder holds something that is not a run.
        """
        try:
            taken = self.path.exists() and (not self.path.is_dir() or any(p.name != LOCK for p in self.path.iterdir()))
        except OSError as error:
            why, hint = reason(error)
            raise RunError(f"{self.path!s:.200} cannot be a run directory: {why}; {hint}") from error
        if taken:
            raise RunError(f"{self.path} exists and is no run directory; give another --out, or empty it")

    def stay(self) -> None:
        """From now on, refuse to write metrics and states if something else, or nothing, is here."""
        self._trained = self.read()["id"]

    @contextlib.contextmanager
    def _staying(self) -> Iterator[None]:
        """Context manager around what writes; see `_check_stayed`."""
        self._check_stayed()
        try:
            yield
        except TrainingError:
            self._check_stayed()  # a better reason than that a file could not be written
            raise

    def _check_stayed(self) -> None:
        """Without it, folders would be made anew where a run has been moved away, or over a disk that is not mounted.

        Raises:
            TrainingError: the run is not here any more.
        """
        if self._trained is None:
            return
        try:
            why = "" if read_object(self.path / "run.json").get("id") == self._trained else "another run is there"
        except (OSError, ValueError) as error:
            why = f"run.json: {reason(error)[0]}"
        if why:
            raise TrainingError(
                f"{self.path} was taken away while it was trained ({why}): moved, deleted or unmounted; bring it back, and "
                "run the same command again: training goes on from the last saved state"
            )

    def config(self) -> RunConfig:
        """The run's config."""
        try:
            return build(RunConfig, self.read()["config"], f"{self.path / 'run.json'}: ")
        except RecursionError:
            raise RunError(f"{self.path / 'run.json'} is broken (nested too deeply); take another copy of the run") from None

    def update(self, **more: object) -> None:
        """Add fields to run.json."""
        write_json(self.path / "run.json", {**self.read(), **more}, **TRAINING)

    # metrics

    def log(self, row: Mapping[str, object]) -> None:
        """Append a row to metrics.jsonl."""
        with self._staying():
            try:
                with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            except OSError as error:
                raise _unwritten(self.path / "metrics.jsonl", error) from error

    def forget_after(self, step: int, again: bool = False) -> None:
        """Drop metrics of steps after `step`, which will be trained again, and of the step itself if it will be validated
        again."""
        rows = [row for row in self.metrics() if row["step"] <= step]
        rows = [row for row in rows if not again or row["step"] < step or row["kind"] == "train"]
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows), **TRAINING)

    # states to resume from

    def save_state(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        info: Mapping[str, object],
        more: Callable[[Path], Mapping[str, str]] = lambda _: {},
    ) -> None:
        """Write a resumable state and delete the previous one.

        Args:
            more: writes further files into the state's folder, and returns their hashes.
        """

        def write(new: Path) -> None:
            new.mkdir()
            save_tensors(new / "state.safetensors", tensors)
            known = more(new)
            (new / "state.json").write_text(json.dumps(sealed(new, {"step": step, **info}, known)), encoding="utf-8")

        target = self.path / "state" / f"step-{step:08d}"
        with self._staying():
            self._sync_metrics()
            write_folder(target, write, **TRAINING)
        self._keep_only(target)

    def _sync_metrics(self) -> None:
        """A state that outlives a disk or a machine must find the rows of its steps."""
        file = self.path / "metrics.jsonl"
        try:
            for path in (file, self.path) if file.exists() else ():
                sync(path)
        except OSError as error:
            raise _unwritten(file, error) from error

    def _keep_only(self, target: Path) -> None:
        """Delete all other states."""
        for old in self._states():
            if old != target:
                shutil.rmtree(old, ignore_errors=True)

    def sweep(self) -> None:
        """Remove half-written leftovers of killed processes."""
        for folder in (self.path, self.path / "state", self.path / "models"):
            sweep(folder)

    def latest_state(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest intact state, or None. Older states left by a killed process are removed.

        Raises:
            RunError: there are states, but all are damaged.
        """
        states, faults = self._states(), []
        for folder in reversed(states):
            try:
                found = load_tensors(folder / "state.safetensors"), state_info(folder)
            except RunError as error:
                faults.append(str(error))
                continue
            self._keep_only(folder)
            return found
        if states:
            raise RunError(
                f"no state in {self.path / 'state'} is readable: {faults[0]}; delete the folder to train from the start"
            )
        return None

    # the model

    def save_model(
        self, method: Method, step: int, score: float | None, stage: Mapping[str, int | None] | None = None
    ) -> None:
        """Write model/: the base model as a Hugging Face folder, and the method's own tensors.

        Args:
            stage: the stage it was trained up to, if not the last: its "index", the index of the "last" one, and its number
                of "latents" (None = as many as at the end).
        """
        with self._staying():
            run = self.read()["id"]
            write_folder(
                self.path / "model",
                lambda new: write_model(new, run, method, step=step, score=score, stage=stage),
                **TRAINING,
            )

    def load_method(self, *, at_inference: bool = False) -> Method:
        """Rebuild the trained method from model/.

        Args:
            at_inference: load only what answering needs, so no SIM-CoT decoder. What only training needs is never loaded.

        Raises:
            RunError: model/ is missing, truncated, or belongs to another run.
        """
        about, folder = self.read(), self.path / "model"
        recover(folder)
        model = self.model_info()
        if model["run"] != about["id"]:
            raise RunError(
                f"{folder} belongs to another run ({model['run'][:8]}, expected {about['id'][:8]}); "
                "restore the run's own model"
            )
        config = about["config"]
        how = {"attention": config.get("backbone", {}).get("attention")}
        how |= {"parallel": config.get("thinking", {}).get("parallel")}
        method, unused = read_model(folder, model, explain=not at_inference, **how)
        self.check_model(without=unused)
        return method

    def model_info(self) -> dict[str, Any]:
        """See `core.seal.model_info`."""
        return model_info(self.path / "model" / "unspoken.json")

    def check_model(self, *, without: Collection[str] = ()) -> None:
        """Check model/ against the hashes of its files; runs of older versions have none.

        Args:
            without: subfolders that are not used.

        Raises:
            RunError: a file differs; names it.
        """
        folder = self.path / "model"
        if (changed := broken(folder, "unspoken.json", self.model_info(), without=without)) is not None:
            raise RunError(
                f"{folder}: {changed}, so answers would be another model's; restore it from a copy, or train again; if it "
                f'was changed on purpose, delete the entry "{SEAL}" of {folder / "unspoken.json"}'
            )


def load(
    path: str | Path,
    *,
    device: str | torch.device | None = None,
    explain: bool = True,
    dtype: str | None = None,
    fast: bool | None = None,
) -> Model:
    """Load a trained model from its run directory.

    Args:
        path: a folder written by `unspoken train` or `export`, a model in the package ("builtin:tiny"), or a run on the
            Hugging Face Hub ("hf://owner/name", "hf://owner/name@revision"), which is fetched once.
        device: None = a GPU if there is one, else the CPU.
        explain: also load an auxiliary decoder, if the run has one, so that thoughts can be decoded.
        dtype: float32, bfloat16 or int8 (CPU only); None = as trained. With the latter two, answers are similar, not equal.
        fast: use the shortcuts of `core/fast`; False = the plain path with the same results; None = according to the run's
            config.

    Raises:
        RunError: the folder is missing, truncated, or from another model; or the Hub does not give it.
        ConfigError: no such dtype, or not supported on this machine.
    """
    run = RunDir(path)
    config = run.config()
    how = config.fast if fast is None else replace(config.fast, enabled=fast)
    with using(how):
        method = run.load_method(at_inference=not explain)
    method.to(device_or_gpu(device)).eval()
    model = Model(method, config.speaking, latents=own_latents(run.path), path=run.given, fast=how)
    model.use_dtype(dtype)
    model.saved = run.model_info().get(SEAL)
    model.origin = Origin.of(run)
    return model


def export(path: str | Path, out: str | Path) -> None:
    """Write a run directory with only what inference needs: the inner method, without decoder and training states.

    Raises:
        RunError: `path` is no run, or `out` exists and is not empty.
    """
    source = RunDir(path)
    check_new(out)
    Origin.of(source).save(source.load_method(at_inference=True), out, then="export again")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A run, as it was when a model was loaded from it.

    Attributes:
        config: its config.
        about: what its copies say about it.
        stage: the stage of its model, see `stage_of`.
    """

    config: RunConfig
    about: Mapping[str, object]
    stage: Mapping[str, int | None] | None

    @classmethod
    def of(cls, run: RunDir) -> Origin:
        """Read it."""
        about = run.read()
        more = {"exported_from": about["id"], "provenance": about.get("provenance")}
        return cls(config=run.config(), about=more, stage=stage_of(run.path))

    def save(self, method: Method, out: str | Path, *, then: str = "save it again") -> None:
        """Write a run directory with only what answering needs.

        Args:
            method: what answers, without a decoder.
            out: the folder.
            then: what to try once what hindered it is gone.

        Raises:
            RunError: `out` exists and is not empty.
        """
        check_new(out)
        config = build(RunConfig, {**dump(self.config), "method": dump(method.answering_config())})
        write_folder(out, lambda new: write_run(new, config, self.about, method, self.stage, answering=True), then=then)


def write_run(
    folder: Path,
    config: RunConfig,
    about: Mapping[str, object],
    method: Method,
    stage: Mapping[str, int | None] | None = None,
    *,
    answering: bool = False,
) -> None:
    """Write a method as a run that will not be trained further, in a folder being written by `write_folder`.

    Args:
        answering: leave out what answering does not need.
    """
    begun = _begun(config, about)
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(begun, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_model(folder / "model", begun["id"], method, stage=stage, answering=answering)


def _begun(config: RunConfig, about: Mapping[str, object]) -> dict[str, Any]:
    """run.json of a new run."""
    return {"id": uuid.uuid4().hex, "config": dump(config), **about}
