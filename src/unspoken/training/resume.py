"""Resuming a run: its config may change only in fields that do not affect what is trained."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from unspoken.core.config import dump
from unspoken.errors import RunError
from unspoken.runs.config import RunConfig, changed_fields, changes_choice, differences, field_of
from unspoken.runs.directory import RunDir
from unspoken.tasks import SPLITS

HISTORY = "history"
"""Entry of run.json: settings that were changed on resuming. [{"step": 120, "changed": {"train.save_every": [500, 50]}}]"""


def go_on(run: RunDir, config: RunConfig, data: Mapping[str, str]) -> None:
    """Continue an existing run with the changes that are allowed, which are recorded in run.json.

    Args:
        config: the config given now.
        data: fingerprints of the splits, and of shards.

    Raises:
        RunError: it is another training, or has other data.
    """
    about = run.read()
    old, new = dump(run.config()), dump(config)
    if told := differences(old, new):
        raise RunError(
            f"{run.path} holds a run with another config ({told}); give another --out, or the same settings to resume"
        )
    known = about.get("data") or {}
    if other := _changed(known, data):
        raise RunError(
            f"the data of the run in {run.path} have changed since it began ({', '.join(other)}); "
            "restore them to resume, or give another --out"
        )
    run.sweep()
    _, changed = changed_fields(old, new)
    if changed and "finished" in about:
        warnings.warn(f"the run in {run.path} is finished: {', '.join(changed)} changes nothing any more", stacklevel=2)
    elif changed:
        entry = {
            "step": run.latest_step() or 0,
            "changed": {name: [field_of(old, name), field_of(new, name)] for name in changed},
        }
        run.update(config=new, data={**known, **data}, **{HISTORY: [*about.get(HISTORY, []), entry]})


def _changed(known: Mapping[str, str], data: Mapping[str, str]) -> list[str]:
    """What differs: splits, or shards where their hashes are known."""
    if not any(known.get(split, data[split]) != data[split] for split in data):
        return []
    splits = [split for split in SPLITS if known.get(split, data.get(split)) != data.get(split)]
    old, new = (one.keys() - set(SPLITS) for one in (known, data))
    told = [f"{name} is gone" for name in sorted(old - new)] + [f"{name} is new" for name in sorted(new - old)]
    told += [f"{name} differs" for name in sorted(old & new) if known[name] != data[name]]
    more = [f"and {len(told) - _TOLD} more"] if len(told) > _TOLD else []
    return splits + told[:_TOLD] + more if old else splits


_TOLD = 4
"""The most shards that are named."""


def scored_otherwise(about: Mapping[str, Any], step: int) -> bool:
    """Whether a run's models were scored differently when the state of a step was saved."""
    return any(
        entry["step"] >= step and any(changes_choice(name) for name in entry["changed"]) for entry in about.get(HISTORY, [])
    )
