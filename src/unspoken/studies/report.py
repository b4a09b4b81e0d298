"""What people read of a study's results: tables, charts, a page. Everything is made from results.json alone."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unspoken.causal.control_report import GREEDY, LIKELIEST, SHUFFLED
from unspoken.core.files import write_text
from unspoken.core.text.table import Table, csv_text
from unspoken.evaluation.statistics import OverSeeds, Rate, mean
from unspoken.evaluation.tables import each_seed, over_seeds_cell, p_value, percent, points
from unspoken.pages.drawing import has_matplotlib, save_charts
from unspoken.pages.formats import latex, markdown
from unspoken.pages.svg import Chart, Line, Point
from unspoken.pages.templating import render

WIDTH = 116
"""Of lines in Markdown."""

_SIGN = re.compile(r"^(\d*)([-+*#>.]) ")
"""What would make a list or a heading of a line that only begins there because the one before was full."""

Results = Mapping[str, Any]
"""What `results.gather` found."""

Part = Mapping[str, Any]
"""An entry of it: a combination, an evaluation of one, a contrast, a run."""


def write_report(results: Results, folder: Path) -> list[Path]:
    """Write table.md, table.tex, table.csv, charts and index.html; returns the files. A PDF needs matplotlib (`plots`)."""
    some, drawn = tables(results), charts(results)
    title, about = results["study"]["title"], results["study"]["about"].strip()
    head = f"# {title}\n\n" + (f"{about}\n\n" if about else "")
    if left := len(results["missing"]) + len(results["failed"]):
        head += f"**Unfinished: {left} runs, which are not in all of these tables.**\n\n"
    files = {
        "table.md": _wrapped(head + markdown(some)),
        "table.tex": latex(some),
        "table.csv": rows_csv(results),
        "index.html": page(results),
    }
    for name, text in files.items():
        write_text(folder / name, text)
    written = [folder / name for name in files]
    for suffix in ("svg", "pdf") if has_matplotlib() else ("svg",):
        if drawn:
            written.append(save_charts(drawn, folder / f"chart.{suffix}", title))
    return written


def _wrapped(text: str) -> str:
    """Markdown with lines of the usual width; those of tables stay whole."""
    lines = []
    for line in text.split("\n"):
        ends = "  " if line.endswith("  ") else ""  # a line break
        parts = (
            [line] if line.startswith("|") else textwrap.wrap(line, WIDTH, break_long_words=False, break_on_hyphens=False)
        )
        lines += [_SIGN.sub(r"\1\\\2 ", part) if n else part for n, part in enumerate(parts or [""])]
        lines[-1] = lines[-1].rstrip() + ends
    return "\n".join(lines)


def label(results: Results, value: object) -> str:
    """What tables call a value or a factor."""
    return str(results["study"]["labels"].get(str(value), value))


def _title(results: Results, cell: Part) -> str:
    """A combination in one cell of a table."""
    return ", ".join(label(results, value) for value in cell["combination"].values())


def quoted(results: Results, evaluation: str) -> dict[str, tuple[str, str]]:
    """What a page quotes of an evaluation: combination in words -> the mean with its interval over seeds, and every seed."""
    found = {}
    for cell in results["cells"]:
        if (told := cell["evaluations"].get(evaluation)) is not None:
            found[_title(results, cell)] = (over_seeds_cell(_over(told)), each_seed(_over(told)))
    return found


def _over(found: Part) -> OverSeeds:
    return OverSeeds(rates=tuple(Rate(correct=one["correct"], n=one["n"]) for one in found["each"]))


def tables(results: Results) -> dict[str, list[Table]]:
    """The accuracy under each evaluation, the tests between combinations, and what training took."""
    found: dict[str, list[Table]] = {}
    for one in results["study"]["evaluations"]:
        if cells := [cell for cell in results["cells"] if one["name"] in cell["evaluations"]]:
            group = [_accuracies(results, one["name"], cells)]
            if pairs := [pair for pair in results["contrasts"] if pair["evaluation"] == one["name"]]:
                group.append(_tests(results, pairs))
            found[one["name"]] = group
    if results["runs"]:
        found["training"] = [_budget(results)]
    return found


def _accuracies(results: Results, name: str, cells: Sequence[Part]) -> Table:
    factors = list(results["study"]["factors"])
    more = [column for column in _MORE if any(column.of(cell["evaluations"][name]) is not None for cell in cells)]
    rows = []
    for cell in cells:
        told = cell["evaluations"][name]
        over, each = _over(told), told["each"]
        rows.append(
            [
                *(label(results, cell["combination"][factor]) for factor in factors),
                over_seeds_cell(over),
                each_seed(over),
                "±" + percent(max((high - low) / 2 for low, high in over.within)),
                *(f"{mean(one[f'mean_{what}'] for one in each):.1f}" for what in ("latents", "visible_tokens", "passes")),
                *(value if (value := column.of(told)) is not None else "–" for column in more),
            ]
        )
    asked = [label(results, factor) for factor in factors]
    sizes = sorted({one["n"] for cell in cells for one in cell["evaluations"][name]["each"]})
    seeds = sorted({seed for cell in cells for seed in cell["evaluations"][name]["seeds"]})
    notes = [
        f"Strict rule, {' or '.join(map(str, sizes))} problems, training seeds {', '.join(map(str, seeds))}. Mean over "
        "seeds with its 95% t interval over them (none for one seed, or equal ones); within a seed: the widest 95% Wilson "
        "interval of one run, about other problems for that one model. Latents thought, tokens spoken, passes: means per "
        "question.",
        *(column.note for column in more if column.note),
    ]
    return Table(
        headings=[*asked, *_HEADINGS, *(column.heading for column in more)], rows=rows, notes=notes,
        text_columns=len(factors),
        narrow=[*asked, "% (95%)", "each seed %", None, None, None, "passes", *(None for _ in more)],
    )  # fmt: skip


_HEADINGS = ("accuracy % (95% over seeds)", "each seed %", "within a seed", "thought", "tokens", "passes")


@dataclass(frozen=True)
class _Column:
    """A column that tables have where there is something to show.

    Attributes:
        heading, note: what a reader needs.
        value: takes the figure out of a run's entry; None where it has none.
        shown: the figures of all seeds as text.
    """

    heading: str
    note: str
    value: Callable[[Part], Any]
    shown: Callable[[Any], str]

    def of(self, told: Part) -> str | None:
        """Its text for an evaluation of a combination; None where no seed has the figure."""
        values = [v for one in told["each"] if (v := self.value(one)) is not None]
        return self.shown(values) if values else None


def _mean_percent(values: Sequence[float]) -> str:
    return percent(mean(values))


def _each(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def _inside(*path: str) -> Any:
    """A function that takes what lies at a path of an entry; None where there is nothing."""

    def value(one: object) -> Any:
        for name in path:
            one = one.get(name) if isinstance(one, Mapping) else None
        return None if isinstance(one, float) and math.isnan(one) else one

    return value


_MORE = (
    _Column("decoded steps %", "Decoded steps: share that equals the true step, mean over seeds.",
            _inside("step_accuracy", "overall", "value"), _mean_percent),
    _Column("another's steps %", "Another's steps: share of decoded steps that are the next problem's, mean over seeds.",
            _inside("step_accuracy", "mismatched", "value"), _mean_percent),
    _Column("distance", "Distance: between two latents of a problem; centre: to the vocabulary's mean; both divided by a "
            "latent's length, each seed.", _inside("latents", "geometry", "within"), _each),
    _Column("centre", "", lambda one: _ratio(_inside("latents", "geometry", "centre")(one),
                                             _inside("latents", "geometry", "norm")(one)), _each),
    _Column("between problems", "Between problems: distance of two problems' latents of a place, / their length, each seed.",
            _inside("latents", "geometry", "across"), _each),
    _Column("collapsed", "Collapsed: seeds whose latents lie together by the monitor's rule (docs/guides/inspector.md).",
            lambda one: None if "latents" not in one else one.get("collapse") is not None,
            lambda values: f"{sum(values)} of {len(values)}"),
    _Column("shuffled %", "Shuffled: with another problem's latents, mean over seeds.", _inside("controls", SHUFFLED),
            _mean_percent),
    _Column("likeliest token %", "Likeliest token: soft thinking's control, fed that token's embedding where a mixture was.",
            _inside("controls", LIKELIEST), _mean_percent),
    _Column("greedy chain %", "Greedy chain: the same runs, thinking in words.", _inside("controls", GREEDY), _mean_percent),
    _Column("follows %", "Follows: with another problem's thought at one place, and the later ones thought anew, answers "
            "that its result leads to by this problem's later steps; place by place, mean over seeds.",
            _inside("interchange"), lambda values: _by_place(values)),
)  # fmt: skip


def _by_place(runs: Sequence[Sequence[Part]]) -> str:
    """The share of followed results at each place, mean over seeds."""
    shares: dict[int, list[float]] = {}
    for one in (one for run in runs for one in run):
        shares.setdefault(one["place"], []).append(one["follows"]["correct"] / one["follows"]["n"])
    return ", ".join(percent(mean(shares[place])) for place in sorted(shares))


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


def _tests(results: Results, pairs: Sequence[Part]) -> Table:
    names = {cell["name"]: _title(results, cell) for cell in results["cells"]}
    rows = []
    for pair in pairs:
        won = f"{sum(one['difference'] > 0 for one in pair['seeds'])} of {len(pair['seeds'])}"
        rows.append(
            [
                names[pair["a"]],
                names[pair["b"]],
                points(pair["mean"]),
                "–" if pair["interval"] is None else f"{points(pair['interval'][0])} to {points(pair['interval'][1])}",
                "–" if pair["p"] is None else p_value(pair["p"]).removeprefix("= "),
                won,
                ", ".join(p_value(one["p"]).removeprefix("= ") if "p" in one else "–" for one in pair["seeds"]),
            ]
        )
    return Table(
        headings=("a", "b", "b - a, points", "95% over seeds", "p over seeds", "b ahead", "p within each seed"),
        rows=rows,
        notes=[
            "Seed by seed: the mean of b - a with its 95% t interval over seeds, and the paired t test. Within a seed: "
            f"McNemar's exact test on the problems that both runs answered. Not adjusted for the {len(pairs)} "
            f"pair{'' if len(pairs) == 1 else 's'}."
        ],
        text_columns=2,
        narrow=("a", "b", "b - a", "95%", "p", None, None),
    )


def _budget(results: Results) -> Table:
    times = results["study"]["times"]
    names = {cell["name"]: _title(results, cell) for cell in results["cells"]}
    by_cell: dict[str, list[Part]] = {}
    for name, run in results["runs"].items():
        key = "-".join(name.split("-")[:-1]) if run["combination"] else name
        by_cell.setdefault(names.get(key, key), []).append(run)
    rows = [
        [
            name,
            f"{mean(run['updates'] for run in some):.0f}",
            f"{mean(run['examples'] for run in some):.0f}",
            f"{mean(run['positions'] for run in some) / 1e6:.2f}",
            str(max((run["passes"] or 0) for run in some)),
            _tera([run["flops"] for run in some]),
            *([f"{mean(run['seconds'] for run in some) / 60:.1f}"] if times else []),
            str(len(some)),
        ]
        for name, some in by_cell.items()
    ]
    notes = [
        "What one run's training took, mean over its runs. Positions: of the model itself, in millions; passes: dependent "
        "forward passes of the longest step; operations: matrix products forward and backward, auxiliary models included, "
        "on the plain path, from five steps of the schedule."
    ]
    if times:
        hardware = " or ".join(results["hardware"]) or "an unknown machine"
        notes.append(f"Minutes: wall-clock time of training on {hardware}.")
    return Table(
        headings=["run", "updates", "examples", "positions, M", "passes", "TFLOP", *(["minutes"] if times else []), "runs"],
        rows=rows, notes=notes,
    )  # fmt: skip


def _tera(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{mean(known) / 1e12:.2f}" if known else "–"


def rows_csv(results: Results) -> str:
    """A line per run and evaluation, for spreadsheets and plotting tools: shares from 0 to 1, empty where there is none."""
    factors = list(results["study"]["factors"])
    figures: dict[str, Any] = {
        "correct": _inside("correct"), "n": _inside("n"), "accuracy": _inside("accuracy", "value"),
        "low": lambda one: one["accuracy"]["interval"][0], "high": lambda one: one["accuracy"]["interval"][1],
        "latents": _inside("mean_latents"), "tokens": _inside("mean_visible_tokens"), "passes": _inside("mean_passes"),
        "positions": _inside("mean_positions"), "cut_off": _inside("cut_off"),
        "decoded_steps": _inside("step_accuracy", "overall", "value"),
        "distance": _inside("latents", "geometry", "within"), "between_problems": _inside("latents", "geometry", "across"),
        "shuffled": _inside("controls", SHUFFLED),
    }  # fmt: skip
    rows = [
        [*cell["combination"].values(), seed, name, *(value(one) for value in figures.values())]
        for cell in results["cells"]
        for name, told in cell["evaluations"].items()
        for seed, one in zip(told["seeds"], told["each"], strict=True)
    ]
    return csv_text([*factors, "seed", "evaluation", *figures], rows)


def charts(results: Results) -> list[Chart]:
    """A chart per evaluation: accuracy by the study's `chart` factor, a line per rest of the combination; without one, by
    forward passes."""
    drawn = []
    for one in results["study"]["evaluations"]:
        cells = [cell for cell in results["cells"] if one["name"] in cell["evaluations"]]
        if cells:
            drawn.append(_chart(results, one["name"], cells))
    return drawn


def _chart(results: Results, name: str, cells: Sequence[Part]) -> Chart:
    factor = results["study"]["chart"]
    lines: dict[str, list[Point]] = {}
    for cell in cells:
        told, combination = cell["evaluations"][name], dict(cell["combination"])
        low, high = told["accuracy"]["interval"] or (None, None)
        x: Any = mean(each["mean_passes"] for each in told["each"])
        if factor is not None:
            x = combination.pop(factor)
            if isinstance(x, (str, bool)):
                continue
        line = ", ".join(label(results, value) for value in combination.values()) or name
        lines.setdefault(line, []).append(Point(float(x), told["accuracy"]["mean"], low, high))
    return Chart(
        name=f"{name}: accuracy, 95% over seeds",
        lines=[Line(n, text, tuple(sorted(dots, key=lambda dot: dot.x))) for n, (text, dots) in enumerate(lines.items())],
        x_label=label(results, factor) if factor is not None else "forward passes per question",
        percent=True, markers=True,
    )  # fmt: skip


def page(results: Results) -> str:
    """The study as one HTML page: no script, nothing remote."""
    study = results["study"]
    runs = sum(bool(run["combination"]) for run in results["runs"].values())
    missing, failed = results["missing"], results["failed"]
    said = [f"{runs} runs of {len(results['cells'])} combinations"]
    said += [f"{len(missing)} not finished"] if missing else []
    said += [f"{len(failed)} failed"] if failed else []
    environment = results["environment"]
    facts = [("Made with", [f"{name} {value}" for name, value in environment.items() if isinstance(value, (str, int))])]
    return render(
        "study.html",
        title=study["title"],
        lead=", ".join(said) + ".",
        about=[part for part in study["about"].strip().split("\n\n") if part],
        tables=tables(results),
        drawn=charts(results),
        failed=failed,
        facts=facts,
    )
