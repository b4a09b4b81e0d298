"""What a study comes to: one job per combination and seed, each with its whole config, checked before any is started."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unspoken.core.checks import latents_asked, samples_differ
from unspoken.core.config import build, dump, lookup, method_layers, override
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.soft import SoftThinking
from unspoken.errors import ConfigError, did_you_mean
from unspoken.experimental.stopping import StopConfig
from unspoken.methods import METHODS
from unspoken.recipes import recipe
from unspoken.runs.config import RunConfig
from unspoken.runs.earlier import updated
from unspoken.studies.study import Combination, Evaluation, Prepared, Study, Value, fits, slug
from unspoken.tasks import task_config

START = "run:"
"""Before the name of a prepared run, as a value of `set`."""

LONGEST = 150
"""Bytes of a combination's file name; seed, fingerprint and endings come on top."""

_IDLE = {
    f"train.{name}"
    for name in (
        "threads", "tracker", "encodings", "log_every", "save_every", "keep_every", "micro_batch_size", "micro_batch_tokens",
        "activation_checkpointing", "stability_limit", "stability_every",
    )
}  # fmt: skip
"""Fields of a run's config that change nothing about the model that is kept."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a study.

    Attributes:
        name: unique in the study: the combination, and the seed.
        cell: the combination alone; "" for a prepared run.
        combination: factor -> value.
        seed: training seed; None for a prepared run that all seeds share.
        config: what is trained, with the folders of prepared runs in it.
        fingerprint: of all of the config that changes the model; the folder's name ends in it.
        folder: the run directory.
        needs: names of prepared jobs that must be finished before.
        evaluations: how it is asked.
    """

    name: str
    cell: str
    combination: Mapping[str, Value]
    seed: int | None
    config: RunConfig
    fingerprint: str
    folder: Path
    needs: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]

    def line(self) -> str:
        """The job as the one line of JSON that its process reads."""
        asked = [dump(one) for one in self.evaluations]
        return json.dumps({"config": dump(self.config), "folder": str(self.folder), "evaluations": asked}) + "\n"


def combinations(study: Study) -> list[dict[str, Value]]:
    """Every combination of factors but the excluded ones; the last factor varies fastest."""
    every = [dict(zip(study.factors, values, strict=True)) for values in itertools.product(*study.factors.values())]
    return [one for one in every if not any(fits(one, when) for when in study.exclude)]


def cell_name(combination: Combination) -> str:
    """A combination as part of a file's name."""
    return "-".join(slug(value) for value in combination.values())


def plan(study: Study, beside: Path, runs: Path) -> list[Job]:
    """The jobs of a study: prepared runs first, then all combinations of the first seed, and so on.

    So a study that is stopped half-way has whole tables of fewer seeds.

    Args:
        study: what to train.
        beside: the folder of the study file, which paths to configs start from.
        runs: where run directories go.

    Raises:
        ConfigError: a combination without a config, an unknown recipe, path or field; names the combination.
    """
    chosen = combinations(study)
    if not chosen:
        raise ConfigError("exclude leaves no combination of factors, so there is nothing to train")
    if long := [name for one in chosen if len((name := cell_name(one)).encode()) > LONGEST]:
        raise ConfigError(
            f"{long[0][:40]}... would be a file name of {len(long[0].encode())} bytes, {LONGEST} at most; shorten "
            "values, and say more in [labels]"
        )
    jobs = [job for one in study.prepare for job in _prepared(study, one, beside, runs)]
    known = {job.name: job for job in jobs}
    for seed, combination in itertools.product(study.seeds, chosen):
        jobs.append(_job(study, combination, seed, beside, runs, known))
        known[jobs[-1].name] = jobs[-1]
    seen: dict[str, str] = {}
    for job in jobs:
        if job.name in seen:
            raise ConfigError(f"two runs of the study would be called {job.name!r}; give the values names that differ")
        if job.fingerprint in seen.values():
            twin = next(name for name, mark in seen.items() if mark == job.fingerprint)
            raise ConfigError(
                f"{twin} and {job.name} would train the same thing from the same seed: a factor, or the seed, changes "
                "nothing in the config; write it somewhere with `set` (seeds: seed_paths), or exclude one"
            )
        seen[job.name] = job.fingerprint
    return jobs


