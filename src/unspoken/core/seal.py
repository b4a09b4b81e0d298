"""Detect damaged or changed files by hashes saved next to them.

    model/unspoken.json     "files": SHA-256 of every other file of the folder; "sha256": of unspoken.json without this entry
    state/.../state.json    the same

A damaged disk, a truncated copy or an edited weight would silently change answers, so such files are refused by name. After
an intended change, delete the entry "sha256": nothing is compared then. Runs of versions without hashes load as before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from unspoken.core.config import method_layers
from unspoken.core.files import read_object, reason, sha256
from unspoken.errors import RunError

SEAL = "sha256"
"""The entry with the hash of all other entries."""


def sealed(folder: Path, about: Mapping[str, object], known: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The description of a folder with the hashes of all its files added; `known` are those taken already."""
    known = known or {}
    files = [file for file in folder.rglob("*") if file.is_file() and file.relative_to(folder).as_posix() not in known]
    whole = {**about, "files": dict(sorted({**hashes(folder, files), **known}.items()))}
    return {**whole, SEAL: _of(whole)}


def hashes(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """The hashes of some files by their names in a folder."""
    return {file.relative_to(folder).as_posix(): sha256(file) for file in files}


def broken(folder: Path, name: str, about: Mapping[str, object], *, without: Collection[str] = ()) -> str | None:
    """Says what in a folder has changed since it was saved; None if nothing has, or no hashes were kept.

    Args:
        folder: the folder.
        name: the file in it that `about` was read from.
        about: what `sealed` gave.
        without: subfolders that are not used and not checked.
    """
    if SEAL not in about:
        return None
    if _of({key: value for key, value in about.items() if key != SEAL}) != about[SEAL]:
        return f"{name} was changed since it was saved"
    files = about.get("files")
    for file, hash in (files if isinstance(files, dict) else {}).items():
        if file.split("/")[0] in without:
            continue
        try:
            if sha256(folder / file) != hash:
                return f"{file} was changed since it was saved"
        except FileNotFoundError:
            return f"{file} is missing"
        except OSError as error:
            return f"{file} cannot be read ({error.strerror})"
    return None


def state_info(folder: Path) -> dict[str, Any]:
    """Read state.json of a training state, and check that it belongs to its tensors.

    Raises:
        RunError: it is damaged, or of another state.
    """
    file, step = folder / "state.json", int(folder.name.removeprefix("step-"))
    try:
        info = read_object(file)
        for name, kinds in (
            ("step", int),
            ("processes", int),
            ("seconds", (int, float)),
            ("best", (int, float, type(None))),
        ):
            if name not in info or not isinstance(info[name], kinds) or isinstance(info[name], bool):
                raise ValueError(f"{name!r} is missing or of another type")
        if info["step"] != step:
            raise ValueError(f"step {info['step']} in the folder of step {step}")
    except (OSError, ValueError) as error:
        raise RunError(f"{file} is damaged ({error})") from error
    if (changed := broken(folder, file.name, info)) is not None:
        raise RunError(f"{folder}: {changed}")
    return info


def model_info(file: Path) -> dict[str, Any]:
    """Read a run's model/unspoken.json.

    Raises:
        RunError: there is none, or it is broken.
    """
    try:
        model = read_object(file)
        for name, kind in (("run", str), ("method", dict), ("own", list)):
            if not isinstance(model.get(name), kind):
                raise ValueError(f"{name!r} is missing or of another type")
        if not all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in method_layers(model["method"])):
            raise ValueError("'method' holds what is no method's settings")
        if odd := [name for name in model["own"] if not isinstance(name, str)]:
            raise ValueError(f"'own' holds {odd[0]!r}, which is no name")
        if SEAL in model and not isinstance(model.get("files"), dict):
            raise ValueError("'files' is missing or of another type")
    except FileNotFoundError as error:
        raise RunError(
            f"{file} is missing: the run has not reached a validation yet, or model/ is gone; train on, or restore it"
        ) from error
    except OSError as error:
        raise RunError(f"{file} cannot be read: {reason(error)[0]}") from error
    except ValueError as error:
        raise RunError(f"{file} is damaged ({error}); restore it from a copy, or train again") from error
    return model


def changed(model: Path) -> str | None:
    """Says what in a run's model/ has changed since it was saved; None if nothing has, or it is unknown."""
    try:
        about = read_object(model / "unspoken.json")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return f"unspoken.json is damaged ({error})"
    return broken(model, "unspoken.json", about)


def identity(model: Path) -> str | None:
    """A hash of everything saved into a run's model/; None if none was kept."""
    try:
        hash = read_object(model / "unspoken.json").get(SEAL)
    except (OSError, ValueError):
        return None
    return hash if isinstance(hash, str) else None


def _of(about: Mapping[str, object]) -> str:
    """A hash of plain values, independent of order and white space."""
    plain = json.loads(json.dumps(about))  # keys are texts, as they are when it is read back
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
