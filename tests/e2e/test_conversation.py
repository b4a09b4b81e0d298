"""`unspoken ask` without a run, and as a conversation."""

from __future__ import annotations

import ast
import inspect
import io
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.command_line import START, refused, unspoken

import unspoken as package
from unspoken.cli import demo, doctor, serve
from unspoken.cli._conversation import Conversation
from unspoken.cli.ask import SHIPPED
from unspoken.evaluation.evaluator import evaluate
from unspoken.runs.directory import RunDir
from unspoken.tasks import make_task

QUESTION = (
    "Ann has 18 figs. She sells full dozens. She triples her figs. She finds 3. She sells full tens. How many figs has Ann?"
)


@pytest.fixture(scope="module")
def model():
    return package.load(SHIPPED)


@pytest.fixture
def talk(model):
    """hear(line) -> what is printed."""
    said = io.StringIO()
    conversation = Conversation(Path(SHIPPED), model, Console(file=said, width=60, markup=False))

    def hear(line: str) -> str:
        said.seek(0)
        said.truncate()
        assert conversation.hear(line)
        return said.getvalue()

    return hear


def test_the_shipped_model_is_as_good_as_its_card_says(model):
    """200 of the 1,000 test problems; the card's figure is of all."""
    report = evaluate(model, make_task(RunDir(SHIPPED).config().task), "test", limit=200, batch_size=100, explain=True)
    card = (RunDir(SHIPPED).path / "README.md").read_text(encoding="utf-8")
    figure = float(card.split("answers ")[1].split("%")[0])
    low, high = report.accuracy.interval
    assert 100 * low - 1 <= figure <= 100 * high + 1
    assert report.mean_latents == 4
    assert report.step_accuracy is not None
    assert report.step_accuracy.overall.value > 0.9


def test_the_shipped_model_has_heads_of_32(model):
    """The narrowest that vLLM's attention takes on a CPU."""
    config = model.method.backbone.lm.config
    assert config.hidden_size // config.num_attention_heads == 32


def test_a_question_alone_goes_to_the_shipped_model():
    done = unspoken("ask", QUESTION)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "thought 1: <<18%12=6>>", "thought 2: <<6*3=18>>", "thought 3: <<18+3=21>>", "thought 4: <<21%10=1>>", "### 1",
    ]  # fmt: skip
    assert "4 latents, 3 tokens and eos, 8 forward passes" in done.stderr
    assert json.loads(unspoken("ask", QUESTION, "--json", "--hide-thoughts").stdout)["thoughts"] is None
    assert unspoken("ask", SHIPPED, QUESTION, "--show-thoughts").stdout == done.stdout


def test_a_word_alone_is_a_run(tmp_path):
    refused(unspoken("ask", "missing", cwd=tmp_path), "missing: no such folder")
    refused(unspoken("ask", "no run", "a question", cwd=tmp_path), "no run: no such folder")
    refused(unspoken("ask", "--json"), "--json goes with a question")


def test_questions_and_commands(talk):
    said = talk(QUESTION)
    assert "thought 3  <<18+3=21>>" in said
    assert "answer     ### 1\n" in said
    assert "4 latents, 3 tokens, 8 forward passes" in said
    assert "3 latents" in talk("/latents 3") + talk("/again")
    talk("/latents")
    said = talk("/zero 1 2") + talk("/again")
    assert "zeroed: 1, 2" in said
    assert "### 1\n" not in said, "an answer that does not need its thoughts"
    said = talk("/compare builtin:tiny") + talk("/again")  # a model that has no latents loses none
    assert said.count("ms, zeroed: 1, 2\n") == 1
    assert said.rstrip().endswith("ms")
    said = talk("/zero") + talk("/compare builtin:tiny") + talk("/again")
    assert "answer     ### 1\n" in said
    assert "<<18%12=6>>\n             <<6*3=18>>" in said  # the other one writes its steps
    assert "compared with: nothing" in talk("/compare")


def test_a_new_problem_comes_with_its_truth(talk):
    said = talk("/new")
    assert "(true: " in said
    assert said.count(" = <<") + said.count(" ≠ <<") == 4
    assert talk("/new") != said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/bogus", "unknown command /bogus"),
        ("/again", "no question was asked yet"),
        ("/latents two", "numbers are needed"),
        ("/latents -1", "numbers are needed"),
        ("/zero 0", "numbers are needed"),
        ("/zero ²", "numbers are needed"),
        ("/compare nowhere", "nowhere: no such folder"),
        ("/", "/new"),
        ("/help", "/zero 2 3"),
        ("", ""),
        ("   ", ""),
        ("word " * 700, "the question is too long"),
        ("\ud800", "error: "),
        ("[bold]x[/bold] 漢字", "answer"),
    ],
)
def test_what_is_wrong_is_said_and_the_conversation_goes_on(talk, line, said):
    assert said in talk(line)


def test_a_pipe_is_read_to_its_end(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{QUESTION}\n/latents 2\n/again\n/quit\nnever asked\n"))
    done = unspoken("ask")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("answer  ") == 2
    monkeypatch.setattr("sys.stdin", io.StringIO("/new\n"))
    assert "<<" in unspoken("ask", START).stdout


def test_doctor_finds_all_well_here_and_says_what_is_not(monkeypatch):
    done = unspoken("doctor")
    assert done.returncode == 0, done.stdout
    assert f"{SHIPPED} says '### 1'" in done.stdout
    assert all(line.startswith("ok  ") for line in done.stdout.splitlines())
    monkeypatch.setattr(doctor, "ANSWER", "### 2")
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda _: ["torch<1", "nothing-of-that-name>=3"])
    done = unspoken("doctor")
    assert done.returncode == 1
    bad = [line for line in done.stdout.splitlines() if line.startswith("BAD ")]
    assert len(bad) == 2
    assert "nothing-of-that-name is missing" in bad[0]
    assert "torch" in bad[0]
    assert "not '### 2'" in bad[1]


def test_a_demo_opens_the_page_once_it_is_served(monkeypatch, tmp_path):
    """The server is a stand-in that listens; the page itself is tested with the server."""
    opened: list[str] = []
    monkeypatch.setattr(demo.webbrowser, "open", lambda url: opened.append(url) or True)
    served: dict[str, Any] = {}

    def serve(**how: Any) -> None:
        served.update(how)
        with socket.create_server((how["host"], how["port"])):
            end = time.monotonic() + 20
            while not opened and time.monotonic() < end:
                time.sleep(0.05)

    monkeypatch.setattr("unspoken.cli.serve.serve", serve)
    done = unspoken("demo")
    assert done.returncode == 0, done.stderr
    assert served["runs"] == [Path(SHIPPED)]
    assert opened == [f"http://127.0.0.1:{served['port']}/"]
    assert opened[0] in done.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused(unspoken("demo", "--port", str(taken.getsockname()[1])), "cannot be used")
    refused(unspoken("demo", "missing", cwd=tmp_path), "missing: no such folder")


def test_a_demo_asks_the_server_for_what_it_takes():
    """Every parameter of `serve` is given: typer's defaults are no values."""
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(demo.demo))) if isinstance(node, ast.Call)]
    given = {word.arg for call in calls if ast.unparse(call.func) == "serve" for word in call.keywords}
    assert given == set(inspect.signature(serve.serve).parameters)
