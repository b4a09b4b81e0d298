"""Date Understanding: work out a date from a few sentences. BIG-bench's 369 problems, or the 250 that BIG-Bench-Hard took.

    form "date"     the question alone, "... What is the date today in MM/DD/YYYY?"; the answer is a date
    form "options"  the question with its options; the answer is a letter

**Evaluation only**: both files carry BIG-bench's canary and ask to stay out of training text, so there is a test split
and no other. All 250 questions of BBH are among the 369: score one or the other, never their sum. In BIG-bench's file
the right option stands first in 364 of 369 rows; here options are put in the order of a hash of question and option,
which knows nothing of the answer. BBH's order is kept. Files: date_understanding.json, bbh_date_understanding.json.

With source=softcot the file is SoftCoT's date_understanding_gsm_style.json: one list of rows, whose `question` holds the
options and whose `answer` is the letter. SoftCoT trains on none of them and evaluates what was trained on GSM8K; its figures
are multiples of 1/250, as of BBH's problems.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Literal

from unspoken.core.config import config_class
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, DataError
from unspoken.tasks.base import Score, Split
from unspoken.tasks.reading.readers import listed_rows, read_rows
from unspoken.tasks.reading.rows import text_field
from unspoken.tasks.reading.source import DataSource, EvaluationSetConfig, SplitTask, converted, only_test
from unspoken.tasks.scoring.letters import LETTERS, lettered, options_of, same_text, score_letter, with_options
from unspoken.tasks.scoring.rules import date_text, read_dates, score_date

_FILE = {
    "bigbench": "date_understanding.json",
    "bbh": "bbh_date_understanding.json",
    "softcot": "date_understanding_gsm_style.json",
}


@config_class
class DateUnderstandingConfig(EvaluationSetConfig):
    """Which file, and whether the options are shown.

    Attributes:
        root: a folder with the file; None for UNSPOKEN_DATA/date_understanding.
        source: "bigbench" (369 rows), "bbh" (250 of them), or "softcot", which needs form=options.
        form: "date" or "options", see the module's text.
    """

    name: Literal["date_understanding"] = "date_understanding"
    source: Literal["bigbench", "bbh", "softcot"] = "bigbench"
    form: Literal["date", "options"] = "date"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source == "softcot" and self.form != "options":
            raise ConfigError("source=softcot has letters as answers; set form=options")


class DateUnderstanding(SplitTask[DateUnderstandingConfig]):
    """Work out a date (BIG-bench, BBH): a test set."""

    def __init__(self, config: DateUnderstandingConfig) -> None:
        instead = "use another task: this one is read from files only"
        self._source = DataSource.of(config, {"test": (_FILE[config.source],)}, instead=instead)
        splits = only_test(config, self._read, "BIG-bench's files are for evaluation only")
        super().__init__(splits, score_date if config.form == "date" else _score_option)

    def _read(self, split: Split) -> list[Example]:
        path = self._source.path("test")
        if self.config.source == "softcot":
            return converted(read_rows(path), _lettered_row, split, str(path))
        return converted(listed_rows(path), self._row, split, str(path))

    def _row(self, row: Mapping[str, object], where: str) -> Mapping[str, object]:
        text = text_field(row, "input", where)
        if self.config.source == "bbh":
            stem, options = text.split("\nOptions:")[0].strip(), options_of(text)
            right = options.get(text_field(row, "target", where).strip("()"))
        else:
            scores = row.get("target_scores")
            if not isinstance(scores, Mapping) or sum(scores.values()) != 1:
                raise DataError(f"{where}: field 'target_scores' must give 1 to one option, got {scores!r:.60}")
            stem, right = text, next(option for option, score in scores.items() if score == 1)
            options = lettered(sorted(scores, key=lambda option: sha256(f"{text}\n{option}".encode()).digest()))
        days = read_dates(right or "")
        if len(days) != 1:
            raise DataError(f"{where}: the right option must be a date MM/DD/YYYY, got {right!r:.60}")
        if self.config.form == "date":
            return {"question": stem, "steps": [], "answer": date_text(days[0])}
        letter = next(letter for letter in LETTERS if options.get(letter) == right)
        return {"question": with_options(stem, options), "steps": [], "answer": letter}


def _lettered_row(row: Mapping[str, object], where: str) -> Mapping[str, object]:
    question, answer = text_field(row, "question", where), text_field(row, "answer", where)
    letter = answer.rpartition("####")[2].strip().strip("()")
    if letter not in options_of(question):
        raise DataError(f"{where}: field 'answer' must be the letter of an option in the question, got {answer!r:.60}")
    return {"question": question, "steps": [], "answer": letter}


def _score_option(example: Example, text: str) -> Score:
    """Score a letter; by the flexible rule, an option's date counts as its letter."""
    return score_letter(example, text, _same)


def _same(a: str, b: str) -> bool:
    days_a, days_b = read_dates(a), read_dates(b)
    return days_a == days_b if len(days_a) == 1 and len(days_b) == 1 and not re.search(r"[()]", a) else same_text(a, b)
