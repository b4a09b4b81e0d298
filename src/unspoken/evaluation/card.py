"""Cards: a checkpoint's score and some of its answers, so that anybody can check that it still gives them.

`make_card` takes problems evenly from a report, with everything needed to answer them again, so no data set is read.
`verify` lets a model answer them and compares scores; where they differ, it lists differences in weights, settings and
machine, the usual causes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from unspoken.core.config import dump, method_layers
from unspoken.core.provenance import provenance
from unspoken.core.stored import Stored
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, RunError
from unspoken.evaluation.evaluator import describe, record_of
from unspoken.evaluation.records import EvalReport, EvalSettings, Record
from unspoken.evaluation.rescore import rescore
from unspoken.evaluation.statistics import Rate, rate
from unspoken.evaluation.tables import with_interval
from unspoken.tasks import make_task

if TYPE_CHECKING:
    from unspoken.runs.model import Model

FORMAT = "unspoken card 1"
SHOWN = 5  # changed answers that the text shows


@dataclass(frozen=True, kw_only=True)
class Card(EvalSettings, Stored):
    """A recorded score and some of the answers behind it.

    Attributes:
        score: of the whole evaluation: `correct` of `n`, by `extractor`.
        extractor: the scoring rule.
        model: as in `EvalReport`, without its path, with a hash of the weights where the report has one.
        places: the records' places in the split, which seed sampling.
        records: without thoughts, and without the single answers of a vote.
    """

    KIND: ClassVar[str] = "card"
    MADE_BY: ClassVar[str] = "card REPORT"

    score: Rate
    extractor: str
    places: tuple[int, ...]
    records: tuple[Record, ...]
    format: str = FORMAT

    def check(self, path: str | Path) -> None:
        """Refuse a card with duplicate ids, or with a different number of places and records."""
        if len({record.id for record in self.records}) < len(self.records):
            raise RunError(f"{path}: two records have the same id; make the card again")
        if not self.records or len(self.records) != len(self.places):
            raise RunError(f"{path}: {len(self.records)} records for {len(self.places)} places; make the card again")


def make_card(report: EvalReport, n: int = 64) -> Card:
    """Make the card of a report.

    Args:
        report: an evaluation; made with `keep`, as the command does, it has the hash of the weights.
        n: the number of records, spread evenly over the split; all if there are fewer.

    Raises:
        ConfigError: n below 1.
    """
    if n < 1:
        raise ConfigError(f"a card needs at least one record, got n={n}")
    count = min(n, report.n)
    places = tuple(i * report.n // count for i in range(count))
    return Card(
        **{**report.settings(), "model": _answering(report.model)},
        extractor=report.extractor,
        score=report.accuracy,
        places=places,
        records=tuple(replace(report.records[p], thoughts=None, expected=None, said=None) for p in places),
    )


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The comparison of a model with a card.

    Attributes:
        card: the card.
        now: the records of the model's answers today, in the card's order.
        differences: differences in weights, method and machine: name -> (recorded, now).
    """

    card: Card
    now: tuple[Record, ...]
    differences: Mapping[str, tuple[Any, Any]]

    @property
    def recorded(self) -> Rate:
        """The recorded score of these problems."""
        return rate(record.strict for record in self.card.records)

    @property
    def score(self) -> Rate:
        """Today's score of these problems."""
        return rate(record.strict for record in self.now)

    @property
    def changed(self) -> tuple[tuple[Record, Record], ...]:
        """(recorded, now) where the verdict changed."""
        return tuple((old, new) for old, new in self._pairs if old.strict != new.strict)

    @property
    def reworded(self) -> tuple[tuple[Record, Record], ...]:
        """(recorded, now) where the text changed and the verdict did not."""
        return tuple((old, new) for old, new in self._pairs if old.strict == new.strict and old.text != new.text)

    @property
    def costlier(self) -> tuple[tuple[Record, Record], ...]:
        """(recorded, now) where latents, passes or positions changed and the text did not."""

        def cost(r: Record) -> tuple[int, ...]:
            return r.latents, r.passes, r.positions

        return tuple((old, new) for old, new in self._pairs if old.text == new.text and cost(old) != cost(new))

    @property
    def verified(self) -> bool:
        """Whether all verdicts and the weights are the recorded ones; other weights might give the same verdicts by
        chance."""
        return not self.changed and "model.weights" not in self.differences

    @property
    def _pairs(self) -> list[tuple[Record, Record]]:
        return list(zip(self.card.records, self.now, strict=True))

    def lines(self) -> list[str]:
        """The result in lines of text: the verdict first, then differences."""
        n, whole = len(self.now), self.card.score
        told = f"of the whole evaluation {with_interval(whole)}% were right, {whole.correct} of {whole.n}"
        if self.verified:
            same = "word for word" if not self.reworded else f"{len(self.reworded)} of them in other words"
            lines = [f"verified: {self.score.correct} of {n} right, as recorded, {same} ({told})"]
        else:
            lines = [
                f"NOT verified: {self.score.correct} of {n} right, recorded {self.recorded.correct}; "
                f"{len(self.changed)} verdicts changed ({told})"
            ]
            if "model.weights" in self.differences:
                lines.append("the weights are not those of the card: it is of another model, or another state of this one")
            for old, new in self.changed[:SHOWN]:
                was, now = ("right", "wrong") if old.strict else ("wrong", "right")
                said = f"recorded {old.text!r:.80} ({was}), now {new.text!r:.80} ({now})"
                lines.append(f"  {old.id}: answer {old.answer!r}: {said}")
            if len(self.changed) > SHOWN:
                lines.append(f"  ... and {len(self.changed) - SHOWN} more (--json has all)")
        if self.costlier:
            old, new = self.costlier[0]
            costs = f"{old.latents} latents, {old.passes} passes, {old.positions} positions"
            later = f"{new.latents}, {new.passes}, {new.positions}"
            lines.append(
                f"{len(self.costlier)} of the same answers cost otherwise, e.g. {old.id}: recorded {costs}; now {later}"
            )
        for name, (was, now) in self.differences.items():
            lines.append(f"differs: {name}: recorded {json.dumps(was, default=str)}, now {json.dumps(now, default=str)}")
        if not self.differences:
            lines.append("weights, method, versions and machine are those recorded")
        return lines

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "verified": self.verified,
            "recorded": dump(self.recorded),
            "now": dump(self.score),
            "changed": [[dump(old), dump(new)] for old, new in self.changed],
            "reworded": [old.id for old, _ in self.reworded],
            "differences": {name: list(pair) for name, pair in self.differences.items()},
        }


