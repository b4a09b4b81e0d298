"""Runs of one recipe with several training seeds: their mean, the interval over them, and the tables that quote it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.fakes.evaluation import report
from typer.testing import CliRunner

from unspoken.cli import app
from unspoken.errors import ConfigError, DataError
from unspoken.evaluation.card import Card
from unspoken.evaluation.statistics import OverSeeds, Rate, difference_of_means, over_training_seeds, student_t
from unspoken.evaluation.tables import each_seed, over_seeds_cell

ROOT = Path(__file__).resolve().parents[2]


def of(*correct: int, n: int = 1000) -> OverSeeds:
    return over_training_seeds(Rate(correct=c, n=n) for c in correct)


@pytest.mark.parametrize(
    ("df", "confidence", "t"),
    [(1, 0.95, 12.7062), (2, 0.95, 4.3027), (3, 0.95, 3.1824), (4, 0.95, 2.7764), (5, 0.99, 4.0321), (30, 0.95, 2.0423),
     (1000, 0.95, 1.9623)],
)  # fmt: skip
def test_student_t(df: int, confidence: float, t: float):
    """Printed tables of the distribution."""
    assert student_t(df, confidence) == pytest.approx(t, abs=5e-5)


def test_the_interval_is_one_over_seeds():
    """No-CoT of comparison/tiny: three models of 1,000 problems are three observations, not a sample of 3,000."""
    no_cot = of(469, 336, 582)
    low, high = no_cot.interval or (0, 0)
    assert no_cot.mean == pytest.approx(0.46233, abs=1e-5)
    assert (low, high) == pytest.approx((0.1564, 0.7682), abs=1e-4)
    assert no_cot.within[0] == Rate(correct=469, n=1000).interval
    assert of(1, n=4).interval is None
    assert of(500, 500, 500).interval is None  # equal seeds say nothing about their spread
    assert of(990, 1000, 900).interval == (pytest.approx(0.8267, abs=1e-3), 1.0)
    # A seed that was asked more problems is no more than a seed.
    assert over_training_seeds([Rate(correct=1, n=2), Rate(correct=0, n=1000)]).mean == 0.25
    with pytest.raises(DataError, match="runs that answered problems"):
        over_training_seeds([])


def test_difference_of_means():
    value, interval = difference_of_means(of(684, 711, 811), of(951, 975, 946))
    assert value == pytest.approx(0.222)
    assert interval == pytest.approx((0.0514, 0.3926), abs=1e-4)
    assert difference_of_means(of(500), of(600, 700)) == (pytest.approx(0.15), None)
    assert difference_of_means(of(500, 500), of(600, 600))[1] is None


# The tables in the repository


def stored() -> dict[str, OverSeeds]:
    """Method -> its accuracies, from the cards that its runs left."""
    found: dict[str, dict[int, Rate]] = {}
    for file in sorted((ROOT / "comparison" / "tiny" / "cards").glob("*.json")):
        method, _, seed = file.stem.rpartition("-")
        found.setdefault(method, {})[int(seed)] = Card.from_json(file).score
    return {method: over_training_seeds(rates.values()) for method, rates in found.items()}


def rows(text: str) -> dict[str, list[str]]:
    """First cell -> the others, of all tables in a Markdown text, without bold."""
    lines = [
        [cell.strip() for cell in line.replace("**", "").strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]
    return {line[0]: line[1:] for line in lines}


SHOWN = {
    "No-CoT": "no_cot",
    "Coconut, staged as published": "coconut",
    "Coconut, progressive (SIM-CoT's rows and schedule, no decoder)": "coconut_progressive",
    "SIM-CoT on Coconut": "sim_cot",
    "SIM-CoT on Coconut, progressive": "sim_cot",
    "CODI": "codi",
    "SIM-CoT on CODI": "sim_cot_codi",
}


def test_the_table_says_what_the_stored_runs_scored():
    text = (ROOT / "comparison/tiny/README.md").read_text(encoding="utf-8")
    table = rows(text[text.index("over training seeds) |") - 200 :].split("\n\n**")[0])
    known, seen = stored(), 0
    for label, method in SHOWN.items():
        if label in table:
            seen += 1
            assert table[label][:2] == [over_seeds_cell(known[method]), each_seed(known[method])], label
    assert seen == 6


def test_the_stored_table_is_that_of_the_cards():
    table = json.loads((ROOT / "comparison" / "tiny" / "table.json").read_text(encoding="utf-8"))
    markdown = rows((ROOT / "comparison" / "tiny" / "table.md").read_text(encoding="utf-8").split("\n\n")[0])
    for method, over in stored().items():
        assert [(r["correct"], r["n"]) for r in table[method]["per_seed"]] == [(r.correct, r.n) for r in over.rates]
        assert table[method]["over_training_seeds"]["mean"] == pytest.approx(over.mean)
        assert markdown[method][0] == over_seeds_cell(over)


# compare --group


def run(folder: Path, seed: int, right: int, lr: float = 0.1, sampling: int = 0, task_seed: int | None = None) -> Path:
    """A run directory as `compare` reads it: 20 problems, made by the seed."""
    folder.mkdir()
    task = {"name": "tiny", "seed": seed if task_seed is None else task_seed}
    config = {"train": {"seed": seed, "lr": lr}, "task": task, "method": {"name": "coconut"}, "speaking": {"seed": sampling}}
    (folder / "run.json").write_text(json.dumps({"id": "x", "config": config}))
    made = report([i < right for i in range(20)], task=task, fingerprint=f"{task['seed']:08}", speaking={"seed": sampling})
    made.save(folder / "eval-tiny-test.json")
    return folder


def test_compare_groups_training_seeds(tmp_path: Path):
    runs = [run(tmp_path / f"a-{s}", s, right) for s, right in ((1, 10), (2, 12), (3, 17))]
    runs += [run(tmp_path / f"b-{s}", s, right, lr=0.2) for s, right in ((1, 4), (2, 5))]
    out = tmp_path / "t.json"
    result = CliRunner().invoke(app, ["compare", *map(str, runs), "--group", "--out", str(out)])
    assert result.exit_code == 0, result.output
    data = json.loads(out.read_text())["tiny"]
    assert data["a"]["training_seeds"] == [1, 2, 3]
    assert data["a"]["mean"] == pytest.approx(0.65)
    assert data["a"]["interval_over_training_seeds"] == pytest.approx([0.2023, 1.0], abs=1e-3)
    assert data["b"]["accuracies"] == [0.2, 0.25]
    result = CliRunner().invoke(app, ["compare", *map(str, runs), "--group", "--out", str(tmp_path / "t.md")])
    text = (tmp_path / "t.md").read_text()
    assert "| a | 65.0 (20.2–100.0) | 50.0, 60.0, 85.0 | ±" in text
    assert re.search(r"\| a \| b \| -42\.5 \| ", text)


def test_what_is_no_training_seed_is_not_grouped(tmp_path: Path):
    """Another learning rate is another recipe, another sampling seed the same model; the same seed is no new observation."""
    one = run(tmp_path / "a-1", 1, 10, task_seed=0)
    two = run(tmp_path / "a-2", 2, 12, task_seed=0)
    other = run(tmp_path / "a-3", 3, 12, lr=0.3, task_seed=0)
    sampled = run(tmp_path / "a-4", 4, 12, sampling=9, task_seed=0)
    again = run(tmp_path / "a-5", 1, 11, task_seed=0)
    result = CliRunner().invoke(
        app, ["compare", *map(str, (one, two, other, sampled)), "--group", "--out", str(tmp_path / "t.json")]
    )
    assert result.exit_code == 0, result.output
    data = json.loads((tmp_path / "t.json").read_text())["tiny"]
    assert [row["runs"] for row in data.values()] == [["a-1", "a-2"], ["a-3"], ["a-4"]]
    result = CliRunner().invoke(app, ["compare", str(one), str(again), "--group"])
    assert isinstance(result.exception, ConfigError)
    assert "the same training seed 1" in str(result.exception)
    # Without --group the runs stand alone, and a line says what they are.
    result = CliRunner().invoke(app, ["compare", str(one), str(two)])
    assert "one recipe with training seeds 1, 2: --group" in " ".join(result.output.split())
    # A file without its run.json: nothing is known of its training, so it is grouped with nothing.
    (two / "run.json").unlink()
    result = CliRunner().invoke(app, ["compare", str(one), str(two), "--group"])
    assert "a-2 stand alone" in " ".join(result.output.split())


@pytest.mark.parametrize("seeds", ["1000000000", "\u00b2", "9" * 5000, "1,\u00b2", "-1", "0", ""])
def test_sampling_seeds_that_cannot_be(seeds: str):
    """One line each, before anything is loaded: no list of a billion, no superscript taken for a digit."""
    result = CliRunner().invoke(app, ["eval", "builtin:tiny", f"--seeds={seeds}"])
    assert isinstance(result.exception, ConfigError)
    assert "--seeds" in str(result.exception)
    assert len(str(result.exception)) < 250
