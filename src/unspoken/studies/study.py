"""A study as data: factors and their values, what each combination trains, how every run is evaluated.

    title = "Does SIM-CoT help what it wraps?"
    seeds = [1, 2, 3]

    [factors]
    method = ["coconut", "sim_cot"]
    latents = [4, 8]

    [[runs]]                                   # every rule whose `when` fits, in order; later ones win
    when = { method = "sim_cot" }
    config = "tiny/sim_cot"                    # a recipe, or a config file beside the study
    set = { "method.inner.max_stage" = "{latents}" }

    [[evaluations]]
    name = "test"

TOML (`.toml`) or JSON (`.json`), which alone can write null. Nothing here loads torch.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from unspoken.core.config import build, config_class
from unspoken.errors import ConfigError, did_you_mean
from unspoken.tasks.base import SPLITS, Split

Value = str | int | float | bool
"""A value of a factor."""

Combination = Mapping[str, Value]
"""Factor -> value."""

_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,60}")


@config_class
class Rule:
    """What some combinations train.

    Attributes:
        when: factor -> value, or list of values; all must fit. {} fits every combination.
        config: a recipe's name or a config file, relative to the study file.
        set: dotted path in the run's config -> value; "{latents}" stands for the value of the factor `latents`.
    """

    when: dict[str, Any] = field(default_factory=dict)
    config: str | None = None
    set: dict[str, Any] = field(default_factory=dict)


@config_class
class Prepared:
    """A run that others start from. "run:NAME" as a value of `set` stands for its folder.

    Attributes:
        name: what others call it.
        config, set: as in `Rule`.
        each_seed: train one per seed of the study; otherwise all share one, with the seed of its config.
    """

    name: str
    config: str
    set: dict[str, Any] = field(default_factory=dict)
    each_seed: bool = False


@config_class
class Evaluation:
    """How runs are asked.

    Attributes:
        name: unique in the study; the first evaluation is what charts show.
        when: which combinations; see `Rule`.
        task: another task than the run's own, by name.
        set: dotted path in the task's config -> value.
        split, limit, latents, batch_size, explain, samples, stop: as `unspoken eval` has them. Only runs that can explain
            do; several samples vote.
        soft: think softly, e.g. "soft" (docs/guides/soft-thinking.md), in runs that write their thinking. Controls are then
            ordinary thinking beside it, and there are no latents to inspect or interchange.
        controls: problems for each causal control; 0 = none are run.
        inspect: problems for the stability figures; 0 = none.
        interchange: problems that get another's thought groups, one by one (`causal.interchange`); 0 = none. Runs whose
            latents are none, or the same for all problems, are left out of these three.
        speaking: fields of `SamplingParams`.
    """

    name: str
    when: dict[str, Any] = field(default_factory=dict)
    task: str | None = None
    set: dict[str, Any] = field(default_factory=dict)
    split: Split = "test"
    limit: int | None = None
    latents: int | None = None
    batch_size: int = 100
    explain: bool = False
    samples: int = 1
    stop: str | None = None
    soft: str | None = None
    controls: int = 0
    inspect: int = 0
    interchange: int = 0
    speaking: dict[str, Any] = field(default_factory=dict)


@config_class
class Contrast:
    """Pairs of combinations to test against each other: those that fit `a` and `b` and agree in every other factor.

    Attributes:
        a, b: factor -> value; both name the same factors.
    """

    a: dict[str, Any]
    b: dict[str, Any]


@config_class
class Study:
    """See the module. Fields have the names of the file's entries.

    Attributes:
        title: what the study asks.
        about: what it is for, what follows and what does not; Markdown, stands above the results.
        factors: name -> values; every combination is trained with every seed, those of `exclude` left out.
        seeds: training seeds.
        seed_paths: where a seed is written in a run's config.
        runs: what combinations train.
        exclude: each as `Rule.when`.
        prepare: runs that others start from.
        evaluations: at least one.
        contrasts: which combinations are tested against each other; none given = each against the first value of the first
            factor.
        labels: value (as text) or factor -> what tables and charts call it.
        chart: factor on the horizontal axis, whose values are numbers; None = accuracy by forward passes.
        times: whether tables show minutes. Say no where runs shared their cores with other work.
        card_problems: answers that a card keeps.
    """

    title: str
    about: str = ""
    factors: dict[str, list[Value]]
    seeds: list[int] = field(default_factory=lambda: [0])
    seed_paths: list[str] = field(default_factory=lambda: ["train.seed"])
    runs: list[Rule]
    exclude: list[dict[str, Any]] = field(default_factory=list)
    prepare: list[Prepared] = field(default_factory=list)
    evaluations: list[Evaluation]
    contrasts: list[Contrast] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    chart: str | None = None
    times: bool = True
    card_problems: int = 32

    def __post_init__(self) -> None:
        if not self.factors:
            raise ConfigError('a study needs at least one factor, e.g. [factors] method = ["coconut", "codi"]')
        for name, values in self.factors.items():
            _check_factor(name, values)
        _unique("seeds", self.seeds)
        if not self.seeds:
            raise ConfigError("a study needs at least one seed, e.g. seeds = [1, 2, 3]")
        if not self.runs:
            raise ConfigError("a study needs at least one [[runs]] that says what its combinations train")
        if not self.evaluations:
            raise ConfigError('a study needs at least one [[evaluations]], e.g. name = "test"')
        _unique("evaluations", [slug(one.name) for one in self.evaluations])
        _unique("prepare", [one.name for one in self.prepare])
        for one in self.prepare:
            if not _NAME.fullmatch(one.name):
                raise ConfigError(f"prepare: the name {one.name!r:.60} must be letters, digits and ._+-, e.g. 'start'")
        for one in self.evaluations:
            if one.split not in SPLITS:
                raise ConfigError(f"evaluation {one.name!r}: unknown split {one.split!r}; known: {', '.join(SPLITS)}")
            if one.limit is not None and one.limit < 1:
                raise ConfigError(
                    f"evaluation {one.name!r}: limit must be at least 1, got {one.limit}; leave it out for all"
                )
            if min(one.controls, one.inspect, one.interchange) < 0 or min(one.batch_size, one.samples) < 1:
                raise ConfigError(
                    f"evaluation {one.name!r}: controls, inspect and interchange must not be negative, and batch_size "
                    "and samples must be at least 1"
                )
            if one.stop is not None and one.samples > 1:
                raise ConfigError(f"evaluation {one.name!r}: a stop rule needs one answer per question; leave out samples")
        if self.card_problems < 1:
            raise ConfigError(f"card_problems must be at least 1, got {self.card_problems}")
        for where, when in self._conditions():
            self._check_condition(where, when)
        if self.chart is not None and self.chart not in self.factors:
            raise ConfigError(f"chart: no factor {self.chart!r}; {did_you_mean(self.chart, self.factors)}")
        if self.chart is not None and all(isinstance(value, (str, bool)) for value in self.factors[self.chart]):
            raise ConfigError(f"chart: no value of the factor {self.chart!r} is a number; leave it out for forward passes")

    def _conditions(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Every place where values of factors are named."""
        found: list[tuple[str, Mapping[str, Any]]] = [(f"runs[{i}].when", rule.when) for i, rule in enumerate(self.runs)]
        found += [(f"exclude[{i}]", when) for i, when in enumerate(self.exclude)]
        found += [(f"evaluation {one.name!r}", one.when) for one in self.evaluations]
        for i, pair in enumerate(self.contrasts):
            found += [(f"contrasts[{i}].a", pair.a), (f"contrasts[{i}].b", pair.b)]
            if set(pair.a) != set(pair.b) or not pair.a:
                raise ConfigError(f"contrasts[{i}]: a and b must name the same factors, got {pair.a} and {pair.b}")
            if pair.a == pair.b:
                raise ConfigError(f"contrasts[{i}]: a and b are the same, {pair.a}; name what is to be told apart")
        return found

    def _check_condition(self, where: str, when: Mapping[str, object]) -> None:
        for factor, wanted in when.items():
            if factor not in self.factors:
                raise ConfigError(f"{where}: no factor {factor!r}; {did_you_mean(factor, self.factors)}")
            for value in wanted if isinstance(wanted, list) else [wanted]:
                if not any(same(value, known) for known in self.factors[factor]):
                    known = did_you_mean(str(value), map(str, self.factors[factor]))
                    raise ConfigError(f"{where}: factor {factor!r} has no value {value!r:.60}; {known}")

    def label(self, value: Value) -> str:
        """What tables call a value or a factor."""
        return self.labels.get(str(value), str(value))