def verify(model: Model, card: Card, batch_size: int | None = None) -> Verification:
    """Let a model answer a card's problems again.

    Args:
        model: the model to check.
        card: the recorded answers.
        batch_size: questions per batch; None = as recorded.

    Raises:
        RunError: this version does not know the card's task.
        ConfigError: the model does not support the card's settings (sets of thoughts, sampling).
    """
    try:
        task = make_task(dict(card.task))
    except ConfigError as error:
        raise RunError(
            f"the card is of a task that cannot be made again: {error}; make a card of a new evaluation"
        ) from None
    examples = [Example(question=r.question, steps=r.steps, answer=r.answer, id=r.id) for r in card.records]
    answers = model.sample(
        [example.question for example in examples], chains=card.chains, samples=card.samples, latents=card.latents,
        names=[example.id for example in examples], numbers=card.places, batch_size=batch_size or card.batch_size,
        **card.speaking,
    )  # fmt: skip
    records = [record_of(e.id, e, task, model, given) for e, given in zip(examples, answers, strict=True)]
    about = describe(model, weights=True)
    report = EvalReport(
        task=card.task, split=card.split, fingerprint=card.fingerprint, limit=card.limit, latents=card.latents,
        batch_size=card.batch_size, speaking=card.speaking, seconds=0.0, loop_seconds=0.0, model=about,
        environment=provenance(), records=tuple(records), chains=card.chains, samples=card.samples,
    )  # fmt: skip
    if card.extractor != "strict":
        report = rescore(report, card.extractor, task.score)
    differences = _differences(card.model, _answering(about), "model.")
    if card.model.get("weights") is None:  # a report of an older version, or of the library: nothing to compare with
        differences.pop("model.weights", None)
    past, present = ({k: v for k, v in e.items() if k != "time"} for e in (card.environment, report.environment))
    return Verification(card=card, now=report.records, differences=differences | _differences(past, present, ""))


def _answering(model: Mapping[str, object]) -> dict[str, Any]:
    """A report's description of a model, without its place on this machine and wrappers of the method that answers."""
    *_, method = [None, *method_layers(model.get("method"))]
    told = {name: value for name, value in model.items() if name not in ("path", "saved")} | {"method": method}
    return _elsewhere(told)


def _elsewhere(told: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without folders of this machine: of the absolute place of a model inside them, the last name is left."""
    found: dict[str, Any] = {}
    for name, value in told.items():
        local = name in ("path", "tokenizer") and isinstance(value, str) and Path(value).is_absolute()
        found[name] = _elsewhere(value) if isinstance(value, Mapping) else Path(value).name if local else value
    return found


def _differences(old: object, new: object, path: str) -> dict[str, tuple[object, object]]:
    """Dotted names of what differs in two dicts of JSON values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found: dict[str, tuple[object, object]] = {}
        for name in sorted({*old, *new}):
            found |= _differences(old.get(name), new.get(name), f"{path}{name}.")
        return found
    same = json.dumps(old, default=str, sort_keys=True) == json.dumps(new, default=str, sort_keys=True)
    return {} if same else {path.removesuffix("."): (old, new)}
