"""Commands that start several processes, on pages and in examples, have arguments that their launchers take."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from unspoken.recipes import recipe
from unspoken.runs.config import RunConfig

ROOT = Path(__file__).resolve().parents[3]
FILES = ("docs/scale.md", "docs/guides/training.md", "examples/scale/slurm.sh", "examples/scale/sky.yaml")
LAUNCHERS = {"torchrun": get_args_parser, "accelerate": launch_command_parser}


def commands() -> list[tuple[str, list[str]]]:
    """(launcher, words behind it) of every command; what the shell would put in stands as 2."""
    found = []
    for name in FILES:
        text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
        for line in text.splitlines():
            if match := re.search(r"(?<!`)\b(torchrun|accelerate launch) (-.*?)(?: &)?$", line.partition("  #")[0]):
                words = shlex.split(re.sub(r"\$\{?\w+\}?", "2", match[2].replace('"$@"', "tiny/cot")))
                found.append((match[1].split()[0], words))
    return found


def test_the_pages_have_commands():
    assert [launcher for launcher, _ in commands()].count("torchrun") >= 5
    assert "accelerate" in dict(commands())


@pytest.mark.parametrize(("launcher", "words"), commands())
def test_launchers_take_their_arguments_and_we_ours(launcher, words):
    given = LAUNCHERS[launcher]().parse_args(words)
    assert given.training_script == "unspoken"
    assert given.module
    first, name, *rest = given.training_script_args
    assert first == "train"
    if name != "RECIPE":
        overrides = [word for word in rest if "=" in word and not word.startswith("-")]
        assert isinstance(recipe(name, overrides), RunConfig)


def test_the_files_of_other_launchers_can_be_read():
    sky = yaml.safe_load((ROOT / "examples/scale/sky.yaml").read_text(encoding="utf-8"))
    assert set(sky) == {"name", "resources", "num_nodes", "file_mounts", "setup", "run"}  # SkyPilot 0.14's
    ast.parse((ROOT / "examples/scale/ray_train.py").read_text(encoding="utf-8"))
    options = re.findall(r"^#SBATCH --([a-z-]+)", (ROOT / "examples/scale/slurm.sh").read_text(), re.MULTILINE)
    known = {
        "job-name",
        "nodes",
        "ntasks-per-node",
        "gpus-per-node",
        "cpus-per-task",
        "time",
        "requeue",
        "open-mode",
        "signal",
    }
    assert set(options) == known  # as in the manual of sbatch
