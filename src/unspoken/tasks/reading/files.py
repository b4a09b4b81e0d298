"""Your own rows as a task: JSONL, JSON, CSV, TSV, Parquet, Arrow, iCoT text; packed files, folders, data sets of the hub.

A row is a mapping with `question`, `answer` and, for its reasoning, one of: `steps` (a list of strings); `reasoning`,
`rationale`, `solution` or another field of `rows.REASONING` (one text, split by the config's `steps` rule); or an `answer`
as in GSM8K, "text ... #### 18", or with a trace, "<think>text</think> 18". Calculator annotations `<<48/2=24>>` are what
the rule "markers" takes, and "annotated" keeps; the other rules drop them from natural text. Other keys go to `meta`.
Rows with fields of other names are read by `fields`, those of known data sets by their `style`. The iCoT text format is one
row a line: `question||<<a+b=c>> <<..>> #### answer`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from hashlib import sha256
from typing import Any, Literal

from unspoken.core.config import config_class
from unspoken.core.files import expanded, homeless
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, DataError, did_you_mean
from unspoken.tasks.base import SPLITS, Split, fingerprint_examples
from unspoken.tasks.reading.folders import has_splits, hub_id, source_rows
from unspoken.tasks.reading.own_choices import ANSWERS, OPTIONS, choice_key, lettered_row, refuse_unshown
from unspoken.tasks.reading.readers import Format
from unspoken.tasks.reading.rows import REASONING, RawRow, carve, checked, examples_of, no_steps, question_key
from unspoken.tasks.reading.segment import StepRule
from unspoken.tasks.reading.source import Splits, SplitTask, check_ranges
from unspoken.tasks.reading.styles import FIELDS, Style, advice, restyled
from unspoken.tasks.scoring.answers import score_number, score_text
from unspoken.tasks.scoring.letters import score_letter
from unspoken.tasks.scoring.math_answers import score_math
from unspoken.tasks.streaming.sources import RawSource, raw_sources
from unspoken.tasks.streaming.store import Source, StoredExamples, prepared

_LATEX: tuple[Style, ...] = ("math", "openr1", "metamath")
"""Styles with LaTeX answers."""
_PLAIN = ("question", "answer", *REASONING, *OPTIONS, *ANSWERS)


@config_class
class FilesConfig:
    """A task made of up to three files.

    Attributes:
        train, validation, test: paths of files or folders, or names on the hub ("owner/name" or "owner/name:config"); None
            if there is no such split. In folders and on the hub, splits are found by name.
        format: "auto" goes by what the file begins with, then by the suffix (.jsonl, .json, .csv, .tsv, .txt, .parquet,
            .arrow).
        style: the layout of the rows; see `tasks/reading/styles.py`.
        fields: your names of the fields, e.g. {"question": "instruction", "reasoning": "why"}; "a.b" is the field b inside
            a.
        steps: how to split reasoning that is one text; rows with `steps` are kept as they are.
        require_steps: refuse train rows without steps instead of warning.
        stream: read the train rows one by one, check them once, and keep them on the disk instead of in memory
            (docs/scale.md). For JSONL (also packed), Parquet and Arrow, folders of these, and the hub.
        stream_folder: where on the disk; it takes as much space as the rows.
        limit: use the first rows of each split only.
        validation_fraction: use this share of train as validation, chosen by a hash of the question, so that a row stays on
            its side when others are added or removed. Only without a validation file.
        test_fraction: the same for test. Only without a test file.
        answer: "number" compares as decimals, "text" as words, "letter" as the letter of an option (`own_choices.py`),
            "math" as LaTeX (`scoring/math_answers.py`).
    """

    name: Literal["files"] = "files"
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    format: Format = "auto"
    style: Style = "plain"
    fields: dict[str, str] = field(default_factory=dict)
    steps: StepRule = "markers"
    require_steps: bool = False
    stream: bool = False
    stream_folder: str = "~/.cache/unspoken/rows"
    limit: int | None = None
    validation_fraction: float = 0.0
    test_fraction: float = 0.0
    answer: Literal["number", "text", "letter", "math"] = "number"

    def __post_init__(self) -> None:
        check_ranges(self)
        for split in ("validation", "test"):
            if getattr(self, split) is not None and getattr(self, f"{split}_fraction"):
                raise ConfigError(f"set either '{split}' (a file) or '{split}_fraction' (a share of train), not both")
        if not self.stream_folder.strip():
            raise ConfigError("field 'stream_folder' is empty; leave it out for the cache, or give a folder")
        if self.stream and (self.validation_fraction or self.test_fraction):
            raise ConfigError(
                "stream=true keeps the train rows on the disk, and no share of them can be carved out; give a validation or "
                "test file instead of validation_fraction and test_fraction"
            )
        if self.validation_fraction + self.test_fraction >= 1:
            raise ConfigError(
                f"validation_fraction and test_fraction leave nothing to train on: {self.validation_fraction} and "
                f"{self.test_fraction}; their sum must be below 1"
            )
        known = (*_PLAIN, *FIELDS.get(self.style, ()), *(["input"] if self.style == "alpaca" else []))
        for name in self.fields:
            if name not in known:
                raise ConfigError(f"field 'fields': {name!r} is nothing that is read; {did_you_mean(name, known)}")


class Files(SplitTask[FilesConfig]):
    """Your own rows; see the module's docstring for what a row looks like."""

    def __init__(self, config: FilesConfig) -> None:
        never = "the test split must not be used for selection or training"
        pairs = (
            ("train", "test", never),
            ("validation", "test", never),
            ("validation", "train", "splits are disjoint"),
        )
        for split, other, rule in pairs:
            path, same = getattr(config, split), getattr(config, other)
            if _same_content(path, same):
                raise DataError(f"{path}: given as {split}, but it is the {other} file ({same}); {rule}: give another file")
        self._carved: tuple[Split, ...] = tuple(
            split for split in SPLITS[1:] if getattr(config, f"{split}_fraction") and config.train is not None
        )
        given: tuple[Split, ...] = tuple(s for s in SPLITS if getattr(config, s) is not None)
        there = (*given, *self._carved)
        letters = config.answer == "letter"
        splits = Splits(
            config=config, read=self._read, there=there, carved="validation" in self._carved,
            key=choice_key if letters else lambda example: question_key(example.question),
        )  # fmt: skip
        # rows of MATH are LaTeX, of which a number is some
        numbers = score_math if config.style in _LATEX else score_number
        rules = {"number": numbers, "text": score_text, "letter": score_letter, "math": score_math}
        super().__init__(splits, rules[config.answer])

    @property
    def answers(self) -> str:
        """The kind of its answers: "number", "text", "letter" or "math"."""
        return self.config.answer

    def examples(self, split: Split) -> Sequence[Example]:
        """The split in file order, without rows that are in a held-out split, up to its limit."""
        if split in SPLITS and split not in self._splits.there:
            share = split != "train" and not self.config.stream
            hint = f", or task.{split}_fraction=0.1 for a share of train" if share else ""
            raise DataError(f"task 'files' has no {split} split; set task.{split}=PATH{hint}")
        if split == "train" and self.config.stream:
            return self._stored
        return self._splits.examples(split)[: self.config.limit]

    @functools.cached_property
    def _stored(self) -> StoredExamples:
        """The train rows on the disk."""
        config, taken = self.config, self._splits.held_out("train")
        held_out = sha256("\n".join(sorted(taken)).encode("utf-8", "surrogatepass")).hexdigest()
        how = (config.format, config.style, config.fields, config.steps, config.answer, config.limit, held_out)

        def source(raw: RawSource) -> Source:
            return Source(
                name=raw.name,
                key=f"{raw.stamp} {how}",
                open=lambda: self._checked(raw),
                keeps=lambda example: not taken or self._splits.key(example) not in taken,
                limit=config.limit,
            )

        assert config.train is not None
        sources = [source(raw) for raw in raw_sources(config.train, "train", config.format)]
        folder = expanded(config.stream_folder)
        if homeless(folder):
            raise DataError(f"{folder}: this user has no home folder; set task.stream_folder to a place for the rows")
        stored = prepared(sources, folder)
        self._check_stored(stored)
        self._splits.dropped["train"] = stored.dropped
        return stored.limited(config.limit)

    def _checked(self, raw: RawSource) -> Iterator[tuple[Example, bool]]:
        rows = self._plain(raw.open())
        return checked(rows, split="train", steps=self.config.steps, names=self._names, advice=advice)

    def _check_stored(self, stored: StoredExamples) -> None:
        """What `_read` checks when it has all rows."""
        where, rows = str(self.config.train), len(stored)
        bare = sum(part.about.bare for part in stored.parts)
        if not rows:
            raise DataError(
                f"{where}: all {stored.dropped} train rows are dropped, because a held-out split has their questions"
            )
        if bare == rows and any(part.about.had_reasoning for part in stored.parts):
            raise no_steps(where, self.config.steps)
        if bare and self.config.require_steps:
            number, part = next((i, part) for i, part in enumerate(stored.parts) if part.about.bare)
            first = sum(before.about.read for before in stored.parts[:number]) + (part.about.first_bare or 0)
            raise self._bare(part.about.source, bare, rows, f"train-{first}")

    def fingerprint(self, split: Split) -> str:
        """See `Task.fingerprint`; of rows on the disk, a hash of their files' hashes."""
        found = self.examples(split)
        return found.fingerprint() if isinstance(found, StoredExamples) else fingerprint_examples(found)

    def fingerprints(self, split: Split) -> dict[str, str]:
        """A hash of each source of a split whose rows are on the disk, so that a changed one can be named."""
        found = self.examples(split)
        return found.fingerprints() if isinstance(found, StoredExamples) else {}

    @property
    def _names(self) -> tuple[str, ...]:
        """Fields that may hold reasoning."""
        return tuple(name for name in self.config.fields if name in REASONING) or REASONING

    def read_before_dropping(self, split: Split) -> list[Example]:
        """All rows of a split, including those dropped because they are in a held-out split."""
        return self._splits.raw.get(split, [])

    def _read(self, split: Split) -> list[Example]:
        config = self.config
        source: Split = "train" if split in self._carved else split
        place = getattr(config, source)
        rows, where = source_rows(place, source, config.format)
        found = examples_of(
            self._plain(rows), split=source, steps=config.steps, source=where, names=self._names, advice=advice
        )
        if source == "train" and config.require_steps:
            self._require_steps(found, where)
        if source != "train" or not self._carved:
            return found
        return carve(found, config.validation_fraction, split, config.test_fraction)

    def _plain(self, rows: Iterable[RawRow]) -> Iterator[RawRow]:
        """Rows in plain form: renamed fields, converted style, options with letters."""
        for where, row in rows:
            if self.config.fields and isinstance(row, Mapping):
                row = _renamed(row, self.config.fields, where)
            row = restyled(row, where, self.config.style)
            if self.config.answer == "letter":
                row = lettered_row(row, where)
            else:
                refuse_unshown(row, where)
            yield where, self._truth_told(row, where)

    def _truth_told(self, row: object, where: str) -> object:
        """Convert true and false to words, if answers are words."""
        if not isinstance(row, Mapping) or not isinstance(row.get("answer"), bool):
            return row
        if self.config.answer != "text":
            raise DataError(
                f"{where}: field 'answer' must be a string, got bool ({row['answer']}); set task.answer=text to take it as "
                "the word true or false"
            )
        return {**row, "answer": str(row["answer"]).lower()}

    def _require_steps(self, examples: list[Example], where: str) -> None:
        bare = [example.id for example in examples if not example.steps]
        if bare:
            raise self._bare(where, len(bare), len(examples), bare[0])

    def _bare(self, where: str, bare: int, rows: int, first: str) -> DataError:
        return DataError(
            f"{where}: {bare} of {rows} train rows have no step (first {first}), and require_steps is set; reasoning is "
            f"read from {', '.join(REASONING)}; map another field with task.fields, or split it by another rule (task.steps)"
        )


