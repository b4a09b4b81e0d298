"""Pages show what studies found: tables are filled in from results, words agree with figures, models are packed whole."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from support.small_study import RIGHT, finish, finished

from studies import fill_pages, pack_models
from studies.fill_pages import PAGES, RESULTS, filled
from unspoken import load
from unspoken.errors import DataError, RunError
from unspoken.evaluation.card import Card
from unspoken.evaluation.statistics import OverSeeds, difference_of_means, over_training_seeds
from unspoken.runs.directory import RunDir
from unspoken.studies.run import planned, write_results

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "comparison" / "tiny"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_filled_in(page: Path):
    """Else: make results."""
    text = page.read_text(encoding="utf-8")
    assert filled(text, RESULTS.read_text(encoding="utf-8")) == text


def test_a_table_follows_its_study(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "repository"
    shutil.copytree(small, root / "studies" / "small")
    monkeypatch.setattr(fill_pages, "ROOT", root)
    monkeypatch.setattr(fill_pages, "TIMES", {"small": "a minute"})
    page = "# P\n\n<!-- study small: test -->\nold\n\n<!-- studies -->\nold | old\n\nend\n"
    unrun = filled(page, page)
    assert "<!-- study small: test -->\n*Not run yet: `unspoken study studies/small`, a minute.*\n\n" in unrun
    assert "| Small | not run yet (0 of 6) | 1, 2 | `unspoken study studies/small` | a minute |\n\nend" in unrun
    made = planned(root / "studies" / "small", runs=tmp_path / "runs")
    for job in made.every[:4]:
        finish(job, RIGHT[job.name])
    write_results(made)
    part = filled(unrun, unrun)
    assert "\n| coconut, 2 | 62.5 | 62.5 | " in part, "one seed, no interval"
    assert "| Small | 4 of 6 |" in part
    for job in made.every[4:]:
        finish(job, RIGHT[job.name])
    write_results(made)
    whole = filled(part, part)
    assert "\n| coconut, 2 | 81.2 (0.0–100.0) | 62.5, 100.0 | " in whole
    assert whole.endswith("\nend\n")
    assert filled(whole, whole) == whole
    with pytest.raises(DataError, match="no evaluation 'other'"):
        filled("<!-- study small: other -->\n", "")


def test_the_headline_is_one_text():
    results = "<!-- headline -->\n| a |\n|---|\n| 2 |\n\nmore\n"
    assert (
        filled("x\n\n<!-- headline -->\n| a |\n| 1 |\n\ny\n", results)
        == "x\n\n<!-- headline -->\n| a |\n|---|\n| 2 |\n\ny\n"
    )


# Figures in sentences


def stored() -> dict[str, OverSeeds]:
    """Method -> its accuracies in version 0.1.0, from the cards."""
    found: dict[str, list] = {}
    for file in sorted((TINY / "cards").glob("*.json")):
        found.setdefault(file.stem.rpartition("-")[0], []).append(Card.from_json(file).score)
    return {method: over_training_seeds(rates) for method, rates in found.items()}


def rate(value: float) -> str:
    return f"{100 * value:.1f}"


def said() -> list[tuple[str, str]]:
    """(page, part of a sentence), as the cards have the figures."""
    cards, controls = stored(), json.loads((TINY / "controls.json").read_text(encoding="utf-8"))
    mean = {method: rate(over.mean) for method, over in cards.items()}

    def gain(a: str, b: str, unit: str = "") -> str:
        value, interval = difference_of_means(cards[a], cards[b])
        assert interval is not None
        low, high = (f"{100 * end:+.1f}".replace("-", "−") for end in interval)
        return f"{100 * value:+.1f}{unit} ({low} to {high})"

    def shuffled(run: str) -> tuple[str, str]:
        (found,) = [c for c in controls[run]["controls"] if c["control"] == "shuffled"]
        return rate(controls[run]["unmodified"]["value"]), rate(found["accuracy"]["value"])

    results = [
        f"lifts Coconut from {mean['coconut']} to {mean['sim_cot']}% "
        f"and CODI from {mean['codi']} to {mean['sim_cot_codi']}%",
        f"have {mean['coconut_progressive']}%",
        f"SIM-CoT on Coconut {gain('coconut', 'sim_cot', ' points')}, on CODI {gain('codi', 'sim_cot_codi')}; "
        f"Coconut over No-CoT {gain('no_cot', 'coconut')}, CODI over No-CoT {gain('no_cot', 'codi')}",
        *(
            f"| **shown here**: {gain(a, b, ' points')} |"
            for a, b in (("coconut", "sim_cot"), ("codi", "sim_cot_codi"), ("no_cot", "coconut"))
        ),
        f"| **contradicted here**: {mean['sim_cot']} against 100.0 |",
        f"| **contradicted here**: {mean['codi']} against 100.0 |",
        f"at once: {mean['icot_si']}, ",
        f"**contradicted here**: {mean['semcot']}, ",
        "**contradicted here**: {} to {} with another problem's".format(*shuffled("codi-1")),
        *(
            "| {} | {} | {} |".format(label, *shuffled(run))
            for label, run in (
                ("SIM-CoT on Coconut", "sim_cot-1"), ("SIM-CoT on CODI", "sim_cot_codi-1"), ("Coconut", "coconut-1"),
                ("CODI", "codi-1"), ("SoftCoT (writes its steps)", "softcot-1"), ("SemCoT", "semcot-1"),
            )
        ),
    ]  # fmt: skip
    others = [
        ("README.md", f"answers {mean['sim_cot']}% of them rightly in 8"),
        ("README.md", "SIM-CoT falls from {} to {}%".format(*shuffled("sim_cot-1"))),
        ("README.md", "Coconut from {} to {}, but".format(*shuffled("coconut-1"))),
        ("README.md", "but CODI only from {} to {}:".format(*shuffled("codi-1"))),
        ("README.md", "supervises them ({} to {})".format(*shuffled("sim_cot_codi-1"))),
        ("docs/methods/semcot.md", f"({mean['no_cot']}, 3 seeds)"),
    ]
    return [*(("docs/results.md", part) for part in results), *others]


def said_of_the_study() -> list[tuple[str, str]]:
    """(page, part of a sentence), as the study of every method has the figures."""
    cells = json.loads((ROOT / "studies/methods/results.json").read_text(encoding="utf-8"))["cells"]
    asked = {cell["name"]: cell["evaluations"]["4 operations"] for cell in cells}
    each = {name: [rate(value) for value in one["accuracy"]["each"]] for name, one in asked.items()}
    mean = {name: rate(one["accuracy"]["mean"]) for name, one in asked.items()}
    low, high = (rate(end) for end in asked["mux_codi"]["accuracy"]["interval"])
    words = [one["latents"]["recovery"]["words"]["in_place"] for one in asked["mux_codi"]["each"]]
    results = sorted(f"{100 * one['results']['value']:.0f}" for one in words)
    assert all(one[kind]["value"] > 0.995 for one in words for kind in ("operators", "numbers"))
    mux = f"{mean['mux_codi']}% ({low}–{high})"
    return [
        ("docs/results.md", f"does without a decoder in training: {mux}"),
        ("docs/results.md", "MUX on CODI answers {}, {} and {}%".format(*each["mux_codi"])),
        ("docs/results.md", f"in 100% of cases but its result in {results[0]} to {results[-1]} only"),
        ("docs/results.md", "than its first seed looked: {}, {} and {}".format(*each["lotus"])),
        ("docs/results.md", "two seeds of three: {}, {}, {} against 100.0".format(*each["lotus"])),
        ("docs/results.md", f"MUX **shown here**: {each['mux_codi'][0]} against {each['codi'][0]}; PCCoT not: "),
        ("docs/results.md", f"3 seeds: {mean['mux_codi']}; PCCoT {mean['pccot']})"),
        ("README.md", f"has {mux} over three seeds"),
        ("docs/methods/mux.md", f"measured: {mean['mux_codi']}% over three seeds"),
    ]


@pytest.mark.parametrize(("page", "part"), [*said(), *said_of_the_study()])
def test_sentences_say_what_the_cards_say(page: str, part: str):
    assert part in re.sub(r"\s+", " ", (ROOT / page).read_text(encoding="utf-8"))


def test_the_guide_shows_the_controls_that_were_recorded():
    def rows(file: Path) -> dict[str, list[str]]:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        return {first: [re.sub(r" \(.*–.*\)$", "", cell) for cell in rest] for first, *rest in cells}

    guide, recorded = rows(ROOT / "docs" / "guides" / "controls.md"), rows(TINY / "controls.md")
    shown = {
        "SIM-CoT on Coconut": "sim_cot",
        "SIM-CoT on CODI": "sim_cot_codi",
        "Coconut, staged": "coconut",
        "CODI": "codi",
    }
    for label, run in shown.items():
        assert guide[label] == recorded[f"{run}-1"][1:11], label


def test_what_is_called_not_run_has_not_run():
    """A claim that a study has decided is no longer "not run yet"."""
    rows = [
        line for line in RESULTS.read_text(encoding="utf-8").splitlines() if line.startswith("| ") and "not run yet" in line
    ]
    named = [name for row in rows for name in re.findall(r"`unspoken study studies/([\w-]+)`", row)]
    assert named
    for name in named:
        results = fill_pages.found_by(name)
        jobs = planned(ROOT / "studies" / name).every
        assert results is None or results["missing"], f"{name} has run: say what it found"
        assert jobs


# Models


def test_a_packed_model_answers(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = finished(small, tmp_path / "runs")
    folder = tmp_path / "run"
    shutil.copytree(RunDir("builtin:tiny-sim-cot").path, folder)
    (folder / "state").mkdir()
    (folder / "state" / "optimizer").write_text("large")
    job = replace(made.every[0], folder=folder)
    packed = pack_models.pack(job, "tiny-example", tmp_path)
    assert pack_models.pack(job, "tiny-example", tmp_path).sha256 == packed.sha256, "the same bytes"
    with tarfile.open(packed.file) as archive:
        names = archive.getnames()
        archive.extractall(tmp_path / "out", filter="data")
    assert {name.split("/")[0] for name in names} == {"tiny-example"}
    assert not [name for name in names if "state" in name or "metrics" in name]
    model = load(tmp_path / "out" / "tiny-example")
    question = "Ann has 18 figs. She sells full dozens. She triples her figs. She finds 3. How many figs has Ann?"
    assert model.answer([question])[0].text == load("builtin:tiny-sim-cot").answer([question])[0].text
    card = (tmp_path / "out" / "tiny-example" / "README.md").read_text(encoding="utf-8")
    assert "unspoken inspect tiny-example" in card
    assert str(tmp_path) not in card
    monkeypatch.setattr(pack_models, "MOST", 1000)
    with pytest.raises(RunError, match="choose a smaller model"):
        pack_models.pack(job, "tiny-example", tmp_path)


def test_models_to_pack_are_runs_of_their_studies():
    for study, (_, names) in pack_models.CHOSEN.items():
        assert set(names) <= {job.name for job in planned(ROOT / "studies" / study).every}