def same(a: object, b: object) -> bool:
    """Whether two values of a factor are one. `true` is not 1."""
    return type(a) is type(b) and a == b


def fits(combination: Combination, when: Mapping[str, object]) -> bool:
    """Whether a combination has the values that a condition names."""
    return all(
        any(same(combination[factor], one) for one in (wanted if isinstance(wanted, list) else [wanted]))
        for factor, wanted in when.items()
    )


def _check_factor(name: str, values: Sequence[Value]) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"factors: the name {name!r:.60} must be letters, digits and ._+-, e.g. 'method'")
    if name == "seed":
        raise ConfigError("factors: 'seed' is no factor; give the training seeds as seeds = [1, 2, 3]")
    if not values:
        raise ConfigError(f"factor {name!r} has no values, so there is nothing to train; give at least one, or leave it out")
    if odd := [value for value in values if isinstance(value, float) and not math.isfinite(value)]:
        raise ConfigError(f"factor {name!r}: {odd[0]} is no value that two runs could share; give finite numbers or names")
    _unique(f"factor {name!r}", values)
    if len({slug(value) for value in values}) < len(values):
        raise ConfigError(f"factor {name!r}: two values would have the same file name; give names that differ in letters")


def _unique(what: str, values: Sequence[object]) -> None:
    for number, value in enumerate(values):
        if any(same(value, other) for other in values[:number]):
            raise ConfigError(f"{what}: {value!r:.60} is given twice")


def slug(value: Value) -> str:
    """A value as part of a file's name."""
    return re.sub(r"[^\w.+]+", "_", str(value)).strip("_.")[:40] or "_"


def read_study(path: str | Path) -> Study:
    """Read a study file, or that of a folder (study.toml, study.json).

    Raises:
        ConfigError: there is none, it is no TOML or JSON, or an entry is wrong; names it.
    """
    file = study_file(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
        data = tomllib.loads(text) if file.suffix.lower() == ".toml" else json.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror or error}; give a study file (.toml or .json)") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is no {file.suffix.lower()[1:].upper()}: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: a study is a table of entries, got {type(data).__name__}")
    return build(Study, data, f"{file}: ")


def study_file(path: str | Path) -> Path:
    """The study file that a path names: itself, or study.toml or study.json in a folder.

    Raises:
        ConfigError: there is none.
    """
    path = Path(path)
    if path.is_dir():
        found = [file for file in (path / "study.toml", path / "study.json") if file.is_file()]
        if not found:
            raise ConfigError(f"{path} has no study.toml or study.json; give a study file")
        return found[0]
    if path.suffix.lower() not in (".toml", ".json"):
        raise ConfigError(f"{path}: a study file ends in .toml or .json")
    return path
