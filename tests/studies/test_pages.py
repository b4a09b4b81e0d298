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
from unspoken.evaluation.statistics import OverSeeds, over_training_seeds
from unspoken.runs.directory import RunDir
from unspoken.studies.run import planned, write_results

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "comparison" / "tiny"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_filled_in(page: Path):
    """Else: make results."""
    text = page.read_text(encoding="utf-8")
    assert filled(text) == text


def test_a_table_follows_its_study(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "repository"
    shutil.copytree(small, root / "studies" / "small")
    monkeypatch.setattr(fill_pages, "ROOT", root)
    monkeypatch.setattr(fill_pages, "TIMES", {"small": "a minute"})
    page = "# P\n\n<!-- study small: test -->\nold\n\n<!-- studies -->\nold | old\n\nend\n"
    unrun = filled(page)
    assert "<!-- study small: test -->\n*Not run yet: `unspoken study studies/small`, a minute.*\n\n" in unrun
    assert "| Small | not run yet (0 of 6) | 1, 2 | `unspoken study studies/small` | a minute |\n\nend" in unrun
    made = planned(root / "studies" / "small", runs=tmp_path / "runs")
    for job in made.every[:4]:
        finish(job, RIGHT[job.name])
    write_results(made)
    part = filled(unrun)
    assert "\n| coconut, 2 | 62.5 | 62.5 | " in part, "one seed, no interval"
    assert "| Small | 4 of 6 |" in part
    for job in made.every[4:]:
        finish(job, RIGHT[job.name])
    write_results(made)
    whole = filled(part)
    assert "\n| coconut, 2 | 81.2 (0.0–100.0) | 62.5, 100.0 | " in whole
    assert whole.endswith("\nend\n")
    assert filled(whole) == whole
    with pytest.raises(DataError, match="no evaluation 'other'"):
        filled("<!-- study small: other -->\n")


def test_the_headline_is_of_the_study():
    page = filled("x\n\n<!-- headline -->\nold\n\ny\n")
    head, line, *rows = page.removeprefix("x\n\n<!-- headline -->\n").removesuffix("\n\ny\n").splitlines()
    assert (head.count("|"), line.count("|")) == (6, 6)
    assert len(rows) == len(fill_pages.HEADLINE)
    whole = RESULTS.read_text(encoding="utf-8")
    assert all(row.removesuffix(" |") in whole for row in rows)


# Figures in sentences


def stored() -> dict[str, OverSeeds]:
    """Method -> its accuracies in version 0.1.0, from the cards."""
    found: dict[str, list] = {}
    for file in sorted((TINY / "cards").glob("*.json")):
        found.setdefault(file.stem.rpartition("-")[0], []).append(Card.from_json(file).score)
    return {method: over_training_seeds(rates) for method, rates in found.items()}


def rate(value: float) -> str:
    return f"{100 * value:.1f}"


class Study:
    """A study, in the words of pages.

    Args:
        name: of its folder.
        evaluation: what was asked.
    """

    def __init__(self, name: str = "methods", evaluation: str = "4 operations") -> None:
        results = json.loads((ROOT / "studies" / name / "results.json").read_text(encoding="utf-8"))
        self.asked = {cell["name"]: cell["evaluations"][evaluation] for cell in results["cells"]}
        self.contrasts = {(one["a"], one["b"]): one for one in results["contrasts"]}

    def mean(self, name: str) -> str:
        """Accuracy over seeds."""
        return rate(self.asked[name]["accuracy"]["mean"])

    def range(self, name: str) -> str:
        """Its interval."""
        return "–".join(rate(end) for end in self.asked[name]["accuracy"]["interval"])

    def each(self, name: str) -> str:
        """Of every seed, as a list in a sentence."""
        *first, last = (rate(value) for value in self.asked[name]["accuracy"]["each"])
        return f"{', '.join(first)} and {last}"

    def span(self, name: str) -> str:
        """Of the seeds, the least to the most."""
        values = sorted(self.asked[name]["accuracy"]["each"])
        return f"{rate(values[0])} to {rate(values[-1])}"

    def steps(self, name: str) -> str:
        """Decoded steps that are true, over seeds."""
        values = [one["step_accuracy"]["overall"]["value"] for one in self.asked[name]["each"]]
        return f"{100 * sum(values) / len(values):.0f}"

    def gain(self, a: str, b: str) -> str:
        """Of b over a, paired by seed."""
        one = self.contrasts[a, b]
        return f"{signed(one['mean'])} points ({self.ends(a, b)})"

    def ends(self, a: str, b: str) -> str:
        """The interval of that."""
        return " to ".join(signed(end) for end in self.contrasts[a, b]["interval"])

    def shuf(self, name: str, words: str = "{} to {}") -> str:
        """Accuracy, and with another problem's latents: means over seeds."""
        values = [one["controls"]["shuffled"] for one in self.asked[name]["each"]]
        return words.format(self.mean(name), rate(sum(values) / len(values)))


def signed(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def said() -> list[tuple[str, str]]:
    """(page, part of a sentence), as the study and the cards have the figures."""
    study, old = Study(), {method: rate(over.mean) for method, over in stored().items()}
    mean, gain, steps, shuf = study.mean, study.gain, study.steps, study.shuf
    words = [one["latents"]["recovery"]["words"]["in_place"] for one in study.asked["mux_codi"]["each"]]
    read = sorted(f"{100 * one['results']['value']:.0f}" for one in words)
    assert all(one[kind]["value"] > 0.995 for one in words for kind in ("operators", "numbers"))
    mux = f"{mean('mux_codi')}% ({study.range('mux_codi')})"
    results = [
        f"lifts Coconut from {mean('coconut')} to {mean('sim_cot')}% "
        f"and CODI from {mean('codi')} to {mean('sim_cot_codi')}%",
        f"have {mean('coconut_progressive')}%: it is the supervision",
        f"in {steps('sim_cot')}% of cases on Coconut, {steps('sim_cot_codi')}% on CODI",
        f"does without a decoder in training: {mux}",
        f"SIM-CoT on Coconut {gain('coconut', 'sim_cot')}, on CODI {gain('codi', 'sim_cot_codi')}, over its own rows and "
        f"schedule without the decoder {gain('coconut_progressive', 'sim_cot')}; Coconut over No-CoT "
        f"{gain('no_cot', 'coconut')}, CODI over No-CoT {gain('no_cot', 'codi')}; MUX over CODI {gain('codi', 'mux_codi')}.",
        f"answers {mean('sim_cot_codi')} to {mean('sim_cot')}% in 8 passes where its hosts alone reach {mean('codi')} and "
        f"{mean('coconut')}, in each seed",
        f"without the decoder ({mean('coconut_progressive')}%) lie below",
        f"({gain('softcot_no_cot', 'sim_cot_softcot')}, {gain('semcot', 'sim_cot_semcot')}), though its decoder reads "
        f"{steps('sim_cot_softcot')} and {steps('sim_cot_semcot')}% of the steps off",
        f"**MUX on CODI** answers {study.each('mux_codi')}%",
        f"in 100% of cases but its result in {read[0]} to {read[-1]}% only",
        f"than its first seed looked: {study.each('lotus')}",
        f"untuned, it has {mean('lotus_codi')} ({study.range('lotus_codi')})",
        f"Coconut {old['coconut']}, SIM-CoT on it {old['sim_cot']}, "
        f"CODI {old['codi']}, SIM-CoT on it {old['sim_cot_codi']}%",
        *(
            f"| **shown here**: {gain(a, b)} |"
            for a, b in (("coconut", "sim_cot"), ("codi", "sim_cot_codi"), ("no_cot", "coconut"))
        ),
        f"| **contradicted here**: {mean('sim_cot')} against 100.0 |",
        f"nothing to be said: {study.span('sim_cot')} over seeds, Coconut {study.span('coconut')} |",
        f"| **shown here**: {steps('sim_cot')}% true ({steps('sim_cot_codi')} on CODI) |",
        f"SoftCoT {gain('softcot_no_cot', 'sim_cot_softcot')}, SemCoT {gain('semcot', 'sim_cot_semcot')}: nothing",
        f"| **contradicted here**: {mean('codi')} against 100.0 |",
        f"| **contradicted here**: {shuf('codi')} with another problem's |",
        "two seeds of three: {}, {}, {} against 100.0".format(*map(rate, study.asked["lotus"]["accuracy"]["each"])),
        f"MUX **shown here**: {gain('codi', 'mux_codi')}; PCCoT not: {gain('codi', 'pccot')} |",
        f"| below answering at once: {gain('no_cot', 'icot_si')} |",
        f"| **contradicted here**: {mean('semcot')}, its frozen model's chain 100.0; where",
        *(
            shuf(name, f"| {label} | {{}} | {{}} |")
            for name, label in (
                ("sim_cot", "SIM-CoT on Coconut"), ("sim_cot_codi", "SIM-CoT on CODI"), ("coconut", "Coconut"),
                ("codi", "CODI"), ("mux_codi", "MUX on CODI"), ("lotus", "LOTUS"),
                ("softcot", "SoftCoT (writes its steps)"), ("semcot", "SemCoT"),
            )
        ),
    ]  # fmt: skip
    others = [
        ("README.md", f"answers {mean('sim_cot')}% of them rightly in 8"),
        ("README.md", shuf("sim_cot", "SIM-CoT falls from {} to {}%")),
        ("README.md", shuf("coconut", "Coconut from {} to {}, but")),
        ("README.md", shuf("codi", "but CODI only from {} to {}:")),
        ("README.md", shuf("sim_cot_codi", "supervises them ({} to {})")),
        ("README.md", f"{steps('sim_cot')}% are the true step (on CODI {steps('sim_cot_codi')}%)"),
        ("README.md", f"has {mux} over three seeds"),
        ("docs/methods/mux.md", f"measured: {mean('mux_codi')}% over three seeds"),
        ("docs/methods/semcot.md", f"({mean('no_cot')}, 3 seeds)"),
    ]
    results += [*said_of_many_latents(), *said_of_semcot()]
    return [*(("docs/results.md", part) for part in results), *others]


def said_of_semcot() -> list[str]:
    """The same for SemCoT where answering at once is within reach."""
    study = Study("semcot", "2 operations")
    both = f"{study.mean('semcot')}, the frozen model alone {study.mean('base')} |"
    more = study.contrasts["base", "no_cot"]
    assert all(
        mine < alone
        for mine, alone in zip(*(study.asked[name]["accuracy"]["each"] for name in ("semcot", "base")), strict=True)
    )
    return [
        f"({study.gain('base', 'semcot')})",
        f"lifts it by {100 * more['mean']:.1f} points ({study.ends('base', 'no_cot')})",
        study.shuf("semcot", "another problem's leave {1}% right"),
        f"decoder reads {study.steps('sim_cot_semcot')}% of the steps",
        f"answering at once is in reach {both}",
    ]


def said_of_many_latents() -> list[str]:
    """Parts of sentences in docs/results.md, as the study of 4 to 16 latents has the figures: of all seeds where three have
    run, else of the first."""
    trained, longer, larger = (
        Study("latents", asked) for asked in ("3 to 8 operations", "longer: 9 to 12 operations", "larger: numbers up to 48")
    )

    def each(name: str) -> list[float]:
        return trained.asked[name]["accuracy"]["each"]

    def over(name: str) -> str:
        assert len(each(name)) == 3
        return f"{trained.mean(name)}% ({trained.range(name)})"

    def lost(method: str) -> str:
        return f"{100 * (each(f'{method}-8')[0] - each(f'{method}-16')[0]):.1f}"

    def range_of(study: Study) -> str:
        thinking = [asked for name, asked in study.asked.items() if not name.startswith(("no_cot", "cot"))]
        known = [100 * value for asked in thinking for value in asked["accuracy"]["each"]]
        return f"{min(known):.0f} to {max(known):.0f}%"

    coconut, codi = (
        [tuple(rate(each(f"{method}-{number}")[0]) for method in (host, around)) for number in (8, 16)]
        for host, around in (("coconut", "sim_cot"), ("codi", "sim_cot_codi"))
    )
    return [
        "with 8 latents ({} to {}%) and with 16 ({} to {}%), and CODI too ({} to {}%, {} to {}%)".format(
            *coconut[0], *coconut[1], *codi[0], *codi[1]
        ),
        f"cost it {lost('sim_cot')} points on Coconut and {lost('sim_cot_codi')} on CODI",
        f"{over('mux_codi-8')} with 8, {over('mux_codi-16')} with 16; whether",
        f"(with 8 they have {', '.join(map(rate, each('mux_codi-8')))})",
        f"{over('lotus-8')} with 8 slots, {over('lotus-16')} with 16, and {trained.mean('lotus-8_blocks_of_8')}%",
        f"no better than No-CoT ({trained.mean('no_cot-0')}%, 3 seeds)",
        f"all answer {range_of(longer)} of them, and {range_of(larger)} with",
        f"one seed: {coconut[0][1]} with 8, {coconut[1][1]} with 16; Coconut {coconut[0][0]} and {coconut[1][0]}, not",
    ]


@pytest.mark.parametrize(("page", "part"), said())
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
