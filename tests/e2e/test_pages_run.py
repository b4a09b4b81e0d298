"""The commands and programs on the pages that a newcomer copies from do what they say.

Every fenced block of `sh`, `python` or `json` on these pages is run, in order, in one folder, as written but for the size
of trainings (`SMALL`). A block that cannot be run says why in a comment right before or behind it: `<!-- not run: ... -->`.
`<!-- file: NAME -->` before a block writes it to that file.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.command_line import unspoken

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "docs/tutorial.md"]
LANGUAGES = ("sh", "python", "json")
SMALL = {
    "train": [
        "train.steps=2", "train.epochs=null", "train.validate_limit=2", "train.threads=1", "speaking.max_new_tokens=6",
    ],
    "probe": ["train.steps=2", "train.validate_limit=2", "train.threads=1"],
}  # fmt: skip
"""Overrides behind a command, so that a training takes seconds, and models that have learnt nothing end their answers."""
SIZES = ["task.train_size=40", "task.validation_size=4", "task.test_size=6"]
"""The same for problems that are generated."""
STAND_INS = {"HuggingFaceTB/SmolLM2-135M-Instruct": "builtin:tiny"}
"""Models that would be downloaded."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, text and line, and what the comments around it say."""

    language: str
    text: str
    line: int
    file: str | None
    not_run: str | None


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page in one of our languages."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if match[1] not in LANGUAGES:
            continue
        before = text[: match.start()].rstrip().rpartition("\n")[2]
        behind = text[match.end() :].lstrip("\n").partition("\n")[0] if text[match.end() :].startswith("\n<!--") else ""
        file = re.fullmatch(r"<!-- file: (\S+) -->", before)
        skip = re.fullmatch(r"<!-- not run: (.+) -->", before) or re.fullmatch(r"<!-- not run: (.+) -->", behind)
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(match[1], match[2], line, file and file[1], skip and skip[1]))
    return found


def commands(text: str) -> list[list[str]]:
    """The commands of a shell block, as words. `&&` and line ends part them; comments are left out."""
    lines: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while "&&" in words:
            at = words.index("&&")
            lines.append(words[:at])
            words = words[at + 1 :]
        lines.append(words)
    return [words for words in lines if words]


def shell(block: Block, folder: Path) -> None:
    for words in commands(block.text):
        assert words[0] == "unspoken", f"line {block.line}: only our own command is run here, not {words[0]!r}"
        small = list(SMALL.get(words[1], ()))
        if words[1] == "train" and words[2].startswith("tiny/"):
            small += SIZES
        done = unspoken(*words[1:], *small, cwd=folder)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a page is followed: with somebody's own data in `my`."""
    (tmp_path / "my").mkdir()
    for split, first, count in (("train", 1, 12), ("validation", 101, 4), ("test", 201, 4)):
        rows = [
            {
                "question": f"A box holds {k} eggs. Ann has 3 boxes and eats 2 eggs. How many are left?",
                "steps": [f"{k}*3={3 * k}", f"{3 * k}-2={3 * k - 2}"],
                "answer": str(3 * k - 2),
            }
            for k in range(first, first + count)
        ]
        (tmp_path / "my" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(folder)
    ran = 0
    for block in blocks(page):
        if block.not_run:
            continue
        text = block.text
        for model, stand_in in STAND_INS.items():
            text = text.replace(model, stand_in)
        if block.language == "json":
            json.loads(text)
        if block.file:
            (folder / block.file).write_text(text, encoding="utf-8")
        elif block.language == "sh":
            shell(block, folder)
        elif block.language == "python":
            exec(compile(text, f"{page}:{block.line}", "exec"), {"__name__": "__main__"})
        ran += 1
    assert ran > 4
    capsys.readouterr()


@pytest.mark.parametrize("page", PAGES)
def test_reasons_are_reasons(page: str):
    """A block that is left out says why, and most are not left out."""
    found = blocks(page)
    left_out = [block for block in found if block.not_run]
    assert all(len(block.not_run or "") > 20 for block in left_out)
    assert len(left_out) * 2 < len(found)


def test_blocks_are_found_with_their_comments():
    names = [block.file for block in blocks("README.md") if block.file]
    assert names == ["my.json"]
    assert [words[:2] for words in commands("unspoken a  # x\nunspoken b 'c d' && unspoken e\n\n# only words\n")] == [
        ["unspoken", "a"],
        ["unspoken", "b"],
        ["unspoken", "e"],
    ]