def _prepared(study: Study, one: Prepared, beside: Path, runs: Path) -> list[Job]:
    made = []
    for seed in study.seeds if one.each_seed else [None]:
        name = one.name if seed is None else f"{one.name}-{seed}"
        config = _config(
            one.config, [(one.set, {})], study.seed_paths if seed is not None else (), seed, beside, f"prepare {name!r}"
        )
        if _naming(config, lambda name: "") != config:
            raise ConfigError(f"prepare {name!r}: starts from no other run; {START}NAME is for the `set` of [[runs]]")
        mark = fingerprint(config)
        made.append(
            Job(
                name=name, cell="", combination={}, seed=seed, config=config, fingerprint=mark,
                folder=runs / f"{name}-{mark}", needs=(), evaluations=(),
            )
        )  # fmt: skip
    return made


def _job(study: Study, combination: Combination, seed: int, beside: Path, runs: Path, known: Mapping[str, Job]) -> Job:
    cell = cell_name(combination)
    rules = [rule for rule in study.runs if fits(combination, rule.when)]
    base = next((rule.config for rule in reversed(rules) if rule.config is not None), None)
    told = ", ".join(f"{factor}={value}" for factor, value in combination.items())
    if base is None:
        raise ConfigError(f"no [[runs]] with a config fits {told}; add one, or exclude the combination")
    base = filled(base, combination)
    config = _config(base, [(rule.set, combination) for rule in rules], study.seed_paths, seed, beside, told)
    needs: dict[str, Job] = {}

    def start(name: str) -> Job:
        found = known.get(name) or known.get(f"{name}-{seed}")
        if found is None:
            raise ConfigError(f"{told}: no run {name!r} comes before it; {did_you_mean(name, known)}")
        needs[name] = found
        return found

    # The fingerprint speaks of what a run starts from, not of where that lies.
    marked = _naming(config, lambda name: f"{START}{start(name).fingerprint}")
    mark, name = fingerprint(marked), f"{cell}-{seed}"
    config = _naming(config, lambda name: str(start(name).folder))
    asked = tuple(one for one in study.evaluations if fits(combination, one.when))
    if not asked:
        raise ConfigError(f"{told}: no evaluation asks this run; give one whose `when` fits, or exclude the combination")
    for one in asked:
        _check(config, one, told)
    return Job(
        name=name, cell=cell, combination=dict(combination), seed=seed, config=config, fingerprint=mark,
        folder=runs / f"{name}-{mark}", needs=tuple(job.name for job in needs.values()),
        evaluations=asked,
    )  # fmt: skip


def task_settings(config: RunConfig, one: Evaluation) -> Any:
    """The config of an evaluation's task: the run's own or another, with fields set.

    Raises:
        ConfigError: an unknown task, field or value.
    """
    data = dump(config.task if one.task is None else task_config(one.task))
    return task_config(override(data, [f"{path}={json.dumps(value)}" for path, value in one.set.items()]))


def _check(config: RunConfig, one: Evaluation, told: str) -> None:
    """See before hours of training that a run can be asked as an evaluation says."""
    try:
        task_settings(config, one)
        speaking = build(SamplingParams, {**dump(config.speaking), **one.speaking})
        latents_asked(one.latents, None)
        if one.stop is not None:
            StopConfig.parse(one.stop)
        samples_differ(one.samples, speaking.temperature, "say e.g. speaking = { temperature = 0.7 }")
        if one.soft is not None:
            _check_soft(config, one, one.soft)
    except ConfigError as error:
        raise ConfigError(f"evaluation {one.name!r} of {told}: {error}") from None


