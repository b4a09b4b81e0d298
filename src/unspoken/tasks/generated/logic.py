"""Made-up logic: ProsQA (paths in a graph) and ProntoQA (proofs in an ontology), both of Coconut's experiments.

    prosqa    validation  prosqa_valid.json            test  prosqa_test.json
              train       prosqa_train.json, else generated (`prosqa_graphs.py`)
    prontoqa  validation  prontoqa_valid.json          test  prontoqa_test.json
              train       prontoqa_train.json, else generated (`prontoqa_worlds.py`)

The files are looked for in `root` or in the subfolder of UNSPOKEN_DATA with the task's name. With `source="generated"` all
three splits are generated and no file is needed: those rows are like the published ones but are not them, and a report
on them must say so. Generated rows are the same for the same seed, no problem twice, splits disjoint for every seed; a
problem of the validation and test files, its sentences in any order, is never generated while the files are at hand.
The steps are those of the files: sentences of the shortest path, or of the proof in pairs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Literal

from unspoken.core.config import config_class
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, DataError
from unspoken.tasks.base import Score, Split
from unspoken.tasks.generated.generated import GeneratedConfig, Problem, generated_examples
from unspoken.tasks.generated.prontoqa_worlds import problems as prontoqa_problems
from unspoken.tasks.generated.prosqa_graphs import MAX_STEPS, MIN_NODES, NODES
from unspoken.tasks.generated.prosqa_graphs import problems as prosqa_problems
from unspoken.tasks.reading.readers import read_rows
from unspoken.tasks.reading.rows import examples_of
from unspoken.tasks.reading.source import DataSource, Splits, SplitTask
from unspoken.tasks.scoring.answers import equal, extract_strict
from unspoken.tasks.scoring.rules import bare, score_truth

Problems = Callable[[Split], Iterator[Problem]]
_FILE: Mapping[Split, str] = {"train": "train", "validation": "valid", "test": "test"}
_GENERATE = "set source=generated to make every split (rows like the published ones, and not to be mistaken for them)"


@config_class
class ProsQaConfig(GeneratedConfig):
    """ProsQA (Hao et al. 2024).

    Attributes:
        root: a folder with the files; None for UNSPOKEN_DATA/prosqa.
        source: "files", or "generated" for all splits.
        train: "auto" takes a train file where there is one, "generated" never does.
        graph_4: the rows of 3 and 4 steps that the superposition paper uses (prosqa_*_graph_4_coconut.json); generated
            rows then have 3 or 4 steps too.
        symbols: the same problems without English, as that paper trains small models on (arXiv 2505.12514): an edge is two
            words, "lempus jelpus .", the question "? Tom jelpus fompus", a step an edge, the answer one word.
        nodes: how many are drawn for a generated graph; the published ones are like 28. Fewer are an easier task.
        train_size: generated train rows. Coconut's file has 17,886.
        validation_size, test_size: rows of those splits where they are generated.
    """

    name: Literal["prosqa"] = "prosqa"
    source: Literal["files", "generated"] = "files"
    train: Literal["auto", "generated"] = "auto"
    graph_4: bool = False
    symbols: bool = False
    nodes: int = NODES
    train_size: int = 17_886
    validation_size: int = 300
    test_size: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        if not MIN_NODES <= self.nodes <= NODES:
            raise ConfigError(f"prosqa: nodes must be {MIN_NODES} to {NODES}, got {self.nodes}")


class ProsQa(SplitTask[ProsQaConfig]):
    """Paths in a generated graph: which of two concepts is it? (Hao et al. 2024)."""

    def __init__(self, config: ProsQaConfig) -> None:
        end = "_graph_4_coconut.json" if config.graph_4 else ".json"
        splits = _splits(config, end, self._problems, in_symbols if config.symbols else None)
        super().__init__(splits, score_symbol if config.symbols else score_concept)

    def _problems(self, split: Split) -> Iterator[Problem]:
        return prosqa_problems(
            f"{self.config.seed}/{split}", max_steps=4 if self.config.graph_4 else MAX_STEPS, nodes=self.config.nodes
        )


@config_class
class ProntoQaConfig(GeneratedConfig):
    """ProntoQA (Saparov and He 2023), 5 hops, as Coconut uses it.

    Attributes:
        root: a folder with the files; None for UNSPOKEN_DATA/prontoqa.
        source: "files", or "generated" for all splits.
        train: "auto" takes a train file where there is one, "generated" never does.
        train_size: generated train rows. Coconut's has 9,000.
        validation_size, test_size: rows of those splits where they are generated.
    """

    name: Literal["prontoqa"] = "prontoqa"
    source: Literal["files", "generated"] = "files"
    train: Literal["auto", "generated"] = "auto"
    train_size: int = 9_000
    validation_size: int = 200
    test_size: int = 800


class ProntoQa(SplitTask[ProntoQaConfig]):
    """Proofs of five hops in a generated ontology: true or false? (Saparov and He 2023)."""

    def __init__(self, config: ProntoQaConfig) -> None:
        splits = _splits(config, ".json", lambda split: prontoqa_problems(f"{config.seed}/{split}"))
        super().__init__(splits, score_truth)


def score_concept(example: Example, text: str) -> Score:
    """Score which of the two concepts that the question offers was named.

    Strict: the whole sentence "Tom is a lempus." after the last mark. Flexible: the concept named last there, or else in
        the text; "not a lempus" does not count.

    Raises:
        DataError: the question does not offer two concepts.
    """
    person, options = _asked(example.question)
    marked = extract_strict(text)
    strict = marked is not None and equal(re.sub(r"\ban\b", "a", bare(marked)), example.answer)
    named = re.compile(rf"(\bnot\s+(?:an?\s+)?)?\b({'|'.join(map(re.escape, options))})\b", re.IGNORECASE)

    def last(part: str) -> str | None:
        found = [concept.lower() for no, concept in named.findall(bare(part)) if not no]
        return f"{person} is a {found[-1]}." if found else None

    found = (last(marked) if marked is not None else None) or last(text)
    return Score(strict=strict, flexible=strict or equal(found, example.answer), extracted=found)


def in_symbols(example: Example) -> Example:
    """A problem of ProsQA without English: "Every lempus is a jelpus." becomes "lempus jelpus"."""
    person, options = _asked(example.question)
    told = example.question[: example.question.rindex("Is ")]
    edges = " ".join(f"{_edge(sentence)} ." for sentence in told.split(".") if sentence.strip())
    return replace(
        example,
        question=f"{edges} ? {person} {' '.join(options)}",
        steps=tuple(map(_edge, example.steps)),
        answer=_edge(example.answer).split()[1],
    )


def _edge(sentence: str) -> str:
    match = re.fullmatch(r"(?:Every )?(\w+) is an? (\w+)", sentence.strip().removesuffix("."))
    if match is None:
        raise DataError(f"a sentence of prosqa must be 'Every X is a Y.' or 'NAME is a Y.', got {sentence!r:.60}")
    return f"{match[1]} {match[2]}"


def score_symbol(example: Example, text: str) -> Score:
    """Score which of the two symbols that the question offers was named.

    Strict: that symbol alone after the last mark. Flexible: the one named last there, or else in the text.
    """
    options = example.question.split()[-2:]
    marked = extract_strict(text)
    named = [word for part in (text, marked or "") for word in part.split() if word in options]
    found = named[-1] if named else None
    strict = marked is not None and equal(bare(marked), example.answer)
    return Score(strict=strict, flexible=strict or equal(found, example.answer), extracted=found)


def world_key(question: str) -> str:
    """The key of a question: its facts in sorted order, without what it asks."""
    told = re.split(r"\s(?=Is \w+ an? |True or false:|\? )", question)[0]
    return " ".join(sorted(sentence.strip() for sentence in told.split(".") if sentence.strip()))


def _asked(question: str) -> tuple[str, tuple[str, str]]:
    match = re.search(r"Is (\w+) an? (\w+) or (?:an? )?(\w+)\?\s*$", question)
    if match is None:
        raise DataError(f"a question of prosqa must end in 'Is NAME a X or Y?', got {question[-60:]!r}")
    return match[1], (match[2], match[3])


def _splits(
    config: ProsQaConfig | ProntoQaConfig, end: str, problems: Problems, form: Callable[[Example], Example] | None = None
) -> Splits:
    """Validation and test from files, train from a file or generated; or all splits generated. `form` rewrites rows."""
    files: dict[Split, tuple[str, ...]] = {split: (f"{config.name}_{name}{end}",) for split, name in _FILE.items()}
    source = DataSource.of(config, files, instead=_GENERATE)

    def read(split: Split) -> list[Example]:
        files = config.source == "files"
        path = None
        if files and (split != "train" or config.train == "auto"):
            path = source.find(split) if split == "train" else source.path(split)
        if path is not None:
            return examples_of(read_rows(path), split=split, steps="lines", source=path)
        held_out = (*read("validation"), *read("test")) if files else ()
        return generated_examples(config, split, problems(split), world_key, held_out)

    def shown(split: Split) -> list[Example]:
        return read(split) if form is None else [form(example) for example in read(split)]

    return Splits(config=config, read=shown, key=lambda example: world_key(example.question))
