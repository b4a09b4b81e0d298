"""examples/smallest_method.py, which docs/adding-a-method.md tells readers to copy: it passes the contract, alone and with
step supervision, and the command in its text trains it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from contract.cases import Case, built
from support import backbones
from support.matrix import matrix_tests
from typer.testing import CliRunner

from unspoken.cli import app
from unspoken.errors import ConfigError
from unspoken.methods import make_method
from unspoken.runs.directory import load

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

HALVED = {"name": "smallest_method:Halved", "latents": 3}
CELLS = {
    "alone": (Case(HALVED), "gpt2"),
    "sim_cot lora": (Case({"name": "sim_cot", "inner": HALVED, "max_step_tokens": 4}, lora=True), "llama"),
}


@pytest.fixture(scope="module", params=CELLS)
def cell(request: pytest.FixtureRequest) -> tuple[Case, Any]:
    case, family = CELLS[request.param]
    return case, built(case.method, family, case.lora)


OF_THE_MATRIX = matrix_tests()
globals().update(OF_THE_MATRIX)


def test_it_is_short():
    code = [line for line in (EXAMPLES / "smallest_method.py").read_text().splitlines() if line.strip()]
    assert len(code) < 100


def test_the_command_in_its_text_trains_it(tmp_path: Path):
    text = (EXAMPLES / "smallest_method.py").read_text()
    line = next(line for line in text.splitlines() if "unspoken train" in line)
    words = shlex.split(line.partition("unspoken ")[2])
    words[words.index("--out") + 1] = str(tmp_path / "run")
    short = ["train.steps=2", "train.batch_size=2", "train.validate_limit=0", "task.train_size=20", "train.encodings=null",
             "task.validation_size=4", "task.test_size=4"]  # fmt: skip
    done = CliRunner().invoke(app, [*words, *short])
    assert done.exit_code == 0, done.output
    assert load(tmp_path / "run", device="cpu").answer(["How many?"], max_new_tokens=1)[0].latents == 4


def test_a_method_that_says_nothing_of_steps_is_not_supervised_in_silence(monkeypatch: pytest.MonkeyPatch):
    """`sim_cot` around it would train without a single target."""
    from dataclasses import replace

    import smallest_method

    layout = smallest_method.Halved.layout
    monkeypatch.setattr(smallest_method.Halved, "layout", lambda *given: replace(layout(*given), steps_covered=0))
    with pytest.raises(ConfigError, match=r"rows of 'smallest_method:Halved' have latents.*set Row\.steps_covered"):
        make_method({"name": "sim_cot", "inner": HALVED}, backbones.backbone())
