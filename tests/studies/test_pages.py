"""Pages show what studies found: tables are filled in from results, words agree with figures, models are packed whole."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

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
        cells = {cell["name"]: cell["evaluations"] for cell in results["cells"]}
        self.asked = {name: asked[evaluation] for name, asked in cells.items() if evaluation in asked}
        self.contrasts = {(one["a"], one["b"]): one for one in results["contrasts"] if one["evaluation"] == evaluation}

    def mean(self, name: str) -> str:
        """Accuracy over seeds."""
        return rate(self.asked[name]["accuracy"]["mean"])

    def range(self, name: str) -> str:
        """Its interval."""
        return "–".join(rate(end) for end in self.asked[name]["accuracy"]["interval"])

    def each(self, name: str) -> str:
        """Of every seed, as a list in a sentence."""
        return listed(rate(value) for value in self.asked[name]["accuracy"]["each"])

    def span(self, name: str) -> str:
        """Of the seeds, the least to the most."""
        values = sorted(self.asked[name]["accuracy"]["each"])
        return f"{rate(values[0])} to {rate(values[-1])}"

    def steps(self, name: str) -> str:
        """Decoded steps that are true, over seeds."""
        values = [one["step_accuracy"]["overall"]["value"] for one in self.asked[name]["each"]]
        return f"{100 * sum(values) / len(values):.0f}"

    def by_place(self, name: str) -> list[str]:
        """The same, place by place."""
        each = [one["step_accuracy"]["by_index"] for one in self.asked[name]["each"]]
        return [share(place) for place in zip(*each, strict=True)]

    def exchanged(self, name: str, what: str) -> list[str]:
        """What became of answers where one latent was another problem's, place by place."""
        each = [[place[what] for place in one["interchange"]] for one in self.asked[name]["each"]]
        return [share(place) for place in zip(*each, strict=True)]

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


def listed(words: Iterable[str]) -> str:
    """As a list in a sentence."""
    *first, last = words
    return f"{', '.join(first)} and {last}"


def share(rates: Sequence[dict[str, int]]) -> str:
    """The mean of rates, in percent."""
    return f"{100 * mean(one['correct'] / one['n'] for one in rates):.0f}"


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
    matched, products = Study("controls"), Study("multiplication", "held-out products")
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
        f"| **contradicted here**: {mean('sim_cot')} against 100.0 on `tiny`; on",
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
        ("README.md", f"not fed back has {matched.mean('sim_cot_unfed')}%"),
        ("README.md", f"off random weights, {matched.steps('probe_random')}%"),
        (
            "docs/guides/inspector.md",
            f"wrote {matched.steps('probe_random')}% of the steps, {matched.by_place('probe_random')[0]}%",
        ),
        (
            "docs/methods/icot_si.md",
            f"answers {products.mean('icot_si')}% of products that it has not seen, at once, where No-CoT has "
            f"{products.mean('no_cot')}.",
        ),
        ("docs/methods/mux.md", f"measured: {mean('mux_codi')}% over three seeds"),
        ("docs/methods/semcot.md", f"({mean('no_cot')}, 3 seeds)"),
    ]
    results += [*said_of_many_latents(), *said_of_semcot(), *said_of_controls(), *said_of_products(), *said_of_graphs()]
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


