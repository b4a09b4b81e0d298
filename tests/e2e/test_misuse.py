"""What the command line says to those who misuse it: one line, exit code 2, and nothing is computed first."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.command_line import START, refused, unspoken

from unspoken.cli._options import whole_numbers
from unspoken.errors import ConfigError

LONG = "n" * 300


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("eval", START, "--out", ""), "must have a name"),
        (("eval", START, "--out", "."), "is a folder"),
        (("eval", START, "--out", LONG), "300 bytes long"),
        (("eval", START, "--card", ""), "must have a name"),
        (("eval", START, "--seeds", "1000000000"), "--seeds 1000000000"),
        (("eval", START, "--seeds", "\u00b2"), "--seeds needs"),
        (("eval", START, "--seeds", "1,\u00b2"), "--seeds needs"),
        (("eval", START, "--seeds", "9" * 5000), "--seeds needs"),
        (("eval", START, "--limit", "x"), "--limit"),
        (("eval", START, "--no-such-option"), "--no-such-option"),
        (("eval",), "RUN"),
        (("no-such-command",), "no-such-command"),
        (("train", "tiny/coconut", "--out", ""), "must have a name"),
        (("train", "tiny/coconut", "--out", LONG), "300 bytes long"),
        (("train", "tiny/coconut", "--out", "/dev/null"), "is a file"),
        (("train", "tiny/coconut", "train.steps=" + "9" * 5000), "steps"),
        (("train", "tiny/coconut", "train.steps=" + "[" * 3000), "steps"),
        (("train", "tiny/coconut", "train.lr=\ud800"), "surrogate"),
        (("inspect", START, "--counts", "1,\u00b2"), "--counts needs"),
        (("inspect", START, "--out", ""), "must have a name"),
        (("export", START, ""), "must have a name"),
        (("compare", START, "--out", ""), "must have a name"),
        (("data", "tiny", "--out", ""), "must have a name"),
        (("bench", "generate", "--batches", "\u00b2"), "--batches needs"),
        (("serve", "/", "--port", "99999"), "65535"),
        (("serve", "/"), "no run directory"),
        (("serve", START, START), "two runs are called"),
        (("serve", START, "--engine", "http://x/v1"), "--engine is for folders"),
        (("serve", START, "--host", "203.0.113.1"), "cannot listen at"),
    ],
    ids=lambda value: " ".join(value)[:40].encode("ascii", "backslashreplace").decode() if isinstance(value, tuple) else "",
)
def test_one_line(words: tuple[str, ...], said: str, tmp_path: Path):
    refused(unspoken(*words, cwd=tmp_path), said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "x", "1,,2", "-1", "1.0", "\u0663", "\u00b2", "1" * 10, "1e3", "0x1"])
def test_numbers_that_are_none(text: str):
    with pytest.raises(ConfigError, match="--n needs whole numbers"):
        whole_numbers(text, "--n", "1,2")


OPTIONS = {
    "ask": ("--latents", "--temperature", "--max-new-tokens", "--seed", "--stop", "--expect", "--dtype"),
    "eval": (
        "--limit",
        "--seeds",
        "--latents",
        "--batch-size",
        "--max-new-tokens",
        "--temperature",
        "--split",
        "--extractor",
    ),
    "data": ("-n", "--split", "--out"),
    "compare": ("--group", "--out"),
}
WORDS = [
    "", " ", "-1", "0", "1e9", "1e-400", "nan", "inf", "9" * 30, "9" * 5000, "\u00b2", "\u0663", "x", "a,b", "[", "{}",
    "null", "\ud800", "/dev/null/x", "n" * 300,
]  # fmt: skip


@settings(max_examples=35, deadline=None)
@given(st.data())
def test_option_values_of_any_kind(data: st.DataObject):
    """A command ends well, or in one line and exit code 2; whatever is wrong is found before anything long begins."""
    name = data.draw(st.sampled_from(sorted(OPTIONS)))
    option, word = data.draw(st.sampled_from(OPTIONS[name])), data.draw(st.sampled_from(WORDS))
    place = {"ask": (START, "Ann has 3 figs?"), "eval": (START, "--no-controls"), "data": ("tiny",)}.get(name, (START,))
    quick = ("--limit", "1") if name == "eval" and option != "--limit" else ()
    with tempfile.TemporaryDirectory() as folder:
        done = unspoken(name, *place, *quick, option, word, cwd=Path(folder))
    assert done.returncode in (0, 2), (name, option, word, done.stderr)
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert [line[:7] for line in done.stderr.strip().splitlines()][-1] == "error: ", (name, option, word, done.stderr)


def command(script: str) -> subprocess.CompletedProcess[str]:
    """A shell line in which $U is the command."""
    env = {**os.environ, "U": f"{sys.executable} -m unspoken"}
    return subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=120)


def test_who_reads_no_further_gets_no_traceback():
    assert command("$U list | head -1").stderr == ""


def test_a_closed_output():
    done = command("$U list >&-")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "cp1252", "utf-8"])
def test_signs_that_a_code_page_lacks_are_written_plainly(encoding: str):
    """Windows: a minus, a dash or an arrow that cp1252 or cp437 has not is no traceback."""
    code = "from unspoken.cli import _streams; _streams(); print('\u22122.5 (1\u20133) \u2192 \u2260 \u6f22')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}, check=True
    )
    said = done.stdout.decode(encoding).strip()
    assert said == ("\u22122.5 (1\u20133) \u2192 \u2260 \u6f22" if encoding == "utf-8" else said)
    if encoding != "utf-8":
        assert said.replace("\u2013", "-") == "-2.5 (1-3) -> != \\u6f22"


def test_a_run_that_is_not_there_is_said_before_torch_is_loaded(tmp_path: Path):
    """Loading torch takes seconds; who mistyped a name waits for none of them."""
    (tmp_path / "runs" / "sim_cot").mkdir(parents=True)
    (tmp_path / "runs" / "sim_cot" / "run.json").write_text("{}")
    code = (
        "import sys; sys.argv = ['unspoken', sys.argv[1], 'runs/simcot', *sys.argv[2:]]\n"
        "from unspoken.cli import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules, 'torch'"
    )
    for words in (("eval",), ("ask", "How many?"), ("controls",), ("inspect",), ("compare",)):
        done = subprocess.run(
            [sys.executable, "-c", code, *words[:1], *words[1:]], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, done.stderr
        assert "runs/simcot" in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        if words[0] != "compare":
            assert "did you mean runs/sim_cot?" in done.stderr
