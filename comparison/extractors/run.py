"""How often our rules agree with the verdicts that GSM8K's authors recorded for the outputs of their own models.

    UNSPOKEN_DATA=DIR python comparison/extractors/run.py [--file DIR/gsm8k/example_model_solutions.jsonl]

Writes table.md and disagreements.md beside this file. No model runs: the outputs are stored text.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unspoken.core.files import write_text
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError
from unspoken.evaluation.statistics import rate
from unspoken.evaluation.tables import with_interval
from unspoken.tasks.scoring.extractors import EXTRACTORS, Verdict, extractor, judge

HERE = Path(__file__).parent
LAST_LINE = re.compile(r"(?:^|\n)A: ?(?P<answer>[^\n]*)\s*\Z")


@dataclass(frozen=True)
class Output:
    """One stored output: the problem's place in the file, the model, the reference, the text, the recorded verdict."""

    row: int
    model: str
    answer: str
    text: str
    right: bool

    def said_by(self, name: str) -> Verdict:
        """What a rule says. The file closes an answer with a line "A: 18" where the data set has "#### 18"."""
        marked = LAST_LINE.sub(lambda m: f"\n#### {m['answer']}", self.text)
        return judge(name, Example(question="?", answer=self.answer, id=f"row-{self.row}"), marked)


def outputs(path: Path) -> Iterator[Output]:
    """Every output in the file, row by row."""
    for row, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        data = json.loads(line)
        match = LAST_LINE.search(data["ground_truth"])
        assert match, f"row {row}: the reference has no line that begins with A:"
        for model, said in data.items():
            if isinstance(said, dict):
                yield Output(row, model, match["answer"].strip(), said["solution"], said["is_correct"])


def usable() -> list[str]:
    """The rules whose libraries are installed."""
    names = []
    for name in EXTRACTORS:
        try:
            extractor(name)
        except ConfigError as error:
            print(f"left out: {error}")
        else:
            names.append(name)
    return names


def main() -> None:
    """Judge every output by every rule and write what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("UNSPOKEN_DATA", ".")
    parser.add_argument("--file", type=Path, default=Path(data) / "gsm8k" / "example_model_solutions.jsonl")
    args = parser.parse_args()
    every = list(outputs(args.file))
    lines = [
        "| rule | agrees % (95%) | agrees | recorded right, rule wrong | recorded wrong, rule right |",
        "|" + " --- |" * 5,
    ]
    apart = ["# Every disagreement", ""]
    for name in usable():
        said = [one.said_by(name) for one in every]
        agree = rate(verdict.right == one.right for one, verdict in zip(every, said, strict=True))
        missed = sum(one.right and not verdict.right for one, verdict in zip(every, said, strict=True))
        extra = agree.n - agree.correct - missed
        lines.append(f"| `{name}` | {with_interval(agree)} | {agree.correct} of {agree.n} | {missed} | {extra} |")
        apart.append(f"## `{name}`: {agree.n - agree.correct}\n")
        for one, verdict in zip(every, said, strict=True):
            if verdict.right != one.right:
                end = json.dumps(one.text[-60:], ensure_ascii=False).replace("|", "\\|").replace("`", "'")
                apart.append(
                    f"- row {one.row}, {one.model}: reference `{one.answer}`, recorded {'right' if one.right else 'wrong'}, "
                    f"found `{verdict.extracted}`; the text ends `{end}`"
                )
        apart += [""] if agree.n > agree.correct else []
    lines += ["", f"{len(every)} outputs of {len({one.model for one in every})} models.", ""]
    write_text(HERE / "table.md", "\n".join(lines))
    write_text(HERE / "disagreements.md", "\n".join(apart).rstrip() + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