def said_of_controls() -> list[str]:
    """The same for recurrence, curriculum and supervision."""
    study = Study("controls")
    mean, gain = study.mean, study.gain
    ours, hosts = ({what: study.exchanged(name, what) for what in ("stays", "follows")} for name in ("sim_cot", "coconut"))

    def over(name: str) -> str:
        return f"{mean(name)} ({study.range(name)})"

    def first(name: str) -> str:
        return study.by_place(name)[0]

    def steps(name: str) -> str:
        return listed(study.by_place(name))

    return [
        f"states that are not fed back has {mean('sim_cot_unfed')}%",
        f"| nothing supervises the states | {over('sim_cot_pause')} | {over('coconut_progressive')} |",
        f"| each is supervised with its step | {over('sim_cot_unfed')} | {over('sim_cot')} |",
        f"Supervision alone gains {gain('sim_cot_pause', 'sim_cot_unfed')}, recurrence on top of it "
        f"{gain('sim_cot_unfed', 'sim_cot')};",
        f"states decode to {steps('sim_cot_unfed')}% of the first to fourth steps, SIM-CoT's latents to {steps('sim_cot')}%",
        f"have {mean('pause_as_thought')}% ({study.range('pause_as_thought')}; seeds {study.each('pause_as_thought')}), "
        f"with recurrence {mean('coconut')}: more in each seed, but the interval includes no difference "
        f"({gain('pause_as_thought', 'coconut')})",
        f"Coconut has {mean('coconut_no_curriculum')}% ({study.range('coconut_no_curriculum')}), as much as",
        f"the stages gain in each seed ({gain('coconut_no_curriculum', 'coconut')})",
        f"of *random weights* writes {first('probe_random')}% of first steps ({study.steps('probe_random')}% of all), of "
        f"the start model before it has learnt any latent {first('probe_start')}% ({study.steps('probe_start')}%)",
        f"Coconut's give {steps('probe_coconut')}% of the first to fourth ({study.steps('probe_coconut')}%)",
        f"the states of pause as thought {steps('probe_unfed')}%. Tokens that hold nothing give "
        f"{study.steps('probe_pause')}%, SIM-CoT's latents {study.steps('sim_cot')}%",
        f"little by itself, since {study.steps('probe_random')}% can with random weights",
        f"survives in {hosts['stays'][0]}% of problems for its first latent, but in {listed(hosts['stays'][1:])}% for",
        f"SIM-CoT's survives in {listed(ours['stays'])}%",
        f"leads to in {listed(ours['follows'])}% (Coconut: {listed(hosts['follows'])}%)",
        f"| **shown here**: {mean('coconut_no_curriculum')} without, {mean('coconut')} with, less in each of 3 seeds "
        f"({gain('coconut_no_curriculum', 'coconut')}) |",
        f"| {mean('coconut')} against {mean('pause_as_thought')}, more in each of 3 seeds, but "
        f"{gain('pause_as_thought', 'coconut')}; with supervision **shown here**: {gain('sim_cot_unfed', 'sim_cot')} |",
    ]


def said_of_products() -> list[str]:
    """The same for multiplication."""
    study = Study("multiplication", "held-out products")
    gain = study.gain("no_cot", "icot_si")
    return [
        f"asked at once, {study.mean('icot_si')}% against {study.mean('no_cot')} for No-CoT, three seeds.",
        f"it answers {study.each('icot_si')}% of products that it has not seen, at once, where No-CoT has "
        f"{study.each('no_cot')}% after as many updates: {gain}. The written chain has {study.mean('cot')}% in",
        f"| **shown here** with 2 x 2 digits: {study.mean('icot_si')} against {study.mean('no_cot')} at once ({gain}), the "
        f"chain {study.mean('cot')} |",
    ]


def said_of_graphs() -> list[str]:
    """The same for ProsQA."""
    study = Study("prosqa", "graphs of 12 nodes")
    chain, ours, codi, host = map(study.mean, ("cot", "sim_cot", "codi", "coconut"))
    apart = {name: f"{study.asked[name]['each'][0]['latents']['geometry']['within']:.2f}" for name in ("coconut", "sim_cot")}
    assert [bool(study.asked[name]["each"][0]["collapse"]) for name in ("coconut", "sim_cot")] == [True, False]
    return [
        f"SIM-CoT answers {ours}% in 7 passes and CODI {codi}%, where the written chain has {chain}%",
        study.shuf("coconut", f"{{}}% against {study.mean('no_cot')}, and {{}} with another"),
        f"({apart['coconut']} of their length apart; SIM-CoT's {apart['sim_cot']})",
        f"decoder writes {study.steps('sim_cot')}% of the true steps",
        study.shuf("sim_cot", "({1}% with another problem's, whose"),
        f"| not so far: {host} against {chain}, its latents collapsed; SIM-CoT {ours} and CODI {codi} do |",
        f"on small ProsQA {ours} against {chain} |",
    ]