def _renamed(row: Mapping[str, object], fields: Mapping[str, str], where: str) -> Mapping[str, object]:
    """Rename a row's fields to ours. Raises DataError for a missing field."""
    values = {}
    for ours, theirs in fields.items():
        value: Any = row
        for part in [theirs] if theirs in row else theirs.split("."):
            if not isinstance(value, Mapping) or part not in value:
                if ours in (*REASONING, "input"):  # some rows may have none
                    value = None
                    break
                raise DataError(
                    f"{where}: task.fields takes {ours!r} from {theirs!r}, which it lacks; {did_you_mean(theirs, row)}"
                )
            value = value[part]
        values[ours] = value
    return {**{key: value for key, value in row.items() if key not in fields.values()}, **values}


def _same_content(a: str | None, b: str | None) -> bool:
    """Whether two paths lead to one file or to equal bytes. False for missing files, which are reported on reading, and for
    folders, hub data sets and objects with several splits."""
    if a is None or b is None or hub_id(a) is not None:
        return False
    one, two = expanded(a), expanded(b)
    if one.is_dir() or two.is_dir():
        return one.resolve() == two.resolve() and not has_splits(one)
    if not (one.is_file() and two.is_file()):
        return one.resolve() == two.resolve()
    if one.resolve() != two.resolve() and (
        one.stat().st_size != two.stat().st_size or sha256(one.read_bytes()).digest() != sha256(two.read_bytes()).digest()
    ):
        return False
    return not has_splits(one)
