"""Charts as files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.fakes.inspection import Problems, model

from unspoken.errors import ConfigError, RunError
from unspoken.inspector.look import inspect
from unspoken.pages.drawing import check_matplotlib
from unspoken.pages.plots import draw
from unspoken.pages.svg import heat_map

METRICS = [
    *({"kind": "train", "step": s, "stage": s // 5, "terms": {"answer": 2.0 / s, "explain": 1.0}} for s in range(1, 12)),
    *(
        {"kind": "stability", "step": s, "within": 1.0 - s / 20, "across": None, "collapse": "alike" if s > 5 else None,
         "recovery": {"words": {"numbers": 0.5, "operators": None, "results": 0.1}}}
        for s in (0, 5, 10)
    ),
]  # fmt: skip


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="the extra plots is not installed")
def test_files(tmp_path: Path) -> None:
    seen = inspect(model(), Problems(), limit=2, counts=[], metrics=METRICS)
    files = draw(seen, tmp_path / "new")
    names = ["training", "stability", "attention", "similarity", "attention-by-layer"]
    assert [file.name for file in files] == [f"{name}.png" for name in names]
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == sorted(file.name for file in files)
    for file in files:
        assert file.read_bytes().startswith(b"\x89PNG")
        assert file.stat().st_size > 5_000
    several = draw(seen, tmp_path, ["svg", "pdf"], label="a:b/c")
    assert [file.name for file in several] == [f"{name}-a-b-c.{kind}" for kind in ("svg", "pdf") for name in names]
    assert all(file.read_bytes().startswith(b"%PDF") for file in several[len(names) :])
    drawn = several[1].read_text(encoding="utf-8")
    ElementTree.fromstring(drawn)
    for word in ("Distances over training", "numbers", "collapse", "optimizer step"):
        assert f">{word}</text>" in drawn
    assert ">across</text>" not in drawn  # there was nothing to draw of it
    bare = inspect(model(), Problems(), limit=2, counts=[])
    assert [file.name for file in draw(bare, tmp_path)] == [f"{name}.png" for name in names[2:]]
    swept = inspect(model(), Problems(), limit=2, counts=[1, 3])
    assert "by-number-of-latents.png" in [file.name for file in draw(swept, tmp_path)]


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    seen = inspect(model(), Problems(), limit=2, counts=[])
    with pytest.raises(ConfigError, match="unknown format 'jpg' of figures; known: svg, pdf, png"):
        draw(seen, tmp_path, ["png", "jpg"])
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError):
        draw(seen, tmp_path / "file")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"need matplotlib, which is not installed; pip install 'unspoken\[plots\]'"):
        check_matplotlib()


def test_a_heat_map_draws_every_cell_once() -> None:
    small = heat_map([[1.0, -0.5], [float("nan"), 0.0]], name="a & b", small=True)
    assert small.count("M") == 2  # 1 and -0.5; neither nan nor 0 has a colour
    assert 'class="c1" fill="currentColor" opacity="0.5"' in small
    assert 'aria-label="a &amp; b"' in small
    large = heat_map([[1.0] * 3] * 3, name="n")
    assert large.count(">1.00<") == 9
    assert ">1.00<" not in heat_map([[1.0] * 9] * 9, name="n")


def test_a_heat_map_of_shares_by_layer() -> None:
    """Three layers, two latents: rows and columns are numbered apart, the largest share has the full colour."""
    drawn = heat_map([[0.01, 0.02], [0.04, 0.0], [0.02, 0.02]], name="n", top=0.04)
    assert [text in drawn for text in (">4.0<", ">1.0<", ">3<")] == [True] * 3
    assert drawn.count("<path") == 3
    assert 'opacity="0.45"' in drawn
