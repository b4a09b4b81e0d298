"""Methods times tasks: the matrix, the comparison per task, and the chart."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.fakes.evaluation import record, report
from typer.testing import CliRunner

from unspoken.cli import app
from unspoken.errors import ConfigError, DataError
from unspoken.pages.comparison import charts, grid_json, read, tables
from unspoken.pages.formats import markdown
from unspoken.pages.svg import sheet

FIRST, SECOND = [True] * 9 + [False] * 11, [True] * 8 + [False] * 2 + [True] * 10


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Run a on two tasks, run b on one of them, in other costs."""
    costly = tuple(record(i, strict, passes=30) for i, strict in enumerate(SECOND))
    tiny, svamp = {"name": "tiny"}, {"name": "svamp"}
    report(FIRST, task=tiny).save(tmp_path / "a[b]" / "eval-tiny-test.json")
    report(FIRST[:12], task=svamp, fingerprint="ff").save(tmp_path / "a[b]" / "eval-svamp-test.json")
    report(FIRST[:5], task=svamp).save(tmp_path / "a[b]" / "eval-svamp-test-limit-5.json")  # a part is not read
    report(SECOND, task=tiny, records=costly).save(tmp_path / "b" / "eval-tiny-test.json")
    return [tmp_path / "a[b]", tmp_path / "b"]


def test_reports_are_sorted_by_task(runs: list[Path]):
    grid = read(runs)
    assert {task: list(row) for task, row in grid.items()} == {"svamp": ["a[b]"], "tiny": ["a[b]", "b"]}
    assert grid["svamp"]["a[b]"].n == 12
    assert list(read([*runs, runs[1]])["tiny"]) == ["a[b]", "b", str(runs[1])]
    assert list(read([runs[1] / "eval-tiny-test.json"])["tiny"]) == ["b"]


def test_markdown_and_json(runs: list[Path]):
    grid = read(runs)
    text = markdown(tables(grid))
    assert text.startswith("| method | svamp | tiny |\n")
    assert "| b | – | 90.0 (69.9–97.2) |" in text
    assert text.count("McNemar p") == 1
    assert "## svamp" in text
    data = json.loads(grid_json(grid))
    assert data["tiny"]["methods"]["b"]["correct"] == 18
    (pair,) = data["tiny"]["pairs"]
    assert (pair["only_a"], pair["only_b"]) == (1, 10)
    assert data["svamp"]["pairs"] == []
    assert set(json.loads(grid_json(read([runs[1]])))) == {"b"}  # one task: as ever


def test_the_chart_is_a_file_of_its_own(runs: list[Path]):
    root = ElementTree.fromstring(sheet("Accuracy against forward passes", charts(read(runs))))
    space = "{http://www.w3.org/2000/svg}"
    panels = root.findall(f"{space}svg")
    assert [panel.get("aria-label") for panel in panels] == [
        f"{task}: accuracy against forward passes, 95% interval" for task in ("svamp", "tiny")
    ]
    assert [len(panel.findall(f".//{space}circle")) for panel in panels] == [1, 2]
    near, far = (circle for circle in panels[1].iter(f"{space}circle"))
    assert float(near.get("cx", 0)) < float(far.get("cx", 0))  # 9 passes and 30
    assert float(near.get("cy", 0)) > float(far.get("cy", 0))  # 45% and 90%, from the top
    groups = [group.get("class") for group in panels[1].iter(f"{space}g") if group.find(f"{space}circle") is not None]
    assert groups == ["c0", "c1"]
    assert "http" not in sheet("a", charts(read(runs))).replace("http://www.w3.org/2000/svg", "")


def test_the_command(runs: list[Path], tmp_path: Path):
    files = [tmp_path / name for name in ("table.md", "chart.svg", "table.json")]
    words = ["compare", *map(str, runs), "--out", str(files[0]), "--chart", str(files[1])]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "a[b]" in done.output
    assert files[0].read_text() == markdown(tables(read(runs)))
    assert files[1].read_text() == sheet("Accuracy against forward passes", charts(read(runs)))
    words = ["compare", *map(str, runs), "--extractor", "lm-eval:strict", "--out", str(files[2])]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "lm-eval:strict rule" in " ".join(done.output.split())
    assert "lm-eval:strict, 20 problems paired by id" in " ".join(done.output.split())
    assert json.loads(files[2].read_text())["tiny"]["methods"]["b"]["correct"] == 0  # "### n" is not its mark


def test_what_cannot_be_compared_is_refused(runs: list[Path], tmp_path: Path):
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match="has no reports of a whole test split; run `unspoken eval"):
        read([tmp_path / "none"])
    other = replace(read(runs)["tiny"]["b"], fingerprint="99")
    with pytest.raises(DataError, match="the task fingerprint differs"):
        markdown(tables({"tiny": {"a": read(runs)["tiny"]["a[b]"], "b": other}}))
    other = replace(read(runs)["tiny"]["b"], extractor="flexible")
    with pytest.raises(DataError, match=r"the extractor differs, 'strict' .* against 'flexible'"):
        markdown(tables({"tiny": {"a": read(runs)["tiny"]["a[b]"], "b": other}}))


def test_a_name_says_the_format_or_is_refused(runs: list[Path], tmp_path: Path):
    pytest.importorskip("matplotlib")
    begins = {"t.tex": b"% Accuracy", "t.csv": b"task,run,", "t.JSON": b"{", "t.md": b"| method", "c.pdf": b"%PDF-",
              "c.png": b"\x89PNG", "c.svg": b"<svg "}  # fmt: skip
    for group in ((), ("--group",)):
        for name, begin in begins.items():
            option = "--chart" if name.startswith("c") else "--out"
            words = ["compare", *map(str, runs), option, str(tmp_path / name), *group]
            done = CliRunner().invoke(app, words, catch_exceptions=False)
            assert done.exit_code == 0, done.output
            start = (tmp_path / name).read_bytes()[: len(begin)]
            assert start == begin or (group and name in ("t.md", "t.tex", "t.csv")), name
            (tmp_path / name).unlink()
    for option, name in (("--out", "t.txt"), ("--out", "t"), ("--out", "t.svg"), ("--chart", "c.jpg"), ("--chart", "c.md")):
        with pytest.raises(ConfigError, match=rf"{option} .*give a name that ends in one of them"):
            CliRunner().invoke(app, ["compare", *map(str, runs), option, str(tmp_path / name)], catch_exceptions=False)
        assert not (tmp_path / name).exists()


def test_csv_and_latex_hold_numbers_that_programs_read(runs: list[Path], tmp_path: Path):
    words = ["compare", *map(str, runs), "--out"]
    CliRunner().invoke(app, [*words, str(tmp_path / "t.csv")], catch_exceptions=False)
    lines = list(csv.DictReader((tmp_path / "t.csv").open(encoding="utf-8")))
    assert [(line["task"], line["run"], line["correct"], line["accuracy"]) for line in lines] == [
        ("svamp", "a[b]", "9", "0.75"), ("tiny", "a[b]", "9", "0.45"), ("tiny", "b", "18", "0.9"),
    ]  # fmt: skip
    assert float(lines[2]["low"]) < 0.9 < float(lines[2]["high"])
    CliRunner().invoke(app, [*words, str(tmp_path / "t.tex")], catch_exceptions=False)
    text = (tmp_path / "t.tex").read_text(encoding="utf-8")
    assert "a[b] & 45.0 (25.8--65.8)" in text
    assert "\u2212" not in text
    assert text.count("\\toprule") == text.count("\\bottomrule") >= 2