def said_of_many_latents() -> list[str]:
    """Parts of sentences in docs/results.md, as the study of 4 to 16 latents has the figures."""
    trained, longer, larger = (
        Study("latents", asked) for asked in ("3 to 8 operations", "longer: 9 to 12 operations", "larger: numbers up to 48")
    )
    mean, gain = trained.mean, trained.gain
    fallen = [name for name in trained.asked for one in trained.asked[name]["each"] if one.get("collapse")]
    assert fallen == ["codi-16"], "one of its three runs"

    def each(name: str) -> list[float]:
        return trained.asked[name]["accuracy"]["each"]

    def over(name: str) -> str:
        assert len(each(name)) == 3
        return f"{mean(name)}% ({trained.range(name)})"

    def lost(method: str) -> str:
        more = trained.contrasts[f"{method}-8", f"{method}-16"]
        assert len(more["seeds"]) == 3
        return f"{-100 * more['mean']:.1f}"

    def more(method: str) -> str:
        return f"({trained.ends(f'{method}-8', f'{method}-16')})"

    def range_of(study: Study) -> str:
        thinking = [asked for name, asked in study.asked.items() if not name.startswith(("no_cot", "cot"))]
        known = [100 * value for asked in thinking for value in asked["accuracy"]["each"]]
        return f"{min(known):.0f} to {max(known):.0f}%"

    def lifted(host: str, around: str, latents: int) -> str:
        a, b = f"{host}-{latents}", f"{around}-{latents}"
        return f"from {mean(a)} to {mean(b)}% {'only ' if latents == 16 and host == 'codi' else ''}({gain(a, b)})"

    def runs_of(*methods: str) -> list[dict[str, Any]]:
        return [one for name, asked in trained.asked.items() if name.split("-")[0] in methods for one in asked["each"]]

    def apart(*methods: str) -> str:
        found = sorted(one["latents"]["geometry"]["within"] for one in runs_of(*methods))
        return f"{found[0]:.2f} to {found[-1]:.2f}"

    return [
        f"Coconut with 4 latents {lifted('coconut', 'sim_cot', 4)}, with 8 {lifted('coconut', 'sim_cot', 8)} and with 16 "
        f"{lifted('coconut', 'sim_cot', 16)}, "
        f"CODI with 8 {lifted('codi', 'sim_cot_codi', 8)}, but with 16 {lifted('codi', 'sim_cot_codi', 16)}",
        f"lie {apart('sim_cot', 'sim_cot_codi')} of their length from each other with a decoder, {apart('coconut')} on "
        f"Coconut alone, {apart('codi')} on CODI alone",
        f"None of the {len(runs_of('coconut', 'codi')) - 1} other runs of these two hosts has, and none of SIM-CoT's "
        f"{len(runs_of('sim_cot', 'sim_cot_codi'))}:",
        f"loses {lost('sim_cot')} points on Coconut {more('sim_cot')} and {lost('sim_cot_codi')} on CODI "
        f"{more('sim_cot_codi')}",
        f"{over('mux_codi-8')} with 8, {over('mux_codi-16')} with 16; whether",
        f"(with 8 they have {', '.join(map(rate, each('mux_codi-8')))})",
        f"{over('lotus-8')} with 8 slots, {over('lotus-16')} with 16, and {mean('lotus-8_blocks_of_8')}%",
        f"no better than No-CoT ({mean('no_cot-0')}%)",
        f"all answer {range_of(longer)} of them, and {range_of(larger)} with",
        f"{mean('sim_cot-8')} with 8, {mean('sim_cot-16')} with 16 latents; Coconut {mean('coconut-8')} and "
        f"{mean('coconut-16')}, as No-CoT, but",
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
