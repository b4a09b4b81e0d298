"""Every example runs as it stands, without a run and on one, and does what its text says."""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import cases as cases

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LESSONS = {"coconut_by_hand", "smallest_method"}  # have test files of their own
SCRIPTS = sorted(p.stem for p in EXAMPLES.glob("*.py") if not p.name.startswith("_") and p.stem not in LESSONS)


def run(name: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[dict[str, Any], str]:
    """The names that an example leaves behind, and what it printed."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        left = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    return left, out.getvalue()


def test_there_is_one_for_each_intervention():
    assert SCRIPTS == ["add_direction", "mean", "noise", "patch", "replace", "swap", "zero"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_without_a_run(name: str, monkeypatch: pytest.MonkeyPatch):
    left, said = run(name, monkeypatch)
    assert "question 0: " in said

    def latents(done: Any, i: int = 0, plain: bool = False) -> torch.Tensor:
        return (done.plain_traces if plain else done.traces)[i].latents_BKD[0]

    if name == "zero":
        assert not latents(left["done"]).any()
        moved = [float(m) for m in left["moved"]]
        assert max(moved[:3]) < 1e-4 < moved[3]
    if name == "mean":
        assert "the same latents for every question: True" in said
    if name == "patch":
        torch.testing.assert_close(latents(left["done"]), latents(left["done"], 1, plain=True))
        torch.testing.assert_close(latents(left["one"])[1], latents(left["one"], 2, plain=True)[0])
    if name == "swap":
        assert "crossed: True" in said
    if name == "replace":
        torch.testing.assert_close(latents(left["done"])[1], left["word"])
        torch.testing.assert_close(latents(left["scaled"], 2), 0.5 * latents(left["scaled"], 2, plain=True))
    if name == "add_direction":
        assert left["found"][0.0].changed == []
        off = latents(left["found"][2.0])[0] - latents(left["found"][2.0], plain=True)[0]
        torch.testing.assert_close(off, 2 * left["direction"], atol=1e-4, rtol=1e-4)
    if name == "noise":
        far = [float((latents(left["runs"][s]) - latents(left["runs"][s], plain=True))[0].norm()) for s in (0.1, 0.5, 2.0)]
        assert far == sorted(far)
        assert far[2] == pytest.approx(20 * far[0], rel=1e-3)


@pytest.mark.parametrize("method", ["sim_cot codi", "softcot"])
@pytest.mark.parametrize("name", ["patch", "swap"])
def test_on_a_run(name: str, method: str, monkeypatch: pytest.MonkeyPatch):
    """One that explains its thoughts, and one whose thoughts stand in the prompt."""
    import unspoken
    from unspoken.core.loop.sampling import SamplingParams

    model = unspoken.Model(cases.shared(method, "llama"), SamplingParams(max_new_tokens=4))
    monkeypatch.setattr(unspoken, "load", lambda path: model, raising=False)
    _, said = run(name, monkeypatch, "runs/some")
    assert ("thoughts after" in said) == (method == "sim_cot codi")
