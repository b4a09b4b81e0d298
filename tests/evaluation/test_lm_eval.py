"""lm-evaluation-harness on our runs: by instance, by name, by its own command line; from local files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from unspoken.cli import app
from unspoken.errors import ConfigError
from unspoken.evaluation import lm_eval_tasks
from unspoken.evaluation.evaluator import evaluate
from unspoken.tasks import make_task

N = 6


def test_without_the_harness_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    monkeypatch.delitem(sys.modules, "unspoken.evaluation.lm_eval", raising=False)
    with pytest.raises(ConfigError, match=r"not installed; pip install 'unspoken\[lm-eval\]'"):
        CliRunner().invoke(app, ["lm-eval", "--model", "unspoken"], catch_exceptions=False)


def test_problems_and_scores_are_those_of_the_task():
    """What the task files call; the harness itself is not needed."""
    task = make_task("tiny")
    rows = lm_eval_tasks.problems("tiny", path="a run", version=1.0)["test"]
    examples = task.examples("test")
    assert [row["question"] for row in rows] == [example.question for example in examples]
    for text in (f"### {examples[0].answer}", f"it is {examples[0].answer}", "### x"):
        found = task.score(examples[0], text)
        assert lm_eval_tasks.score(rows[0], [text]) == {"strict": found.strict, "flexible": found.flexible}


class Echo:
    """A model that says what it was asked, and how."""

    path = "runs/echo"

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def sample(self, questions: list[str], **how: Any) -> list[Any]:
        self.asked.append({"questions": list(questions), **how})
        return [(SimpleNamespace(text=f"{q} #### 5 Question: and on"),) for q in questions]


def request(context: str, **options: Any) -> Any:
    return SimpleNamespace(args=(context, options))


@pytest.fixture
def harness() -> Any:
    pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    from unspoken.evaluation import lm_eval as module

    return module


def test_a_context_becomes_the_plain_question(harness: Any):
    assert harness.question_of("Question: Two?\nAnswer:") == "Two?"
    assert harness.question_of("Is 2 > 1? ") == "Is 2 > 1?"
    assert harness.question_of("Question: What does 'Answer:' mean?\nAnswer:") == "What does 'Answer:' mean?"
    with pytest.raises(ConfigError, match=r"holds 1 worked examples.*--num_fewshot 0"):
        harness.question_of("Question: One?\nAnswer: 1\n\nQuestion: Two?\nAnswer:")


def test_requests_come_back_in_order_cut_at_stop_words(harness: Any):
    model = Echo()
    lm = harness.UnspokenLM(model, latents=3, batch_size="auto:4")
    hot = {"temperature": 0.5, "do_sample": True, "max_gen_toks": 9}
    said = lm.generate_until(
        [request("a", until=["Question:"]), request("b", **hot), request("Question: c\nAnswer:", until=["Question:"])]
    )
    assert said == ["a #### 5 ", "b #### 5 Question: and on", "c #### 5 "]
    first, second = model.asked
    assert (first["questions"], first["numbers"], first["latents"], first["batch_size"]) == (["a", "c"], [0, 2], 3, 32)
    assert first["temperature"] == 0.0
    assert (second["temperature"], second["max_new_tokens"], second["numbers"]) == (0.5, 9, [1])


def test_what_the_model_class_refuses(harness: Any):
    lm = harness.UnspokenLM(Echo())
    with pytest.raises(ConfigError, match=r"a task asks for likelihoods.*generate_until"):
        lm.loglikelihood([request("a")])
    with pytest.raises(ConfigError, match="likelihood of a text"):
        lm.loglikelihood_rolling([request("a")])
    with pytest.raises(ConfigError, match="generation option 'num_beams'; known: until"):
        lm.generate_until([request("a", num_beams=4)])
    with pytest.raises(ConfigError, match="needs a model or the path"):
        harness.UnspokenLM()
    with pytest.raises(ConfigError, match="batch_size must be a number above 0, or auto, got 'x'"):
        harness.UnspokenLM(Echo(), batch_size="x")


@pytest.mark.slow
def test_its_own_command_line_on_its_own_task_and_ours(harness: Any, tmp_path: Path):
    """Problems that the model in the package can solve, as files where the harness and our task look for GSM8K."""
    examples = make_task("tiny").examples("test")[:N]
    rows = [{"question": e.question, "answer": f"{' '.join(e.steps)}\n#### {e.answer}"} for e in examples]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    for folder in (tmp_path / "openai" / "gsm8k" / "main", tmp_path / "data" / "gsm8k"):
        folder.mkdir(parents=True)
        for split in ("train", "test"):
            (folder / f"{split}.jsonl").write_text(text)
    files = "".join(f"  - split: {split}\n    path: main/{split}.jsonl\n" for split in ("train", "test"))
    head = f"---\nconfigs:\n- config_name: main\n  data_files:\n{files}---\n"
    (tmp_path / "openai" / "gsm8k" / "README.md").write_text(head)
    words = ["lm-eval", "run", "--model", "unspoken", "--model_args", "path=builtin:tiny", "--tasks", "gsm8k,gsm8k_latent"]
    done = subprocess.run(
        [sys.executable, "-m", "unspoken", *words, "--num_fewshot", "0", "--output_path", "out"],
        cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False,
        env={**os.environ, "UNSPOKEN_DATA": str(tmp_path / "data"), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = (tmp_path / "out").rglob("results*.json")
    results = json.loads(path.read_text())["results"]
    import unspoken

    ours = evaluate(unspoken.load("builtin:tiny", device="cpu"), make_task("tiny"), limit=N)
    assert ours.accuracy.correct >= N - 1  # a model that solves nothing would prove nothing
    assert results["gsm8k_latent"]["strict,none"] == pytest.approx(ours.accuracy.value)
    assert results["gsm8k_latent"]["flexible,none"] == pytest.approx(ours.flexible.value)
    assert results["gsm8k"]["exact_match,flexible-extract"] == pytest.approx(ours.flexible.value)
    assert results["gsm8k"]["exact_match,strict-match"] == 0  # our mark is "###", its rule wants "####"


@pytest.mark.slow
def test_by_instance(harness: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    folder = tmp_path / "gsm8k"
    folder.mkdir()
    for split in ("train", "test"):
        rows = [{"question": f"{split} {k}?", "answer": f"<<2+3=5>>\n#### {5 + k}"} for k in range(3)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("UNSPOKEN_DATA", str(tmp_path))
    manager = TaskManager(include_path=str(harness.TASKS))
    done: Any = simple_evaluate(harness.UnspokenLM(Echo()), tasks=["gsm8k_latent"], task_manager=manager)
    assert done["results"]["gsm8k_latent"]["strict,none"] == 0.0  # "5 Question: and on" stands after the mark
    assert done["results"]["gsm8k_latent"]["flexible,none"] == pytest.approx(1 / 3)