def _check_soft(config: RunConfig, one: Evaluation, soft: str) -> None:
    """Refuse soft thinking of runs with latents, and what is asked of latents."""
    SoftThinking.parse(soft)
    usual = Evaluation(name="usual")
    for name in ("stop", "inspect", "interchange", "latents", "explain"):
        if getattr(one, name) != getattr(usual, name):
            raise ConfigError(f"soft thinking has no latents of a method, which {name!r} is about; leave it out")
    *_, innermost = method_layers(config.method)
    if lookup(METHODS, innermost.name, "method").most_latents(innermost):
        raise ConfigError("soft thinking is for runs that write their thinking, such as cot's; say which by `when`")


def _naming(config: RunConfig, place: Callable[[str], str]) -> RunConfig:
    """A config with every "run:NAME" replaced by `place(NAME)`."""
    dumped = dump(config)
    changed = _replaced(dumped, place)
    return config if changed == dumped else build(RunConfig, changed)


def _replaced(value: object, place: Callable[[str], str]) -> Any:
    if isinstance(value, str) and value.startswith(START):
        return place(value.removeprefix(START))
    if isinstance(value, Mapping):
        return {key: _replaced(inner, place) for key, inner in value.items()}
    return [_replaced(inner, place) for inner in value] if isinstance(value, (list, tuple)) else value


def _config(
    base: str,
    settings: Sequence[tuple[Mapping[str, object], Combination]],
    seed_paths: Sequence[str],
    seed: int | None,
    beside: Path,
    where: str,
) -> RunConfig:
    """A base config with settings written into it, later ones over earlier ones, and the seed last."""
    try:
        file = beside / base
        data = dump(recipe(str(file) if base.endswith(".json") and file.is_file() else base))
        for values, combination in settings:
            for path, value in values.items():
                data = _written(data, path, filled(value, combination))
        for path in seed_paths if seed is not None else ():
            data = override(data, [f"{path}={seed}"])
        return build(RunConfig, updated(data))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def filled(value: object, combination: Combination) -> Any:
    """A value of `set` with the values of factors in it: "{latents}" alone keeps its type."""
    if isinstance(value, Mapping):
        return {key: filled(inner, combination) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, combination) for inner in value]
    if not isinstance(value, str):
        return value
    for factor, chosen in combination.items():
        if value == f"{{{factor}}}":
            return chosen
        value = value.replace(f"{{{factor}}}", str(chosen))
    return value


def _written(data: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A dumped config with a value at a path; a table goes into the table that is there, unless it names another thing."""
    there: Any = data
    for part in path.split("."):
        there = there.get(part) if isinstance(there, Mapping) else None
    if (
        isinstance(value, Mapping)
        and isinstance(there, Mapping)
        and value.get("name", there.get("name")) == there.get("name")
    ):
        for key, inner in value.items():
            data = _written(data, f"{path}.{key}", inner)
        return data
    return override(data, [f"{path}={json.dumps(value)}"])


def fingerprint(config: RunConfig) -> str:
    """Of all of a config that changes the model that is kept. A field that a later version adds does not at its default."""
    text = json.dumps(_essential(config), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def evaluation_fingerprint(one: Evaluation) -> str:
    """Of all that changes what an evaluation of a run says; its name does not."""
    rest = {name: value for name, value in _essential(one).items() if name not in ("name", "when")}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _essential(value: object, path: str = "") -> Any:
    """A config as plain values, without fields at their default and without those that change nothing."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return dump(value)
    found = {}
    for one in dataclasses.fields(value):
        place, inner = f"{path}.{one.name}" if path else one.name, getattr(value, one.name)
        if place == "fast" or place in _IDLE:
            continue
        made = one.default if one.default is not dataclasses.MISSING else None
        if one.default_factory is not dataclasses.MISSING:
            made = one.default_factory()
        known = one.default is not dataclasses.MISSING or one.default_factory is not dataclasses.MISSING
        if not known or made != inner or one.name == "name":
            found[one.name] = _essential(inner, place)
    return found
